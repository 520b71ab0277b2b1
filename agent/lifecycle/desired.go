package lifecycle

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// removeOrphans removes containers that no record speaks of. It waits for the
// first desired set: an agent whose checkpoint was lost must not kill what the
// control plane still wants.
func (a *Agent) removeOrphans() {
	for _, id := range slices.Sorted(maps.Keys(a.orphans)) {
		a.do(Remove{id})
	}
	clear(a.orphans)
}

// desired takes over a desired set. Anything older than what is held is
// refused: it may be a duplicate of a message from before a task ended.
func (a *Agent) desired(now time.Time, d fleet.Desired) {
	if d.Term >= a.term {
		a.echoed(now, d.Echo)
	}
	switch {
	case d.Term < a.term:
		return
	case !d.Full && (d.Base != a.generation || d.Generation <= a.generation):
		return
	case d.Full && d.Term == a.term && d.Generation < a.generation:
		return
	}
	a.term, a.generation, a.synced = d.Term, d.Generation, true
	wanted := map[fleet.TaskID]bool{}
	for _, as := range d.Assignments {
		wanted[as.Task] = true
	}
	for _, id := range a.ids() { // first what ends: others may be given its GPUs
		if t := a.tasks[id]; d.Full && !wanted[id] && t.Phase != Ended {
			t.kill(a, now, grace(t.Assignment.Spec))
		}
	}
	for _, as := range d.Assignments {
		a.assign(now, as)
	}
	if d.Full {
		a.removeOrphans()
	}
	a.saveHead(now)
	for _, id := range a.ids() {
		a.tasks[id].forget(a)
	}
	a.pull(now)
}

func (a *Agent) assign(now time.Time, as fleet.Assignment) {
	t := a.tasks[as.Task]
	if t != nil && t.Done && as.Seq > 0 && a.generation >= t.Acked {
		// Its end was acknowledged in a history that is lost: what it was is
		// forgotten here as well.
		as.Seq, a.size = max(as.Seq, t.Reports.Seq), a.size-t.size
		t = nil
	}
	if t == nil && as.Spec.Disconnect.StopAfter > 0 {
		a.meet(now) // who was given a task just now was in contact
	}
	switch {
	case t != nil:
		if as.Kill {
			t.kill(a, now, as.KillGrace)
		}
	case a.orphans[as.Task]:
		// Its record was lost but its container was not: it goes on.
		delete(a.orphans, as.Task)
		t = &task{Record: Record{Assignment: as, Phase: Running, Boot: a.boot}}
		t.Reports.Seq = as.Seq
		a.tasks[as.Task] = t
		t.adopt(a, now)
	case as.Seq > 0:
		// It ran here once and nothing of it is left. Never run it again.
		t = &task{Record: Record{Assignment: as, Phase: Running}}
		t.Reports.Seq = as.Seq
		a.tasks[as.Task] = t
		t.end(a, now, fleet.Status{
			Task: as.Task, State: fleet.TaskLost, Time: now, ExitCode: -1,
			Message: "the agent has no record of the task any more", Reason: fleet.ReasonReconciliation,
		})
	default:
		kill := as.Kill
		as.Kill = false
		t = &task{Record: Record{Assignment: as, Phase: Assigned, Boot: a.boot}}
		t.dirty, a.tasks[as.Task] = true, t
		if kill {
			t.kill(a, now, as.KillGrace)
		} else {
			t.start(a, now)
		}
	}
}

func grace(s fleet.TaskSpec) time.Duration {
	return cmp.Or(s.KillGrace, fleet.DefaultKillGrace)
}
