package isolation

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tenderfleet/tender/agent/containerd"
	"github.com/tenderfleet/tender/test/fakenvml"
)

// shared are the nodes that all tasks with GPUs have, and their numbers.
var shared = map[string]number{
	"/dev/nvidiactl": "195:255", "/dev/nvidia-modeset": "195:254", "/dev/nvidia-uvm": "511:0", "/dev/nvidia-uvm-tools": "511:1",
}

func TestIsolation(t *testing.T) {
	for name, runtime := range map[string]func(*testing.T) runtime{"the machine's control groups": own, "control groups version 2": unified} {
		t.Run(name, func(t *testing.T) {
			r := runtime(t)
			t.Run("cards that open", func(t *testing.T) {
				checkTerminals(t)
				scenarios(t, newMachine(t, r, terminals), r, "OPEN")
			})
			t.Run("the driver's numbers", func(t *testing.T) {
				result := "ENXIO"
				if _, err := os.Stat("/proc/driver/nvidia"); err == nil {
					result = "OPEN" // there is a driver after all
				}
				scenarios(t, newMachine(t, r, cards), r, result)
			})
		})
	}
}

// scenarios is every way in which a task may try to reach GPUs. passes is what
// becomes of opening a device that was granted.
func scenarios(t *testing.T, m *machine, r runtime, passes string) {
	plain := m.executor(t, nil, nil)
	attack := m.executor(t, m.attack, nil)
	withGPU0 := with(m.devices[0])

	t.Run("a task sees its GPU only", func(t *testing.T) {
		f := m.run(t, plain, m.task("plain", "", 0))
		f.check(t, passes, withGPU0...)
		if f.version != r.version {
			t.Errorf("the rules are of control groups version %d, want %d", f.version, r.version)
		}
		nodes := map[string]number{"/dev/nvidia0": m.devices[0]}
		maps.Copy(nodes, shared)
		if diff := cmp.Diff(gpuNodes(nodes), f.nodes); diff != "" {
			t.Errorf("/dev differs (-want +got):\n%s", diff)
		}
		for _, n := range m.devices {
			if f.made[n] != "EPERM" {
				t.Errorf("mknod %s: %s, want EPERM", n, f.made[n])
			}
		}
		if f.library != "EROFS" {
			t.Errorf("writing to the driver's library: %q, want EROFS", f.library)
		}
	})

	t.Run("root that makes nodes and has the machine's /dev", func(t *testing.T) {
		f := m.run(t, attack, m.task("attack", "", 0))
		f.check(t, passes, withGPU0...)
		f.attacked(t, m)
	})

	// The control: were the rules not there, the checks above would tell.
	t.Run("with isolation off the attack is noticed", func(t *testing.T) {
		f := m.run(t, m.executor(t, m.attack, allowAll), m.task("control", "", 0))
		f.attacked(t, m)
		if got := f.result(m.devices[1]); got != passes {
			t.Fatalf("the other GPU: %s, want %s", got, passes)
		}
		other := string(m.devices[1])
		want := sorted(
			"r /hostdev/nvidia1 ("+other+"): "+passes, "w /hostdev/nvidia1 ("+other+"): "+passes, "rw /hostdev/nvidia1 ("+other+"): "+passes,
			"r /tmp/made/"+other+" ("+other+"): "+passes, "w /tmp/made/"+other+" ("+other+"): "+passes, "rw /tmp/made/"+other+" ("+other+"): "+passes,
		)
		if diff := cmp.Diff(want, sorted(f.violations(withGPU0...)...)); diff != "" {
			t.Errorf("the check's findings differ (-want +got):\n%s", diff)
		}
	})

	t.Run("a task without GPUs reaches none", func(t *testing.T) {
		f := m.run(t, attack, m.task("none", ""))
		f.check(t, passes)
		f.attacked(t, m)
		if diff := cmp.Diff(gpuNodes(nil), f.nodes); diff != "" {
			t.Errorf("/dev differs (-want +got):\n%s", diff)
		}
		if f.library != "" {
			t.Error("the driver's library is there")
		}
	})

	t.Run("an ordinary user", func(t *testing.T) {
		x := m.executor(t, m.bindDev, nil)
		f := m.run(t, x, m.task("user", "1000", 0))
		f.check(t, passes, withGPU0...)
		if strings.Trim(f.caps, "0") != "" {
			t.Errorf("capabilities %s, want none", f.caps)
		}
		if f.made[m.devices[0]] != "EPERM" || f.made[m.devices[1]] != "EPERM" {
			t.Errorf("mknod: %v, want EPERM", f.made)
		}
	})

	t.Run("all GPUs", func(t *testing.T) {
		f := m.run(t, plain, m.task("all", "", 0, 1))
		f.check(t, passes, with(m.devices...)...)
		if got := f.result(m.devices[1]); got != passes {
			t.Errorf("the second GPU: %q, want %s", got, passes)
		}
	})

	t.Run("two tasks at a time", func(t *testing.T) { twoTasks(t, m, passes) })
	m.daemon.CheckClean(t)
}

