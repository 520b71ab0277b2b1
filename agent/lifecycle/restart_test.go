package lifecycle_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/fleet"
)

// again is a task with a restart policy.
func again(attempts int, change ...func(*fleet.TaskSpec)) fleet.Assignment {
	as := task("t")
	as.Spec.Restart = fleet.Restart{Attempts: attempts, Interval: 10 * time.Minute, Delay: 3 * time.Second}
	for _, c := range change {
		c(&as.Spec)
	}
	return as
}

func (b *bench) crash(code int) {
	b.step(lifecycle.Exited{Task: "t", Time: b.now, ExitCode: code})
}

// back lets a task that crashed start again.
func (b *bench) back(seconds int) {
	b.t.Helper()
	b.step(lifecycle.Removed{Task: "t"})
	b.pass(seconds)
	b.only("start")
	b.expect("start t")
	b.step(lifecycle.Started{Task: "t"})
	b.log = nil
}

func TestATaskThatCrashesIsStartedAgain(t *testing.T) {
	b := newBench(t)
	b.runs(again(2))
	b.crash(1)
	b.expect("remove t", "report t#3 TASK_RUNNING exited with code 1; started again in 3s (restart 1 of 2 in 10m0s)")
	b.step(lifecycle.Removed{Task: "t"})
	b.pass(2)
	b.expect()
	b.pass(1)
	b.expect("start t")
	b.step(lifecycle.Started{Task: "t"})
	b.expect("wait t") // that it would run again was told
	b.crash(2)
	b.expect("remove t", "report t#4 TASK_RUNNING exited with code 2; started again in 3s (restart 2 of 2 in 10m0s)")
	b.back(3)
	b.crash(3)
	b.expect("remove t", "report t#5 TASK_FAILED exited with code 3; not started again: that was tried 2 times in 10m0s")
	if st := b.last(); st.ExitCode != 3 || st.Restarts != 2 || st.Reason != fleet.ReasonCommandFailed {
		t.Errorf("it ended as %+v", st)
	}
}

func (b *bench) last() fleet.Status {
	p := b.records["t"].Reports.Pending
	return p[len(p)-1].Status
}

func TestAnIntervalBeginsWithItsFirstRestart(t *testing.T) {
	b := newBench(t)
	b.runs(again(1))
	b.crash(1)
	b.back(3)
	b.now = b.now.Add(10 * time.Minute)
	b.crash(1)
	b.only("report t#4", "remove")
	b.expect("remove t", "report t#4 TASK_RUNNING exited with code 1; started again in 3s (restart 1 of 1 in 10m0s)")
}

func TestModeDelayWaitsForTheNextInterval(t *testing.T) {
	b := newBench(t)
	b.runs(again(1, func(s *fleet.TaskSpec) { s.Restart.Mode = fleet.RestartDelay }))
	b.crash(1)
	b.back(3)
	b.crash(1) // 3 s into an interval of 10 min
	b.only("report t#4")
	b.expect("report t#4 TASK_RUNNING exited with code 1; started again in 9m57s (restart 1 of 1 in 10m0s)")
	b.back(597)
}

func TestAnEndThatIsNoCrash(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*bench)
		want string
	}{
		"code 0": {func(b *bench) { b.crash(0) }, "TASK_FINISHED exited with code 0"},
		"a kill": {func(b *bench) {
			b.step(set(2, 1, kill("t", time.Second)))
			b.crash(1)
		}, "TASK_KILLED stopped on request; exited with code 1"},
		"too long": {func(b *bench) {
			b.pass(60)
			b.crash(1)
		}, "TASK_FAILED it ran for its maximum completion time of 1m0s; exited with code 1"},
	} {
		b := newBench(t)
		b.runs(again(3, func(s *fleet.TaskSpec) { s.MaxCompletion = time.Minute }))
		tc.end(b)
		if r := b.records["t"]; r.Phase != lifecycle.Ended || !strings.HasSuffix(b.log[len(b.log)-1], tc.want) || r.Restarts != 0 {
			t.Errorf("%s: %v, %q", name, r.Phase, b.log)
		}
	}
}

func TestTheMaximumTimeIsThatOfAllRuns(t *testing.T) {
	b := newBench(t)
	b.runs(again(3, func(s *fleet.TaskSpec) { s.MaxCompletion, s.Restart.Delay = time.Minute, time.Hour }))
	b.pass(30)
	b.crash(1)
	b.step(lifecycle.Removed{Task: "t"})
	b.pass(30)
	b.only("report t#4")
	b.expect("report t#4 TASK_FAILED it ran for its maximum completion time of 1m0s")
}

func TestATaskThatIsKilledWhileItWaitsToBeStartedAgain(t *testing.T) {
	b := newBench(t)
	b.runs(again(3))
	b.crash(1)
	b.log = nil
	b.step(set(2, 1, kill("t", time.Second)))
	b.expect("remove t", "pull 2 full=false", "report t#4 TASK_KILLED stopped before it was started again")
	b.pass(100)
	b.only("start")
	b.expect()
}

