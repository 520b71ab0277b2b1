package allocator

import (
	"math"
	"math/bits"

	"github.com/tenderfleet/tender/transport/fleet"
)

// RoleView is what one role is given and holds, for people.
type RoleView struct {
	Role fleet.Role
	// Consumed is what counts against the role's quota: reservations for it and
	// all below it, used or not, and what they hold beside, offers included.
	Consumed fleet.Quantities
	// Share is the role's dominant share, that of all below it included, in
	// percent of the fleet and before its weight; Dominant is the name that it
	// is the share of, empty while the role holds nothing.
	Share    fleet.Scalar
	Dominant string
	// Frameworks are those that act in the role or hold something in it.
	Frameworks []fleet.FrameworkID
}

// Roles lists, in order, the roles that have quota, reservations or frameworks,
// and those above them.
func (a *Allocator) Roles() []RoleView {
	out := make([]RoleView, 0, len(a.accounts))
	for _, name := range sorted(a.accounts) {
		v := RoleView{Role: name, Consumed: a.names.list(&a.accounts[name].consumed)}
		if n := a.sorter.find(string(name)); n != nil {
			v.Share, v.Dominant = a.names.percent(&n.alloc, &a.total.vector)
		}
		if r := a.roles[name]; r != nil {
			for _, c := range sorted(r.sorter.clients) {
				v.Frameworks = append(v.Frameworks, fleet.FrameworkID(c))
			}
		}
		out = append(out, v)
	}
	return out
}

// Counted is how much of r counts against the quota of whoever holds it, beside
// what is reserved: by name, without zeros.
func (a *Allocator) Counted(r fleet.Resources) fleet.Quantities {
	v := a.names.flat(&r)
	return a.names.list(&v)
}

// Beyond says which limit keeps a role from being given r, its own or one
// above it; empty when none does.
func (a *Allocator) Beyond(role fleet.Role, r fleet.Resources) string {
	acc, v := a.account(role), a.names.flat(&r)
	defer a.closeAccount(acc)
	for _, name := range sorted(a.names.number) {
		i := a.names.number[name]
		if n := v.at(i); n > 0 {
			if text := acc.atLimit(name, i, n); text != "" {
				return text
			}
		}
	}
	return ""
}

// list is a vector by name, without zeros.
func (n *names) list(v *vector) fleet.Quantities {
	var out fleet.Quantities
	for _, name := range sorted(n.number) {
		if amount := v.at(n.number[name]); amount != 0 {
			out = append(out, fleet.Amount{Name: name, Amount: fleet.Scalar(amount)})
		}
	}
	return out
}

// percent is the dominant share of alloc as people read it.
func (n *names) percent(alloc, total *vector) (fleet.Scalar, string) {
	best, dominant := share{den: 1, weight: 1}, ""
	for _, name := range sorted(n.number) {
		i := n.number[name]
		a, t := alloc.at(i), total.at(i)
		if a <= 0 || t <= 0 || n.unshared[i] {
			continue
		}
		if s := (share{num: uint64(a), den: uint64(t), weight: 1}); s.compare(best) > 0 {
			best, dominant = s, name
		}
	}
	const whole = 100_000 // a hundred percent in thousandths
	hi, lo := bits.Mul64(best.num, whole)
	if hi >= best.den { // beyond all bounds: agents have left
		return fleet.Scalar(math.MaxInt64), dominant
	}
	q, _ := bits.Div64(hi, lo, best.den)
	return fleet.Scalar(min(q, math.MaxInt64)), dominant
}

// find returns the node of a path, with all below it.
func (s *sorter) find(path string) *node {
	at := s.root
	for _, p := range s.levels(path) {
		if at = at.child(p); at == nil {
			return nil
		}
	}
	return at
}
