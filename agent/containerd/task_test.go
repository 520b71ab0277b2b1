package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
	"github.com/tenderfleet/tender/transport/fleet"
)

// wantPrinted runs the task and compares what it printed.
func wantPrinted(t *testing.T, x *Executor, task executor.Task, want string) {
	t.Helper()
	e, got := run(t, x, task)
	if e.Code != 0 || got != want {
		t.Errorf("%s %v and printed %q, want %q", task.ID, e, got, want)
	}
}

func TestWhatATaskIsGiven(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	for name, c := range map[string]struct {
		change func(*executor.Task)
		want   string
	}{
		"the image's command, user and directory": {
			func(t *executor.Task) { t.Spec.Image, t.Spec.Command = greedy, nil }, "/tmp\n",
		},
		"stdout before stderr": {
			func(t *executor.Task) { t.Spec.Command = sh("echo err >&2; echo out") }, "out\nerr\n",
		},
		"no visible devices, whatever image and user say": {
			func(t *executor.Task) {
				t.Spec.Image, t.Spec.Command = greedy, sh("echo $NVIDIA_VISIBLE_DEVICES")
				t.Spec.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}
			}, "void\n",
		},
		"its environment, over the image's": {
			func(t *executor.Task) {
				t.Spec.Command = []string{"/bin/env"}
				t.Spec.Env = map[string]string{"B": "two words", "A": "x=y", "PATH": "/sbin"}
			}, "A=x=y\nB=two words\nNVIDIA_VISIBLE_DEVICES=void\nPATH=/sbin\nHOME=/root\n",
		},
		"its directory": {func(t *executor.Task) { t.Spec.Command, t.Spec.WorkDir = []string{"pwd"}, "/made/for/it" }, "/made/for/it\n"},
		"its user by name": {
			func(t *executor.Task) { t.Spec.Command, t.Spec.User = []string{"id"}, "user" },
			"uid=1000(user) gid=1000(user) groups=44(video),1000(user)\n",
		},
		"its user by numbers": {
			func(t *executor.Task) { t.Spec.Command, t.Spec.User = sh("id -u; id -g"), "12:34" }, "12\n34\n",
		},
		"root": {func(t *executor.Task) { t.Spec.Command = []string{"id", "-u"} }, "0\n"},
		"no new privileges, seccomp, few capabilities": {
			func(t *executor.Task) {
				t.Spec.Command = []string{"grep", "-E", "^(NoNewPrivs|Seccomp|Cap...):", "/proc/self/status"}
			},
			"CapInh:\t0000000000000000\nCapPrm:\t00000000000004fb\nCapEff:\t00000000000004fb\nCapBnd:\t00000000000004fb\n" +
				"CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n",
		},
		"no device nodes of its own": {
			func(t *executor.Task) {
				t.Spec.Command = sh("mknod /dev/x c 195 0 2>&1; unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1; true")
			},
			"mknod: /dev/x: Operation not permitted\nunshare: unshare(0x20000): Operation not permitted\nmount: permission denied (are you root?)\n",
		},
		"a network of nothing but loopback": {
			func(t *executor.Task) {
				t.Spec.Command = sh("ls /sys/class/net; ip -o link show lo | grep -o LOOPBACK,UP; hostname")
			},
			"lo\nLOOPBACK,UP\ngiven\n",
		},
		"the host's network": {
			func(t *executor.Task) {
				t.Spec.Network, t.Spec.Command = fleet.NetworkHost, []string{"readlink", "/proc/self/ns/net"}
			}, hostNetns(t) + "\n",
		},
		"the host's names with the host's network": {
			func(t *executor.Task) {
				t.Spec.Network, t.Spec.Command = fleet.NetworkHost, sh("test -f /etc/hosts && ! echo >/etc/hosts && echo read-only")
			}, "read-only\nsh: can't create /etc/hosts: Read-only file system\n",
		},
		"a writable image": {func(t *executor.Task) { t.Spec.Command = sh("echo x >/etc/new && cat /etc/new") }, "x\n"},
		"a read-only image": {
			func(t *executor.Task) {
				t.Spec.ReadOnly, t.Spec.Command = true, sh("echo x >/etc/new; echo y >/dev/shm/y && cat /dev/shm/y")
			},
			"y\nsh: can't create /etc/new: Read-only file system\n",
		},
		"shared memory of half its memory": {
			func(t *executor.Task) { t.Spec.Command = sh("df -m /dev/shm | tail -1 | awk '{print $2}'") }, "16\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			task := task("given", []string{"true"})
			c.change(&task)
			wantPrinted(t, x, task, c.want)
		})
	}
	w.checkClean(t)
}

