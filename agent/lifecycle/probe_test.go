package lifecycle_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/fleet"
)

func watched(change func(*fleet.TaskSpec)) fleet.Assignment {
	as := task("t")
	health := fleet.NewHealthCheck(fleet.CheckCommand)
	as.Spec.Health = &health
	change(&as.Spec)
	return as
}

// runs brings a task to where it runs, for no time yet.
func (b *bench) runs(as fleet.Assignment) {
	b.step(full(1, as))
	b.step(lifecycle.Started{Task: as.Task})
	b.log = nil
}

// pass lets seconds pass, with the core's tick in each.
func (b *bench) pass(seconds int) {
	for range seconds {
		b.now = b.now.Add(time.Second)
		b.step(lifecycle.Tick{})
	}
}

// answer answers what the core asks for the task, with an exit code.
func (b *bench) answer(health bool, code int) {
	b.step(lifecycle.Probed{Task: "t", Health: health, Result: fleet.CheckResult{Known: true, ExitCode: code}})
}

// only keeps what a scenario is about.
func (b *bench) only(prefixes ...string) {
	var kept []string
	for _, l := range b.log {
		for _, p := range prefixes {
			if strings.HasPrefix(l, p) {
				kept = append(kept, l)
			}
		}
	}
	b.log = kept
}

func TestAHealthyTask(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(*fleet.TaskSpec) {}))
	b.pass(14)
	b.only("probe")
	b.expect()
	b.pass(1) // Mesos's delay of 15 s
	b.only("probe")
	b.expect("probe t health COMMAND")
	b.pass(9)
	b.only("probe")
	b.expect() // one at a time
	b.answer(true, 0)
	b.expect("report t#3 TASK_RUNNING healthy healthy")
	b.pass(10) // Mesos's interval, from the end of the last
	b.only("probe")
	b.expect("probe t health COMMAND")
	b.answer(true, 0)
	b.expect() // no news
}

func TestATaskThatIsNotHealthyIsKilled(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(*fleet.TaskSpec) {}))
	b.pass(15)
	b.log = nil
	b.answer(true, 1)
	b.expect("report t#3 TASK_RUNNING unhealthy unhealthy: exit code 1")
	b.pass(10)
	b.answer(true, 2)
	b.only("report t#4", "stop")
	b.expect()
	b.pass(10)
	b.log = nil
	b.step(lifecycle.Probed{Task: "t", Health: true, Text: "no answer within 20s"})
	b.expect("stop t 5s", "report t#4 TASK_KILLING unhealthy its health check failed 3 times in a row, at last: no answer within 20s")
	b.step(lifecycle.Exited{Task: "t", Time: b.now, Signal: 15})
	b.expect("remove t", "report t#5 TASK_KILLED unhealthy its health check failed 3 times in a row, at last: no answer within 20s; ended by signal 15")
	if p := b.records["t"].Reports.Pending; p[len(p)-1].Status.Reason != fleet.ReasonHealthUpdated {
		t.Errorf("the reason is %q", p[len(p)-1].Status.Reason)
	}
}

// Until the first success failures in the grace period do not count, and are
// not told: the task is still starting.
func TestFailuresWhileATaskStartsAreForgiven(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(s *fleet.TaskSpec) {
		s.Health.Delay, s.Health.Interval, s.Health.Grace, s.Health.ConsecutiveFailures = 0, 5*time.Second, 10*time.Second, 1
	}))
	for range 2 {
		b.pass(1)
		b.answer(true, 1)
		b.pass(4)
	}
	b.only("report t#3", "stop")
	b.expect()
	b.pass(1) // 11 s after the start
	b.answer(true, 1)
	b.only("report t#3", "stop")
	b.expect("stop t 5s", "report t#3 TASK_RUNNING unhealthy unhealthy: exit code 1")
}

func TestTheFirstSuccessEndsTheGracePeriod(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(s *fleet.TaskSpec) { s.Health.Delay, s.Health.Grace = 0, time.Hour }))
	b.pass(1)
	b.answer(true, 0)
	b.pass(10)
	b.log = nil
	b.answer(true, 1)
	b.expect("report t#4 TASK_RUNNING unhealthy unhealthy: exit code 1")
	b.pass(10)
	b.log = nil
	b.answer(true, 0)
	b.expect("report t#5 TASK_RUNNING healthy healthy")
}

