package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Tasks whose agents are cut off. A task stays where it is, unreachable, until
// its agent is back or an operator says that it is gone; unless its disconnect
// policy asks for a replacement.
//
// An exclusive task and its replacement do not overlap, because the agent counts
// from an earlier moment than the leader. The agent counts from when it made
// the last stamp that it got back, and a stamp goes back only after the leader
// has noted the time (pulled). So the task has ended on the agent StopAfter and
// its grace period after that, and the leader waits for LostAfter, which is
// longer by fleet.ExclusiveMargin. A new leader knows nothing of the old one's
// stamps and counts from its own beginning: later, never earlier. It uses no
// other replica's clock for it. An old leader that does not know yet that it is
// deposed may still answer stamps for as long as an agent's session with it
// lasts without a reply; that is in the margin. An agent that comes back while
// the replacement is on its way through the trio is told nothing until it is
// decided: it may never have heard of the task, and must not start it now.

const (
	// againAfter repeats a proposal that came to nothing.
	againAfter = 10 * time.Second
	// reconcilePatience is how long an agent that is back has to tell what
	// happened, before it is decided about its tasks without that.
	reconcilePatience = 10 * time.Minute
)

// cutOffs is what a leader watches of tasks that may be replaced or have been.
// The times are those of the last proposals.
type cutOffs struct {
	replaceable map[fleet.TaskID]time.Time
	twins       map[fleet.TaskID]time.Time // replacements, while it is open which one goes on
	ending      map[fleet.TaskID]time.Time
	// held counts the exclusive tasks of an agent of which a Replace is on its
	// way.
	held map[fleet.AgentID]map[fleet.TaskID]bool
	// settled is when the last agent of a restored state was, or when this leader
	// began.
	settled time.Time
}

func newCutOffs(now time.Time, st *state.State) cutOffs {
	c := cutOffs{map[fleet.TaskID]time.Time{}, map[fleet.TaskID]time.Time{}, map[fleet.TaskID]time.Time{}, map[fleet.AgentID]map[fleet.TaskID]bool{}, now}
	for id, t := range st.Tasks {
		if t.Replaceable() {
			c.replaceable[id] = time.Time{}
		}
		if t.Replaces != "" {
			c.twins[id] = time.Time{}
		}
	}
	return c
}

// follow keeps the sets up with what was committed.
func (l *Leader) follow(c state.Command, r state.Result) {
	if c.Replace != nil {
		l.decided(c.Replace.Task)
	}
	switch {
	case r.Kind != state.OK:
	case c.Launch != nil:
		if t := l.st.Tasks[c.Launch.ID]; t != nil && t.Replaceable() {
			l.off.replaceable[t.ID] = time.Time{}
		}
	case c.Replace != nil:
		delete(l.off.replaceable, c.Replace.Task)
		l.off.twins[fleet.TaskID(r.ID)] = time.Time{}
		if t := l.st.Tasks[c.Replace.Task]; t.Held() && t.Kill {
			l.desire(t)
		}
	}
}

// replace proposes a replacement.
func (l *Leader) replace(now time.Time, t *state.Task) {
	l.off.replaceable[t.ID] = now
	if t.Spec.Exclusive {
		if l.off.held[t.Agent] == nil {
			l.off.held[t.Agent] = map[fleet.TaskID]bool{}
		}
		l.off.held[t.Agent][t.ID] = true
	}
	l.propose(now, state.Command{Replace: &state.Replace{Task: t.ID}})
}

// decided: what was proposed has come to something, or to nothing.
func (l *Leader) decided(id fleet.TaskID) {
	t := l.st.Tasks[id]
	if t == nil {
		return
	}
	if _, ok := l.off.replaceable[id]; ok {
		l.off.replaceable[id] = time.Time{}
	}
	if delete(l.off.held[t.Agent], id); len(l.off.held[t.Agent]) == 0 {
		delete(l.off.held, t.Agent)
		l.changed[t.Agent] = true
	}
}

// heard notes that an agent speaks, and answers its stamp: in this order.
func (l *Leader) heard(ev Pull) {
	a := l.agents[ev.Agent]
	a.heard = l.now
	a.caughtUp = a.caughtUp || ev.CaughtUp
}

// echo answers a stamp that no set was an answer to.
func (l *Leader) echo(ev Pull) {
	if a := l.agents[ev.Agent]; a.pull != nil && ev.Stamp != 0 && len(l.off.held[ev.Agent]) == 0 {
		l.do(Assign{ev.Agent, a.session, fleet.Desired{Term: l.term, Generation: ev.Generation, Base: ev.Generation, Echo: ev.Stamp}})
	}
}

