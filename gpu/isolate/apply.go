package isolate

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispec "tags.cncf.io/container-device-interface/specs-go"
)

// Kinds of refusal. A specification that is refused would let a container reach
// devices that were not assigned to it.
var (
	ErrHooks     = errors.New("the container specification has hooks")
	ErrNotDenied = errors.New("the container specification does not deny all devices by default")
)

// Void gives a container no GPU. It is the last change of every specification
// of a task without GPUs.
func Void(spec *specs.Spec) error { return Edits{}.Apply(spec) }

// Apply gives a container the devices. It must be the last change of the
// specification. On an error the specification must not be used.
func (e Edits) Apply(spec *specs.Spec) error {
	if spec == nil || spec.Process == nil || spec.Linux == nil || spec.Linux.Resources == nil {
		return errors.New("give GPUs to a container: the specification is not one of a Linux process")
	}
	if spec.Hooks != nil {
		return fmt.Errorf("give GPUs to a container: %w", ErrHooks)
	}
	if err := checkRules(spec.Linux); err != nil {
		return fmt.Errorf("give GPUs to a container: %w", err)
	}
	spec.Process.Env = e.env(spec.Process.Env)
	edits := e.edits()
	if err := edits.Validate(); err != nil {
		return fmt.Errorf("give GPUs to a container: %w", err)
	}
	if err := edits.Apply(spec); err != nil {
		return fmt.Errorf("give GPUs to a container: %w", err)
	}
	if spec.Hooks != nil { // the CDI library makes hooks of what it is given
		return fmt.Errorf("give GPUs to a container: %w", ErrHooks)
	}
	return nil
}

// edits is e in the words of CDI. Everything is spelt out, so that the library
// does not look at the machine again and find something else.
func (e Edits) edits() cdi.ContainerEdits {
	out := &cdispec.ContainerEdits{}
	for _, n := range e.Nodes {
		mode := os.FileMode(0o666)
		out.DeviceNodes = append(out.DeviceNodes, &cdispec.DeviceNode{
			Path: n.Path, HostPath: n.Path, Type: "c", Major: n.Major, Minor: n.Minor,
			FileMode: &mode, Permissions: "rw",
		})
	}
	for _, f := range e.Files {
		out.Mounts = append(out.Mounts, &cdispec.Mount{
			HostPath: f.Host, ContainerPath: f.Container, Type: "bind",
			Options: []string{"ro", "nosuid", "nodev", "rbind", "rprivate"},
		})
	}
	return cdi.ContainerEdits{ContainerEdits: out}
}

// env drops every request for GPUs and, if there are any, names the places of
// the driver's files.
func (e Edits) env(env []string) []string {
	out := slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, "NVIDIA_") })
	out = append(out, "NVIDIA_VISIBLE_DEVICES=void")
	if len(e.Files) == 0 {
		return out
	}
	// First, for an image's own stub of libcuda must not win over the driver's.
	out = setPath(out, "LD_LIBRARY_PATH", func(old []string) []string { return append([]string{LibraryDir}, old...) })
	// Last, and only where the image has a PATH: no program of its own changes.
	if slices.ContainsFunc(out, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		out = setPath(out, "PATH", func(old []string) []string { return append(old, ProgramDir) })
	}
	return out
}

// setPath changes a variable that lists directories. If it is set twice, the
// last one counts, as for the container's runtime.
func setPath(env []string, name string, change func([]string) []string) []string {
	var old []string
	env = slices.DeleteFunc(env, func(kv string) bool {
		value, ok := strings.CutPrefix(kv, name+"=")
		if ok {
			old = slices.DeleteFunc(strings.Split(value, ":"), func(dir string) bool {
				return dir == "" || dir == LibraryDir || dir == ProgramDir
			})
		}
		return ok
	})
	return append(env, name+"="+strings.Join(change(old), ":"))
}

// checkRules demands that a specification denies all devices, and allows again
// neither all of a kind nor a GPU.
func checkRules(l *specs.Linux) error {
	denied := false
	for _, r := range l.Resources.Devices {
		switch {
		case !r.Allow:
			// A later denial of less than all takes nothing back.
			denied = denied || all(r)
		case r.Access == "m":
			// To make a node is not to open it.
		case all(r):
			return fmt.Errorf("%w: a rule allows all of them; a privileged container gets no GPU", ErrNotDenied)
		case r.Major == nil || *r.Major < 0:
			return fmt.Errorf("%w: a rule allows all devices of type %q", ErrNotDenied, r.Type)
		case *r.Major == Major:
			return fmt.Errorf("%w: a rule allows GPUs (%d:*) that were not assigned", ErrNotDenied, Major)
		}
	}
	if !denied {
		return ErrNotDenied
	}
	for _, d := range l.Devices {
		if d.Major == Major || strings.HasPrefix(d.Path, "/dev/nvidia") {
			return fmt.Errorf("%w: it names the GPU node %s, which was not assigned", ErrNotDenied, d.Path)
		}
	}
	return nil
}

// all tells a rule that concerns every device.
func all(r specs.LinuxDeviceCgroup) bool {
	wide := func(n *int64) bool { return n == nil || *n < 0 }
	everyKind := r.Type == "" || r.Type == "a"
	everyAccess := r.Access == "" || strings.Contains(r.Access, "r") && strings.Contains(r.Access, "w")
	return everyKind && wide(r.Major) && wide(r.Minor) && (everyAccess || r.Allow)
}
