package leader

import (
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func (l *Leader) subscribe(ev Subscribe) {
	l.subs[ev.Framework] = true
	for _, r := range ev.Standing {
		l.alloc.SetStanding(ev.Framework, r, true)
	}
	l.due = true
}

func (l *Leader) unsubscribe(ev Unsubscribe) {
	delete(l.subs, ev.Framework)
	for _, id := range state.SortedKeys(l.offers) {
		if l.offers[id].offer.Framework == ev.Framework {
			l.endOffer(id)
		}
	}
	l.alloc.RemoveFramework(ev.Framework)
}

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
		if ev.Filters != nil && ev.Filters.Refuse > 0 {
			l.alloc.Refuse(now, o.offer.Framework, o.offer.Role, o.offer.Agent, o.offer.Resources, ev.Filters.Refuse)
		}
		l.endOffer(id)
	}
}

// accept checks a launch against its offers. Tasks of an invalid accept are
// dropped, as in Mesos; those of the built-in framework simply go on waiting.
func (l *Leader) accept(now time.Time, ev Accept) {
	due := l.due
	offers, ok := l.take(ev)
	if !ok {
		for _, la := range ev.Launches {
			l.do(Update{ev.Framework, fleet.Status{
				Task: la.Task, State: fleet.TaskDropped, Time: now, ExitCode: -1,
				Message: "the launch used offers that are no longer valid", Reason: fleet.ReasonInvalidOffers,
			}})
		}
		return
	}
	agent, role := offers[0].offer.Agent, offers[0].offer.Role
	var left fleet.Resources
	for _, o := range offers {
		left = left.Add(o.offer.Resources)
	}
	for _, la := range ev.Launches {
		if text := l.refuseLaunch(la, left); text != "" {
			l.do(Update{ev.Framework, fleet.Status{
				Task: la.Task, State: fleet.TaskError, Time: now, ExitCode: -1,
				Message: text, Reason: fleet.ReasonTaskInvalid,
			}})
			continue
		}
		left = left.Sub(la.Resources)
		l.alloc.Charge(ev.Framework, role, agent, la.Resources)
		l.launching[la.Task] = launching{ev.Framework, role, agent, la.Resources}
		l.propose(now, state.Command{Launch: &state.Launch{
			ID: la.Task, Framework: ev.Framework, Role: role, Agent: agent,
			Resources: la.Resources, Spec: la.Spec, Create: ev.Create,
		}})
	}
	// Offers that were used up leave nothing to allocate: a framework that
	// accepts a thousand at once must not cause a thousand rounds.
	l.due = due || !left.IsZero()
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

func (l *Leader) refuseLaunch(la fleet.Launch, left fleet.Resources) string {
	if err := fleet.CheckID("task", string(la.Task)); err != nil {
		return err.Error()
	}
	if err := fleet.CheckSpec(la.Spec); err != nil {
		return err.Error()
	}
	if !left.Contains(la.Resources) || la.Resources.IsZero() {
		return "the task uses more than was offered: " + la.Resources.String() + " of " + left.String()
	}
	if _, pending := l.launching[la.Task]; pending {
		return "the task id " + string(la.Task) + " is in use"
	}
	return ""
}

func (l *Leader) reconcile(now time.Time, ev Reconcile) {
	tasks := ev.Tasks
	if len(tasks) == 0 {
		for _, id := range state.SortedKeys(l.st.Tasks) {
			if t := l.st.Tasks[id]; t.Framework == ev.Framework && !t.State.Terminal() {
				tasks = append(tasks, id)
			}
		}
	}
	for _, id := range tasks {
		st := fleet.Status{Task: id, State: fleet.TaskUnknown, Time: now, ExitCode: -1, Message: "the control plane does not know this task"}
		if t := l.st.Tasks[id]; t != nil && t.Framework == ev.Framework {
			st = t.Status
			st.State = t.State
		}
		st.Reason = fleet.ReasonReconciliation
		l.do(Update{ev.Framework, st})
	}
}
