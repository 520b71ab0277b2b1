package leader

import (
	"slices"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// committed follows one command that the trio has agreed on and that this
// leader's copy has just applied.
func (l *Leader) committed(c state.Command, r state.Result) {
	l.follow(c, r)
	switch {
	case c.Observe != nil:
		l.observed(c.Observe, r)
	case c.Launch != nil:
		l.launched(c.Launch, r)
	case c.LaunchGroup != nil:
		for i := range c.LaunchGroup.Tasks {
			l.launched(&c.LaunchGroup.Tasks[i], r)
		}
	case c.Acknowledge != nil:
		if t := l.st.Tasks[c.Acknowledge.Task]; t != nil && r.Kind == state.OK {
			if s := l.subs[t.Framework]; s != nil {
				delete(s.sent, t.ID)
			}
			l.deliver(t)
		}
	case c.PutFramework != nil:
		l.registered(c.PutFramework, r)
	case c.Teardown != nil && r.Kind == state.OK:
		l.tornDown(c.Teardown.ID)
	case c.SetQuota != nil && r.Kind == state.OK:
		for _, q := range c.SetQuota.Quotas {
			l.alloc.SetQuota(q.Role, q.Quota)
		}
		l.rescindExcess()
		l.due = true
	case c.Cloned != nil:
		l.judged(c.Cloned, r)
	case c.Confirm != nil:
		l.confirmed(c.Confirm, r)
	case c.Convert != nil:
		l.converted(c.Convert, r)
	case c.DrainAgent != nil && r.Kind == state.OK:
		l.retire(c.DrainAgent.Agent)
	case c.SetActive != nil && r.Kind == state.OK:
		l.retire(c.SetActive.Agent)
	case c.SetMaintenance != nil && r.Kind == state.OK:
		l.maintained(c.SetMaintenance)
	case c.Settle != nil && r.Kind == state.OK:
		l.settled(c.Settle.Agent)
	case c.Kill != nil:
		delete(l.preempting, c.Kill.ID)
		if r.Kind == state.OK && !r.Duplicate {
			l.killed(c.Kill.ID)
		}
	case c.Admit != nil:
		if id := fleet.AgentID(r.ID); c.Admit.Kind == state.KindAgent && r.Kind == state.OK {
			l.agents[id] = &agentState{away: l.now, tasks: map[fleet.TaskID]bool{}}
			l.refreshAgent(id)
		}
	case c.SetCapacity != nil && r.Kind == state.OK:
		l.refreshAgent(c.SetCapacity.Agent)
		l.rescindBeyond(c.SetCapacity.Agent)
	case c.Reach != nil && r.Kind == state.OK:
		l.reached(c.Reach, r)
	case c.Revoke != nil && r.Kind == state.OK && c.Revoke.Kind == state.KindAgent:
		l.revoked(fleet.AgentID(c.Revoke.ID))
	case c.SetRole != nil && r.Kind == state.OK:
		l.alloc.SetWeight(c.SetRole.Role, c.SetRole.Weight)
		l.due = true
	}
	for _, id := range r.Killed {
		l.killed(id)
	}
	if r.Gone != "" {
		l.revoked(r.Gone)
	}
}

func (l *Leader) launched(c *state.Launch, r state.Result) {
	if _, mine := l.launching[c.ID]; mine {
		delete(l.launching, c.ID)
	} else if r.Kind == state.OK {
		// Proposed by the leader before: nothing was charged for it here.
		l.alloc.Charge(c.Framework, c.Role, c.Agent, c.Resources)
	} else {
		return
	}
	if r.Kind != state.OK {
		l.alloc.Recover(c.Framework, c.Role, c.Agent, c.Resources, true)
		l.due = true
		l.refused(c.Framework, c.Agent, fleet.Launch{Task: c.ID, Foreign: c.Foreign}, fleet.TaskDropped, fleet.ReasonInvalidOffers, r.Text)
		return
	}
	l.agents[c.Agent].tasks[c.ID] = true
	l.tell(l.st.Tasks[c.ID], l.st.Tasks[c.ID].Status)
	l.desire(l.st.Tasks[c.ID])
}

// killed: a task that waits has ended by that, another one's agent must hear.
func (l *Leader) killed(id fleet.TaskID) {
	switch t := l.st.Tasks[id]; {
	case t == nil:
	case t.Agent == "":
		l.tell(t, t.Status)
	default:
		l.desire(t)
	}
}

// desire notes that the agent is to hear of a task.
func (l *Leader) desire(t *state.Task) {
	a := l.agents[t.Agent]
	if len(a.changes) >= maxChanges { // it does not pull
		a.changes, a.base = nil, t.Generation-1
	}
	a.changes = append(a.changes, change{t.Generation, t.ID})
	l.changed[t.Agent] = true
}

// maxChanges bounds what is remembered for an agent that does not ask.
const maxChanges = 4096

func (l *Leader) observed(c *state.Observe, r state.Result) {
	if r.Kind == state.OutOfOrder || r.Kind == state.Conflict {
		return // the agent sends it again, after what is missing
	}
	u := c.Update
	if a := l.agents[c.Agent]; a != nil && a.session != 0 {
		l.do(Ack{c.Agent, a.session, u.Status.Task, u.ID, r.Generation})
	}
	if r.Kind != state.OK || r.Duplicate {
		return
	}
	t := l.st.Tasks[u.Status.Task]
	if t == nil {
		return
	}
	if l.st.External(t.Framework) {
		l.deliver(t)
	} else {
		l.tell(t, t.Status)
	}
	if t.State.Terminal() {
		l.release(t)
		l.changed[t.Agent] = true
	}
}

// release frees what an ended task held.
func (l *Leader) release(t *state.Task) {
	a := l.agents[t.Agent]
	if a == nil || !a.tasks[t.ID] {
		return
	}
	delete(a.tasks, t.ID)
	l.alloc.Recover(t.Framework, t.Role, t.Agent, t.Resources, true)
	l.due = true
}

func (l *Leader) reached(c *state.Reach, r state.Result) {
	a := l.agents[c.Agent]
	a.reaching = false
	if r.Duplicate {
		return
	}
	for _, id := range state.SortedKeys(a.tasks) {
		t := l.st.Tasks[id]
		st := lastSent(t)
		if !c.Reachable {
			st = t.History[len(t.History)-1]
		}
		l.tell(t, st)
	}
	if !c.Reachable {
		l.broadcast(c.Agent)
	}
	if !c.Reachable && a.session != 0 {
		// It came back while the command was on its way.
		l.do(Propose{state.Command{
			Time: l.st.Agents[c.Agent].Unreachable, Reach: &state.Reach{Agent: c.Agent, Reachable: true},
		}})
	}
}

func (l *Leader) revoked(id fleet.AgentID) {
	a := l.agents[id]
	if a == nil {
		return
	}
	for _, t := range state.SortedKeys(a.tasks) {
		if task := l.st.Tasks[t]; task != nil {
			l.release(task)
			l.tell(task, task.Status)
		}
	}
	l.broadcast(id)
	l.rescindAgent(id)
	for _, s := range []uint64{a.session, a.contest.up.Session} {
		if s != 0 {
			l.do(Disconnect{id, s, CauseRevoked})
		}
	}
	if a.session != 0 {
		a.away = l.now
	}
	a.session, a.pull, a.contest = 0, nil, contest{}
	l.refreshAgent(id)
}

// rescindBeyond withdraws the offers of an agent that it can no longer honour.
func (l *Leader) rescindBeyond(id fleet.AgentID) {
	total := l.st.Agents[id].Total()
	for _, oid := range state.SortedKeys(l.offers) {
		if o := l.offers[oid]; o.offer.Agent == id && !total.Contains(o.offer.Resources) {
			l.rescind(oid)
		}
	}
}

// rescindExcess withdraws offers of roles that are beyond their quota, so that
// a new limit holds at once for what is not in use.
func (l *Leader) rescindExcess() {
	for _, id := range state.SortedKeys(l.offers) {
		if o := l.offers[id]; l.alloc.Exceeds(o.offer.Role) {
			l.rescind(id)
		}
	}
}

// retire follows a change of whether an agent gets offers.
func (l *Leader) retire(id fleet.AgentID) {
	l.refreshAgent(id)
	if rec := l.st.Agents[id]; rec.Deactivated {
		l.rescindAgent(id)
	}
}

// maintained follows an announcement: the old one's inverse offers are void.
func (l *Leader) maintained(c *state.SetMaintenance) {
	for _, o := range state.SortedKeys(l.inverse) {
		if inv := l.inverse[o]; slices.Contains(c.Agents, inv.Request.Agent) {
			delete(l.inverse, o)
			l.do(RescindInverse{inv.Framework, o})
		}
	}
	for _, id := range c.Agents {
		l.refreshAgent(id)
	}
}
