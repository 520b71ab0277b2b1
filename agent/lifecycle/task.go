package lifecycle

import (
	"cmp"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Retries of an executor that does not answer.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
	// stopEvery repeats a stop that may have been lost.
	stopEvery = 10 * time.Second
)

// task is the state machine of one task.
type task struct {
	Record
	dirty    bool
	inFlight bool          // a Start is being performed
	retry    time.Time     // when to start again
	wait     time.Duration // before the next retry
	waitsFor string        // what was told of a start that is postponed
	killBy   time.Time     // when the grace period is over, zero while not stopping
	stopped  time.Time     // when the last Stop was asked for
	removing time.Time
	health   asking
	check    asking
}

func (t *task) id() fleet.TaskID { return t.Assignment.Task }

// report queues a status. The caller's step saves it before it is sent.
func (t *task) report(st fleet.Status) {
	t.Reports.Add(st)
	t.dirty = true
}

func (t *task) status(now time.Time, s fleet.TaskState, message string) fleet.Status {
	return fleet.Status{
		Task: t.id(), State: s, Time: now, Message: message, ExitCode: -1, Health: t.Health, Check: t.Checked,
	}
}

func (t *task) start(a *Agent, now time.Time) {
	t.inFlight, t.dirty = true, true
	if t.Phase == Assigned {
		t.Phase = Starting
		t.report(t.status(now, fleet.TaskStarting, ""))
	}
	// Saved here and not by flush: the record must be durable before Start.
	t.dirty = false
	a.do(Save{t.Record})
	a.do(Start{t.Assignment})
}

func (t *task) started(a *Agent, now time.Time, ev Started) {
	if t.Phase != Starting || !t.inFlight {
		return
	}
	t.inFlight = false
	switch ev.Err {
	case None:
		t.Phase = Running
		t.watch(now)
		t.report(t.status(now, fleet.TaskRunning, ""))
		a.do(Wait{t.id()})
		if t.Assignment.Kill {
			t.stop(a, now, t.Assignment.KillGrace)
		}
	case Unavailable, Postponed:
		if t.Assignment.Kill {
			// It may have been created before the runtime went away.
			t.end(a, t.status(now, fleet.TaskKilled, "stopped before it started"))
			return
		}
		t.wait = min(max(t.wait*2, retryMin), retryMax)
		t.retry = now.Add(t.wait)
		if ev.Err == Postponed && t.waitsFor != ev.Text {
			t.waitsFor = ev.Text
			t.report(t.status(now, fleet.TaskStarting, ev.Text))
		}
	case Failed:
		st := t.status(now, fleet.TaskFailed, ev.Text)
		st.Reason = fleet.ReasonLaunchFailed
		if t.Assignment.Kill {
			st.State, st.Reason = fleet.TaskKilled, ""
		}
		t.end(a, st)
	}
}

// kill takes over the wish to end the task.
func (t *task) kill(a *Agent, now time.Time, grace time.Duration) {
	if t.Phase == Ended || t.Assignment.Kill && t.Assignment.KillGrace <= grace {
		return
	}
	t.Assignment.Kill, t.Assignment.KillGrace, t.dirty = true, grace, true
	switch {
	case t.Phase == Assigned || t.Phase == Starting && !t.inFlight:
		t.end(a, t.status(now, fleet.TaskKilled, "stopped before it started"))
	case t.Phase == Starting:
		a.do(Stop{t.id(), 0}) // a long pull need not be waited for
	case t.Phase == Running:
		t.stop(a, now, grace)
	}
}

func (t *task) stop(a *Agent, now time.Time, grace time.Duration) {
	if t.killBy.IsZero() {
		st := t.status(now, fleet.TaskKilling, t.Verdict.Text)
		st.Reason = t.Verdict.Reason
		t.report(st)
	}
	if by := now.Add(grace); t.killBy.IsZero() || by.Before(t.killBy) {
		t.killBy = by
	}
	t.stopped = now
	a.do(Stop{t.id(), grace})
}

