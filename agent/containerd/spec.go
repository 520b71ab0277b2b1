package containerd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

// defaultPath is the PATH of an image that sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxFiles is the limit on open files, where the machine allows it: the 1024
// that containers get by default stops many a training job.
const maxFiles = 65536

// fileLimit stays within the agent's own hard limit, as a containerd without
// CAP_SYS_RESOURCE cannot go beyond its own, which is the same by default.
func fileLimit() specs.POSIXRlimit {
	limit := uint64(maxFiles)
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err == nil {
		limit = min(limit, own.Max)
	}
	return specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: limit, Soft: limit}
}

// capabilities are what root in a task may do: own and read the image's files
// and become another user, so that ordinary images work. Making device nodes,
// raw sockets and everything that concerns the host is out.
func capabilities() *specs.LinuxCapabilities {
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// seccompProfile is containerd's default profile for the machine's own
// architecture. The profile's other ABIs (32 bits, x32) are doors into the
// kernel that hardly a program of today uses, and to compile their filters
// takes runc longer than all else it does in a start: 13 ms of processor time
// against 2.
func seccompProfile() *specs.LinuxSeccomp {
	p := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: capabilities()}})
	p.Architectures = nil // runc then takes the native one
	return p
}

// spec is the whole description of a task's container.
func (x *Executor) spec(ctx context.Context, t executor.Task, container string, img *image) (*specs.Spec, error) {
	limits, err := x.cgroups.resources(t)
	if err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, x.cfg.Namespace)
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: container})
	if err != nil {
		return nil, err
	}
	limits.Devices = s.Linux.Resources.Devices // deny all
	s.Linux.Resources = limits
	s.Linux.Seccomp = x.seccomp
	p := s.Process
	p.NoNewPrivileges = true
	p.Capabilities = capabilities()
	p.Rlimits = []specs.POSIXRlimit{fileLimit()}
	if err := checkStrings(t.Spec); err != nil {
		return nil, err
	}
	p.Env = environment(img.config.Env, t.Spec.Env)
	if p.Args, err = arguments(t.Spec, img); err != nil {
		return nil, err
	}
	if p.Cwd, err = workDir(t.Spec, img); err != nil {
		return nil, err
	}
	if p.User, err = x.user(ctx, img, t.Spec.User); err != nil {
		return nil, err
	}
	s.Root.Readonly = t.Spec.ReadOnly
	if t.Resources.Mem > 0 {
		sizeShm(s, memBytes(max(t.Resources.Mem, t.Spec.Limits.Mem)))
	}
	if bursts(t) {
		score := burstOOMScore
		p.OOMScoreAdj = &score
	}
	if err := network(ctx, s, t); err != nil {
		return nil, err
	}
	return s, x.isolate(ctx, s, t)
}

// isolate applies the device edits. They come last: nothing may reset the
// environment or the mounts that they made.
func (x *Executor) isolate(ctx context.Context, s *specs.Spec, t executor.Task) error {
	if x.cfg.Isolate == nil {
		if len(t.Resources.GPUs) > 0 {
			return invalid("this agent cannot isolate GPUs: its build or configuration has no GPU support")
		}
		return nil
	}
	edit, err := x.cfg.Isolate(ctx, t.Resources.GPUs)
	if err != nil && ctx.Err() != nil {
		return err // a slow driver is no fault of the task
	}
	if err != nil {
		return invalid("prepare GPUs %v: %w", t.Resources.GPUs, err)
	}
	if edit == nil {
		return nil
	}
	if err := edit(s); err != nil {
		return invalid("give the task GPUs %v: %w", t.Resources.GPUs, err)
	}
	return nil
}

// environment is the image's, overridden by the task's. Where a node's default
// runtime is the GPU vendor's, NVIDIA_VISIBLE_DEVICES is a request for devices,
// which images and users must not be able to make.
func environment(img []string, task map[string]string) []string {
	env := map[string]string{}
	for _, kv := range append([]string{defaultPath}, img...) {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	maps.Copy(env, task)
	env["NVIDIA_VISIBLE_DEVICES"] = "void"
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// checkStrings refuses what the kernel cannot pass to a program.
func checkStrings(spec fleet.TaskSpec) error {
	for k, v := range spec.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return invalid("environment variable %q: a name has no '=', and neither name nor value a zero byte", k)
		}
	}
	if i := slices.IndexFunc(spec.Command, func(s string) bool { return strings.Contains(s, "\x00") }); i >= 0 {
		return invalid("argument %d of the command has a zero byte", i)
	}
	return nil
}

func arguments(spec fleet.TaskSpec, img *image) ([]string, error) {
	args := spec.Command
	if len(args) == 0 {
		args = slices.Concat(img.config.Entrypoint, img.config.Cmd)
	}
	if len(args) == 0 || args[0] == "" {
		return nil, invalid("neither the task nor image %s says what to run; give the task a command", spec.Image)
	}
	return args, nil
}

func workDir(spec fleet.TaskSpec, img *image) (string, error) {
	dir := spec.WorkDir
	if dir == "" {
		dir = img.config.WorkingDir
	}
	if dir == "" {
		dir = "/"
	}
	if !path.IsAbs(dir) {
		return "", invalid("working directory %q is not an absolute path", dir)
	}
	return dir, nil
}

// sizeShm lets shared memory take half of the task's memory, as the kernel
// does for a whole machine: data loaders need more than the usual 64 MiB. What
// is in it counts against the memory limit.
func sizeShm(s *specs.Spec, mem int64) {
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Destination == "/dev/shm" {
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return strings.HasPrefix(o, "size=") })
			m.Options = append(m.Options, fmt.Sprintf("size=%d", max(mem/2, 1<<20)))
		}
	}
}

// network leaves the task alone with a loopback device, or gives it the host's
// network with what is needed to find names there.
func network(ctx context.Context, s *specs.Spec, t executor.Task) error {
	switch t.Spec.Network {
	case fleet.NetworkNone, "":
		s.Hostname = string(t.ID)
		return nil
	case fleet.NetworkHost:
		for _, file := range []string{"/etc/hosts", "/etc/resolv.conf"} {
			if _, err := os.Stat(file); err == nil {
				s.Mounts = append(s.Mounts, specs.Mount{
					Destination: file, Source: file, Type: "bind", Options: []string{"rbind", "ro", "nosuid", "nodev", "noexec"},
				})
			}
		}
		return oci.WithHostNamespace(specs.NetworkNamespace)(ctx, nil, nil, s)
	default:
		return invalid("network %q: use %q or %q", t.Spec.Network, fleet.NetworkNone, fleet.NetworkHost)
	}
}
