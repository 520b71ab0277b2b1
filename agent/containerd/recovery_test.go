package containerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestOutOfMemoryIsKnownToAnAgentThatWasAway(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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

// A container from before a restart of the machine may have run: the task is
// reported, and not run a second time.
func TestATaskFromBeforeARestartOfTheMachineIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	old := task("old", sh("echo ran"))
	_, record, err := x.describe(t.Context(), "old", old)
	if err != nil {
		t.Fatal(err)
	}
	record.Labels[bootLabel] = "another life"
	if _, err := x.client.ContainerService().Create(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context(), old); !errors.Is(err, executor.ErrInvalid) {
		t.Errorf("start: %v", err)
	}
	if err := x.Remove(t.Context(), "old"); err != nil {
		t.Error(err)
	}
	w.checkClean(t)
}

// containerd clears up after a caller that is gone, takes its time, and does so
// under the feet of who starts the same task again.
func TestAStartThatAKilledAgentLeftHalfDoneIsDoneByTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	next := w.open(t)
	run(t, next, task("unpacks-the-image", []string{"true"}))
	for i := range 10 {
		after := time.Duration(5+15*i) * time.Millisecond
		job := task(fleet.TaskID("cut-"+strconv.Itoa(i)), []string{"true"})
		killed, err := New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		cut := time.AfterFunc(after, func() { _ = killed.client.Close() })
		_ = killed.Start(t.Context(), job) // done or not
		cut.Stop()
		_ = killed.Close()
		err = next.Start(t.Context(), job)
		if errors.Is(err, context.DeadlineExceeded) { // containerd hangs over what is left, and has let go of it by now
			err = next.Start(t.Context(), job)
		}
		if err != nil {
			t.Errorf("cut after %v: %v", after, err)
			continue
		}
		if e, err := next.Wait(t.Context(), job.ID); err != nil || e.Code != 0 {
			t.Errorf("cut after %v: %v, error %v", after, e, err)
		}
		if err := next.Remove(t.Context(), job.ID); err != nil {
			t.Error(err)
		}
	}
	// A lease of the killed one may be left; it expires.
	w.daemon.EndIdleShims(t)
	w.daemon.CheckClean(t)
}

// What bars a name for good costs a task its name, and nothing else.
func TestATaskWhoseNameIsBarredIsStartedUnderAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	job := task("barred", sh("echo ran; sleep 0.5"))
	bundle := filepath.Join(filepath.Dir(w.cfg.Address), "state/io.containerd.runtime.v2.task", w.cfg.Namespace, "barred")
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	next := w.open(t) // another process
	if ids, err := next.List(t.Context()); err != nil || len(ids) != 1 || ids[0] != job.ID {
		t.Errorf("it lists %v, error %v", ids, err)
	}
	if e, err := next.Wait(t.Context(), job.ID); err != nil || e.Code != 0 {
		t.Errorf("%v, error %v", e, err)
	}
	if out := logsOf(t, next, job.ID); out != "ran\n" {
		t.Errorf("printed %q", out)
	}
	if err := next.Remove(t.Context(), job.ID); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(bundle); err != nil {
		t.Fatal(err)
	}
	w.checkClean(t)
}
