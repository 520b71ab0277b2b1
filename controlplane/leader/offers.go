package leader

import (
	"cmp"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// endOffer takes an offer back: all of it is free again.
func (l *Leader) endOffer(id fleet.OfferID) {
	o := l.offers[id]
	delete(l.offers, id)
	l.alloc.Settle(o.offer.Framework, o.offer.Role, o.demand, o.units)
	l.alloc.Recover(o.offer.Framework, o.offer.Role, o.offer.Agent, o.offer.Resources, true)
	l.due = true
}

func (l *Leader) rescind(id fleet.OfferID) {
	f := l.offers[id].offer.Framework
	l.endOffer(id)
	l.do(Rescind{f, id})
}

func (l *Leader) decline(now time.Time, ev Decline) {
	for _, id := range ev.Offers {
		o := l.offers[id]
		if o == nil || o.offer.Framework != ev.Framework {
			continue // it has ended meanwhile
		}
		l.filter(now, o.offer, o.offer.Resources, ev.Filters, false)
		l.endOffer(id)
	}
}

// accept performs operations on offers. Tasks of an invalid accept are dropped,
// as in Mesos; those of the built-in framework simply go on waiting.
func (l *Leader) accept(now time.Time, ev Accept) {
	due := l.due
	offers, ok := l.take(ev)
	if !ok {
		for _, op := range ev.Operations {
			for _, la := range op.Launch {
				l.refused(ev.Framework, "", la, fleet.TaskDropped, fleet.ReasonInvalidOffers,
					"the launch used offers that are no longer valid")
			}
		}
		return
	}
	u := &use{Accept: ev, role: offers[0].offer.Role, agent: offers[0].offer.Agent}
	for _, o := range offers {
		u.left = u.left.Add(o.offer.Resources)
	}
	for _, op := range ev.Operations {
		switch {
		case op.Convert != nil:
			l.convert(now, u, *op.Convert)
		case op.Group != "":
			l.launchGroup(now, u, op)
		default:
			l.launch(now, u, op.Launch)
		}
	}
	if !u.left.IsZero() {
		l.filter(now, offers[0].offer, u.left, ev.Filters, u.used)
	}
	// Offers that were used up leave nothing to allocate: a framework that
	// accepts a thousand at once must not cause a thousand rounds.
	l.due = due || !u.left.IsZero()
}

// filter keeps what was given back of an offer from the framework for as long
// as it says. An outside framework that says nothing and used nothing gets it
// again after an interval, as from Mesos's next batch, and not in the same
// instant: two programs would pass the same offer to and fro as fast as they
// can.
func (l *Leader) filter(now time.Time, o fleet.Offer, res fleet.Resources, filters *fleet.Filters, used bool) {
	var refuse time.Duration
	if s := l.subs[o.Framework]; s != nil && s.outside && !used {
		refuse = l.cfg.Interval
	}
	if filters != nil {
		refuse = max(refuse, filters.Refuse)
	}
	l.alloc.Refuse(now, o.Framework, o.Role, o.Agent, res, refuse)
}

// use is what is left of the offers of one accept.
type use struct {
	Accept
	role  fleet.Role
	agent fleet.AgentID
	left  fleet.Resources
	used  bool // something came of it
}

// refused tells a framework that a launch came to nothing.
func (l *Leader) refused(f fleet.FrameworkID, a fleet.AgentID, la fleet.Launch, s fleet.TaskState, why fleet.Reason, text string) {
	l.do(Update{Framework: f, Foreign: la.Foreign, Agent: a, Status: fleet.Status{
		Task: la.Task, State: s, Time: l.now, ExitCode: -1, Message: text, Reason: why,
	}})
}

func (l *Leader) launch(now time.Time, u *use, launches []fleet.Launch) {
	for _, la := range launches {
		if text := l.refuseLaunch(u, la); text != "" {
			l.refused(u.Framework, u.agent, la, fleet.TaskError, fleet.ReasonTaskInvalid, text)
			continue
		}
		c := l.charge(u, la, "")
		l.proposeBy(now, u.By, state.Command{Launch: &c})
	}
}

// charge takes a launch's resources out of what is left.
func (l *Leader) charge(u *use, la fleet.Launch, group string) state.Launch {
	u.left, u.used = u.left.Sub(la.Resources), true
	l.alloc.Charge(u.Framework, u.role, u.agent, la.Resources)
	l.launching[la.Task] = launching{u.Framework, u.role, u.agent, la.Resources, la.Spec.Grace()}
	return state.Launch{
		ID: la.Task, Framework: u.Framework, Role: u.role, Agent: u.agent,
		Resources: la.Resources, Spec: la.Spec, Create: u.Create, Foreign: la.Foreign, Group: group, Standing: la.Standing,
	}
}

// launchGroup launches all tasks or, when one cannot be, none.
func (l *Leader) launchGroup(now time.Time, u *use, op Operation) {
	whole, text := *u, ""
	for _, la := range op.Launch {
		if t := l.refuseLaunch(&whole, la); t != "" {
			text = "task " + string(la.Task) + " of the group: " + t
			break
		}
		whole.left = whole.left.Sub(la.Resources)
	}
	if text != "" {
		for _, la := range op.Launch {
			l.refused(u.Framework, u.agent, la, fleet.TaskError, fleet.ReasonGroupInvalid, text)
		}
		return
	}
	var c state.LaunchGroup
	for _, la := range op.Launch {
		c.Tasks = append(c.Tasks, l.charge(u, la, op.Group))
	}
	l.proposeBy(now, u.By, state.Command{LaunchGroup: &c})
}

// convert changes reservations of what is left. One that is not allowed
// changes nothing; a launch that counts on it then finds too little.
func (l *Leader) convert(now time.Time, u *use, c Conversion) {
	if !u.left.Contains(c.From) || !c.From.Total().Equal(c.To.Total()) || fleet.CheckResources(c.To) != nil {
		return
	}
	for _, res := range []fleet.Resources{c.From, c.To} {
		for _, p := range res.Parts {
			if r := p.Class.Role(); r != "" && r != u.role {
				return // a reservation is for the role that holds the offer
			}
		}
	}
	u.left, u.used = u.left.Sub(c.From).Add(c.To), true
	// The allocator goes ahead; when the commit comes, or does not, it is told
	// what the agent is.
	l.alloc.Reserve(u.agent, c.From, c.To)
	own := state.Convert{Agent: u.agent, Framework: u.Framework, Role: u.role, From: c.From, To: c.To}
	l.reserving = append(l.reserving, reservation{convert: own})
	l.proposeBy(now, u.By, state.Command{Convert: &own})
}

// take ends the offers of an accept and returns them. They must be the
// framework's own, of one agent and role, each named once.
func (l *Leader) take(ev Accept) ([]*offerState, bool) {
	var offers []*offerState
	seen := map[fleet.OfferID]bool{}
	valid := len(ev.Offers) > 0
	for _, id := range ev.Offers {
		o := l.offers[id]
		if o == nil || o.offer.Framework != ev.Framework || seen[id] ||
			len(offers) > 0 && (o.offer.Agent != offers[0].offer.Agent || o.offer.Role != offers[0].offer.Role) {
			valid = false
			continue
		}
		seen[id] = true
		offers = append(offers, o)
	}
	for _, o := range offers {
		l.endOffer(o.offer.ID)
	}
	return offers, valid
}

func (l *Leader) refuseLaunch(u *use, la fleet.Launch) string {
	if la.Invalid != "" {
		return la.Invalid
	}
	if err := fleet.CheckID("task", string(la.Task)); err != nil {
		return err.Error()
	}
	if err := fleet.CheckSpec(la.Spec); err != nil {
		return err.Error()
	}
	given := la.Resources.Total()
	if err := fleet.CheckTaskLimits(la.Spec.Limits, given.CPUs, given.Mem); err != nil {
		return err.Error()
	}
	if !u.left.Contains(la.Resources) || la.Resources.IsZero() {
		return "the task uses more than was offered: " + la.Resources.String() + " of " + u.left.String()
	}
	_, pending := l.launching[la.Task]
	if pending || u.Create && l.st.Tasks[la.Task] != nil {
		return "the task id " + cmp.Or(la.Foreign, string(la.Task)) + " is in use"
	}
	return ""
}
