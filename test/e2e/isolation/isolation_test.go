package isolation

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tenderfleet/tender/agent/executor"
)

// Nodes of a task's /dev: of every container, and of those with GPUs.
var (
	common = map[string]number{
		"/dev/full": "1:7", "/dev/null": "1:3", "/dev/pts/ptmx": "5:2", "/dev/random": "1:8",
		"/dev/tty": "5:0", "/dev/urandom": "1:9", "/dev/zero": "1:5",
	}
	shared = map[string]number{
		"/dev/nvidiactl": "195:255", "/dev/nvidia-modeset": "195:254", "/dev/nvidia-uvm": "511:0", "/dev/nvidia-uvm-tools": "511:1",
	}
)

func TestTerminals(t *testing.T) {
	m := newMachine(t, own(t), terminals)
	for _, n := range m.gpus {
		if m.outside[n] != "OPEN" {
			t.Fatalf("opening device %s: %s: this test needs a kernel with virtual terminals (CONFIG_VT)", n, m.outside[n])
		}
	}
	scenarios(t, m)
}

func TestNumbersOfTheDriver(t *testing.T) { scenarios(t, newMachine(t, own(t), cards)) }

func TestControlGroupsVersion2(t *testing.T) { scenarios(t, newMachine(t, unified(t), terminals)) }

// scenarios are the ways in which tasks try to reach GPUs.
func scenarios(t *testing.T, m *machine) {
	for _, s := range []struct {
		name string
		run  func(*testing.T, *machine)
	}{
		{"a task has its GPU and sees no other", ordinary},
		{"root who makes nodes and has the machine's finds the others closed", attacker},
		{"the same with isolation off is noticed", control},
		{"a task without GPUs reaches none", without},
		{"a user without capabilities reaches its own", user},
		{"a task with all GPUs reaches all", both},
		{"two tasks at a time reach one each", neighbours},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, m) })
	}
	m.daemon.CheckClean(t)
}

func ordinary(t *testing.T, m *machine) {
	f := m.run(t, m.executor(t, nothing, nothing), m.task("ordinary", "", 0))
	f.check(t, m, 0)
	if f.version != m.version {
		t.Errorf("the rules are those of control groups version %d, want %d", f.version, m.version)
	}
	for _, n := range m.gpus {
		if f.made[n] != "EPERM" {
			t.Errorf("mknod %s: %s, want EPERM", n, f.made[n])
		}
	}
	if f.library != "EROFS" {
		t.Errorf("writing to the driver's library: %q, want EROFS", f.library)
	}
}

func attacker(t *testing.T, m *machine) {
	f := m.run(t, m.executor(t, m.attack, nothing), m.task("attacker", "", 0))
	f.check(t, m, 0)
	f.checkAttacked(t, m)
}

// control proves that the check can fail: it must find each attempt to open
// the other GPU, and nothing else.
func control(t *testing.T, m *machine) {
	f := m.run(t, m.executor(t, m.attack, allowAll), m.task("control", "", 0))
	f.checkAttacked(t, m)
	other := string(m.gpus[1])
	var want []string
	for _, mode := range []string{"r", "w", "rw"} {
		for _, path := range []string{"/hostdev/nvidia1", "/tmp/made/" + other} {
			want = append(want, mode+" "+path+" ("+other+"): "+m.outside[m.gpus[1]]+", want EPERM")
		}
	}
	got := f.violations(m.outside, may(m, 0))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the check finds with isolation off differs (-want +got):\n%s", diff)
	}
}

func without(t *testing.T, m *machine) {
	f := m.run(t, m.executor(t, m.attack, nothing), m.task("without", ""))
	f.check(t, m)
	f.checkAttacked(t, m)
	if f.library != "" {
		t.Error("the driver's library is there")
	}
}

func user(t *testing.T, m *machine) {
	f := m.run(t, m.executor(t, m.bindDev, nothing), m.task("user", "1000", 0))
	f.check(t, m, 0)
	if f.caps == "" || strings.Trim(f.caps, "0") != "" {
		t.Errorf("capabilities %q, want none", f.caps)
	}
	for _, n := range m.gpus {
		if f.made[n] != "EPERM" {
			t.Errorf("mknod %s: %s, want EPERM", n, f.made[n])
		}
	}
	if want := numbers(m); !slices.Equal(f.tried(), want) {
		t.Errorf("devices %v were tried, want %v", f.tried(), want)
	}
}