func TestZeroFailuresNeverKill(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(s *fleet.TaskSpec) { s.Health.ConsecutiveFailures = 0 }))
	b.pass(15)
	for range 20 {
		b.answer(true, 1)
		b.pass(10)
	}
	b.only("stop")
	b.expect()
}

// A runtime that does not answer says nothing about the task.
func TestATaskThatCannotBeAskedIsAskedLater(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(s *fleet.TaskSpec) { s.Health.ConsecutiveFailures = 1 }))
	b.pass(15)
	b.log = nil
	b.step(lifecycle.Probed{Task: "t", Health: true, Unable: true})
	b.expect()
	b.pass(10)
	b.only("probe")
	b.expect("probe t health COMMAND")
}

func TestACheckIsOnlyReported(t *testing.T) {
	b := newBench(t)
	as := task("t")
	check := fleet.NewCheck(fleet.CheckHTTP)
	as.Spec.Check = &check
	b.runs(as)
	if p := b.records["t"].Reports.Pending; p[1].Status.Check != (fleet.CheckResult{Kind: fleet.CheckHTTP}) {
		t.Errorf("before the first check a running task's status has %+v", p[1].Status.Check)
	}
	status := func(code int) {
		b.step(lifecycle.Probed{Task: "t", Result: fleet.CheckResult{Known: true, StatusCode: code}})
	}
	b.pass(15)
	b.only("probe")
	b.expect("probe t check HTTP")
	status(503)
	b.expect("report t#3 TASK_RUNNING check: HTTP status 503")
	b.pass(10)
	b.log = nil
	status(503)
	b.expect()
	b.pass(10)
	b.log = nil
	b.step(lifecycle.Probed{Task: "t", Text: "no answer within 20s"})
	b.expect("report t#4 TASK_RUNNING check: no answer within 20s")
	b.step(lifecycle.Exited{Task: "t", Time: b.now})
	b.expect("remove t", "report t#5 TASK_FINISHED exited with code 0")
}

func TestAMaximumCompletionTime(t *testing.T) {
	limited := task("t")
	limited.Spec.MaxCompletion, limited.Spec.KillGrace = time.Minute, 3*time.Second
	t.Run("ends the task as failed, whatever its exit code", func(t *testing.T) {
		b := newBench(t)
		b.runs(limited)
		b.pass(59)
		b.only("stop")
		b.expect()
		b.pass(1)
		b.only("stop", "report t#3")
		b.expect("stop t 3s", "report t#3 TASK_KILLING it ran for its maximum completion time of 1m0s")
		b.step(lifecycle.Exited{Task: "t", Time: b.now})
		b.expect("remove t", "report t#4 TASK_FAILED it ran for its maximum completion time of 1m0s; exited with code 0")
		if p := b.records["t"].Reports.Pending; p[len(p)-1].Status.Reason != fleet.ReasonMaxCompletion {
			t.Errorf("the reason is %q", p[len(p)-1].Status.Reason)
		}
	})
	t.Run("counts from the first start, restarts of the agent included", func(t *testing.T) {
		b := newBench(t)
		b.runs(limited)
		b.pass(40)
		b.restart("t")
		b.now = b.now.Add(19 * time.Second)
		b.step(lifecycle.Tick{})
		b.only("stop")
		b.expect()
		b.restart("t")
		b.pass(1)
		b.only("stop")
		b.expect("stop t 3s")
		b.restart("t") // the reason to stop it is not forgotten
		b.step(lifecycle.Connected{Term: 1})
		b.log = nil
		b.step(lifecycle.Exited{Task: "t", Time: b.now, Signal: 15})
		b.expect("remove t", "report t#4 TASK_FAILED it ran for its maximum completion time of 1m0s; ended by signal 15")
	})
	t.Run("does not matter to a task that is being stopped", func(t *testing.T) {
		b := newBench(t)
		b.runs(limited)
		b.pass(59)
		b.step(set(2, 1, kill("t", time.Minute)))
		b.pass(2)
		b.log = nil
		b.step(lifecycle.Exited{Task: "t", Time: b.now})
		b.expect("remove t", "report t#4 TASK_KILLED stopped on request; exited with code 0")
	})
}

