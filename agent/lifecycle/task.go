package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/gpu"
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
	loaded   bool          // from the checkpoint, and what became of it is not known yet
	size     int           // of its updates, as it was measured last
	measured [2]int        // how many there were then, and the last one's number
	backlog  uint64        // the last update from before the session, 0 when acknowledged
	cleared  bool          // while Restarting: the container is removed
	clearing bool          // a Remove is being performed
	putOff   bool          // it was told that the start is put off
	noImage  time.Time     // since when a connected agent cannot fetch the image
	inFlight bool          // a Start is being performed
	retry    time.Time     // when to start again
	wait     time.Duration // before the next retry
	waitsFor string        // what was told of a start that is postponed
	killBy   time.Time     // when the grace period is over, zero while not stopping
	killing  bool          // that it is being stopped is told
	stopped  time.Time     // when the last Stop was asked for
	removing time.Time
	health   asking
	check    asking
}

func (t *task) id() fleet.TaskID { return t.Assignment.Task }

// report queues a status. The caller's step saves it before it is sent.
func (t *task) report(st fleet.Status) {
	st.Message = clip(st.Message)
	t.Reports.Add(st)
	t.dirty = true
}

func (t *task) status(now time.Time, s fleet.TaskState, message string) fleet.Status {
	return fleet.Status{
		Task: t.id(), State: s, Time: now, Message: message, ExitCode: -1, Health: t.Health, Check: t.Checked, Restarts: t.Restarts,
	}
}

// told is the state that the control plane is to hold true of a task that lives
// and that nobody stops: a task never goes back.
func (t *task) told() fleet.TaskState {
	if t.Running.IsZero() {
		return fleet.TaskStarting
	}
	return fleet.TaskRunning
}

func (t *task) start(a *Agent, now time.Time) {
	if a.holdsBack(t) || a.occupied(t) {
		return
	}
	t.inFlight, t.dirty = true, true
	if t.Phase == Assigned {
		t.report(t.status(now, fleet.TaskStarting, ""))
	}
	t.Phase, t.Boot = Starting, a.boot
	// Saved here and not by flush: the record must be durable before Start.
	t.dirty = false
	a.do(Save{t.Record})
	a.do(Start{t.Assignment})
}

// occupied reports whether a task that is being stopped has not yet left a GPU
// that this one is to have. The control plane gives out what it knows to be
// free; after a restore from a snapshot, settled agents end what it did not know.
func (a *Agent) occupied(t *task) bool {
	gpus := t.Assignment.Resources.Total().GPUs
	if len(gpus) == 0 {
		return false
	}
	for _, o := range a.tasks {
		if o != t && o.Assignment.Kill && (o.Phase == Starting || o.Phase == Running) &&
			slices.ContainsFunc(o.Assignment.Resources.Total().GPUs, func(g gpu.UUID) bool { return slices.Contains(gpus, g) }) {
			return true
		}
	}
	return false
}

func (t *task) started(a *Agent, now time.Time, ev Started) {
	if t.Phase != Starting || !t.inFlight {
		return
	}
	t.inFlight = false
	switch ev.Err {
	case None:
		t.runs(a, now)
	case Unavailable, NoImage, Postponed:
		if t.Assignment.Kill {
			// It may have been created before the runtime went away.
			t.end(a, now, t.unstarted(now))
			return
		}
		if ev.Err == NoImage && t.impatient(a, now) {
			t.failed(a, now, Started{Err: Failed, Text: ev.Text})
			return
		}
		t.wait = min(max(t.wait*2, retryMin), retryMax)
		t.retry = now.Add(t.wait)
		if ev.Err == Postponed && t.waitsFor != ev.Text {
			t.waitsFor, t.putOff = ev.Text, false // told anew
		}
		t.excuse(now, ev.Text)
	case Failed, Invalid:
		t.failed(a, now, ev)
	}
}

// runs: the process is there. That a task runs again was told when it was
// decided, unless the start was put off since.
func (t *task) runs(a *Agent, now time.Time) {
	again := !t.Running.IsZero()
	t.Phase, t.Since, t.wait, t.noImage = Running, now, 0, time.Time{}
	t.watch(now)
	switch {
	case !again:
		t.report(t.status(now, fleet.TaskRunning, ""))
	case t.putOff:
		st := t.status(now, fleet.TaskRunning, "started")
		st.Reason = fleet.ReasonPutOff
		t.report(st)
	}
	t.putOff, t.dirty = false, true
	a.do(Wait{t.id()})
	if t.Assignment.Kill {
		t.stop(a, now, t.Assignment.KillGrace)
	}
}

func (t *task) failed(a *Agent, now time.Time, ev Started) {
	st := t.status(now, fleet.TaskFailed, ev.Text)
	st.Reason = fleet.ReasonLaunchFailed
	switch {
	case t.Assignment.Kill:
		v := cmp.Or(t.Verdict, Verdict{State: fleet.TaskKilled, Text: ev.Text})
		st.State, st.Reason, st.Message = v.State, v.Reason, v.Text
		t.end(a, now, st)
	case ev.Err == Invalid:
		t.end(a, now, st)
	default:
		t.crashed(a, now, st)
	}
}

