package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// checker watches what must never happen. It is apart from what it watches:
// it reads the replicated state and the machines, nothing of the cores.
type checker struct {
	prev    fleet.TaskState // of the task that the next command touches
	prevSeq uint64
	starts  map[fleet.TaskID]int
	checks
	deliveries
	due
	history history
}

func newChecker() checker {
	return checker{starts: map[fleet.TaskID]int{}, deliveries: newDeliveries(), due: newDue(), checks: checks{
		began: map[fleet.TaskID]time.Time{}, failed: map[fleet.TaskID]int{}, asking: map[asked]bool{},
	}}
}

func touched(c state.Command) fleet.TaskID {
	switch {
	case c.Observe != nil:
		return c.Observe.Update.Status.Task
	case c.Launch != nil:
		return c.Launch.ID
	case c.Kill != nil:
		return c.Kill.ID
	}
	return ""
}

func (k *checker) before(st *state.State, c state.Command) {
	k.prev, k.prevSeq = 0, 0
	if t := st.Tasks[touched(c)]; t != nil {
		k.prev, k.prevSeq = t.State, t.Seq
	}
}

// after: states never go back, and what is held on an agent fits it.
func (k *checker) after(w *world, st *state.State, c state.Command, _ state.Result) {
	id := touched(c)
	if c.Settle != nil && !st.Unsettled[c.Settle.Agent] {
		delete(k.history.unsettled, c.Settle.Agent)
	}
	t := st.Tasks[id]
	if t == nil {
		return
	}
	if k.prev != 0 && t.State != k.prev && !t.State.CanFollow(k.prev) {
		w.failf("task %s went from %v to %v", id, k.prev, t.State)
	}
	if c.Observe != nil {
		k.judged(w, t, c.Observe.Update.Status)
		if t.Seq > k.prevSeq {
			k.observed(w, t, c.Observe.Update)
		}
	}
	if c.Launch == nil || t.Agent == "" {
		return
	}
	var sum fleet.Resources
	for _, o := range st.Tasks {
		if o.Agent == t.Agent && o.Held() {
			for _, g := range o.Resources.GPUs {
				if slices.Contains(sum.GPUs, g) {
					w.failf("GPU %s is held by two tasks in the state, one is %s", g, o.ID)
				}
			}
			sum = sum.Add(o.Resources)
		}
	}
	if total := st.Agents[t.Agent].Capacity.Total; !total.Contains(sum) {
		w.failf("agent %s is oversold: %v of %v", t.Agent, sum, total)
	}
}

// started: a task runs once, ever, unless its policy says otherwise, an
// exclusive one nowhere else at the same time, and no GPU has two running
// containers. An agent that was settled after a restore may run more than it has
// for as long as it takes to end what nobody knows, but not on one GPU.
func (k *checker) started(a *agentSim, as fleet.Assignment) {
	if k.starts[as.Task]++; k.starts[as.Task] > 1 && as.Spec.Restart.Attempts == 0 {
		a.w.failf("task %s was started %d times", as.Task, k.starts[as.Task])
	}
	if k.began[as.Task].IsZero() {
		k.began[as.Task] = a.w.now
	}
	k.alone(a, as)
	k.rested(a, as)
	sum := as.Resources
	for _, id := range slices.Sorted(maps.Keys(a.containers)) {
		c := a.containers[id]
		if !c.running {
			continue
		}
		for _, g := range c.resources.GPUs {
			if slices.Contains(as.Resources.GPUs, g) {
				a.w.failf("GPU %s runs task %s and %s at once", g, id, as.Task)
			}
		}
		if t := a.w.trio.head.Tasks[id]; k.history.number == 0 || t != nil && t.Held() {
			sum = sum.Add(c.resources)
		}
	}
	if !a.capacity.Total.Contains(sum) {
		a.w.failf("agent %s runs %v of %v", a.id, sum, a.capacity.Total)
	}
}

// resting reports whether everything has come to its end: every task is
// terminal, nothing is on a machine, a disk or an offer, and every resource is
// free again.
func (w *world) resting() bool {
	l := w.trio.leader
	if l == nil || len(w.trio.inFlight) > 0 {
		return false
	}
	for _, id := range w.tasks {
		if t := l.State().Tasks[id]; t == nil {
			return false
		}
	}
	for _, t := range l.State().Tasks {
		if !t.State.Terminal() {
			return false
		}
	}
	for _, a := range w.agents {
		if a.core == nil || len(a.records) > 0 || len(a.containers) > 0 || !l.Free(a.id).Equal(a.capacity.Total) {
			return false
		}
	}
	return len(l.Offers()) == 0 && w.outside.unrest(l.State()) == ""
}

// unrest says what keeps the fleet from resting.
func (w *world) unrest() string {
	l := w.trio.leader
	if l == nil {
		return "nobody leads"
	}
	for _, id := range w.tasks {
		if t := l.State().Tasks[id]; t == nil {
			return "task " + string(id) + " was never accepted"
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.State().Tasks)) {
		if t := l.State().Tasks[id]; !t.State.Terminal() {
			refusals, never := l.Why(w.trio.now(), id)
			return fmt.Sprintf("task %s is %v on agent %q; it waits because of %v, for ever: %v", id, t.State, t.Agent, refusals, never)
		}
	}
	for _, a := range w.agents {
		switch {
		case len(a.records) > 0:
			return "agent " + string(a.id) + " keeps the record of an ended task"
		case len(a.containers) > 0:
			return "agent " + string(a.id) + " keeps a container"
		case !l.Free(a.id).Equal(a.capacity.Total):
			return "agent " + string(a.id) + " has only " + l.Free(a.id).String() + " free of " + a.capacity.Total.String()
		}
	}
	if text := w.outside.unrest(l.State()); text != "" {
		return text
	}
	return "offers or proposals stay out"
}
