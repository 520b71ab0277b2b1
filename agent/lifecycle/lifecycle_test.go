package lifecycle_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// bench drives one agent core and keeps its disk, so that a crash can be
// played at any point.
type bench struct {
	t       *testing.T
	now     time.Time
	core    *lifecycle.Agent
	records map[fleet.TaskID]lifecycle.Record
	boot    string
	head    lifecycle.SaveHead
	log     []string
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, now: t0, boot: "first", records: map[fleet.TaskID]lifecycle.Record{}}
	b.core = lifecycle.New(nil, lifecycle.Head{}, b.boot)
	b.step(lifecycle.Recovered{})
	b.step(lifecycle.Connected{Term: 1})
	b.log = nil
	return b
}

// restart loses everything but the disk.
func (b *bench) restart(held ...fleet.TaskID) {
	var rs []lifecycle.Record
	for _, r := range b.records {
		rs = append(rs, r)
	}
	slices.SortFunc(rs, func(x, y lifecycle.Record) int {
		return strings.Compare(string(x.Assignment.Task), string(y.Assignment.Task))
	})
	b.core = lifecycle.New(rs, b.head.Head, b.boot)
	b.step(lifecycle.Recovered{Held: held})
}

func (b *bench) step(ev lifecycle.Event) []lifecycle.Action {
	acts := b.core.Step(b.now, ev)
	for _, a := range acts {
		switch a := a.(type) {
		case lifecycle.Save:
			b.records[a.Record.Assignment.Task] = a.Record
		case lifecycle.SaveHead:
			b.head = a
		case lifecycle.Forget:
			delete(b.records, a.Task)
			b.logf("forget %s", a.Task)
		case lifecycle.Start:
			b.logf("start %s", a.Assignment.Task)
		case lifecycle.Wait:
			b.logf("wait %s", a.Task)
		case lifecycle.Stop:
			b.logf("stop %s %v", a.Task, a.Grace)
		case lifecycle.Probe:
			which := "check"
			if a.Health {
				which = "health"
			}
			b.logf("probe %s %s %s", a.Task, which, a.Check.Kind)
		case lifecycle.Remove:
			b.logf("remove %s", a.Task)
		case lifecycle.Pull:
			b.logf("pull %d full=%v", a.Generation, a.Full)
		case lifecycle.Report:
			for _, u := range a.Updates {
				state := u.Status.State.String()
				if h := u.Status.Health; h != fleet.TaskHealthUnknown {
					state += " " + h.String()
				}
				b.logf("report %s#%d %v %s", u.Status.Task, u.Seq, state, u.Status.Message)
			}
		}
	}
	return acts
}

func (b *bench) logf(f string, args ...any) {
	b.log = append(b.log, strings.TrimSpace(fmt.Sprintf(f, args...)))
}

func (b *bench) expect(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.log, want) {
		b.t.Fatalf("did:\n  %s\nwant:\n  %s", strings.Join(b.log, "\n  "), strings.Join(want, "\n  "))
	}
	b.log = nil
}

// ack acknowledges the last pending update of a task.
func (b *bench) ack(id fleet.TaskID, gen uint64) {
	p := b.records[id].Reports.Pending
	b.step(lifecycle.Acked{Task: id, Update: p[len(p)-1].ID, Generation: gen})
}

func set(gen, base uint64, as ...fleet.Assignment) lifecycle.Desired {
	return lifecycle.Desired{Desired: fleet.Desired{Term: 1, Generation: gen, Base: base, Assignments: as}}
}

func full(gen uint64, as ...fleet.Assignment) lifecycle.Desired {
	return lifecycle.Desired{Desired: fleet.Desired{Term: 1, Generation: gen, Full: true, Assignments: as}}
}

func task(id fleet.TaskID) fleet.Assignment {
	return fleet.Assignment{Task: id, Resources: fleet.Resources{Mem: fleet.Whole(64)}}
}

func kill(id fleet.TaskID, grace time.Duration) fleet.Assignment {
	a := task(id)
	a.Kill, a.KillGrace = true, grace
	return a
}

func TestATaskFromAssignmentToOblivion(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.expect("start t", "pull 1 full=false", "report t#1 TASK_STARTING")
	b.step(lifecycle.Started{Task: "t"})
	b.expect("wait t", "report t#2 TASK_RUNNING")
	b.step(lifecycle.Exited{Task: "t", Time: t0, ExitCode: 0})
	b.expect("remove t", "report t#3 TASK_FINISHED exited with code 0")
	b.step(lifecycle.Removed{Task: "t"})
	b.ack("t", 2)
	b.expect() // generation 2 is not held yet: an older message could still come
	b.step(set(2, 1))
	b.expect("forget t", "pull 2 full=false")
	b.step(set(1, 0, task("t"))) // such as this one
	b.expect()
}