// twoTasks lets one task for each GPU try while the other runs.
func twoTasks(t *testing.T, m *machine, passes string) {
	gate := t.TempDir()
	x := m.executor(t, func(s *specs.Spec) {
		m.attack(s)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/gate", Source: gate, Type: "bind", Options: []string{"rbind", "ro"}})
	}, nil)
	m.start(t, x, m.task("first", "", 0))
	m.start(t, x, m.task("second", "", 1))
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	first, second := m.end(t, x, "first"), m.end(t, x, "second")
	first.check(t, passes, with(m.devices[0])...)
	second.check(t, passes, with(m.devices[1])...)
	first.attacked(t, m)
	second.attacked(t, m)
}

// with are the numbers that a task with these GPUs may open.
func with(gpus ...number) []number { return slices.Concat(gpus, slices.Collect(maps.Values(shared))) }

// check demands what holds for every task: the GPUs it was granted are let
// through and nothing else, nothing requests GPUs, and no hook runs.
func (f found) check(t *testing.T, passes string, granted ...number) {
	t.Helper()
	for _, v := range f.violations(granted...) {
		t.Error(v)
	}
	if len(granted) > 0 {
		if got := f.result(granted[0]); got != passes {
			t.Errorf("the granted GPU %s: %q, want %s", granted[0], got, passes)
		}
	}
	if want := map[string]string{"NVIDIA_VISIBLE_DEVICES": "void"}; !maps.Equal(f.env, want) {
		t.Errorf("environment %v, want %v", f.env, want)
	}
	if f.spec.Hooks != nil {
		t.Errorf("the container has hooks: %+v", f.spec.Hooks)
	}
}

// attacked demands that the attack took place: the nodes were made and the
// machine's were there.
func (f found) attacked(t *testing.T, m *machine) {
	t.Helper()
	for _, n := range m.devices {
		if f.made[n] != "MADE" {
			t.Errorf("mknod %s: %q; there was no attack", n, f.made[n])
		}
	}
	want := sorted(with(m.devices...)...)
	if got := f.tried(); !slices.Equal(got, want) {
		t.Errorf("devices %v were tried, want %v", got, want)
	}
}

// attack gives a container what Tender never gives: the right to make device
// nodes, and the machine's own.
func (m *machine) attack(s *specs.Spec) {
	m.bindDev(s)
	caps := *s.Process.Capabilities
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted, &caps.Inheritable} {
		*set = append(slices.Clone(*set), "CAP_MKNOD")
	}
	s.Process.Capabilities = &caps
}

func (m *machine) bindDev(s *specs.Spec) {
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: "/hostdev", Source: filepath.Join(m.root.Dir, "dev"), Type: "bind", Options: []string{"rbind", "rw", "dev"},
	})
}

// allowAll switches the rules of a container off, after they were made.
func allowAll(s *specs.Spec) {
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
}

// A card's node that bears another number than the driver says is no card.
func TestPlantedNode(t *testing.T) {
	m := newMachine(t, own(t), terminals)
	m.iso.AnyNumber = false // as on a machine with the driver
	x := m.executor(t, nil, nil)
	err := x.Start(t.Context(), m.task("planted", "", 0))
	if err == nil || !strings.Contains(err.Error(), "is device 4:60, the driver says 195:0") {
		t.Errorf("error %v", err)
	}
	m.daemon.CheckClean(t)
}

var (
	_ = fakenvml.Major
	_ *containerd.Executor
)
