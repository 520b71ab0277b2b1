package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// refreshAgent tells the allocator what an agent is now.
func (l *Leader) refreshAgent(id fleet.AgentID) {
	rec, a := l.st.Agents[id], l.agents[id]
	n := allocator.Agent{ID: id, Hostname: rec.Hostname, Site: rec.Site, Labels: rec.Labels, Capacity: rec.Capacity, Unavailable: rec.Window}
	n.Capacity.Total = l.foreseen(id, rec.Total())
	switch {
	case !rec.Gone.IsZero():
		n.Inactive = "gone"
	case rec.Revoked:
		n.Inactive = "revoked"
	case rec.Drain != nil && rec.Drain.Done.IsZero():
		n.Inactive = "draining"
	case rec.Drain != nil:
		n.Inactive = "drained"
	case rec.Deactivated:
		n.Inactive = "deactivated"
	case l.st.Unsettled[id]:
		n.Inactive = "restored and not settled"
	case a.session == 0:
		n.Inactive = "disconnected"
	}
	l.alloc.SetAgent(n)
	l.due = true
}

// rescindAgent withdraws every offer of an agent.
func (l *Leader) rescindAgent(id fleet.AgentID) {
	for _, o := range state.SortedKeys(l.offers) {
		if l.offers[o].offer.Agent == id {
			l.rescind(o)
		}
	}
}

func (l *Leader) proposeCapacity(now time.Time, id fleet.AgentID, hostname string, c fleet.Capacity) {
	l.propose(now, state.Command{SetCapacity: &state.SetCapacity{Agent: id, Hostname: hostname, Capacity: c}})
}

func (l *Leader) capacityChanged(now time.Time, ev CapacityChanged) {
	if l.current(ev.Agent, ev.Session) == nil {
		return
	}
	if rec := l.st.Agents[ev.Agent]; !rec.Capacity.Equal(ev.Capacity) || rec.Hostname != ev.Hostname {
		l.proposeCapacity(now, ev.Agent, ev.Hostname, ev.Capacity)
	}
}

func (l *Leader) pulled(ev Pull) {
	a := l.current(ev.Agent, ev.Session)
	if a == nil {
		return
	}
	a.pull = &ev
	l.heard(ev)
	if !ev.Full && ev.Generation <= l.st.Agents[ev.Agent].Generation {
		// What it holds it does not lose, save with its disk: see answer.
		n := 0
		for n < len(a.changes) && a.changes[n].generation <= ev.Generation {
			n++
		}
		a.changes, a.base = a.changes[n:], max(a.base, ev.Generation)
	}
	l.answer(ev.Agent)
	l.echo(ev)
}

// answer sends an agent what differs from the generation it holds, once it
// has asked and something does.
func (l *Leader) answer(id fleet.AgentID) {
	a, rec := l.agents[id], l.st.Agents[id]
	if a.pull == nil || a.session == 0 || len(l.off.held[id]) > 0 {
		return
	}
	held := a.pull.Generation
	// A generation from the future, or from before this history: the control
	// plane was restored from a snapshot. Only the whole set can be right then.
	whole := a.pull.Full || held > rec.Generation || held < l.st.Base(rec)
	if !whole && held == rec.Generation {
		return
	}
	// What is not in a full set ends; not so on an agent that is to be settled.
	full := whole && !l.st.Unsettled[id]
	d := fleet.Desired{Term: l.term, Generation: rec.Generation, Base: held, Full: full, Echo: a.pull.Stamp}
	if whole || held < a.base {
		for _, t := range state.SortedKeys(a.tasks) {
			if task := l.st.Tasks[t]; whole || task.Generation > held {
				d.Assignments = append(d.Assignments, task.Assignment())
			}
		}
	} else {
		for _, c := range a.changes {
			if task := l.st.Tasks[c.task]; a.tasks[c.task] && task.Generation == c.generation {
				d.Assignments = append(d.Assignments, task.Assignment())
			}
		}
	}
	if !whole {
		l.cut(&d)
	}
	a.pull = nil
	l.do(Assign{id, a.session, d})
}

// maxSetSize keeps a message below the wire's limit of 1 MiB. What is cut off
// follows with the next pull.
const maxSetSize = 512 << 10

// cut shortens a partial set to its oldest changes. Each change has its own
// generation, so the last one that is kept is the generation reached.
func (l *Leader) cut(d *fleet.Desired) {
	generation := func(a fleet.Assignment) uint64 { return l.st.Tasks[a.Task].Generation }
	slices.SortFunc(d.Assignments, func(x, y fleet.Assignment) int {
		return cmp.Compare(generation(x), generation(y))
	})
	size := 0
	for i, a := range d.Assignments {
		if size += a.Spec.Size() + 256; size > maxSetSize && i > 0 {
			d.Assignments = d.Assignments[:i]
			d.Generation = generation(d.Assignments[i-1])
			return
		}
	}
}

func (l *Leader) reported(now time.Time, ev Report) {
	if l.current(ev.Agent, ev.Session) == nil {
		return
	}
	for _, u := range ev.Updates {
		t := l.st.Tasks[u.Status.Task]
		switch {
		case (t == nil || t.Agent != ev.Agent) && l.st.Unsettled[ev.Agent]:
			l.unknown(ev.Agent, u)
		case t == nil, t.Agent != ev.Agent && l.st.Epoch > 0:
			// Nobody knows it any more, or not as this agent's: it was launched in
			// a history that is lost. The agent may drop what it says of it.
			l.do(Ack{ev.Agent, ev.Session, u.Status.Task, u.ID, 0})
		case t.Agent != ev.Agent:
			// Not its task: neither believed nor acknowledged.
		case u.Seq <= t.Seq:
			l.do(Ack{ev.Agent, ev.Session, t.ID, u.ID, t.Generation})
		default:
			l.propose(now, state.Command{Observe: &state.Observe{Agent: ev.Agent, Update: u}})
		}
	}
}

// leave drains an agent whose machine's owner takes it back, and then has it be
// gone. A drain that an operator began goes on as it was asked for.
func (l *Leader) leave(now time.Time, ev Leave) {
	if l.current(ev.Agent, ev.Session) == nil {
		return
	}
	by := "agent/" + string(ev.Agent)
	switch rec := l.st.Agents[ev.Agent]; {
	case rec.Revoked:
	case rec.Drain == nil:
		l.propose(now, state.Command{By: by, DrainAgent: &state.DrainAgent{Agent: ev.Agent, MaxGrace: ev.Grace, MarkGone: true}})
	case !rec.Drain.Done.IsZero():
		l.propose(now, state.Command{By: by, MarkGone: &state.MarkGone{Agent: ev.Agent}})
	}
}
