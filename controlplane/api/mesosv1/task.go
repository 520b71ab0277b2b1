package mesosv1

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/transport/fleet"
)

// DefaultImage is what tasks run in that name no image: Mesos runs those on the
// agent's own file system, which no task may see here.
const DefaultImage = "docker.io/library/busybox:1.36"

// specification reads what a task is to run. The error says, for whoever wrote
// the scheduler, what is invalid or not supported.
func specification(f *fleet.FrameworkInfo, in *pb.TaskInfo, image string) (fleet.TaskSpec, error) {
	s := fleet.TaskSpec{Name: clean(in.GetName()), Image: image, Network: fleet.NetworkHost, Labels: labelsOf(in.GetLabels())}
	if err := refuseUnsupported(in); err != nil {
		return s, err
	}
	docker := in.Container != nil && in.GetContainer().GetType() == pb.ContainerInfo_DOCKER
	for _, err := range []error{
		readContainer(&s, in.Container),
		readCommand(&s, in.GetCommand(), docker),
		readEnvironment(&s, in.GetCommand().GetEnvironment()),
		readLife(&s, in),
	} {
		if err != nil {
			return s, err
		}
	}
	s.User = userOf(in.GetCommand().GetUser(), f.User)
	if in.GetKillPolicy().GetGracePeriod() != nil {
		grace, err := duration("kill_policy.grace_period", in.GetKillPolicy().GetGracePeriod())
		if err != nil {
			return s, err
		}
		s.KillGrace = max(grace, time.Millisecond) // 0 would be the default
	}
	return s, fleet.CheckSpec(s)
}

// unsupported are fields of a task that mean something to whoever sets them
// and that nothing here can keep.
var unsupported = []struct {
	field string
	set   func(*pb.TaskInfo) bool
}{
	{"command.uris", func(t *pb.TaskInfo) bool { return len(t.GetCommand().GetUris()) > 0 }},
}

// refuseUnsupported lets discovery pass, which only describes.
func refuseUnsupported(in *pb.TaskInfo) error {
	switch {
	case in.Executor != nil:
		return errors.New("Task uses an executor: custom executors are not supported; give the task a command, and the agent runs it") //nolint:staticcheck // Mesos's texts begin so
	case in.Command == nil:
		return errors.New("Task should have a CommandInfo") //nolint:staticcheck // Mesos's texts begin so
	}
	for _, u := range unsupported {
		if u.set(in) {
			return fmt.Errorf("the field %s is not supported", u.field)
		}
	}
	return nil
}

// readContainer takes the image and the network. A task without a network of
// its own has the agent's, as in Mesos: its ports are the agent's.
func readContainer(s *fleet.TaskSpec, c *pb.ContainerInfo) error {
	if c == nil {
		return nil
	}
	for _, u := range []struct {
		field string
		set   bool
	}{
		{"volumes", len(c.GetVolumes()) > 0},
		{"hostname", c.GetHostname() != ""},
		{"network_infos", len(c.GetNetworkInfos()) > 0},
		{"linux_info", c.LinuxInfo != nil},
		{"rlimit_info", c.RlimitInfo != nil},
		{"tty_info", c.TtyInfo != nil},
		{"docker.privileged", c.GetDocker().GetPrivileged()},
		{"docker.parameters", len(c.GetDocker().GetParameters()) > 0},
		{"docker.port_mappings", len(c.GetDocker().GetPortMappings()) > 0},
		{"docker.force_pull_image", c.GetDocker().GetForcePullImage()},
		{"docker.volume_driver", c.GetDocker().GetVolumeDriver() != ""},
		{"mesos.image.docker.config", c.GetMesos().GetImage().GetDocker().GetConfig() != nil},
		{"mesos.image.docker.credential", c.GetMesos().GetImage().GetDocker().GetCredential() != nil},
	} {
		if u.set {
			return fmt.Errorf("the field container.%s is not supported", u.field)
		}
	}
	if c.GetType() == pb.ContainerInfo_MESOS {
		image := c.GetMesos().GetImage()
		switch {
		case image == nil:
		case image.GetType() != pb.Image_DOCKER:
			return fmt.Errorf("images of type %s are not supported; use DOCKER", image.GetType())
		default:
			s.Image = image.GetDocker().GetName()
		}
		return nil
	}
	if c.Docker == nil {
		return errors.New("a container of type DOCKER has the field docker, with an image")
	}
	s.Image = c.GetDocker().GetImage()
	switch n := c.GetDocker().GetNetwork(); n {
	case pb.ContainerInfo_DockerInfo_HOST:
	case pb.ContainerInfo_DockerInfo_NONE:
		s.Network = fleet.NetworkNone
	default:
		return fmt.Errorf("docker.network %s is not supported; use HOST or NONE", n)
	}
	return nil
}

