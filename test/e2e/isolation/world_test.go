package isolation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/tenderfleet/tender/agent/containerd"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/cmd/tender-agent/daemon"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/gpu/isolate"
	"github.com/tenderfleet/tender/gpu/nvml"
	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/test/fakenvml"
	"github.com/tenderfleet/tender/test/image"
	"github.com/tenderfleet/tender/transport/fleet"
)

// TestMain makes this program the agent for the two commands under which an
// agent starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "log" || os.Args[1] == "nvml-probe") {
		os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	// Under the race detector a program sleeps for a second when it exits.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// greedy is an image that asks for all GPUs, as images for GPUs do.
const greedy = "example.org/tests/greedy:1"

// terminals and cards are the numbers of two devices each.
var (
	terminals = []fakenvml.Number{{Major: 4, Minor: 60}, {Major: 4, Minor: 61}}
	cards     = []fakenvml.Number{{Major: fakenvml.Major, Minor: 0}, {Major: fakenvml.Major, Minor: 1}}
)

// machine is one machine of a fleet: two GPUs, a containerd and an agent's
// executor.
type machine struct {
	runtime
	daemon *ctrd.Daemon
	root   fakenvml.Root
	iso    *isolate.Isolator
	gpus   []number
	// outside is what becomes of opening a device outside of any task.
	outside map[number]string
	logs    string
}

