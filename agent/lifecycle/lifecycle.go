package lifecycle

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/agent/reports"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Phase is how far the agent has come with a task.
type Phase int

const (
	// Assigned: checkpointed, nothing done yet.
	Assigned Phase = iota + 1
	// Starting: the executor may have created something.
	Starting
	// Running: the executor said that the process runs.
	Running
	// Ended: a terminal state was observed; the container may still exist.
	Ended
	// Restarting: the process is gone, the container may still exist, and the
	// task is to be started again.
	Restarting
)

// Record is the durable part of one task.
type Record struct {
	Assignment fleet.Assignment
	Phase      Phase
	Reports    reports.Queue
	// Running is when the task was first seen running, Since when its present
	// process was.
	Running, Since time.Time
	// Boot is the life of the machine in which the task was assigned or last
	// started.
	Boot string
	// Restarts counts how often the task was started again. Of these, Tried were
	// for crashes in the restart policy's interval that began at Window. Next is
	// when the next start is due.
	Restarts, Tried int
	Window, Next    time.Time
	// Ailing, when not empty, is why the running task is being stopped to be
	// started again.
	Ailing string
	// Health and Checked are what its checks said last.
	Health  fleet.TaskHealth
	Checked fleet.CheckResult
	// Verdict is why the agent itself ends the task; zero when it was asked to.
	Verdict Verdict
	// Freed: the container was removed after the end.
	Freed bool
	// Acked is the generation in which the control plane saw the task end;
	// 0 while the last update is not acknowledged.
	Acked uint64
	// Done: the last update is acknowledged.
	Done bool
}

// Event is something that happened to the agent.
type Event interface{ event() }

type (
	// Recovered begins the life of an agent process: the containers that the
	// executor holds. Until then nothing is done for the tasks of the checkpoint.
	Recovered struct{ Held []fleet.TaskID }
	// Connected: a session is established in that term. Plain: the other side
	// answers no stamps, so the session itself counts as contact.
	Connected struct {
		Term  uint64
		Plain bool
	}
	// Disconnected: the session is over.
	Disconnected struct{}
	// Revoked: the control plane has banned this agent for good. For it the
	// tasks have ended, and may run elsewhere by now.
	Revoked struct{}
	// Desired arrived.
	Desired struct{ fleet.Desired }
	// Acked: an update is committed.
	Acked struct {
		Task       fleet.TaskID
		Update     fleet.UpdateID
		Generation uint64
	}
	// Started is the executor's answer to Start.
	Started struct {
		Task fleet.TaskID
		Err  Failure
		Text string
	}
	// Exited is the executor's answer to Wait.
	Exited struct {
		Task     fleet.TaskID
		Time     time.Time
		ExitCode int
		Signal   int
		OOM      bool
		// Lost: the container disappeared without an exit status.
		Lost bool
	}
	// Removed is the executor's answer to Remove. Failed: something is left.
	Removed struct {
		Task   fleet.TaskID
		Failed bool
	}
	// Probed is the answer to Probe.
	Probed struct {
		Task   fleet.TaskID
		Health bool
		Result fleet.CheckResult
		// Unable: the task could not be asked, which is not its fault.
		Unable bool
		// Text says why there is no better result, for people.
		Text string
	}
	// Tick: time passes. Once a second is right.
	Tick struct{}
)

func (Recovered) event()    {}
func (Connected) event()    {}
func (Disconnected) event() {}
func (Revoked) event()      {}
func (Desired) event()      {}
func (Acked) event()        {}
func (Started) event()      {}
func (Exited) event()       {}
func (Removed) event()      {}
func (Probed) event()       {}
func (Tick) event()         {}

// Failure tells why a start failed, as far as it matters here.
type Failure int

const (
	None        Failure = iota
	Unavailable         // the runtime does not answer; the start is tried again
	// NoImage: the image cannot be fetched now. The start is tried again, for as
	// long as the agent is cut off and a while longer.
	NoImage
	Postponed // the start has to wait, for what Text says, and is tried again
	// Failed: the task did not start, which counts as a crash.
	Failed
	// Invalid: the task can never start here; it has failed for good.
	Invalid
)