// To the restart policy, a health check that fails is a crash: the task is
// stopped, and what is told is a restart and not that it is being killed.
func TestATaskThatIsNotHealthyIsStartedAgain(t *testing.T) {
	b := newBench(t)
	as := watched(func(s *fleet.TaskSpec) {
		s.Restart = again(1).Spec.Restart
		s.Health.Delay, s.Health.Grace, s.Health.ConsecutiveFailures = 0, 0, 1
	})
	b.runs(as)
	b.pass(1)
	b.answer(true, 1)
	b.only("stop", "report")
	b.expect("stop t 5s", "report t#3 TASK_RUNNING unhealthy unhealthy: exit code 1")
	b.restart("t") // the agent crashes
	b.expect("wait t", "stop t 5s")
	b.step(lifecycle.Connected{Term: 1})
	b.log = nil
	b.step(lifecycle.Exited{Task: "t", Time: b.now, Signal: 15})
	b.expect("remove t", "report t#4 TASK_RUNNING its health check failed once, at last: exit code 1; ended by signal 15; started again in 3s (restart 1 of 1 in 10m0s)")
	if st := b.last(); st.Health != fleet.TaskHealthUnknown || st.Reason != fleet.ReasonRestarted {
		t.Errorf("%+v", st)
	}
	b.back(3)
	b.pass(1)
	b.answer(true, 1)
	b.log = nil
	b.step(lifecycle.Exited{Task: "t", Time: b.now, Signal: 15})
	b.only("report t#7")
	b.expect("report t#7 TASK_KILLED unhealthy its health check failed once, at last: exit code 1; ended by signal 15")
}

func TestAMachineThatRestarts(t *testing.T) {
	for name, tc := range map[string]struct {
		as   fleet.Assignment
		want []string
	}{
		"a task with a policy is started again": {again(1), []string{
			"remove t", "start t", "wait t", "remove t", "pull 1 full=false", "report t#1 TASK_STARTING", "report t#2 TASK_RUNNING",
			"report t#3 TASK_RUNNING the machine restarted; started again",
			"report t#4 TASK_RUNNING exited with code 1; started again in 3s (restart 1 of 1 in 10m0s)", // it was not counted
		}},
		"another is lost": {task("t"), []string{
			"remove t", "pull 1 full=false", "report t#1 TASK_STARTING", "report t#2 TASK_RUNNING",
			"report t#3 TASK_LOST the machine restarted, and the task has no restart policy",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.runs(tc.as)
			b.boot = "another life"
			b.restart("t") // containerd lists what it knows of
			b.step(lifecycle.Removed{Task: "t"})
			if b.records["t"].Phase == lifecycle.Starting {
				b.step(lifecycle.Started{Task: "t"})
				b.crash(1)
			}
			b.step(lifecycle.Connected{Term: 1})
			b.expect(tc.want...)
		})
	}
}

func TestATaskThatWasBeingStoppedWhenTheMachineWentDown(t *testing.T) {
	b := newBench(t)
	b.runs(again(3))
	b.step(set(2, 1, kill("t", time.Second)))
	b.boot = "another life"
	b.restart("t")
	if st := b.last(); st.State != fleet.TaskKilled || st.Message != "stopped on request; the machine restarted" {
		t.Errorf("%v", st)
	}
}

func TestAStartThatIsPutOffSaysWhy(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.step(lifecycle.Disconnected{})
	b.log = nil
	for range 100 { // cut off, it tries for as long as it takes
		b.step(lifecycle.Started{Task: "t", Err: lifecycle.NoImage, Text: "no route to the registry"})
		b.pass(30)
	}
	b.log = nil
	b.step(lifecycle.Started{Task: "t"})
	b.step(lifecycle.Connected{Term: 1})
	b.expect("wait t", "pull 1 full=false", "report t#1 TASK_STARTING", "report t#2 TASK_STARTING start put off: no route to the registry", "report t#3 TASK_RUNNING")
}

func TestAConnectedAgentSoonSaysThatAnImageIsOutOfReach(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	for range 4 {
		b.step(lifecycle.Started{Task: "t", Err: lifecycle.NoImage, Text: "no route"})
		b.pass(15)
	}
	b.only("report t#3")
	b.expect("report t#3 TASK_FAILED no route")
}

// machine is an executor for the property below: it notices when a task has
// two processes.
type machine struct {
	running bool // the container's process
	held    bool // the container
	runs    int
}