// newMachine makes one whose GPUs are the given nodes.
func newMachine(t *testing.T, runtime runtime, nodes []fakenvml.Number) *machine {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := fakenvml.NewWorld(len(nodes), "NVIDIA RTX A6000", 49140)
	for i, n := range nodes {
		w.GPUs[i].Node = n
	}
	m := &machine{runtime: runtime, logs: t.TempDir()}
	for _, n := range nodes {
		m.gpus = append(m.gpus, numbered(n))
	}
	if m.root, err = fakenvml.DriverRoot(t.TempDir(), w); err != nil {
		t.Fatal(err)
	}
	m.lookOutside(t)
	driver := nvml.Open(nvml.Config{Path: exe, Args: []string{"nvml-probe"}, DriverRoot: m.root.Dir, Timeout: 30 * time.Second})
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
	})
	m.iso = &isolate.Isolator{Source: driver, DriverRoot: m.root.Dir, AnyNumber: nodes[0].Major != fakenvml.Major}
	m.daemon = ctrd.Start(t, runtime.containerd)
	archive, err := image.Build(image.Options{Name: greedy, Env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.executor(t, nothing, nothing).Import(t.Context(), bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	return m
}

// nothing is done to a specification.
func nothing(*specs.Spec) {}

// executor is the agent's, wired as the agent wires it, but for what is done to
// a container's specification before and after the GPUs are given to it.
func (m *machine) executor(t *testing.T, before, after func(*specs.Spec)) *containerd.Executor {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	x, err := containerd.New(containerd.Config{
		Address: m.daemon.Address, Namespace: m.daemon.Namespace, LogDir: m.logs, LogBinary: []string{exe, "log"},
		Isolate: func(ctx context.Context, ids []gpu.UUID) (func(*specs.Spec) error, error) {
			e, err := m.iso.Edits(ctx, ids)
			return func(s *specs.Spec) error {
				m.prepare(s)
				before(s)
				if err := e.Apply(s); err != nil {
					return err
				}
				after(s)
				return nil
			}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// task probes what is in its reach, and tries to make nodes of all GPUs.
func (m *machine) task(id fleet.TaskID, user string, gpus ...int) executor.Task {
	task := executor.Task{ID: id, Spec: fleet.TaskSpec{
		Image: greedy, User: user, Command: []string{"sh", "-c", probe, "probe"},
		Env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_REQUIRE_CUDA": "cuda>=1"},
	}}
	for _, n := range m.gpus {
		task.Spec.Command = append(task.Spec.Command, string(n))
	}
	for _, i := range gpus {
		task.Resources.GPUs = append(task.Resources.GPUs, gpu.UUID(fakenvml.UUID(i)))
	}
	return task
}

// found is what a task found, and what runc was told about its container.
type found struct {
	report
	spec    *specs.Spec
	version int // of the control groups that denied it devices
}

func (m *machine) run(t *testing.T, x *containerd.Executor, task executor.Task) found {
	t.Helper()
	m.start(t, x, task)
	return m.end(t, x, task.ID)
}

func (m *machine) start(t *testing.T, x *containerd.Executor, task executor.Task) {
	t.Helper()
	if err := x.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // of a test that gave up
		if err := x.Remove(context.Background(), task.ID); err != nil {
			t.Error(err)
		}
	})
}

// end waits for a task, removes it and returns what it found.
func (m *machine) end(t *testing.T, x *containerd.Executor, id fleet.TaskID) found {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	exit, err := x.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	f := found{spec: m.stored(t, id), version: 2}
	// The group stays until the task is removed.
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup/devices", m.daemon.Namespace, string(id))); err == nil {
		f.version = 1
	}
	if err := x.Remove(ctx, id); err != nil {
		t.Fatal(err)
	}
	out, problems := m.output(t, x, id)
	if exit.Code != 0 || problems != "" {
		t.Fatalf("the probe ended with %+v:\n%s%s", exit, out, problems)
	}
	f.report = parse(t, out)
	return f
}

// stored is the specification as runc reads it.
func (m *machine) stored(t *testing.T, id fleet.TaskID) *specs.Spec {
	t.Helper()
	path := filepath.Join(filepath.Dir(m.daemon.Address), "state/io.containerd.runtime.v2.task", m.daemon.Namespace, string(id), "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (m *machine) output(t *testing.T, x *containerd.Executor, id fleet.TaskID) (stdout, stderr string) {
	t.Helper()
	ended := make(chan struct{})
	close(ended)
	var b [2]bytes.Buffer
	err := x.Logs().Read(t.Context(), id, tasklog.Options{Ended: ended}, func(isErr bool, data []byte) error {
		i := 0
		if isErr {
			i = 1
		}
		b[i].Write(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b[0].String(), b[1].String()
}

// runtime is a containerd, and what its machine demands of specifications.
type runtime struct {
	containerd string
	version    int // of the control groups
	prepare    func(*specs.Spec)
}

// own is the runtime as this machine has it.
func own(t *testing.T) runtime {
	t.Helper()
	r := runtime{containerd: ctrd.Debian(t), version: 1, prepare: nothing}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		r.version = 2
	}
	return r
}

// unified is the runtime under control groups of version 2. A machine that has
// version 1 has the other beside it, without controllers but with devices: the
// daemon gets a view of the file system in which it is the only one.
func unified(t *testing.T) runtime {
	t.Helper()
	r := own(t)
	if r.version == 2 {
		return r
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Fatalf("%v: install the Debian package util-linux", err)
	}
	script := fmt.Sprintf(`#!/bin/sh
exec unshare --mount --propagation private sh -ec '
	umount -R /sys/fs/cgroup
	mount -t cgroup2 none /sys/fs/cgroup
	exec %q "$@"' sh "$@"
`, r.containerd)
	r.containerd = filepath.Join(t.TempDir(), "containerd")
	if err := os.WriteFile(r.containerd, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r.version = 2
	// The limit on processes, which no task can do without, is version 1's.
	r.prepare = func(s *specs.Spec) { s.Linux.Resources.Pids = nil }
	return r
}

// lookOutside opens every node of the machine, as what was granted to a task
// must come to the same inside.
func (m *machine) lookOutside(t *testing.T) {
	t.Helper()
	m.outside = map[number]string{}
	nodes, err := filepath.Glob(filepath.Join(m.root.Dir, "dev/nvidia*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range nodes {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		n := numbered(fakenvml.Number{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)})
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		switch {
		case err == nil:
			m.outside[n] = "OPEN"
			err = f.Close()
		case errors.Is(err, unix.ENXIO):
			m.outside[n], err = "ENXIO", nil
		}
		if err != nil {
			t.Fatalf("open device %s: %v: run this test as root, outside of any container", n, err)
		}
	}
}

func numbered(n fakenvml.Number) number { return number(fmt.Sprintf("%d:%d", n.Major, n.Minor)) }