func TestHowATaskEndedIsToldApart(t *testing.T) {
	for _, tc := range []struct {
		exit lifecycle.Exited
		want string
	}{
		{lifecycle.Exited{ExitCode: 3}, "report t#3 TASK_FAILED exited with code 3"},
		{lifecycle.Exited{Signal: 11, ExitCode: 139}, "report t#3 TASK_FAILED ended by signal 11"},
		{lifecycle.Exited{OOM: true, Signal: 9}, "report t#3 TASK_FAILED out of memory: the limit is 64 MiB"},
		{lifecycle.Exited{Lost: true}, "report t#3 TASK_LOST the container disappeared without an exit status"},
	} {
		b := newBench(t)
		b.step(full(1, task("t")))
		b.step(lifecycle.Started{Task: "t"})
		b.log = nil
		tc.exit.Task = "t"
		b.step(tc.exit)
		b.expect("remove t", tc.want)
	}
}

func TestAStartThatFails(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	b.step(lifecycle.Started{Task: "t", Err: lifecycle.Failed, Text: "no such image"})
	b.expect("remove t", "report t#2 TASK_FAILED no such image")
}

func TestAnUnavailableRuntimeIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	for _, wait := range []time.Duration{1, 2, 4} {
		b.step(lifecycle.Started{Task: "t", Err: lifecycle.Unavailable})
		b.now = b.now.Add(wait*time.Second - time.Millisecond)
		b.step(lifecycle.Tick{})
		b.expect()
		b.now = b.now.Add(time.Millisecond)
		b.step(lifecycle.Tick{})
		b.expect("start t")
	}
}

// A start that waits for the link says why, once for each reason.
func TestAPostponedStartSaysWhy(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	b.step(lifecycle.Started{Task: "t", Err: lifecycle.Postponed, Text: "quiet hours until 22:00"})
	b.expect("report t#2 TASK_STARTING start put off: quiet hours until 22:00")
	b.now = b.now.Add(time.Second)
	b.step(lifecycle.Tick{})
	b.expect("start t")
	b.step(lifecycle.Started{Task: "t", Err: lifecycle.Postponed, Text: "quiet hours until 22:00"})
	b.expect()
	b.now = b.now.Add(2 * time.Second)
	b.step(lifecycle.Tick{})
	b.expect("start t")
	b.step(lifecycle.Started{Task: "t", Err: lifecycle.Postponed, Text: "over budget"})
	b.expect("report t#3 TASK_STARTING start put off: over budget")
	b.step(set(2, 1, kill("t", time.Second)))
	b.expect("remove t", "pull 2 full=false", "report t#4 TASK_KILLED stopped before it started")
}

func TestKill(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.step(lifecycle.Started{Task: "t"})
	b.log = nil
	b.step(set(2, 1, kill("t", 9*time.Second)))
	b.expect("stop t 9s", "pull 2 full=false", "report t#3 TASK_KILLING")
	b.step(set(3, 2, kill("t", 20*time.Second))) // longer: ignored
	b.expect("pull 3 full=false")
	b.step(set(4, 3, kill("t", time.Second)))
	b.expect("stop t 1s", "pull 4 full=false")
	b.now = b.now.Add(10 * time.Second)
	b.step(lifecycle.Tick{}) // the stop may have been lost
	b.expect("stop t 0s", "report t#1 TASK_STARTING", "report t#2 TASK_RUNNING", "report t#3 TASK_KILLING")
	b.step(lifecycle.Exited{Task: "t", Signal: 15, ExitCode: 143})
	b.expect("remove t", "report t#4 TASK_KILLED stopped on request; ended by signal 15")
}

func TestARevokedAgentEndsItsTasks(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("runs"), task("starts")))
	b.step(lifecycle.Started{Task: "runs"})
	b.step(lifecycle.Disconnected{})
	b.log = nil
	b.step(lifecycle.Revoked{})
	b.expect("stop runs 5s", "stop starts 0s")
	b.step(lifecycle.Revoked{}) // it came by once more
	b.step(lifecycle.Exited{Task: "runs", Time: t0})
	b.step(lifecycle.Started{Task: "starts", Err: lifecycle.Failed})
	b.expect("remove runs", "remove starts")
}

func TestKillDuringAStartGivesTheStartUp(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	b.step(set(2, 1, kill("t", time.Second)))
	b.expect("stop t 0s", "pull 2 full=false")
	b.step(lifecycle.Started{Task: "t", Err: lifecycle.Failed, Text: "cancelled"})
	b.expect("remove t", "report t#2 TASK_KILLED cancelled")
}