// TestACrashOfTheAgentAtAnyPoint: whenever the agent dies, in between any two
// actions, the task is neither lost nor run twice at once, and what is told of
// it has no gap.
func TestACrashOfTheAgentAtAnyPoint(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		for at := range 40 {
			b := newBench(t)
			b.core = lifecycle.New(nil, lifecycle.Head{}, "first")
			b.boot = "first"
			b.step(lifecycle.Recovered{})
			m := &machine{}
			done, ends := 0, 0
			var run func(ev lifecycle.Event)
			run = func(ev lifecycle.Event) {
				acts := b.step(ev)
				for _, act := range acts {
					if done++; done == at {
						if reboot {
							b.boot, m.running = "second", false
						}
						var held []fleet.TaskID
						if m.held {
							held = append(held, "t")
						}
						b.core = nil
						var rs []lifecycle.Record
						for _, r := range b.records {
							rs = append(rs, r)
						}
						b.core = lifecycle.New(rs, b.head.Head, b.boot)
						run(lifecycle.Recovered{Held: held})
						return
					}
					switch act.(type) {
					case lifecycle.Start:
						if m.running && !m.held {
							t.Fatalf("at %d: two processes", at)
						}
						if !m.held {
							m.held, m.running = true, true
							m.runs++
						}
						run(lifecycle.Started{Task: "t"})
					case lifecycle.Wait:
						if !m.held {
							run(lifecycle.Exited{Task: "t", Time: b.now, Lost: true})
							continue
						}
						m.running = false // it crashes as soon as somebody looks
						ends++
						run(lifecycle.Exited{Task: "t", Time: b.now, ExitCode: 9})
					case lifecycle.Remove:
						m.held, m.running = false, false
						run(lifecycle.Removed{Task: "t"})
					}
					if b.core == nil {
						return
					}
				}
			}
			run(full(1, again(2)))
			for range 20 {
				b.now = b.now.Add(time.Second)
				run(lifecycle.Tick{})
			}
			r := b.records["t"]
			p := r.Reports.Pending
			if r.Phase != lifecycle.Ended || len(p) == 0 || p[len(p)-1].Status.State != fleet.TaskFailed {
				t.Fatalf("crash at %d, reboot %v: the task is in phase %v: %+v", at, reboot, r.Phase, p)
			}
			for i, u := range p {
				if u.Seq != uint64(i+1) {
					t.Fatalf("crash at %d: update %d has number %d", at, i, u.Seq)
				}
			}
			if most := 3 + map[bool]int{true: 1}[reboot]; m.runs > most || m.runs < 3-map[bool]int{true: 1}[at > 0] {
				t.Fatalf("crash at %d, reboot %v: %d runs", at, reboot, m.runs)
			}
			if m.held {
				t.Fatalf("crash at %d: the container stays", at)
			}
		}
	}
}

// crowd are records of tasks whose updates fill the spool.
func crowd(fresh int) []lifecycle.Record {
	var rs []lifecycle.Record
	for i := range 200 {
		r := lifecycle.Record{Phase: lifecycle.Running, Assignment: again(9)}
		r.Assignment.Task = fleet.TaskID(fmt.Sprintf("t%d", i))
		r.Reports.Add(fleet.Status{Task: r.Assignment.Task, State: fleet.TaskStarting})
		for n := range uint64(300) {
			r.Reports.Pending = append(r.Reports.Pending, fleet.StatusUpdate{Seq: n + 2, Status: fleet.Status{
				Task: r.Assignment.Task, State: fleet.TaskRunning, Reason: fleet.ReasonRestarted,
				Restarts: int(n + 1), Message: strings.Repeat("x", 1000),
			}})
		}
		r.Reports.Seq, r.Reports.Fresh = 301, fresh
		rs = append(rs, r)
	}
	return rs
}

func (b *bench) spooled() (size int) {
	for _, r := range b.core.Records() {
		size += r.Reports.Size()
	}
	return size
}

func TestAFullSpoolKeepsStatesAndTheFirstAndLastRestarts(t *testing.T) {
	b := newBench(t)
	b.core = lifecycle.New(crowd(301), lifecycle.Head{}, "")
	before := b.spooled()
	b.step(lifecycle.Tick{})
	if size := b.spooled(); before < 64<<20 || size > 64<<20 || size < 32<<20 {
		t.Errorf("of %d MiB, %d are left", before>>20, size>>20)
	}
	p := b.records["t0"].Reports.Pending
	if len(p) != 3 || p[0].Status.State != fleet.TaskStarting || p[1].Status.Restarts != 1 || p[2].Status.Restarts != 300 {
		t.Errorf("of one task is left: %+v", p)
	}
}

func TestAFullSpoolOfWhatWasSentSlowsRestarts(t *testing.T) {
	b := newBench(t)
	b.core = lifecycle.New(crowd(0), lifecycle.Head{}, "")
	b.step(lifecycle.Recovered{})
	before := b.spooled()
	b.step(lifecycle.Exited{Task: "t7", Time: b.now, ExitCode: 1})
	if r := b.records["t7"]; r.Next.Sub(b.now) != 10*time.Minute || b.spooled() <= before {
		t.Errorf("it is started again in %v", r.Next.Sub(b.now))
	}
}