func TestChecksGoOnAfterARestart(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(s *fleet.TaskSpec) { s.Health.ConsecutiveFailures = 2 }))
	b.pass(15)
	b.answer(true, 0)
	b.pass(10)
	b.answer(true, 1)
	b.restart("t")
	b.log = nil
	b.pass(1) // the delay is long over
	b.only("probe")
	b.expect("probe t health COMMAND")
	b.answer(true, 1) // counted from 0 again, and no news
	b.only("stop", "report")
	b.expect()
	b.pass(10)
	b.log = nil
	b.answer(true, 1)
	b.only("stop")
	b.expect("stop t 5s")
}

func TestATaskThatIsStoppedIsNotAskedAnyMore(t *testing.T) {
	b := newBench(t)
	b.runs(watched(func(*fleet.TaskSpec) {}))
	b.pass(15)
	b.step(set(2, 1, kill("t", time.Hour)))
	b.log = nil
	b.answer(true, 1)
	b.pass(60)
	b.only("probe", "report t#4")
	b.expect()
}

func TestHowMuchMemoryATaskHadIsToldByItsLimit(t *testing.T) {
	for limit, want := range map[fleet.Scalar]string{
		0: "the limit is 64 MiB", fleet.Whole(96): "the limit is 96 MiB", fleet.Unlimited: "the machine has no more",
	} {
		b := newBench(t)
		as := task("t")
		as.Spec.Limits.Mem = limit
		b.runs(as)
		b.step(lifecycle.Exited{Task: "t", Time: b.now, OOM: true})
		b.expect("remove t", "report t#3 TASK_FAILED out of memory: "+want)
	}
}

// TestCountingFailures holds the core against the sentence of the rule: the
// task is stopped at the first moment at which the last n results that count
// were failures, and told of its health whenever that changes.
func TestCountingFailures(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(0, 4).Draw(r, "failures")
		grace := rapid.IntRange(0, 60).Draw(r, "grace")
		b := newBench(t)
		b.runs(watched(func(s *fleet.TaskSpec) {
			s.Health.ConsecutiveFailures, s.Health.Grace = n, time.Duration(grace)*time.Second
			s.Health.Delay, s.Health.Interval = 0, 5*time.Second
		}))
		row, succeeded, health := 0, false, fleet.TaskHealthUnknown
		// Nobody acknowledges here, and no more than 16 updates are sent ahead.
		for i := range rapid.IntRange(1, 14).Draw(r, "checks") {
			b.pass(5)
			if len(b.records["t"].Reports.Pending) > 0 {
				b.ack("t", 1) // or the window is full at some time
			}
			b.log = nil
			kind := rapid.SampledFrom([]string{"success", "failure", "unable"}).Draw(r, "result")
			told := fleet.TaskHealthUnknown
			counts := succeeded || 5*(i+1) >= grace || health != fleet.TaskHealthUnknown
			switch {
			case kind == "success":
				row, succeeded, told = 0, true, fleet.TaskHealthy
			case kind == "failure" && counts:
				row, told = row+1, fleet.TaskUnhealthy
			}
			b.step(lifecycle.Probed{Task: "t", Health: true, Unable: kind == "unable", Result: fleet.CheckResult{
				Known: true, ExitCode: map[string]int{"failure": 1}[kind],
			}})
			log := strings.Join(b.log, "\n")
			news := told != fleet.TaskHealthUnknown && told != health
			if news {
				health = told
			}
			if got := strings.Contains(log, fmt.Sprintf("TASK_RUNNING %v", health)); got != news {
				r.Fatalf("check %d, %s: told %v, want %v: %s", i, kind, got, news, log)
			}
			dead := n > 0 && row >= n
			if got := strings.Contains(log, "stop t"); got != dead {
				r.Fatalf("check %d, %s, %d in a row of %d: stopped %v, want %v: %s", i, kind, row, n, got, dead, log)
			}
			if dead {
				return
			}
		}
	})
}
