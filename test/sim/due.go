package sim

import (
	"fmt"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// due is what the checker knows of waits, by the world's time. No step of a
// clock makes one shorter or longer within a process, an agent's or a leader's.
// Where a process goes by what an earlier one wrote down, the machine's clock is
// all that it has, and the promise is less; see each check.
type due struct {
	stopped map[fleet.TaskID]bool      // that were sentenced by their agents
	runs    map[fleet.TaskID]time.Time // since the agent holds it running
	rests   map[fleet.TaskID]rest      // before their next start
	set     bool                       // clocks are set in this run
}

// rest is the wait after a crash.
type rest struct{ from, until time.Time }

func newDue() due {
	return due{map[fleet.TaskID]bool{}, map[fleet.TaskID]time.Time{}, map[fleet.TaskID]rest{}, false}
}

// clocks lets a third of the fleets have right clocks, and a third have steps.
func (w *world) clocks() {
	kind := w.rng.IntN(3)
	if kind == 0 {
		return
	}
	set := func(per int) {
		for _, a := range w.agents {
			if w.chance(per) {
				a.clock.jump(w, a.id)
			}
		}
		for i, r := range w.trio.replicas {
			if w.chance(per) {
				r.clock.jump(w, fmt.Sprint("replica ", i))
			}
		}
	}
	set(500) // wrong from the beginning
	if w.check.set = kind == 2; w.check.set {
		w.every(time.Second, func() { set(8) })
	}
}

// sentenced: an agent ends a task only when its time is over.
func (k *due) sentenced(a *agentSim, r lifecycle.Record) {
	id := r.Assignment.Task
	if r.Verdict == (lifecycle.Verdict{}) || k.stopped[id] {
		return
	}
	k.stopped[id] = true
	switch r.Verdict.Reason {
	case fleet.ReasonCutOff:
		k.cutOff(a, r)
	case fleet.ReasonMaxCompletion:
		began := a.w.check.began[id]
		if ran := a.w.now.Sub(began); ran < r.Assignment.Spec.MaxCompletion && !a.misled(began) {
			a.w.failf("task %s is ended after %v and may run for %v", id, ran, r.Assignment.Spec.MaxCompletion)
		}
	}
}

// misled reports whether a process counts what began then by a clock that was
// set meanwhile.
func (a *agentSim) misled(since time.Time) bool {
	return a.clock.since(since) && a.began.After(since)
}

// cutOff: an agent stops a task only when it has been alone for as long as the
// task allows. A process that was restarted knows of a contact that is a few
// stamps older than the last one, and what is sent by a session that is over may
// come still. When the clock was set, an exclusive task may be stopped too
// early, since the clock could be right; another one only by a process that was
// started after that.
func (k *due) cutOff(a *agentSim, r lifecycle.Record) {
	const slack = 20 * time.Second
	spec := &r.Assignment.Spec
	set := a.clock.since(a.met.Add(-slack)) && (spec.Exclusive || a.began.After(a.clock.stepped))
	if alone := a.w.now.Sub(a.met); spec.Disconnect.StopAfter == 0 || !set && alone+slack < spec.Disconnect.StopAfter {
		a.w.failf("task %s is stopped after %v without contact, and may be alone for %v", r.Assignment.Task, alone, spec.Disconnect.StopAfter)
	}
}

// overdue: no task runs for longer than it may under one process of its agent,
// whatever clock that one found.
func (k *due) overdue(a *agentSim) {
	const slack = fleet.DefaultKillGrace + 5*time.Second
	for id, c := range a.containers {
		from := k.runs[id]
		if a.began.After(from) {
			from = a.began
		}
		if a.core != nil && c.running && a.records[id].Phase == lifecycle.Running && c.limit > 0 && a.w.now.Sub(from) > c.limit+slack {
			a.w.failf("task %s runs for %v and may for %v", id, a.w.now.Sub(from), c.limit)
		}
	}
}

// waits notes how long a crashed task is to wait for its next start, and since
// when one runs.
func (k *due) waits(a *agentSim, r lifecycle.Record) {
	id := r.Assignment.Task
	if r.Phase == lifecycle.Running && a.records[id].Phase != lifecycle.Running {
		k.runs[id] = a.w.now
	}
	if r.Phase == lifecycle.Restarting && a.records[id].Phase != lifecycle.Restarting {
		k.rests[id] = rest{a.w.now, a.w.now.Add(r.Next.Sub(a.clock.now(a.w)))}
	}
}

// rested: it was not started earlier, save by a process that was started after
// the clock was set.
func (k *due) rested(a *agentSim, as fleet.Assignment) {
	r, waited := k.rests[as.Task]
	if waited && a.w.now.Before(r.until) && !a.misled(r.from) {
		a.w.failf("task %s is started again %v too early", as.Task, r.until.Sub(a.w.now))
	}
	delete(k.rests, as.Task)
}

// proposed: a leader gives nobody up before its time. It counts from its own
// beginning, so a leader's death makes waits longer and never shorter.
func (k *due) proposed(w *world, c state.Command) {
	switch {
	case c.Teardown != nil:
		w.failf("framework %s is torn down, and nobody asked for it", c.Teardown.ID)
	case c.Reach != nil && !c.Reach.Reachable:
		if alone := w.alone(c.Reach.Agent); alone < unreachableAfter {
			w.failf("agent %s is given up after %v", c.Reach.Agent, alone)
		}
	case c.Replace != nil:
		k.replaced(w, w.trio.leader.State(), c.Replace.Task)
	}
}

// replaced: only an exclusive task counts on one clock alone. For others it is
// the difference of two replicas' clocks that counts, where another leader saw
// the agent leave.
func (k *due) replaced(w *world, st *state.State, id fleet.TaskID) {
	t := st.Tasks[id]
	if t == nil || t.State != fleet.TaskUnreachable {
		return // it has ended
	}
	least := t.Spec.Disconnect.LostAfter
	byClock := w.trio.now().Sub(st.Agents[t.Agent].Unreachable)
	if alone := w.alone(t.Agent); alone < least && (t.Spec.Exclusive || byClock < least) {
		w.failf("task %s is replaced after %v and counts as lost after %v", id, alone, least)
	}
}

// alone is how long an agent can at most have been away for this leader.
func (w *world) alone(id fleet.AgentID) time.Duration {
	for _, a := range w.agents {
		if a.id == id && a.left.After(w.trio.began) {
			return w.now.Sub(a.left)
		}
	}
	return w.now.Sub(w.trio.began)
}