// An exit that nobody asked for, while the start is being performed, must not
// remove the container: the start would make a second one.
func TestAnExitDuringAStartIsIgnored(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	b.step(lifecycle.Exited{Task: "t", ExitCode: 1})
	b.expect()
	b.step(lifecycle.Started{Task: "t"})
	b.expect("wait t", "report t#2 TASK_RUNNING")
}

func TestKillBeforeTheTaskArrives(t *testing.T) {
	b := newBench(t)
	b.step(full(1, kill("t", time.Second)))
	b.expect("remove t", "pull 1 full=false", "report t#1 TASK_KILLED stopped before it started")
}

func TestRestartFindsWhatRuns(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.step(lifecycle.Started{Task: "t"})
	b.log = nil
	b.restart("t")
	b.expect("wait t")
	b.step(lifecycle.Exited{Task: "t", Time: t0, ExitCode: 0}) // it ended meanwhile
	b.expect("remove t")
	b.step(lifecycle.Connected{Term: 1})
	b.expect("pull 1 full=false", "report t#1 TASK_STARTING", "report t#2 TASK_RUNNING", "report t#3 TASK_FINISHED exited with code 0")
}

func TestRestartDuringAStartStartsAgain(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	b.restart()
	b.expect("start t")
}

// The checkpoint is gone, the container is not: it goes on.
func TestAnOrphanThatIsWantedIsAdopted(t *testing.T) {
	b := newBench(t)
	b.records, b.head = nil, lifecycle.SaveHead{}
	b.records = map[fleet.TaskID]lifecycle.Record{}
	b.restart("t", "u")
	b.step(lifecycle.Connected{Term: 2})
	b.expect("pull 0 full=true")
	as := task("t")
	as.Seq = 2
	b.step(lifecycle.Desired{Desired: fleet.Desired{Term: 2, Generation: 5, Full: true, Assignments: []fleet.Assignment{as}}})
	b.expect("wait t", "remove u", "pull 5 full=false")
	b.step(lifecycle.Exited{Task: "t", ExitCode: 0})
	b.expect("remove t", "report t#3 TASK_FINISHED exited with code 0")
}

// Checkpoint and container are gone: the task ran here once and is not run a
// second time.
func TestATaskThatRanBeforeIsLostNotRunAgain(t *testing.T) {
	b := newBench(t)
	as := task("t")
	as.Seq = 2
	b.step(full(1, as))
	b.expect("remove t", "pull 1 full=false", "report t#3 TASK_LOST the agent has no record of the task any more")
}

func TestWhatIsNotWantedAnyMoreIsStopped(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.step(lifecycle.Started{Task: "t"})
	b.log = nil
	b.step(full(2))
	b.expect("stop t 5s", "pull 2 full=false", "report t#3 TASK_KILLING")
}

func TestStaleSetsAreRefused(t *testing.T) {
	b := newBench(t)
	b.step(full(5))
	b.log = nil
	for name, d := range map[string]lifecycle.Desired{
		"an older generation": set(4, 3, task("t")),
		"the same again":      set(5, 5, task("t")),
		"another base":        set(9, 8, task("t")),
		"an older full set":   full(4, task("t")),
		"an older term":       {Desired: fleet.Desired{Term: 0, Generation: 9, Full: true, Assignments: []fleet.Assignment{task("t")}}},
	} {
		b.step(d)
		if len(b.log) != 0 {
			t.Errorf("%s: did %q", name, b.log)
		}
	}
}

func TestUpdatesAreResentUntilAcknowledged(t *testing.T) {
	b := newBench(t)
	b.step(full(1, task("t")))
	b.log = nil
	b.now = b.now.Add(10 * time.Second)
	b.step(lifecycle.Tick{})
	b.expect("report t#1 TASK_STARTING")
	b.now = b.now.Add(19 * time.Second)
	b.step(lifecycle.Tick{})
	b.expect()
	b.now = b.now.Add(time.Second)
	b.step(lifecycle.Tick{})
	b.expect("report t#1 TASK_STARTING")
	b.ack("t", 1)
	b.now = b.now.Add(4 * time.Minute)
	b.step(lifecycle.Tick{})
	b.expect()
	b.now = b.now.Add(time.Hour)
	b.step(lifecycle.Tick{})
	b.expect("pull 1 full=false")
}