func (t *task) exited(a *Agent, ev Exited) {
	if t.Phase != Running {
		// Nobody waits: while a start is being performed, removing the container
		// would let that start make a second one.
		return
	}
	st := t.status(ev.Time, 0, "")
	st.ExitCode, st.Signal, st.OOM = ev.ExitCode, ev.Signal, ev.OOM
	switch {
	case ev.Lost:
		st.State, st.ExitCode = fleet.TaskLost, -1
		st.Message, st.Reason = "the container disappeared without an exit status", fleet.ReasonReconciliation
	case ev.OOM:
		st.State, st.ExitCode, st.Reason = fleet.TaskFailed, -1, fleet.ReasonMemoryLimit
		st.Message = t.memoryText()
	case ev.Signal != 0:
		st.State, st.ExitCode = fleet.TaskFailed, -1
		st.Message, st.Reason = fmt.Sprintf("ended by signal %d", ev.Signal), fleet.ReasonCommandFailed
	case ev.ExitCode != 0:
		st.State = fleet.TaskFailed
		st.Message, st.Reason = fmt.Sprintf("exited with code %d", ev.ExitCode), fleet.ReasonCommandFailed
	default:
		st.State, st.Message = fleet.TaskFinished, "exited with code 0"
	}
	if t.Assignment.Kill && st.State != fleet.TaskLost {
		v := cmp.Or(t.Verdict, Verdict{fleet.TaskKilled, "", "stopped on request"})
		st.State, st.Reason = v.State, v.Reason
		st.Message = v.Text + "; " + st.Message
	}
	t.end(a, st)
}

func (t *task) memoryText() string {
	limit := fleet.LimitOf(t.Assignment.Spec.Limits.Mem, t.Assignment.Resources.Total().Mem)
	if limit == fleet.Unlimited {
		return "out of memory: the machine has no more"
	}
	return fmt.Sprintf("out of memory: the limit is %v MiB", limit)
}

// end records the terminal state and frees the container.
func (t *task) end(a *Agent, st fleet.Status) {
	t.Phase, t.inFlight = Ended, false
	t.report(st)
	t.dirty = false
	a.do(Save{t.Record})
	t.removing = st.Time
	a.do(Remove{t.id()})
}

// recover takes the task up again in a new process of the agent.
func (t *task) recover(a *Agent, now time.Time, held bool) {
	switch t.Phase {
	case Assigned:
		t.start(a, now)
	case Starting:
		// Start is idempotent: it finds a container that was created before
		// the crash, and makes one where none was.
		t.start(a, now)
	case Running:
		// Wait tells an exit that happened meanwhile, or that nothing is left.
		t.adopt(a, now)
	case Ended:
		if !t.Freed || held {
			t.removing = now
			a.do(Remove{t.id()})
		}
		t.forget(a)
	}
}

// adopt waits for a task that an earlier process of the agent started.
func (t *task) adopt(a *Agent, now time.Time) {
	t.dirty = true
	t.watch(now)
	a.do(Wait{t.id()})
	if t.Assignment.Kill {
		t.killBy = now.Add(t.Assignment.KillGrace) // KILLING was reported before
		t.stopped = now
		a.do(Stop{t.id(), t.Assignment.KillGrace})
	}
}

func (t *task) tick(a *Agent, now time.Time) {
	switch {
	case t.Phase == Starting && !t.inFlight && !now.Before(t.retry):
		t.start(a, now)
	case t.Phase == Running && t.killBy.IsZero():
		t.live(a, now)
	case t.Phase == Running && now.Sub(t.stopped) >= stopEvery:
		t.stopped = now
		a.do(Stop{t.id(), max(0, t.killBy.Sub(now))})
	case t.Phase == Ended && !t.Freed && now.Sub(t.removing) >= retryMax:
		t.removing = now
		a.do(Remove{t.id()})
	}
}

// forget drops the record once nothing can ask for it any more.
func (t *task) forget(a *Agent) {
	if t.Phase == Ended && t.Done && t.Freed && a.generation >= t.Acked {
		delete(a.tasks, t.id())
		a.do(Forget{t.id()})
	}
}
