package sim

import (
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// policies gives some tasks a restart policy, and some a disconnect policy.
func (w *world) policies(s *fleet.TaskSpec) {
	if w.rng.IntN(3) == 0 {
		s.Restart = fleet.Restart{
			Attempts: 1 + w.rng.IntN(4), Interval: w.between(5*time.Second, time.Minute), Delay: w.between(time.Second, 6*time.Second),
		}
		if w.rng.IntN(3) == 0 {
			s.Restart.Mode = fleet.RestartDelay
		}
	}
	if w.rng.IntN(3) > 0 {
		return
	}
	s.Exclusive = w.rng.IntN(2) == 0
	d := &s.Disconnect
	if w.rng.IntN(2) == 0 || s.Exclusive {
		d.StopAfter = w.between(fleet.MinStopAfter, fleet.MinStopAfter+20*time.Second)
	}
	if w.rng.IntN(3) > 0 {
		d.Replace, d.LostAfter = true, w.between(time.Second, time.Minute)
		d.Reconcile = []fleet.Reconcile{
			fleet.ReconcileBest, fleet.ReconcileOriginal, fleet.ReconcileReplacement, fleet.ReconcileLongest,
		}[w.rng.IntN(4)]
		if s.Exclusive {
			d.LostAfter = d.StopAfter + s.Grace() + fleet.ExclusiveMargin(d.StopAfter) + w.between(0, 10*time.Second)
		}
	}
}

// rootOf is the task that all its replacements stand for: "t1" for "t1.2".
func rootOf(id fleet.TaskID) string {
	root, _, _ := strings.Cut(string(id), ".")
	return root
}

// alone: an exclusive task and its replacements never run at the same time.
func (k *checker) alone(a *agentSim, as fleet.Assignment) {
	if !as.Spec.Exclusive {
		return
	}
	for _, o := range a.w.agents {
		for id, c := range o.containers {
			if c.running && rootOf(id) == rootOf(as.Task) && id != as.Task {
				a.w.failf("exclusive task %s starts on %s while %s runs on %s", as.Task, a.id, id, o.id)
			}
		}
	}
}

// deliveries is what agents made durable, and what the control plane took over.
type deliveries struct {
	saved  map[fleet.TaskID]map[uint64]fleet.StatusUpdate // as they were saved last
	states map[fleet.TaskID][]fleet.Status                // no passing news, in order
	came   map[fleet.TaskID][]fleet.Status
}

func newDeliveries() deliveries {
	return deliveries{map[fleet.TaskID]map[uint64]fleet.StatusUpdate{}, map[fleet.TaskID][]fleet.Status{}, map[fleet.TaskID][]fleet.Status{}}
}

// durable notes what a record says.
func (k *deliveries) durable(r lifecycle.Record) {
	id := r.Assignment.Task
	if k.saved[id] == nil {
		k.saved[id] = map[uint64]fleet.StatusUpdate{}
	}
	for _, u := range r.Reports.Pending {
		k.saved[id][u.Seq] = u
		if !u.Status.Passing() && !slices.Contains(k.states[id], u.Status) {
			k.states[id] = append(k.states[id], u.Status)
		}
	}
}

// observed: what is committed is what is on the agent's disk under that number.
func (k *deliveries) observed(w *world, t *state.Task, u fleet.StatusUpdate) {
	if u.Seq != t.Seq {
		w.failf("task %s: update %d was taken for %d", t.ID, u.Seq, t.Seq)
	}
	if s := k.saved[t.ID][u.Seq]; s != u {
		w.failf("task %s: update %d came as %+v and is %+v on its agent", t.ID, u.Seq, u, s)
	}
	if !u.Status.Passing() {
		k.came[t.ID] = append(k.came[t.ID], u.Status)
	}
}

// delivered: every state that was durable on an agent has come, in order, once.
// Where a snapshot was restored, those that had come are lost with the history.
func (k *deliveries) delivered(w *world) {
	for id, states := range k.states {
		_, old := w.check.history.known[id]
		if old && !ordered(k.came[id], states) || !old && !slices.Equal(states, k.came[id]) {
			w.failf("task %s: its agent saw %v, the control plane was told %v", id, states, k.came[id])
		}
	}
}