func both(t *testing.T, m *machine) {
	f := m.run(t, m.executor(t, m.attack, nothing), m.task("both", "", 0, 1))
	f.check(t, m, 0, 1)
	f.checkAttacked(t, m)
}

// neighbours lets one task for each GPU try while the other runs.
func neighbours(t *testing.T, m *machine) {
	gate := t.TempDir()
	x := m.executor(t, func(s *specs.Spec) {
		m.attack(s)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/gate", Source: gate, Type: "bind", Options: []string{"rbind", "ro"}})
	}, nothing)
	m.start(t, x, m.task("first", "", 0))
	m.start(t, x, m.task("second", "", 1))
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	first, second := m.end(t, x, "first"), m.end(t, x, "second")
	first.check(t, m, 0)
	second.check(t, m, 1)
	first.checkAttacked(t, m)
	second.checkAttacked(t, m)
}

// check demands what holds for every task that was given these GPUs: it opens
// them and no others, its /dev has exactly their nodes, nothing requests GPUs,
// and no hook runs.
func (f found) check(t *testing.T, m *machine, gpus ...int) {
	t.Helper()
	for _, v := range f.violations(m.outside, may(m, gpus...)) {
		t.Error(v)
	}
	nodes := maps.Clone(common)
	if len(gpus) > 0 {
		maps.Copy(nodes, shared)
	}
	for _, i := range gpus {
		nodes["/dev/nvidia"+string('0'+rune(i))] = m.gpus[i]
		if !slices.Contains(f.tried(), m.gpus[i]) {
			t.Errorf("device %s was not tried", m.gpus[i])
		}
	}
	if diff := cmp.Diff(nodes, f.nodes); diff != "" {
		t.Errorf("/dev differs (-want +got):\n%s", diff)
	}
	if want := map[string]string{"NVIDIA_VISIBLE_DEVICES": "void"}; !maps.Equal(f.env, want) {
		t.Errorf("environment %v, want %v", f.env, want)
	}
	if f.spec.Hooks != nil {
		t.Errorf("the container has hooks: %+v", f.spec.Hooks)
	}
}

// checkAttacked demands that the attack took place: the nodes were made, and
// everything that the machine has was tried.
func (f found) checkAttacked(t *testing.T, m *machine) {
	t.Helper()
	for _, n := range m.gpus {
		if f.made[n] != "MADE" {
			t.Errorf("mknod %s: %q: there was no attack", n, f.made[n])
		}
	}
	if want := numbers(m); !slices.Equal(f.tried(), want) {
		t.Errorf("devices %v were tried, want %v", f.tried(), want)
	}
}

// numbers are those of every node of the machine.
func numbers(m *machine) []number { return slices.Sorted(maps.Keys(m.outside)) }

// may are the numbers that a task with these GPUs may open.
func may(m *machine, gpus ...int) []number {
	if len(gpus) == 0 {
		return nil
	}
	out := slices.Collect(maps.Values(shared))
	for _, i := range gpus {
		out = append(out, m.gpus[i])
	}
	return out
}

// attack gives a container what Tender never gives: the right to make device
// nodes, and the machine's own.
func (m *machine) attack(s *specs.Spec) {
	m.bindDev(s)
	caps := s.Process.Capabilities
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted, &caps.Inheritable} {
		*set = append(slices.Clone(*set), "CAP_MKNOD")
	}
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

// A node that somebody planted where a card's should be is not given away.
func TestPlantedNode(t *testing.T) {
	m := newMachine(t, own(t), terminals)
	m.iso.AnyNumber = false // as on a machine with the driver
	x := m.executor(t, nothing, nothing)
	err := x.Start(t.Context(), m.task("planted", "", 0))
	if !errors.Is(err, executor.ErrInvalid) || !strings.Contains(err.Error(), "is device 4:60, the driver says 195:0") {
		t.Errorf("error %v", err)
	}
	m.daemon.CheckClean(t)
}