// readCommand: with a shell, value is a line for it. Without, value is the
// program, and arguments are argv with the program's own name first; Docker's
// containerizer takes them all for arguments. The result replaces the image's
// entry point.
func readCommand(s *fleet.TaskSpec, c *pb.CommandInfo, docker bool) error {
	args := c.GetArguments()
	switch {
	case c.GetShell() && c.Value == nil:
		return errors.New("a command for the shell has the field value")
	case c.GetShell():
		s.Command = []string{"/bin/sh", "-c", c.GetValue()}
	case c.GetValue() == "" && len(args) > 0:
		return errors.New("the command has arguments and no value: arguments for an image's own entry point are not supported; name the program in value")
	case c.GetValue() == "": // the image's own
	default:
		if !docker && len(args) > 0 {
			args = args[1:]
		}
		s.Command = append([]string{c.GetValue()}, args...)
	}
	return nil
}

func readEnvironment(s *fleet.TaskSpec, e *pb.Environment) error {
	for _, v := range e.GetVariables() {
		switch {
		case v.GetType() == pb.Environment_Variable_SECRET || v.Secret != nil:
			return fmt.Errorf("environment variable %.64s is a secret: secrets are not supported", v.GetName())
		case v.GetType() == pb.Environment_Variable_UNKNOWN:
			return fmt.Errorf("environment variable %.64s is of an unknown type", v.GetName())
		}
		if s.Env == nil {
			s.Env = map[string]string{}
		}
		s.Env[v.GetName()] = v.GetValue()
	}
	return nil
}

// userOf: a command's user is one of the image. The framework's is one of a
// machine's, which images know nothing of, but for root and numbers.
func userOf(command, framework string) string {
	user := command
	if user == "" && strings.Trim(framework, "0123456789:") == "" || framework == "root" && user == "" {
		user = framework
	}
	if user == "root" {
		return "0"
	}
	return user
}

// labelsOf takes the labels that labels here can be. What a label says is for
// people and their tools; nothing in the fleet depends on the others.
func labelsOf(in *pb.Labels) map[string]string {
	out := map[string]string{}
	for _, l := range in.GetLabels() {
		if len(out) < fleet.MaxLabels && fleet.CheckLabels(map[string]string{l.GetKey(): l.GetValue()}) == nil {
			out[l.GetKey()] = l.GetValue()
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func duration(what string, d *pb.DurationInfo) (time.Duration, error) {
	if n := d.GetNanoseconds(); n >= 0 {
		return time.Duration(n), nil
	}
	return 0, fmt.Errorf("%s is less than zero", what)
}

// maxRefuse is Mesos's cap of refuse_seconds.
const maxRefuse = 365 * 24 * time.Hour

// filtersOf reads filters, nil where a call has none.
func filtersOf(in *pb.Filters) *fleet.Filters {
	if in == nil {
		return nil
	}
	seconds := in.GetRefuseSeconds()
	switch {
	case math.IsNaN(seconds) || seconds < 0:
		return &fleet.Filters{Refuse: fleet.DefaultRefuse}
	case seconds >= maxRefuse.Seconds():
		return &fleet.Filters{Refuse: maxRefuse}
	}
	return &fleet.Filters{Refuse: time.Duration(seconds * float64(time.Second))}
}
