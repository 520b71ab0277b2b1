package leader

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// What people are shown of a leader's soft state. Nothing here changes it, and
// all of it may be called between two steps.

// FrameworkView is a framework's connection.
type FrameworkView struct {
	ID fleet.FrameworkID
	// Outside: it came over the scheduler API, and the state has its record.
	Outside   bool
	Connected bool
	// Since is when it connected, in this leader's term; Away, of an outside
	// framework that is not connected, is since when its failover time-out runs.
	Since, Away time.Time
	// Suppressed are the roles in which a connected outside framework wants no
	// offers.
	Suppressed []fleet.Role
	// Offers and Inverse count what is out to it.
	Offers, Inverse int
}

// Frameworks lists the frameworks that this leader knows, in order.
func (l *Leader) Frameworks() []FrameworkView {
	offers, inverse := map[fleet.FrameworkID]int{}, map[fleet.FrameworkID]int{}
	for _, o := range l.offers {
		offers[o.offer.Framework]++
	}
	for _, o := range l.inverse {
		inverse[o.Framework]++
	}
	out := make([]FrameworkView, 0, len(l.subs))
	for _, id := range state.SortedKeys(l.subs) {
		s := l.subs[id]
		v := FrameworkView{ID: id, Outside: s.outside, Connected: s.connected, Offers: offers[id], Inverse: inverse[id]}
		if s.connected {
			v.Since = s.since
		} else {
			v.Away = s.away
		}
		if f := l.st.Frameworks[id]; f != nil && s.outside && s.connected {
			for _, r := range f.Info.Roles {
				if !s.standing[r] {
					v.Suppressed = append(v.Suppressed, r)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// InverseOffers lists the inverse offers that are out, in the order of their
// ids.
func (l *Leader) InverseOffers() []InverseOffer {
	out := make([]InverseOffer, 0, len(l.inverse))
	for _, o := range l.inverse {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b InverseOffer) int { return compareOffers(a.Offer, b.Offer) })
	return out
}

// RoleView is what one role is given and holds. What is on offer to it is not
// in Consumed but in Offered; its Share counts both.
type RoleView struct {
	allocator.RoleView
	Offered fleet.Quantities
}

// Roles lists the roles that have quota, reservations or frameworks, and those
// above them, in order.
func (l *Leader) Roles() []RoleView {
	offered := map[fleet.Role]fleet.Quantities{}
	for _, o := range l.offers {
		n := l.alloc.Counted(o.offer.Resources)
		for r := o.offer.Role; r != ""; r = r.Parent() {
			offered[r] = sum(offered[r], n, 1)
		}
	}
	views := l.alloc.Roles()
	out := make([]RoleView, 0, len(views))
	for _, v := range views {
		v.Consumed = sum(v.Consumed, offered[v.Role], -1)
		out = append(out, RoleView{v, offered[v.Role]})
	}
	return out
}

// sum adds y to x, or takes it away; what comes to nothing is left out.
func sum(x, y fleet.Quantities, sign fleet.Scalar) fleet.Quantities {
	n := map[string]fleet.Scalar{}
	for _, a := range x {
		n[a.Name] += a.Amount
	}
	for _, a := range y {
		n[a.Name] += sign * a.Amount
	}
	var out fleet.Quantities
	for _, name := range state.SortedKeys(n) {
		if n[name] != 0 {
			out = append(out, fleet.Amount{Name: name, Amount: n[name]})
		}
	}
	return out
}

// MaxOutlooks bounds the roles that WhyNot looks at: each costs a look at every
// agent of the fleet, in the leader's loop.
const MaxOutlooks = 16

// RoleOutlook is what a framework can expect in one role.
type RoleOutlook struct {
	Role       fleet.Role
	Suppressed bool
	Offers     int // that are out to it in this role
	// Obstacles are why it is not offered agents, the commonest reason first;
	// Open counts the agents that it would be offered next.
	Obstacles []allocator.Obstacle
	Open      int
}

// WhyNot says, role by role, why an outside framework is not offered what the
// fleet has, in its first MaxOutlooks roles. It is empty for a framework that the leader does not know or that
// is not connected: no offers are made to it.
func (l *Leader) WhyNot(id fleet.FrameworkID) []RoleOutlook {
	s, f := l.subs[id], l.st.Frameworks[id]
	if s == nil || f == nil || !s.connected {
		return nil
	}
	var out []RoleOutlook
	for _, r := range f.Info.Roles[:min(MaxOutlooks, len(f.Info.Roles))] {
		o := RoleOutlook{Role: r, Suppressed: !s.standing[r]}
		for _, of := range l.offers {
			if of.offer.Framework == id && of.offer.Role == r {
				o.Offers++
			}
		}
		o.Obstacles, o.Open = l.alloc.WhyNot(id, r)
		out = append(out, o)
	}
	return out
}
