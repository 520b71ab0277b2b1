package sim

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// snapshot is the state as it was written down once, with what comes after it
// in the log.
type snapshot struct {
	data    []byte
	applied int
}

// keepSnapshots is more than a replica keeps, so that what it restarts from may
// be older than it could be.
const keepSnapshots = 4

func (w *world) encoded(st *state.State) []byte {
	data, err := registrar.EncodeState(st)
	if err != nil {
		w.failf("a state cannot be written: %v", err)
	}
	return data
}

func (w *world) decoded(data []byte) *state.State {
	st, err := registrar.DecodeState(data)
	if err != nil {
		w.failf("a state cannot be read: %v", err)
		return state.New()
	}
	return st
}

// snap has a replica write down what it has applied.
func (t *trio) snap(r *replica) {
	r.snaps = append(r.snaps, snapshot{t.w.encoded(r.st), r.applied})
	r.snaps = r.snaps[max(0, len(r.snaps)-keepSnapshots):]
}

// restart has a replica begin anew, from any of its snapshots or from nothing.
func (t *trio) restart(i int) {
	if i == t.leading {
		t.fail()
	}
	r := t.replicas[i]
	r.st, r.applied = state.New(), 0
	if n := t.w.rng.IntN(len(r.snaps) + 1); n > 0 {
		r.st, r.applied = t.w.decoded(r.snaps[n-1].data), r.snaps[n-1].applied
	}
	t.w.stats.Snapshots++
	t.w.logf("replica %d restarts at %d of %d entries", i, r.applied, len(t.log))
}

// replicas lets them write snapshots and begin anew.
func (w *world) replicas() {
	w.every(time.Second, func() {
		for i, r := range w.trio.replicas {
			if w.chance(15) {
				w.trio.snap(r)
			}
			if w.chance(8) {
				w.trio.restart(i)
			}
		}
	})
}

// agree: all replicas have come to the same bytes.
func (t *trio) agree() {
	first := t.w.encoded(t.head)
	for i, r := range t.replicas {
		t.apply(i)
		data := t.w.encoded(r.st)
		if !bytes.Equal(first, data) {
			t.w.failf("replica %d differs from the log after %d entries", i, len(t.log))
		}
	}
}

// history is what is known of restores: an operator puts the state of an older
// snapshot in the place of what the control plane has, and later settles the
// agents one by one.
type history struct {
	files []file
	// number counts the histories: 0 is the first one.
	number    int
	unsettled map[fleet.AgentID]bool
	// known are the tasks of all histories that are over, true where somebody had
	// asked to end it.
	known map[fleet.TaskID]bool
	// odd is since when an agent holds something else than it should.
	odd map[oddity]time.Time
}

type oddity struct {
	agent fleet.AgentID
	task  fleet.TaskID
}

// file is a snapshot in an operator's hands, and what the checker had seen of
// each task then.
type file struct {
	data []byte
	came map[fleet.TaskID][]fleet.Status
}

// operator keeps snapshots in some fleets, and restores one now and then.
func (w *world) operator() {
	h := &w.check.history
	h.known, h.unsettled, h.odd = map[fleet.TaskID]bool{}, map[fleet.AgentID]bool{}, map[oddity]time.Time{}
	if w.rng.IntN(4) > 0 {
		return
	}
	w.every(time.Second, func() {
		if w.chance(40) {
			f := file{w.encoded(w.trio.head), map[fleet.TaskID][]fleet.Status{}}
			for id, states := range w.check.came {
				f.came[id] = slices.Clone(states)
			}
			h.files = append(h.files, f)
		}
		if w.chance(12) && len(h.files) > 0 && w.trio.leader != nil && h.number < 3 {
			w.restore(h.files[w.rng.IntN(len(h.files))])
		}
	})
}

