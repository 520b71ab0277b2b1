package state

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// drain empties an agent: its tasks are killed, each with its own grace period
// or the drain's where that is shorter, and it gets no offers. An agent that is
// away hears of it on its return.
func (s *State) drain(now time.Time, c *DrainAgent) Result {
	old, r := s.live(c.Agent)
	if r.Kind != OK {
		return r
	}
	switch {
	case old.Drain == nil:
	case old.Drain.Done.IsZero():
		return refuse(Conflict, "agent %s is draining already; to wait for it: tender agent drain %s --wait", c.Agent, c.Agent)
	default:
		return refuse(Conflict, "agent %s is drained already; to use it again: tender agent reactivate %s", c.Agent, c.Agent)
	}
	a := *old
	a.Drain = &fleet.Drain{Started: now, MaxGrace: c.MaxGrace, MarkGone: c.MarkGone}
	a.Deactivated = true
	s.Agents[a.ID] = &a
	for _, id := range s.heldBy(a.ID) {
		grace := s.Tasks[id].Spec.Grace()
		if c.MaxGrace > 0 {
			grace = min(grace, c.MaxGrace)
		}
		s.killToo(now, id, grace, &r)
	}
	s.settleDrain(now, a.ID, &r)
	return r
}

// live returns an agent that is part of the fleet.
func (s *State) live(id fleet.AgentID) (*fleet.Agent, Result) {
	a := s.Agents[id]
	if a == nil || a.Revoked {
		return nil, refuse(NotFound, "no agent %s; list them with: tender agents", id)
	}
	return a, Result{}
}

// settleDrain ends a drain once every task of the agent is terminal and
// acknowledged.
func (s *State) settleDrain(now time.Time, id fleet.AgentID, r *Result) {
	old := s.Agents[id]
	if old == nil || old.Drain == nil || !old.Drain.Done.IsZero() {
		return
	}
	for _, t := range s.Tasks {
		if t.Agent == id && (t.Held() || len(t.Pending) > 0) {
			return
		}
	}
	a, d := *old, *old.Drain
	d.Done = now
	a.Drain = &d
	s.Agents[id] = &a
	if d.MarkGone {
		s.gone(now, id)
		r.Gone = id
	}
}

// activate ends a drain or a deactivation, or begins the latter. An agent that
// is still draining stays so: kills are on their way (Mesos refuses it, too).
func (s *State) activate(c *SetActive) Result {
	old, r := s.live(c.Agent)
	if r.Kind != OK {
		return r
	}
	if c.Active && old.Drain != nil && old.Drain.Done.IsZero() {
		return refuse(Conflict, "agent %s is draining; wait until it has ended", c.Agent)
	}
	a := *old
	a.Deactivated = !c.Active
	if c.Active {
		a.Drain = nil
	}
	s.Agents[a.ID] = &a
	return Result{}
}

// gone removes an agent for good: its tasks are gone, and its identity is
// banned, so that the id never returns.
func (s *State) gone(now time.Time, id fleet.AgentID) Result {
	if _, r := s.live(id); r.Kind != OK {
		return r
	}
	r := s.revoke(now, &Revoke{URI: s.uri(KindAgent, string(id)), Kind: KindAgent, ID: string(id)})
	a := *s.Agents[id]
	a.Gone = now
	s.Agents[id] = &a
	r.Gone = id
	return r
}

// maintain announces when agents will be down, or takes it back.
func (s *State) maintain(c *SetMaintenance) Result {
	for _, id := range c.Agents {
		if _, r := s.live(id); r.Kind != OK {
			return r
		}
	}
	for _, id := range c.Agents {
		a := *s.Agents[id]
		a.Window = c.Window
		s.Agents[id] = &a
	}
	return Result{}
}

// convert makes or ends dynamic reservations on an agent.
func (s *State) convert(c *Convert) Result {
	old, r := s.live(c.Agent)
	if r.Kind != OK {
		return r
	}
	for _, res := range []fleet.Resources{c.From, c.To} {
		if err := fleet.CheckResources(res); err != nil {
			return refuse(Invalid, "%v", err)
		}
	}
	if !c.From.Total().Equal(c.To.Total()) {
		return refuse(Invalid, "a reservation changes for whom resources are, not how many there are")
	}
	total := old.Total()
	if !total.Contains(c.From) {
		return refuse(Conflict, "agent %s does not have %v to convert", c.Agent, c.From)
	}
	a := *old
	a.Dynamic = dynamic(total.Sub(c.From).Add(c.To))
	s.Agents[a.ID] = &a
	return Result{Generation: a.Generation}
}

// dynamic are the parts that a call has reserved.
func dynamic(r fleet.Resources) []fleet.Part {
	var out []fleet.Part
	for _, p := range r.Parts {
		if n := len(p.Class.Reserved); n > 0 && p.Class.Reserved[n-1].Dynamic {
			out = append(out, p)
		}
	}
	return out
}