// Action is something the shell is to do.
type Action interface{ action() }

type (
	// Save makes a record durable before the actions after it.
	Save struct{ Record Record }
	// SaveHead makes what the agent knows of the control plane durable.
	SaveHead struct{ Head }
	// Forget deletes a record.
	Forget struct{ Task fleet.TaskID }
	// Start asks the executor to start; answered by Started.
	Start struct{ Assignment fleet.Assignment }
	// Wait asks the executor to wait; answered by Exited.
	Wait struct{ Task fleet.TaskID }
	// Stop asks the executor to stop, or the shell to give up a Start that is
	// being performed. Repeated until the exit.
	Stop struct {
		Task  fleet.TaskID
		Grace time.Duration
	}
	// Probe asks a running task how it is; answered by Probed. Health: the
	// check is the task's health check, not the other one.
	Probe struct {
		Task   fleet.TaskID
		Health bool
		Check  fleet.Check
	}
	// Remove asks the executor to remove the container; answered by Removed.
	// A Task without a record is an orphan.
	Remove struct{ Task fleet.TaskID }
	// Pull asks the control plane for what differs from a generation. A Stamp
	// asks for an answer at once, a Desired with that Echo. CaughtUp: of the
	// updates from before the session, all are acknowledged.
	Pull struct {
		Generation uint64
		Full       bool
		Stamp      uint64
		CaughtUp   bool
	}
	// Report sends updates.
	Report struct{ Updates []fleet.StatusUpdate }
)

func (Save) action()     {}
func (SaveHead) action() {}
func (Forget) action()   {}
func (Start) action()    {}
func (Wait) action()     {}
func (Stop) action()     {}
func (Probe) action()    {}
func (Remove) action()   {}
func (Pull) action()     {}
func (Report) action()   {}

// Agent is the life-cycle core of one agent. It belongs to one loop.
type Agent struct {
	term       uint64
	generation uint64
	boot       string
	contact
	spool
	tasks     map[fleet.TaskID]*task
	orphans   map[fleet.TaskID]bool // containers without a record
	connected bool
	synced    bool // a full set has been seen since the process began, or a generation is held
	pulled    time.Time
	behind    int // tasks with updates from before the session
	acts      []Action
}

// pullEvery is how often the desired set is pulled when no answer came. Streams
// lose nothing, and a new session or leader is pulled from anew, so this is for
// what nobody has thought of; more often would cost an idle site dear.
const pullEvery = 5 * time.Minute

// Head is the durable part of what is not one task's.
type Head struct {
	Term, Generation uint64
	Contact          Contact
}

// New makes the core from what is checkpointed. boot tells this life of the
// machine from others; empty where that cannot be told.
func New(records []Record, head Head, boot string) *Agent {
	a := &Agent{term: head.Term, generation: head.Generation, boot: boot, tasks: map[fleet.TaskID]*task{}, orphans: map[fleet.TaskID]bool{}}
	a.known = head.Contact
	for _, r := range records {
		a.tasks[r.Assignment.Task] = &task{Record: r, loaded: true}
	}
	a.synced = head.Generation > 0
	return a
}

// Step takes one event at one instant and returns what is to be done.
func (a *Agent) Step(now time.Time, ev Event) []Action {
	if a.acts = nil; a.met.IsZero() {
		a.recall(now)
	}
	switch ev := ev.(type) {
	case Recovered:
		a.recovered(now, ev)
	case Connected:
		a.connected, a.plain, a.term, a.behind = true, ev.Plain, max(a.term, ev.Term), 0
		for _, t := range a.tasks {
			t.Reports.Reset()
			if t.backlog = 0; !t.Reports.Empty() {
				t.backlog = t.Reports.Seq
				a.behind++
			}
		}
		a.heard(now)
		a.pull(now)
	case Disconnected:
		a.heard(now)
		a.connected = false
		a.saveContact(now)
	case Revoked:
		for _, id := range a.ids() {
			a.tasks[id].kill(a, now, grace(a.tasks[id].Assignment.Spec))
		}
	case Desired:
		a.desired(now, ev.Desired)
	case Acked:
		a.acked(now, ev)
	case Started, Exited, Removed, Probed:
		a.executor(now, ev)
	case Tick:
		a.tick(now)
	}
	a.flush(now)
	return a.acts
}