// Every assignment is on the disk before its container is asked for.
func TestSaveComesBeforeStart(t *testing.T) {
	b := newBench(t)
	saved := map[fleet.TaskID]bool{}
	for _, a := range b.step(full(1, task("a"), task("b"))) {
		switch a := a.(type) {
		case lifecycle.Save:
			saved[a.Record.Assignment.Task] = true
		case lifecycle.Start:
			if !saved[a.Assignment.Task] {
				t.Fatalf("%s is started before it is saved", a.Assignment.Task)
			}
		}
	}
}

// The runtime tells when a task ended, by a clock that may have been set since.
func TestAContainerIsRemovedAgainWhateverTheExitsTime(t *testing.T) {
	b := newBench(t)
	b.runs(task("t"))
	b.step(lifecycle.Exited{Task: "t", Time: b.now.Add(365 * 24 * time.Hour)})
	b.step(lifecycle.Removed{Task: "t", Failed: true})
	b.log = nil
	b.pass(31)
	b.only("remove")
	b.expect("remove t")
}

// What cannot be by the clock of now is not told: the end was noticed now.
func TestTheTimeOfAnEndIsPlausible(t *testing.T) {
	year := 365 * 24 * time.Hour
	for name, tc := range map[string]struct{ told, want time.Duration }{
		"a while ago":                         {-20 * time.Second, -20 * time.Second},
		"a moment before it was known to run": {-31 * time.Second, -31 * time.Second},
		"by a clock that was set back":        {year, 0},
		"by one that was set right":           {-50 * year, 0},
	} {
		b := newBench(t)
		b.runs(task("t"))
		b.now = b.now.Add(30 * time.Second)
		b.step(lifecycle.Exited{Task: "t", Time: b.now.Add(tc.told)})
		p := b.records["t"].Reports.Pending
		if got := p[len(p)-1].Status; got.State != fleet.TaskFinished || !got.Time.Equal(b.now.Add(tc.want)) {
			t.Errorf("%s: %v at %v, now is %v", name, got.State, got.Time, b.now)
		}
	}
}

// The machine's clock was set back by a year while no process of the agent ran.
func TestAClockThatWentBackPutsNothingOff(t *testing.T) {
	b := newBench(t)
	as := task("t")
	as.Spec.MaxCompletion = time.Minute
	health := fleet.NewHealthCheck(fleet.CheckTCP)
	health.Port, health.Delay = 80, 5*time.Second
	as.Spec.Health = &health
	b.runs(as)
	b.now = b.now.Add(-365 * 24 * time.Hour)
	b.restart("t")
	b.log = nil
	b.pass(5)
	b.only("probe")
	b.expect("probe t health TCP")
	b.pass(55)
	b.only("stop")
	b.expect("stop t 5s")
}

// The clock was set back while the machine was down.
func TestAClockThatWentBackOverARestartOfTheMachine(t *testing.T) {
	b := newBench(t)
	b.runs(again(1, func(s *fleet.TaskSpec) { s.MaxCompletion = time.Minute }))
	b.now, b.boot = b.now.Add(-365*24*time.Hour), "second"
	b.restart("t")
	b.back(0)
	b.pass(60)
	b.only("stop")
	b.expect("stop t 5s")
}

// After a restore from a snapshot, a full set may have a GPU go to a new task that
// one nobody knows still has.
func TestAGPUIsLeftBeforeItIsTaken(t *testing.T) {
	with := func(id fleet.TaskID, gpus ...gpu.UUID) fleet.Assignment {
		as := task(id)
		as.Resources.GPUs = gpus
		return as
	}
	b := newBench(t)
	b.runs(with("t", "GPU-1", "GPU-2"))
	b.step(full(5, with("a", "GPU-2"), with("other", "GPU-3")))
	b.only("start", "stop")
	b.expect("stop t 5s", "start other")
	if b.records["a"].Phase != lifecycle.Assigned {
		t.Error("the task that waits for the GPU is not on disk")
	}
	b.pass(3)
	b.only("start")
	b.expect()
	b.step(lifecycle.Exited{Task: "t", Time: b.now, Signal: 15})
	b.pass(1)
	b.only("start")
	b.expect("start a")
}

// The control plane was restored from a snapshot of before the task ended, and
// the agent has told the end and not yet cleared up.
func TestAnEndThatWasAcknowledgedInALostHistoryIsToldAgain(t *testing.T) {
	b := newBench(t)
	b.runs(task("t"))
	b.step(lifecycle.Exited{Task: "t", Time: b.now})
	b.ack("t", 2)
	b.log = nil
	as := task("t")
	as.Seq = 1
	b.step(set(1<<40, 1, as))
	b.only("report")
	b.expect("report t#4 TASK_LOST the agent has no record of the task any more")
}