// restore is what the shell does: it ends the leader's term, and whatever that
// had in flight comes before the snapshot, after it, or not at all.
func (w *world) restore(f file) {
	t, h := w.trio, &w.check.history
	now, flying := t.now(), t.inFlight
	if w.rng.IntN(2) == 0 {
		flying = nil
	}
	t.fail()
	for id, task := range t.head.Tasks {
		h.known[id] = h.known[id] || task.Kill || task.State.Terminal()
	}
	st := w.decoded(f.data)
	st.Restore(now.Round(0), t.head, "operator/sim")
	clear(w.check.came)
	for id, states := range f.came {
		w.check.came[id] = slices.Clone(states)
	}
	t.log, t.head = append(t.log, entry{restored: w.encoded(st)}), st
	w.stats.Restores++
	h.number++
	w.tasks = slices.DeleteFunc(w.tasks, func(id fleet.TaskID) bool { return t.head.Tasks[id] == nil })
	w.logf("an operator restores a snapshot: epoch %d", t.head.Epoch)
	for _, a := range w.agents {
		h.unsettled[a.id] = true
		w.settle(a, h.number)
	}
	t.commit(flying)
	w.outside.told(t.head)
}

// settle is the operator's word that an agent has come back and may be told
// what is wanted of it.
func (w *world) settle(a *agentSim, history int) {
	w.after(w.between(time.Second, 40*time.Second), func() {
		h := &w.check.history
		if h.number != history || !h.unsettled[a.id] {
			return
		}
		if w.trio.leader != nil && w.trio.leader.Connected(a.id) {
			w.trio.propose(state.Command{Time: w.trio.now(), Settle: &state.Settle{Agent: a.id}})
		}
		w.settle(a, history)
	})
}

// spared: nothing that an agent holds is ended before it is settled, unless
// somebody asks for just that or asked for it in a history that is over. What is
// on its way from there may still arrive, until the agent has heard of this one.
func (h *history) spared(a *agentSim, r lifecycle.Record) {
	id := r.Assignment.Task
	t := a.w.trio.head.Tasks[id]
	term, _ := a.core.Generation()
	switch {
	case !r.Assignment.Kill || a.records[id].Assignment.Kill || r.Verdict != (lifecycle.Verdict{}):
	case term < a.w.trio.head.Fence(0):
		h.known[id] = true
	case h.unsettled[a.id] && !h.known[id] && (t == nil || !t.Kill && !t.State.Terminal()):
		a.w.failf("agent %s is not settled and ends task %s", a.id, id)
	case t == nil:
		h.known[id] = true // settling has ended it, and the next restore may know it
	}
}

// exact: an agent that is settled holds what is wanted of it and nothing else,
// after a minute for what is on the way. Its session is one of those that lose
// nothing: what was lost before is pulled again only every five minutes.
func (h *history) exact(a *agentSim) {
	const patience = time.Minute
	if !a.w.calm || a.session == 0 || a.session <= a.lossy || h.unsettled[a.id] {
		return
	}
	now := map[oddity]bool{}
	for id, r := range a.records {
		if t := a.w.trio.head.Tasks[id]; r.Phase != lifecycle.Ended && (t == nil || t.Agent != a.id || !t.Held()) {
			now[oddity{a.id, id}] = true
		}
	}
	for id, t := range a.w.trio.head.Tasks {
		if _, held := a.records[id]; t.Agent == a.id && t.Held() && !held {
			now[oddity{a.id, id}] = true
		}
	}
	maps.DeleteFunc(h.odd, func(o oddity, _ time.Time) bool { return o.agent == a.id && !now[o] })
	for o := range now {
		if h.odd[o].IsZero() {
			h.odd[o] = a.w.now
		}
		if a.w.now.Sub(h.odd[o]) > patience {
			a.w.failf("agent %s and the control plane disagree on task %s", a.id, o.task)
		}
	}
}

// ordered reports whether what came of a task of a history that is over is some
// of what its agent saw, in order and once.
func ordered(came, saw []fleet.Status) bool {
	for _, st := range saw {
		if len(came) > 0 && came[0] == st {
			came = came[1:]
		}
	}
	return len(came) == 0
}
