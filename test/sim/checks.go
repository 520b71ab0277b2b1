package sim

import (
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// checks is what the checker knows of tasks' checks, apart from the cores.
type checks struct {
	began  map[fleet.TaskID]time.Time // when the container was made
	failed map[fleet.TaskID]int       // health checks, since the last that passed
	asking map[asked]bool
}

// asked is one check of a task, and the life of the agent that asks.
type asked struct {
	task   fleet.TaskID
	health bool
	life   int
}

// judged: an agent ends a task for no other reason than it has.
func (k *checker) judged(w *world, t *state.Task, st fleet.Status) {
	if !st.State.Terminal() {
		return
	}
	switch st.Reason {
	case fleet.ReasonCutOff:
		if t.Spec.Disconnect.StopAfter == 0 || st.State != fleet.TaskKilled {
			w.failf("task %s ended %v for want of contact, which it does not mind", t.ID, st.State)
		}
	case "":
		if st.State == fleet.TaskKilled && !t.Kill && !k.history.known[t.ID] {
			w.failf("task %s was killed, and nobody asked for it", t.ID)
		}
	case fleet.ReasonMaxCompletion:
		if t.Spec.MaxCompletion == 0 || st.State != fleet.TaskFailed {
			w.failf("task %s ended %v for running too long, and may run for ever", t.ID, st.State)
		}
	case fleet.ReasonHealthUpdated:
		h := t.Spec.Health
		if h == nil || h.ConsecutiveFailures == 0 || k.failed[t.ID] < h.ConsecutiveFailures || st.State != fleet.TaskKilled {
			w.failf("task %s ended %v as unhealthy after %d failures", t.ID, st.State, k.failed[t.ID])
		}
		if st.Health != fleet.TaskUnhealthy {
			w.failf("task %s was killed for its health, which is %v", t.ID, st.Health)
		}
	}
}

// told: once all that an agent reported of a running task is acknowledged, the
// control plane knows of its checks what the agent knows.
func (k *checker) told(a *agentSim, id fleet.TaskID) {
	r, held := a.records[id]
	l := a.w.trio.leader
	if _, old := a.w.check.history.known[id]; old {
		return // what was acknowledged may be of a history that is lost
	}
	if !held || l == nil || r.Phase != lifecycle.Running || len(r.Reports.Pending) > 0 {
		return
	}
	t := l.State().Tasks[id]
	if t == nil || t.State.Terminal() {
		return
	}
	if t.Status.Health != r.Health || t.Status.Check != r.Checked {
		a.w.failf("task %s is %v, %v to the control plane and %v, %v to its agent", id, t.Status.Health, t.Status.Check, r.Health, r.Checked)
	}
}

// probe answers a check by the dice, after a while. When all is calm, tasks are
// well: one that its policy starts again for ever would never rest.
func (a *agentSim) probe(act lifecycle.Probe) {
	key := asked{act.Task, act.Health, a.life}
	k := &a.w.check
	if k.asking[key] {
		a.w.failf("task %s is asked twice at once", act.Task)
	}
	k.asking[key] = true
	a.w.after(a.w.between(time.Millisecond, 2*time.Second), func() {
		if a.core == nil || a.life != key.life {
			return
		}
		delete(k.asking, key)
		ev := lifecycle.Probed{Task: act.Task, Health: act.Health}
		dice := a.w.rng.IntN(8)
		if a.w.calm {
			dice = 3
		}
		switch dice {
		case 0:
			ev.Unable = true
		case 1, 2:
			ev.Result.Known = true // no connection, and no status
		default:
			ev.Result = fleet.CheckResult{Known: true, Connected: true, StatusCode: 200 + a.w.rng.IntN(2)}
		}
		if act.Health && !ev.Unable {
			k.failed[act.Task]++
			if act.Check.Passed(ev.Result) {
				k.failed[act.Task] = 0
			}
		}
		a.step(ev)
	})
}