// unstarted is how a task ends that is stopped while it has no process.
func (t *task) unstarted(now time.Time) fleet.Status {
	text := "stopped before it started"
	if t.Restarts > 0 {
		text = "stopped before it was started again"
	}
	v := cmp.Or(t.Verdict, Verdict{State: fleet.TaskKilled, Text: text})
	st := t.status(now, v.State, v.Text)
	st.Reason = v.Reason
	return st
}

// kill takes over the wish to end the task.
func (t *task) kill(a *Agent, now time.Time, grace time.Duration) {
	if t.Phase == Ended || t.Assignment.Kill && t.Assignment.KillGrace <= grace {
		return
	}
	t.Assignment.Kill, t.Assignment.KillGrace, t.dirty = true, grace, true
	switch {
	case t.Phase == Assigned || t.Phase == Restarting || t.Phase == Starting && !t.inFlight:
		t.end(a, now, t.unstarted(now))
	case t.Phase == Starting:
		a.do(Stop{t.id(), 0}) // a long pull need not be waited for
	case t.Phase == Running:
		t.stop(a, now, grace)
	}
}

func (t *task) stop(a *Agent, now time.Time, grace time.Duration) {
	if !t.killing {
		t.killing = true
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

func (t *task) exited(a *Agent, now time.Time, ev Exited) {
	if t.Phase != Running {
		// Nobody waits: while a start is being performed, removing the container
		// would let that start make a second one.
		return
	}
	st := t.status(t.endedAt(now, ev.Time), 0, "")
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
	switch {
	case t.Assignment.Kill && st.State != fleet.TaskLost:
		v := cmp.Or(t.Verdict, asked)
		st.State, st.Reason = v.State, v.Reason
		st.Message = v.Text + "; " + st.Message
		t.end(a, now, st)
	case t.Assignment.Kill || t.Ailing == "" && st.State == fleet.TaskFinished:
		t.end(a, now, st)
	default:
		if t.Ailing != "" {
			st.State, st.Reason, st.Message = fleet.TaskKilled, fleet.ReasonHealthUpdated, t.Ailing+"; "+st.Message
		}
		t.crashed(a, now, st)
	}
}

// endedAt is when the task ended, as the runtime tells it. A clock that was set
// meanwhile, or that is not this one, may make that nonsense; then it is when the
// end was noticed. It may well have ended a moment before it was known to run.
func (t *task) endedAt(now, told time.Time) time.Time {
	if told.After(now) || told.Before(t.Since.Add(-time.Minute)) {
		return now
	}
	return told
}

// asked is how a task ends that somebody asked to stop.
var asked = Verdict{State: fleet.TaskKilled, Text: "stopped on request"}

func (t *task) memoryText() string {
	limit := fleet.LimitOf(t.Assignment.Spec.Limits.Mem, t.Assignment.Resources.Total().Mem)
	if limit == fleet.Unlimited {
		return "out of memory: the machine has no more"
	}
	return fmt.Sprintf("out of memory: the limit is %v MiB", limit)
}

// end records the terminal state and frees the container. The status has the
// time of the exit.
func (t *task) end(a *Agent, now time.Time, st fleet.Status) {
	t.Phase, t.inFlight = Ended, false
	t.report(st)
	t.dirty = false
	a.do(Save{t.Record})
	t.removing = now
	a.do(Remove{t.id()})
}

// recover takes the task up again in a new process of the agent.
func (t *task) recover(a *Agent, now time.Time, held bool) {
	for _, at := range []*time.Time{&t.Running, &t.Since} {
		if now.Before(*at) { // the clock was set back: what is counted begins anew
			*at = now
		}
	}
	if t.Boot != "" && a.boot != "" && t.Boot != a.boot && (t.Phase == Starting || t.Phase == Running) {
		t.rebooted(a, now)
		return
	}
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
	case Restarting:
		t.clear(a, now)
		// The clock may be another one than when this was decided.
		p := t.Assignment.Spec.Restart
		if latest := now.Add(max(p.After(), p.Within())); t.Next.After(latest) {
			t.Next = latest
		}
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
	grace := t.Assignment.KillGrace
	if !t.Assignment.Kill && t.Ailing != "" {
		grace = t.Assignment.Spec.Grace()
	}
	if t.Assignment.Kill || t.Ailing != "" {
		t.killBy, t.killing = now.Add(grace), t.Assignment.Kill // KILLING was reported before
		t.stopped = now
		a.do(Stop{t.id(), grace})
	}
}

func (t *task) tick(a *Agent, now time.Time) {
	t.limit(a, now)
	switch {
	case (t.Phase == Starting || t.Phase == Assigned) && !t.inFlight && !now.Before(t.retry):
		t.start(a, now)
	case t.Phase == Restarting && !t.cleared && !t.clearing && now.Sub(t.removing) >= retryMin:
		t.clear(a, now)
	case t.Phase == Restarting:
		t.resume(a, now)
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
		a.size -= t.size
		a.do(Forget{t.id()})
	}
}
