package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// untilTouched is a task that ends with code 0 once end has touched a file in
// its root.
func untilTouched() []string {
	return sh("echo began; until [ -e /tmp/end ]; do sleep 0.05; done; echo ended")
}

// end ends such a task, through the view that the kernel gives of its root.
func end(t testing.TB, rt *harness.Runtime, id string) {
	t.Helper()
	touch(t, rt.PID(t, id))
}

func touch(t testing.TB, pid uint32) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(harness.Proc(pid), "root/tmp/end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheLeaderIsKilledAndARunningTaskFinishesOnce(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 3)
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	old := f.Leader(t)
	began := time.Now()
	old.Kill(t)
	var leader *harness.Replica
	harness.Eventually(t, "another replica leads", func() bool {
		leader = f.Leader(t)
		return leader != old
	})
	t.Logf("a new leader after %v", time.Since(began).Round(10*time.Millisecond))
	// What it prints and how it ends while nobody is there to hear it.
	end(t, a.Runtime, id)
	a.Connected(t)
	t.Logf("the agent is back after %v", time.Since(began).Round(10*time.Millisecond))
	task := f.End(t, id)
	if task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	if n := a.Runtime.Starts(id); n != 1 {
		t.Errorf("its container was started %d times", n)
	}
	if out, _ := f.Output(t, id); out != "began\nended\n" {
		t.Errorf("it printed %q", out)
	}
	t.Logf("the task is known to have ended after %v", time.Since(began).Round(10*time.Millisecond))
	// The two that are left go on, and the third comes back to them.
	if task := f.End(t, f.Submit(t, client.Submit{Command: []string{"true"}})); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	t.Logf("the next task has ended after %v", time.Since(began).Round(10*time.Millisecond))
	old.Start(t)
	harness.Eventually(t, "the killed replica follows", func() bool {
		doc, err := old.Client(t).Replicas(t.Context())
		return err == nil && doc.Leader == leader.ID
	})
}

func TestATaskOutlivesItsAgentsProcess(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	restart := func() { // lives longer than the subtest
		a.Start(t)
		a.Process().Says(t, "msg=connected")
	}
	for name, stop := range map[string]func(*testing.T){
		"KILL": func(t *testing.T) { a.Process().Kill(t) },
		"TERM": func(t *testing.T) { a.Process().Stop(t) },
	} {
		t.Run("the agent is restarted by "+name, func(t *testing.T) {
			id := f.Submit(t, client.Submit{Command: untilTouched()})
			f.Running(t, id)
			pid := a.Runtime.PID(t, id)
			stop(t)
			if !harness.Alive(pid) {
				t.Fatal("the task ended with its agent")
			}
			began := time.Now()
			restart()
			t.Logf("the agent is back after %v", time.Since(began).Round(10*time.Millisecond))
			if again := a.Runtime.PID(t, id); again != pid {
				t.Errorf("the task's process was %d and is %d", pid, again)
			}
			end(t, a.Runtime, id)
			if task := f.End(t, id); task.State != "TASK_FINISHED" {
				t.Error(harness.Tell(task))
			}
			if n := a.Runtime.Starts(id); n != 1 {
				t.Errorf("its container was started %d times", n)
			}
			if out, _ := f.Output(t, id); out != "began\nended\n" {
				t.Errorf("it printed %q", out)
			}
		})
	}

	t.Run("an exit without an agent is reported by the next one", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: sh("until [ -e /tmp/end ]; do sleep 0.05; done; exit 5")})
		f.Running(t, id)
		pid := a.Runtime.PID(t, id)
		a.Process().Kill(t)
		ended := time.Now()
		touch(t, pid)
		harness.Eventually(t, "the task ends", func() bool { return !harness.Alive(pid) })
		restart()
		task := f.End(t, id)
		if task.State != "TASK_FAILED" || task.ExitCode == nil || *task.ExitCode != 5 {
			t.Error(harness.Tell(task))
		}
		last := task.History[len(task.History)-1]
		if d := last.Time.Sub(ended); d < 0 || d > 5*time.Second {
			t.Errorf("the exit is dated %v after it happened", d)
		}
	})

	t.Run("a task that was to stop is stopped by the next agent", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: []string{"sleep", "1000"}})
		f.Running(t, id)
		a.Process().Kill(t)
		grace := client.Duration(time.Second)
		if _, err := f.StopTask(t.Context(), id, client.Stop{Grace: &grace}); err != nil {
			t.Fatal(err)
		}
		restart()
		if task := f.End(t, id); task.State != "TASK_KILLED" || task.Signal != int(syscall.SIGKILL) {
			t.Error(harness.Tell(task))
		}
	})

	t.Run("the agent is killed while it starts a task", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: untilTouched()})
		f.Await(t, id, "it is on the agent", func(task client.Task) bool { return task.State == "TASK_STARTING" || task.State == "TASK_RUNNING" })
		a.Process().Kill(t)
		restart()
		f.Running(t, id)
		end(t, a.Runtime, id)
		if task := f.End(t, id); task.State != "TASK_FINISHED" {
			t.Error(harness.Tell(task))
		}
		if n := a.Runtime.Starts(id); n != 1 {
			t.Errorf("its container was started %d times", n)
		}
		if out, _ := f.Output(t, id); strings.Count(out, "began") != 1 {
			t.Errorf("it printed %q", out)
		}
	})
}