func (l *Leader) tickCutOffs(now time.Time) {
	for _, id := range state.SortedKeys(l.off.replaceable) {
		t := l.st.Tasks[id]
		switch {
		case t == nil || !t.Replaceable() && !l.off.held[t.Agent][id]:
			delete(l.off.replaceable, id)
		case now.Sub(l.off.replaceable[id]) >= againAfter && (l.lost(now, t) || l.off.held[t.Agent][id]):
			l.replace(now, t)
		}
	}
	for _, id := range state.SortedKeys(l.off.twins) {
		if t := l.st.Tasks[id]; t == nil || l.reconcileTwins(now, l.st.Instances(id)) {
			delete(l.off.twins, id)
		}
	}
	for id, at := range l.off.ending {
		if now.Sub(at) >= againAfter {
			delete(l.off.ending, id)
		}
	}
}

// lost reports whether it is time to replace a task.
func (l *Leader) lost(now time.Time, t *state.Task) bool {
	a, rec := l.agents[t.Agent], l.st.Agents[t.Agent]
	switch {
	case !t.CutOff() || a == nil || rec == nil || l.doubtful(now, t):
		return false
	case t.State == fleet.TaskKilled: // by the agent itself, as its policy says
		return true
	case t.State == fleet.TaskGoneByOperator && !t.Spec.Exclusive:
		return true
	case a.session != 0:
		return false
	}
	since := a.away
	if a.heard.After(since) {
		since = a.heard
	}
	// The clock that this is from may be another replica's.
	if at := rec.Unreachable; !t.Spec.Exclusive && !at.IsZero() && at.Before(since) {
		since = at
	}
	return now.Sub(since) >= t.Spec.Disconnect.LostAfter
}

// doubtful reports whether an exclusive task may have been replaced in a history
// that is lost. Such a replacement has ended once all agents are settled, for as
// long after that as a task that is cut off may run.
func (l *Leader) doubtful(now time.Time, t *state.Task) bool {
	return t.Spec.Exclusive && t.Restored && (len(l.st.Unsettled) > 0 || now.Sub(l.off.settled) < t.Spec.Disconnect.LostAfter)
}

// reconcileTwins ends all but one of the tasks that stand for each other, as
// far as they can be judged, and reports whether nothing is left to decide.
func (l *Leader) reconcileTwins(now time.Time, group []*state.Task) (settled bool) {
	var could []*state.Task
	open, away := 0, false
	for _, t := range group {
		switch {
		case t.State == fleet.TaskFinished:
			could = append(could, t)
		case t.State.Terminal():
		case t.Kill:
			open++
		case t.State == fleet.TaskUnreachable:
			away = true // decided when its agent is back
		case !t.Waiting() && !l.told(now, t.Agent):
			return false
		default:
			open++
			could = append(could, t)
		}
	}
	if len(could) < 2 {
		return open < 2 && !away
	}
	keep := choose(could, group[0].Spec.Disconnect.Reconcile)
	settled = open < 2 && !away
	for _, t := range could {
		if t == keep || t.State.Terminal() {
			continue
		}
		settled = false
		if _, ending := l.off.ending[t.ID]; !ending {
			l.off.ending[t.ID] = now
			l.propose(now, state.Command{Kill: &state.Kill{ID: t.ID, Grace: t.Spec.Grace(), Superseded: keep.ID}})
		}
	}
	return settled
}

// told reports whether an agent is there and has told what happened while it
// was not.
func (l *Leader) told(now time.Time, id fleet.AgentID) bool {
	a := l.agents[id]
	return a != nil && a.session != 0 && (a.caughtUp || now.Sub(a.since) >= reconcilePatience)
}

// choose is the rule of fleet.Reconcile. The tasks are in the order in which
// they replace each other.
func choose(could []*state.Task, how fleet.Reconcile) *state.Task {
	placed := slices.DeleteFunc(slices.Clone(could), func(t *state.Task) bool { return t.Waiting() })
	if len(placed) == 0 {
		placed = could
	}
	switch how {
	case fleet.ReconcileOriginal:
		return placed[0]
	case fleet.ReconcileReplacement:
		return placed[len(placed)-1]
	case fleet.ReconcileLongest:
		return slices.MinFunc(placed, longer)
	default:
		return slices.MinFunc(placed, func(x, y *state.Task) int {
			return cmp.Or(cmp.Compare(done(y), done(x)), cmp.Compare(health(y), health(x)), cmp.Compare(progress(y), progress(x)), longer(x, y))
		})
	}
}

// longer sorts what has been running for longer first, and the older one of
// equals.
func longer(x, y *state.Task) int {
	switch a, b := x.Running, y.Running; {
	case a.IsZero() != b.IsZero() && a.IsZero():
		return 1
	case a.IsZero() != b.IsZero():
		return -1
	default:
		return cmp.Or(a.Compare(b), cmp.Compare(x.Instance, y.Instance))
	}
}

func done(t *state.Task) int {
	if t.State == fleet.TaskFinished {
		return 1
	}
	return 0
}

func health(t *state.Task) int {
	switch t.Status.Health {
	case fleet.TaskHealthy:
		return 2
	case fleet.TaskHealthUnknown:
		return 1
	default:
		return 0
	}
}

func progress(t *state.Task) int {
	switch t.State {
	case fleet.TaskRunning:
		return 2
	case fleet.TaskStarting:
		return 1
	default:
		return 0
	}
}
