package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// A machine loses its power where there is no uplink: what is to run again does
// so by itself, from the agent's own disk, and is told of later in order.
func TestAMachineRestartsWithoutAnUplink(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	again := f.Submit(t, client.Submit{
		Command: untilTouched(), Restart: &client.Restart{Attempts: 3},
		HealthCheck: oftenHealthy(client.Check{Kind: "COMMAND", Command: []string{"true"}}),
	})
	once := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Await(t, again, "it is healthy", func(task client.Task) bool { return task.Health == "healthy" })
	f.Running(t, once)

	f.Replicas[0].Kill(t)
	a.Reboot(t)
	began := time.Now()
	a.Process().Says(t, "task started")
	harness.Eventually(t, "it runs again", func() bool { return len(a.Runtime.Shims(again)) == 1 })
	took := time.Since(began)
	t.Logf("it runs again %.1f s after the machine's start", took.Seconds())
	if took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	harness.Eventually(t, "the test's own connection is back", func() bool {
		_, err := a.Runtime.Containers(t.Context())
		return err == nil
	})
	f.Replicas[0].Start(t)
	lost := f.End(t, once)
	if lost.State != "TASK_LOST" && lost.State != "TASK_FAILED" || lost.Reason != "AGENT_RESTARTED" {
		t.Errorf("the other one: %s", harness.Tell(lost))
	}
	task := f.Await(t, again, "its new run is healthy", func(task client.Task) bool { return task.Restarts == 1 && task.Health == "healthy" })
	if task.State != "TASK_RUNNING" {
		t.Error(harness.Tell(task))
	}
	if !slices.IsSortedFunc(task.History, func(x, y client.Status) int { return x.Time.Compare(y.Time) }) {
		t.Errorf("out of order: %s", harness.Tell(task))
	}
	end(t, a.Runtime, again)
	if task := f.End(t, again); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	for id, want := range map[string]string{again: "began\nbegan\nended\n", once: "began\n"} {
		if out, _ := f.Output(t, id); out != want {
			t.Errorf("%s printed %q, want %q", id, out, want)
		}
	}
}

// Where the month's bytes are used up, states and kills travel and output does
// not.
func TestOverItsBudgetALinkCarriesStatesAndKills(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 1)
	a := f.Join(t, harness.AgentOptions{Runtime: harness.NewRuntime(t), Args: []string{"--link-budget-per-month", "1kB"}})
	a.Start(t)
	a.Connected(t)
	ends := f.Submit(t, client.Submit{Command: untilTouched()})
	killed := f.Submit(t, client.Submit{Command: []string{"sleep", "1000"}})
	f.Running(t, ends)
	f.Running(t, killed)
	a.Process().Says(t, "only states and kills travel")
	err := f.Logs(t.Context(), ends, client.LogOptions{Tail: -1, Stdout: true}, func(bool, []byte) error { return nil })
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != client.CodeUnavailable {
		t.Fatalf("logs: %#v", err)
	}
	wantText(t, p.Detail, "the agent sends no output now", "the link has used", "of its 1 kB", "link.budget_per_month")
	end(t, a.Runtime, ends)
	if task := f.End(t, ends); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	kill(t, f, killed)
	a.Await(t, "it shows what its link does", func(d client.Agent) bool {
		return d.Readings != nil && d.Readings.Link != nil && d.Readings.Link.State != ""
	})
}

// A replica is replaced while tasks run: nobody but its own sessions notices.
func TestAReplicaIsReplacedWhileTasksRun(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 3)
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	pid := a.Runtime.PID(t, id)
	f.Remove(t, f.Replicas[2])
	if _, err := f.Task(t.Context(), id); err != nil {
		t.Error(err)
	}
	joined := f.Extend(t)
	f.Remove(t, f.Leader(t)) // the one that leads as well
	harness.Eventually(t, "the new one has it", func() bool {
		task, err := joined.Client(t).Task(t.Context(), id)
		return err == nil && task.State == "TASK_RUNNING"
	})
	a.Connected(t)
	if now := a.Runtime.PID(t, id); now != pid || a.Runtime.Starts(id) != 1 {
		t.Errorf("it was process %d and is %d", pid, now)
	}
	end(t, a.Runtime, id)
	if task := f.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
}

// The agent's disk is full: what runs goes on, nothing new starts, and it says
// so; with space again it goes on where it was.
func TestAnAgentsDiskIsFull(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 1)
	a := f.Join(t, harness.AgentOptions{Runtime: harness.NewRuntime(t)})
	sh := func(format string, args ...any) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	sh("mv %[1]s %[1]s.aside && mkdir %[1]s && mount -t tmpfs -o size=8m,mode=700 tender-e2e %[1]s && cp -a %[1]s.aside/. %[1]s/ && rm -rf %[1]s.aside", a.State)
	t.Cleanup(func() {
		a.Process().Stop(t)
		if err := syscall.Unmount(a.State, 0); err != nil {
			t.Errorf("unmount %s: %v", a.State, err)
		}
	})
	a.Start(t)
	a.Connected(t)
	runs := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, runs)
	pid := a.Runtime.PID(t, runs)

	filler := filepath.Join(a.State, "filler")
	out, _ := exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+filler, "bs=1k").CombinedOutput()
	if !strings.Contains(string(out), "No space left") {
		t.Fatalf("the disk is not full:\n%s", out)
	}
	// Its record is larger than what room there may be within the checkpoint's file.
	env := map[string]string{}
	for _, name := range []string{"A", "B"} {
		env[name] = strings.Repeat("x", 30<<10)
	}
	waits := f.Submit(t, client.Submit{Command: []string{"true"}, Env: env})
	harness.Eventually(t, "it says for a while that it waits", func() bool {
		return strings.Count(a.Process().Log(), "checkpoint not written; nothing new is started until it is") >= 4
	})
	if n := a.Runtime.Starts(waits); n != 0 {
		t.Errorf("it was started %d times without a record", n)
	}
	if !harness.Alive(pid) {
		t.Error("what ran has ended")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{waits, runs} {
		if id == runs {
			touch(t, pid)
		}
		if task := f.End(t, id); task.State != "TASK_FINISHED" {
			t.Error(harness.Tell(task))
		}
		if n := a.Runtime.Starts(id); n != 1 {
			t.Errorf("it was started %d times", n)
		}
	}
}

// Output that is not there is refused with the reason, whichever replica has
// the agent's session: the end of the stream does not overtake it.
func TestOutputThatIsNotThereIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	f, _ := withAgent(t, 3)
	id := f.Submit(t, client.Submit{Command: []string{"no-such-program"}})
	if task := f.End(t, id); task.State != "TASK_FAILED" {
		t.Error(harness.Tell(task))
	}
	for range 20 {
		for _, r := range f.Replicas {
			err := f.ClientOf(t, r).Logs(t.Context(), id, client.LogOptions{Tail: -1, Stdout: true}, func(bool, []byte) error { return nil })
			var p *client.Problem
			if !errors.As(err, &p) || p.Code != client.CodeNotFound {
				t.Fatalf("by %s: %v", r.ID, err)
			}
			wantText(t, p.Detail, "the agent has no output of this task")
		}
	}
	for _, r := range f.Replicas {
		if strings.Contains(r.Process().Log(), "level=ERROR") {
			t.Errorf("%s takes that for a fault of its own", r.ID)
		}
	}
}
