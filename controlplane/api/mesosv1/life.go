package mesosv1

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// readLife takes what a task says of its own life: checks, a maximum completion
// time, limits above what it asks for.
func readLife(s *fleet.TaskSpec, in *pb.TaskInfo) error {
	var err error
	if d := in.MaxCompletionTime; d != nil {
		if s.MaxCompletion, err = duration("max_completion_time", d); err != nil {
			return err
		}
		s.MaxCompletion = max(s.MaxCompletion, time.Millisecond) // 0 would be none
	}
	if s.Limits, err = limitsOf(in.GetLimits()); err != nil {
		return err
	}
	if h := in.HealthCheck; h != nil {
		if s.Health, err = healthCheck(h); err != nil {
			return fmt.Errorf("health_check: %w", err)
		}
	}
	if c := in.Check; c != nil {
		if s.Check, err = statusCheck(c); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	return nil
}

// limitsOf: Mesos knows limits of cpus and mem; infinity lifts them.
func limitsOf(in map[string]*pb.Value_Scalar) (fleet.Limits, error) {
	var out fleet.Limits
	for _, name := range state.SortedKeys(in) {
		var to *fleet.Scalar
		switch name {
		case "cpus":
			to = &out.CPUs
		case "mem":
			to = &out.Mem
		default:
			return out, fmt.Errorf("limits: %.64s has no limit; use cpus and mem", name)
		}
		v := in[name].GetValue()
		if math.IsInf(v, 1) {
			*to = fleet.Unlimited
			continue
		}
		n, err := thousandths(v)
		if err != nil || n <= 0 {
			return out, fmt.Errorf("limits: %s %v is no limit; use more than 0", name, v)
		}
		*to = n
	}
	return out, nil
}

func healthCheck(in *pb.HealthCheck) (*fleet.Check, error) {
	// Mesos counts a failure before it compares: 0 is ended by the first, too.
	c := &fleet.Check{ConsecutiveFailures: int(max(1, min(in.GetConsecutiveFailures(), math.MaxInt32)))}
	var err error
	if c.Grace, err = seconds("grace_period_seconds", in.GetGracePeriodSeconds()); err != nil {
		return nil, err
	}
	switch in.GetType() {
	case pb.HealthCheck_COMMAND:
		err = askCommand(c, in.GetCommand())
	case pb.HealthCheck_HTTP:
		h := in.GetHttp()
		if h == nil {
			return nil, errors.New("a check of type HTTP has the field http")
		}
		if h.GetProtocol() == pb.NetworkInfo_IPv6 {
			return nil, errIPv6
		}
		c.Kind, c.Port, c.Path, c.Scheme = fleet.CheckHTTP, int(h.GetPort()), h.GetPath(), h.GetScheme()
		for _, s := range h.GetStatuses() {
			c.Statuses = append(c.Statuses, int(s))
		}
	case pb.HealthCheck_TCP:
		if in.GetTcp() == nil {
			return nil, errors.New("a check of type TCP has the field tcp")
		}
		if in.GetTcp().GetProtocol() == pb.NetworkInfo_IPv6 {
			return nil, errIPv6
		}
		c.Kind, c.Port = fleet.CheckTCP, int(in.GetTcp().GetPort())
	default:
		return nil, errors.New("its type is missing; use COMMAND, HTTP or TCP")
	}
	if err != nil {
		return nil, err
	}
	return c, readTimes(c, in)
}

var errIPv6 = errors.New("checks over IPv6 are not supported: the agent asks 127.0.0.1")

func statusCheck(in *pb.CheckInfo) (*fleet.Check, error) {
	c := &fleet.Check{}
	var err error
	switch in.GetType() {
	case pb.CheckInfo_COMMAND:
		err = askCommand(c, in.GetCommand().GetCommand())
	case pb.CheckInfo_HTTP:
		if in.GetHttp() == nil {
			return nil, errors.New("a check of type HTTP has the field http")
		}
		c.Kind, c.Port, c.Path = fleet.CheckHTTP, int(in.GetHttp().GetPort()), in.GetHttp().GetPath()
	case pb.CheckInfo_TCP:
		if in.GetTcp() == nil {
			return nil, errors.New("a check of type TCP has the field tcp")
		}
		c.Kind, c.Port = fleet.CheckTCP, int(in.GetTcp().GetPort())
	default:
		return nil, errors.New("its type is missing; use COMMAND, HTTP or TCP")
	}
	if err != nil {
		return nil, err
	}
	return c, readTimes(c, in)
}

// askCommand reads the command of a check as a task's own is read.
func askCommand(c *fleet.Check, in *pb.CommandInfo) error {
	if in == nil {
		return errors.New("a check of type COMMAND has a command")
	}
	var s fleet.TaskSpec
	if err := errors.Join(readCommand(&s, in, false), readEnvironment(&s, in.GetEnvironment())); err != nil {
		return err
	}
	c.Kind, c.Command, c.Env = fleet.CheckCommand, s.Command, s.Env
	return nil
}

// readTimes reads what health checks and checks have in common.
func readTimes(c *fleet.Check, in interface {
	GetDelaySeconds() float64
	GetIntervalSeconds() float64
	GetTimeoutSeconds() float64
},
) error {
	for _, t := range []struct {
		name string
		v    float64
		to   *time.Duration
	}{
		{"delay_seconds", in.GetDelaySeconds(), &c.Delay},
		{"interval_seconds", in.GetIntervalSeconds(), &c.Interval},
		{"timeout_seconds", in.GetTimeoutSeconds(), &c.Timeout},
	} {
		d, err := seconds(t.name, t.v)
		if err != nil {
			return err
		}
		*t.to = d
	}
	if c.Timeout == 0 { // in Mesos, none
		c.Timeout = maxTimeout
	}
	return nil
}

// maxTimeout is the longest that fleet.CheckSpec takes.
const maxTimeout = 24 * time.Hour

// maxSeconds keeps a duration from overflowing; what is sensible is for
// fleet.CheckSpec to say.
const maxSeconds = 1 << 30

func seconds(name string, v float64) (time.Duration, error) {
	if math.IsNaN(v) || v < 0 || v > maxSeconds {
		return 0, fmt.Errorf("%s %v is out of range", name, v)
	}
	return time.Duration(v * float64(time.Second)), nil
}

// healthy is what a status says of a task's health, nil when nothing is known.
func healthy(s fleet.Status) *bool {
	if s.Health == fleet.TaskHealthUnknown {
		return nil
	}
	return new(s.Health == fleet.TaskHealthy)
}

// checkStatus is what a task's check found; a check that has not come to its
// end yet has no result in it (Mesos).
func checkStatus(r fleet.CheckResult) *pb.CheckStatusInfo {
	switch r.Kind {
	case fleet.CheckCommand:
		out := &pb.CheckStatusInfo{Type: pb.CheckInfo_COMMAND.Enum(), Command: &pb.CheckStatusInfo_Command{}}
		if r.Known {
			out.Command.ExitCode = new(int32(r.ExitCode)) //nolint:gosec // an exit code
		}
		return out
	case fleet.CheckHTTP:
		out := &pb.CheckStatusInfo{Type: pb.CheckInfo_HTTP.Enum(), Http: &pb.CheckStatusInfo_Http{}}
		if r.Known {
			out.Http.StatusCode = new(uint32(r.StatusCode)) //nolint:gosec // a status code
		}
		return out
	case fleet.CheckTCP:
		out := &pb.CheckStatusInfo{Type: pb.CheckInfo_TCP.Enum(), Tcp: &pb.CheckStatusInfo_Tcp{}}
		if r.Known {
			out.Tcp.Succeeded = new(r.Connected)
		}
		return out
	default:
		return nil
	}
}
