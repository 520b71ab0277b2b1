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
	t.Parallel()
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
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	limited := task("limited", []string{"sleep", "1000"})
	limited.Resources.CPUs, limited.Resources.Mem = 1500, fleet.Whole(48)+500
	limited.Spec.PIDs = 7
	bursts := task("bursts", []string{"sleep", "1000"})
	bursts.Spec.Limits = fleet.Limits{CPUs: 2500, Mem: fleet.Whole(64)}
	free := task("free", []string{"sleep", "1000"})
	free.Spec.Limits = fleet.Limits{CPUs: fleet.Unlimited, Mem: fleet.Unlimited}
	const noLimit = "9223372036854771712" // the kernel's largest number of whole pages
	plain := task("plain", []string{"sleep", "1000"})
	plain.Resources = fleet.Resources{}
	for _, c := range []struct {
		task    executor.Task
		want    map[string]string // control groups of version 1
		unified map[string]string // of version 2
	}{
		{limited, map[string]string{
			"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000", "cpu/cpu.shares": "1536",
			"memory/memory.limit_in_bytes": strconv.Itoa(48<<20 + 1<<19), "memory/memory.memsw.limit_in_bytes": strconv.Itoa(48<<20 + 1<<19),
			"pids/pids.max": "7",
		}, map[string]string{
			// runc's rule for the weight is 1 + (shares-2)*9999/262142.
			"cpu.max": "150000 100000", "cpu.weight": "59",
			"memory.max": strconv.Itoa(48<<20 + 1<<19), "memory.swap.max": "0", "pids.max": "7",
		}},
		{bursts, map[string]string{
			"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.shares": "512",
			"memory/memory.limit_in_bytes": strconv.Itoa(64 << 20), "memory/memory.memsw.limit_in_bytes": strconv.Itoa(64 << 20),
			"memory/memory.soft_limit_in_bytes": strconv.Itoa(memMB << 20),
		}, map[string]string{
			"cpu.max": "250000 100000", "cpu.weight": "20",
			"memory.max": strconv.Itoa(64 << 20), "memory.swap.max": "0", "memory.low": strconv.Itoa(memMB << 20),
		}},
		{free, map[string]string{
			"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.shares": "512",
			"memory/memory.limit_in_bytes": noLimit, "memory/memory.soft_limit_in_bytes": strconv.Itoa(memMB << 20),
		}, map[string]string{"cpu.max": "max 100000", "memory.max": "max", "memory.low": strconv.Itoa(memMB << 20)}},
		{
			plain,
			map[string]string{"cpu/cpu.cfs_quota_us": "-1", "pids/pids.max": strconv.Itoa(fleet.DefaultPIDs)},
			map[string]string{"cpu.max": "max 100000", "memory.max": "max", "pids.max": strconv.Itoa(fleet.DefaultPIDs)},
		},
	} {
		if err := x.Start(t.Context(), c.task); err != nil {
			t.Fatal(err)
		}
		files := c.want
		if x.cgroups.unified {
			files = c.unified
		}
		for file, want := range files {
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

// A task dies at its limit, not at what it asked for.
func TestMemoryAboveTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	for name, c := range map[string]struct {
		takes int // MiB
		limit fleet.Scalar
		want  executor.Exit
	}{
		"over its request":             {memMB * 3 / 2, 0, executor.Exit{Code: -1, OOM: true}},
		"over-its-request-under-limit": {memMB * 3 / 2, fleet.Whole(memMB * 3), executor.Exit{}},
		"over-its-limit":               {memMB * 4, fleet.Whole(memMB * 3), executor.Exit{Code: -1, OOM: true}},
		"without-a-limit":              {memMB * 4, fleet.Unlimited, executor.Exit{}},
	} {
		bytes := strconv.Itoa(c.takes << 20)
		hog := task(fleet.TaskID(strings.ReplaceAll(name, " ", "-")), sh("head -c "+bytes+" /dev/zero | tail -c "+bytes+" > /dev/null"))
		hog.Spec.Limits.Mem = c.limit
		e, out := run(t, x, hog)
		e.Time = time.Time{}
		if e != c.want {
			t.Errorf("%s: %v, want: %v; it printed %q", name, e, c.want, out)
		}
	}
	w.checkClean(t)
}

func TestInvalidTasks(t *testing.T) {
	t.Parallel()
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
		"limit":       {func(t *executor.Task) { t.Spec.Limits.Mem = 1 }, "memory limit 0.001 is less than the 32"},
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
	t.Parallel()
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
	t.Parallel()
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