func hostNetns(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestLimitsReachTheKernel(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	if x.cgroups.unified {
		t.Fatal("this test reads version 1 control groups; write the version 2 names beside them")
	}
	limited := task("limited", []string{"sleep", "1000"})
	limited.Resources.CPUs, limited.Resources.Mem = 1500, fleet.Whole(48)+500
	limited.Spec.PIDs = 7
	plain := task("plain", []string{"sleep", "1000"})
	plain.Resources = fleet.Resources{}
	for _, c := range []struct {
		task executor.Task
		want map[string]string
	}{
		{limited, map[string]string{
			"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000", "cpu/cpu.shares": "1536",
			"memory/memory.limit_in_bytes": strconv.Itoa(48<<20 + 1<<19), "memory/memory.memsw.limit_in_bytes": strconv.Itoa(48<<20 + 1<<19),
			"pids/pids.max": "7",
		}},
		{plain, map[string]string{"cpu/cpu.cfs_quota_us": "-1", "pids/pids.max": strconv.Itoa(fleet.DefaultPIDs)}},
	} {
		if err := x.Start(t.Context(), c.task); err != nil {
			t.Fatal(err)
		}
		for file, want := range c.want {
			controller, name := filepath.Split(file)
			if name == "memory.memsw.limit_in_bytes" && !x.cgroups.swap {
				continue // this kernel does not account for swap
			}
			b, err := os.ReadFile(filepath.Join(cgroupRoot, controller, w.cfg.Namespace, string(c.task.ID), name))
			if got := strings.TrimSpace(string(b)); err != nil || got != want {
				t.Errorf("%s of %s is %s, want %s; error %v", name, c.task.ID, got, want, err)
			}
		}
		if err := x.Remove(t.Context(), c.task.ID); err != nil {
			t.Fatal(err)
		}
	}
	forks := task("forks", sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"))
	forks.Spec.PIDs = 5
	if e, out := run(t, x, forks); !strings.Contains(out, "can't fork") {
		t.Errorf("a task of 10 processes with a limit of 5 %v and printed %q", e, out)
	}
	w.checkClean(t)
}

func TestInvalidTasks(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	archive, err := testimage.Build(testimage.Options{
		Name: "example.org/tests/odd:1", Entrypoint: []string{}, Cmd: nil,
		Files: map[string]testimage.File{"/opt/plain": {Data: []byte("x")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Import(t.Context(), bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*executor.Task)
		want   string
	}{
		"reference":  {func(t *executor.Task) { t.Spec.Image = "Not A Reference" }, "is not a reference such as"},
		"no command": {func(t *executor.Task) { t.Spec.Image, t.Spec.Command = "example.org/tests/odd:1", nil }, "give the task a command"},
		"path":       {func(t *executor.Task) { t.Spec.Command = []string{"/nope"} }, "the image has no such program"},
		"directory":  {func(t *executor.Task) { t.Spec.Command = []string{"/etc"} }, "may not execute it"},
		"plain file": {func(t *executor.Task) {
			t.Spec.Image, t.Spec.Command = "example.org/tests/odd:1", []string{"/opt/plain"}
		}, "may not execute it"},
		"work dir":    {func(t *executor.Task) { t.Spec.WorkDir = "tmp" }, "not an absolute path"},
		"file as dir": {func(t *executor.Task) { t.Spec.WorkDir = "/etc/passwd" }, "check the working directory"},
		"user":        {func(t *executor.Task) { t.Spec.User = "ghost" }, `user "ghost" is not in the image`},
		"network":     {func(t *executor.Task) { t.Spec.Network = "bridge" }, `use "none" or "host"`},
		"variable":    {func(t *executor.Task) { t.Spec.Env = map[string]string{"A=B": ""} }, "a name has no '='"},
		"argument":    {func(t *executor.Task) { t.Spec.Command = []string{"echo", "\x00"} }, "argument 1 of the command"},
		"memory":      {func(t *executor.Task) { t.Resources.Mem = fleet.Whole(1) }, "give the task more memory"},
		"processes":   {func(t *executor.Task) { t.Spec.PIDs = -1 }, "a limit of -1 processes"},
		"GPUs":        {func(t *executor.Task) { t.Resources.GPUs = []gpu.UUID{"GPU-1"} }, "cannot isolate GPUs"},
	} {
		task := task("invalid", []string{"true"})
		c.change(&task)
		err := x.Start(t.Context(), task)
		if !errors.Is(err, executor.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	entries, err := os.ReadDir(w.cfg.LogDir)
	if err != nil || len(entries) > 0 {
		t.Errorf("log directories left: %v, error %v", entries, err)
	}
	w.checkClean(t)
}

func TestIsolateIsAskedForEveryTaskAndHasTheLastWord(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	var asked [][]gpu.UUID
	refuse := errors.New("device is gone")
	x := w.open(t, func(c *Config) {
		c.Isolate = func(_ context.Context, gpus []gpu.UUID) (func(*specs.Spec) error, error) {
			asked = append(asked, gpus)
			if len(gpus) > 1 {
				return nil, refuse
			}
			return func(s *specs.Spec) error {
				s.Process.Env = append(s.Process.Env, fmt.Sprintf("SEEN=%v", s.Process.Env))
				return nil
			}, nil
		}
	})
	wantPrinted(t, x, task("without", sh("echo $SEEN")), "[NVIDIA_VISIBLE_DEVICES=void PATH=/bin]\n")
	with := task("with", []string{"true"})
	with.Resources.GPUs = []gpu.UUID{"GPU-1"}
	wantPrinted(t, x, with, "")
	with.Resources.GPUs = []gpu.UUID{"GPU-1", "GPU-2"}
	if err := x.Start(t.Context(), with); !errors.Is(err, executor.ErrInvalid) || !errors.Is(err, refuse) {
		t.Errorf("error %v", err)
	}
	if got := fmt.Sprint(asked); got != "[[] [GPU-1] [GPU-1 GPU-2]]" {
		t.Errorf("asked for %s", got)
	}
}

// A start given up at any moment leaves nothing, nor do many tasks at once.
func TestGivenUpStartsAndManyTasksLeaveNothing(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	for after := time.Millisecond; after < 300*time.Millisecond; after = after * 5 / 3 {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		err := x.Start(ctx, task("given-up", []string{"sleep", "1000"}))
		cancel()
		switch {
		case err == nil:
			if err := x.Remove(t.Context(), "given-up"); err != nil {
				t.Fatal(err)
			}
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("given up after %v: error %v", after, err)
		}
		w.checkClean(t)
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			id := fleet.TaskID("many-" + strconv.Itoa(i))
			if err := x.Start(t.Context(), task(id, sh("exit "+strconv.Itoa(i)))); err != nil {
				t.Error(err)
				return
			}
			if e, err := x.Wait(t.Context(), id); err != nil || e.Code != i {
				t.Errorf("%s: %v, error %v", id, e, err)
			}
			if err := x.Remove(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.checkClean(t)
}

func TestOutOfMemoryIsKnownToAnAgentThatWasAway(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	before, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	// A child is killed; the task itself ends with a code of its own.
	hog := task("hog", sh("sleep 0.3; tail -c 200000000 /dev/zero; exit 42"))
	survivor := task("survivor", sh("tail -c 200000000 /dev/zero; exit 0"))
	for _, task := range []executor.Task{hog, survivor} {
		if err := before.Start(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	w.daemon.Kill()
	group := filepath.Join(w.cfg.Namespace, "hog")
	eventually(t, "the kernel kills the hog", func() bool {
		kills, err := detectCgroups(cgroupRoot).oomKills(group)
		return err == nil && kills
	})
	if err := w.daemon.Run(); err != nil {
		t.Fatal(err)
	}
	x := w.open(t)
	for id, want := range map[fleet.TaskID]executor.Exit{"hog": {Code: -1, OOM: true}, "survivor": {Code: 0}} {
		e, err := x.Wait(t.Context(), id)
		if e.Time = (time.Time{}); err != nil || e != want {
			t.Errorf("%s %v, want: %v; error %v", id, e, want, err)
		}
		if err := x.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	w.checkClean(t)
}

// Without readable counters, the event tells; one subscription serves all.
func TestOutOfMemoryByEvent(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	x.cgroups.root = t.TempDir()
	// The subscription is renewed after a restart of containerd.
	w.daemon.Kill()
	if err := w.daemon.Run(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an event arrives", func() bool {
		hog := task("hog", []string{"tail", "-c", "200000000", "/dev/zero"})
		if err := x.Start(t.Context(), hog); errors.Is(err, executor.ErrUnavailable) {
			return false
		} else if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Wait(t.Context(), hog.ID); err != nil {
			t.Fatal(err)
		}
		for range 20 { // the event may come after the exit
			if x.ooms.seen("hog") {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		e, err := x.Wait(t.Context(), hog.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Remove(t.Context(), hog.ID); err != nil {
			t.Fatal(err)
		}
		return e.OOM
	})
	if x.ooms.seen("hog") {
		t.Error("the event of a removed task is kept")
	}
}

func TestABrokenLogWriterFailsTheStart(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t, func(c *Config) { c.LogBinary = []string{"/bin/false", "log"} })
	err := x.Start(t.Context(), task("unlogged", []string{"true"}))
	if err == nil || !strings.Contains(err.Error(), "the log writer /bin/false log did not open its files") {
		t.Errorf("error %v", err)
	}
	w.checkClean(t)
}

// Logs are complete although the agent, and then containerd, were gone.
func TestLogsOutliveAgentAndContainerd(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	before, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = before.Start(t.Context(), task("talker", sh("for i in $(seq 60); do echo line $i; sleep 0.01; done; echo end >&2; exit 4")))
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	w.daemon.Kill()
	if err := w.daemon.Run(); err != nil {
		t.Fatal(err)
	}
	x := w.open(t)
	e, err := x.Wait(t.Context(), "talker")
	if err != nil || e.Code != 4 {
		t.Errorf("%v, error %v", e, err)
	}
	if err := x.Remove(t.Context(), "talker"); err != nil {
		t.Fatal(err)
	}
	if out := logsOf(t, x, "talker"); strings.Count(out, "line") != 60 || !strings.HasSuffix(out, "line 60\nend\n") {
		t.Errorf("printed %q", out)
	}
}

// What an agent that was killed half-way through a start has left is replaced.
func TestAHalfStartedTaskIsStartedAnew(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	half := task("half", sh("echo ran"))
	img, record, err := x.describe(t.Context(), "half", half)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.client.ContainerService().Create(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	if _, err := x.prepare(t.Context(), "half", half, img); err != nil {
		t.Fatal(err)
	}
	// Without a lease, the container's record alone keeps the snapshot.
	l, err := x.client.LeasesService().Create(t.Context(), leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	if err := x.client.LeasesService().Delete(t.Context(), l, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
	if _, err := x.snaps.Stat(t.Context(), "half"); err != nil {
		t.Errorf("the garbage collector took the snapshot: %v", err)
	}
	if _, err := x.Wait(t.Context(), "half"); !errors.Is(err, executor.ErrNotFound) {
		t.Errorf("wait for a task without a process: error %v", err)
	}
	wantPrinted(t, x, half, "ran\n")
	w.checkClean(t)
}

func TestUnlimitableIsInvalid(t *testing.T) {
	full := task("t", nil)
	for _, c := range []struct{ controllers, want string }{
		{"cpu memory pids", ""},
		{"memory pids", "cannot limit processor time"},
		{"cpu pids", "cannot limit memory"},
		{"cpu memory", "cannot limit the number of processes"},
	} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(c.controllers+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := detectCgroups(root).resources(full)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, executor.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("with %q: error %v", c.controllers, err)
		}
	}
}

func TestCountersOfVersion2(t *testing.T) {
	root := t.TempDir()
	c := cgroups{root: root, unified: true}
	if err := os.MkdirAll(filepath.Join(root, "ns/id"), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n": false, "oom 1\noom_kill 1\noom_group_kill 0\n": true} {
		if err := os.WriteFile(filepath.Join(root, "ns/id/memory.events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.oomKills("ns/id"); err != nil || got != want {
			t.Errorf("%q: %v, error %v", text, got, err)
		}
	}
}

func TestContainerNames(t *testing.T) {
	for id, own := range map[fleet.TaskID]bool{"a": true, "a-b_c.d": true, "0": true, "a--b": false, "a-": false, "a._b": false, "x-ray": false} {
		name := containerName(id)
		if (name == string(id)) != own {
			t.Errorf("the container of %s is %s", id, name)
		}
		if !own && (len(name) > 76 || !strings.HasPrefix(name, "x-")) {
			t.Errorf("the container of %s is %s", id, name)
		}
	}
	if memBytes(fleet.MaxScalar) <= 0 || memBytes(1500) != 3<<19 {
		t.Errorf("%d, %d", memBytes(fleet.MaxScalar), memBytes(1500))
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Address: "/run/x.sock", LogDir: "/x", LogBinary: []string{"/x", "log"}}
	for want, change := range map[string]func(*Config){
		"address":       func(c *Config) { c.Address = "" },
		"log directory": func(c *Config) { c.LogDir = "x" },
		"log binary":    func(c *Config) { c.LogBinary = []string{"x"} },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}