// Generation returns the generation and term that the agent holds.
func (a *Agent) Generation() (term, generation uint64) { return a.term, a.generation }

// Counts returns how many tasks run and how many updates are spooled.
func (a *Agent) Counts() (running, spooled int) {
	for _, t := range a.tasks {
		if t.Phase == Running {
			running++
		}
		spooled += len(t.Reports.Pending)
	}
	return running, spooled
}

// Records returns the durable records in the order of their ids.
func (a *Agent) Records() []Record {
	out := make([]Record, 0, len(a.tasks))
	for _, id := range a.ids() {
		out = append(out, a.tasks[id].Record)
	}
	return out
}

func (a *Agent) do(x Action) { a.acts = append(a.acts, x) }

func (a *Agent) ids() []fleet.TaskID { return slices.Sorted(maps.Keys(a.tasks)) }

func (a *Agent) pull(now time.Time) {
	a.pulled = now
	a.do(Pull{Generation: a.generation, Full: !a.synced, Stamp: a.stamp(now), CaughtUp: a.behind == 0})
}

func (a *Agent) recovered(now time.Time, ev Recovered) {
	held := map[fleet.TaskID]bool{}
	for _, id := range ev.Held {
		held[id] = true
		if a.tasks[id] == nil {
			a.orphans[id] = true
		}
	}
	for _, id := range a.ids() {
		if t := a.tasks[id]; t.loaded {
			t.loaded = false
			t.recover(a, now, held[id])
		}
	}
	if a.synced {
		a.removeOrphans()
	}
}

func (a *Agent) acked(now time.Time, ev Acked) {
	t := a.tasks[ev.Task]
	if t == nil || !t.Reports.Ack(ev.Update) {
		return
	}
	if t.Phase == Ended && t.Reports.Empty() {
		t.Acked, t.Done = ev.Generation, true
	}
	t.dirty = true
	if t.backlog > 0 && (t.Reports.Empty() || t.Reports.Pending[0].Seq > t.backlog) {
		t.backlog = 0
		if a.behind--; a.behind == 0 {
			a.pull(now)
		}
	}
	t.forget(a)
}

func (a *Agent) executor(now time.Time, ev Event) {
	switch ev := ev.(type) {
	case Started:
		if t := a.tasks[ev.Task]; t != nil {
			t.started(a, now, ev)
		}
	case Exited:
		if t := a.tasks[ev.Task]; t != nil {
			t.exited(a, now, ev)
		}
	case Probed:
		if t := a.tasks[ev.Task]; t != nil {
			t.probed(a, now, ev)
		}
	case Removed:
		if t := a.tasks[ev.Task]; t != nil {
			t.removed(a, now, ev.Failed)
		}
	}
}

func (a *Agent) tick(now time.Time) {
	a.heard(now)
	for _, id := range a.ids() {
		if t := a.tasks[id]; !t.loaded {
			t.tick(a, now)
		}
	}
	if a.connected && now.Sub(a.pulled) >= a.asks() {
		a.pull(now)
	}
	if now.Sub(a.saved) >= saveEvery {
		a.saveContact(now)
	}
}

// flush saves what changed and sends what is due, in that order: the shell
// performs every Save of a step before the rest.
func (a *Agent) flush(now time.Time) {
	a.bound()
	var due []fleet.StatusUpdate
	for _, id := range a.ids() {
		t := a.tasks[id]
		if a.connected {
			fresh := t.Reports.Fresh
			due = append(due, t.Reports.Due(now)...)
			t.dirty = t.dirty || t.Reports.Fresh != fresh
		}
		if t.dirty {
			t.dirty = false
			a.do(Save{t.Record})
		}
	}
	if len(due) > 0 {
		slices.SortStableFunc(due, func(x, y fleet.StatusUpdate) int { return cmp.Compare(x.Seq, y.Seq) })
		a.do(Report{due})
	}
}
