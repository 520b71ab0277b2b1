package containerd

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/executor/executortest"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
	"github.com/tenderfleet/tender/transport/fleet"
)

// TestMain makes this binary the log writer too, as the agent's binary is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "log" {
		// Under the race detector os.Exit takes a second, for which the shim
		// would wait.
		syscall.Exit(tasklog.Main(os.Args[2:]))
	}
	// Each test waits for a containerd of its own, and for little else.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const (
	busybox = "example.org/tests/busybox:1"
	foreign = "example.org/tests/foreign:1"
	// foreignArch is not this machine's, whichever that is.
	foreignArch = "s390x"
	greedy      = "example.org/tests/greedy:1"
)

// world is a private containerd with the test images, and how to make an
// executor on it.
type world struct {
	daemon   *ctrd.Daemon
	registry *testRegistry
	cfg      Config
}

func newWorld(t testing.TB, binary string) *world {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := ctrd.Start(t, binary)
	w := &world{daemon: d, registry: newRegistry(t)}
	w.cfg = Config{
		Address: d.Address, Namespace: d.Namespace,
		LogDir: t.TempDir(), LogBinary: []string{exe, "log"},
		PlainHTTPRegistries: []string{w.registry.host},
	}
	x := w.open(t)
	for _, o := range []testimage.Options{
		{Name: busybox},
		{Name: foreign, Arch: foreignArch},
		{Name: greedy, Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, User: "user", WorkDir: "/tmp", Cmd: []string{"pwd"}},
	} {
		archive, err := testimage.Build(o)
		if err != nil {
			t.Fatal(err)
		}
		names, err := x.Import(t.Context(), bytes.NewReader(archive))
		if err != nil || !slices.Equal(names, []string{o.Name}) {
			t.Fatalf("import of %s: %v, error %v", o.Name, names, err)
		}
	}
	return w
}

// open returns an executor that is closed when the test ends.
func (w *world) open(t testing.TB, change ...func(*Config)) *Executor {
	t.Helper()
	cfg := w.cfg
	for _, c := range change {
		c(&cfg)
	}
	x, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return x
}

// checkClean fails the test when containers, tasks, active snapshots, leases,
// shims, mounts or cgroups are left.
func (w *world) checkClean(t testing.TB) {
	t.Helper()
	x := w.open(t)
	ctx := context.Background()
	cs, err := x.client.ContainerService().List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, c := range cs {
		t.Errorf("container left: %s", c.ID)
	}
	ts, err := x.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil || len(ts.Tasks) > 0 {
		t.Errorf("tasks left: %v, error %v", ts, err)
	}
	err = x.snaps.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			t.Errorf("snapshot left: %v", i)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	ls, err := x.client.LeasesService().List(ctx)
	if err != nil || len(ls) > 0 {
		t.Errorf("leases left: %v, error %v", ls, err)
	}
	w.daemon.CheckClean(t)
}

func sh(script string) []string { return []string{"sh", "-c", script} }

const memMB = 32

func (w *world) fixture() executortest.Fixture {
	logs := tasklog.Dir(w.cfg.LogDir)
	return executortest.Fixture{
		Image: busybox, Unknown: w.registry.host + "/unknown:1", Foreign: foreign, Mem: memMB,
		Exit: func(code int) []string { return sh("exit " + strconv.Itoa(code)) },
		// The first process of a container cannot kill itself: its child does.
		Signal:   func(sig int) []string { return sh(`sh -c 'kill -` + strconv.Itoa(sig) + ` $$'; exit $?`) },
		Hog:      []string{"tail", "-c", "200000000", "/dev/zero"},
		Polite:   sh(`trap 'exit 0' TERM; echo ready; sleep 1000 & wait`),
		Stubborn: sh("echo ready; exec sleep 1000"),
		Missing:  []string{"no-such-program"},
		ExecExit: func(code int) []string { return sh("exit " + strconv.Itoa(code)) },
		ExecEnv:  sh("exit $CODE"),
		ExecLoud: sh("head -c 1000000 /dev/zero >&2 && head -c 1000000 /dev/zero && exec >&- && head -c 1000000 /dev/zero >&2"),
		ExecLong: sh("sleep 1000 & echo much; sleep 1000"),
		Serve: func(port int) []string {
			return sh("echo ready; exec httpd -f -p " + strconv.Itoa(port))
		},
		Ready: func(t *testing.T, id fleet.TaskID) {
			file := filepath.Join(logs.Path(id), "stdout.log")
			eventually(t, "the task is ready", func() bool {
				b, err := os.ReadFile(file)
				return err == nil && strings.Contains(string(b), "ready")
			})
		},
		Reopen: func(t *testing.T) executor.Executor { return w.open(t) },
		Outage: func(t *testing.T) func() {
			w.daemon.Kill()
			return func() {
				if err := w.daemon.Run(); err != nil {
					t.Fatal(err)
				}
			}
		},
		Lose: func(t *testing.T, id fleet.TaskID) { w.daemon.KillShim(t, containerName(id)) },
		Alone: func(t *testing.T, id fleet.TaskID) {
			x := w.open(t)
			eventually(t, "the task is alone in its container", func() bool {
				r, err := x.client.TaskService().ListPids(context.Background(), &tasks.ListPidsRequest{ContainerID: containerName(id)})
				return err == nil && len(r.Processes) == 2 // a shell and its sleep
			})
		},
		CheckClean: func(t *testing.T) { w.checkClean(t) },
	}
}

// eventually polls: other processes have their own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func task(id fleet.TaskID, command []string) executor.Task {
	return executor.Task{
		ID:        id,
		Spec:      fleet.TaskSpec{Image: busybox, Command: command},
		Resources: fleet.Resources{CPUs: 500, Mem: fleet.Whole(memMB)},
	}
}

// run runs a task to its end, removes it, and returns what it printed.
func run(t testing.TB, x *Executor, task executor.Task) (executor.Exit, string) {
	t.Helper()
	if err := x.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	e, err := x.Wait(t.Context(), task.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Remove(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	return e, logsOf(t, x, task.ID)
}

// logsOf returns an ended task's output, stderr after stdout.
func logsOf(t testing.TB, x *Executor, id fleet.TaskID) string {
	t.Helper()
	ended := make(chan struct{})
	close(ended)
	var out [2]string
	err := x.Logs().Read(t.Context(), id, tasklog.Options{Ended: ended}, func(stderr bool, data []byte) error {
		i := 0
		if stderr {
			i = 1
		}
		out[i] += string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Logs().Remove(id); err != nil {
		t.Fatal(err)
	}
	return out[0] + out[1]
}
