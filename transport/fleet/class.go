package fleet

import (
	"cmp"
	"slices"
	"strings"
)

// Class says for whom a part of an agent is: reserved for a role, revocable, or
// both. The zero Class is what anybody may be given for good.
type Class struct {
	// Revocable resources may be taken back at any time.
	Revocable bool
	// Reserved is a stack, as in Mesos: each entry refines the one before to a
	// descendant of its role, and the last one says who may use it.
	Reserved []Reservation
}

// Reservation is one level of a Class's stack.
type Reservation struct {
	Role Role
	// Dynamic reservations are made by a call and undone by one; static ones
	// are the agent's configuration.
	Dynamic bool
	// Principal is who made a dynamic reservation.
	Principal string
	Labels    []Label
}

// Label is free text on a reservation.
type Label struct{ Key, Value string }

// Part is what an agent, an offer or a task has in one Class.
type Part struct {
	Class     Class
	Resources Resources
}

// Role is who may use the class: that role and its descendants; empty for
// anybody.
func (c Class) Role() Role {
	if len(c.Reserved) == 0 {
		return ""
	}
	return c.Reserved[len(c.Reserved)-1].Role
}

// Compare orders classes.
func (c Class) Compare(o Class) int {
	if c.Revocable != o.Revocable {
		if c.Revocable {
			return 1
		}
		return -1
	}
	return slices.CompareFunc(c.Reserved, o.Reserved, Reservation.compare)
}

func (r Reservation) compare(o Reservation) int {
	if r.Dynamic != o.Dynamic {
		if r.Dynamic {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(r.Role, o.Role), cmp.Compare(r.Principal, o.Principal),
		slices.CompareFunc(r.Labels, o.Labels, func(a, b Label) int {
			return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
		}))
}

// String prints "(p>p/c)" for what is reserved and "{revocable}" for what is
// revocable.
func (c Class) String() string {
	var b strings.Builder
	for i, r := range c.Reserved {
		b.WriteString(map[bool]string{true: "(", false: ">"}[i == 0])
		b.WriteString(string(r.Role))
	}
	if len(c.Reserved) > 0 {
		b.WriteByte(')')
	}
	if c.Revocable {
		b.WriteString("{revocable}")
	}
	return b.String()
}

// Part returns what r has in a class; of the zero class, what anybody may use.
func (r Resources) Part(c Class) Resources {
	if c.Compare(Class{}) == 0 {
		return r.Flat()
	}
	if i, ok := slices.BinarySearchFunc(r.Parts, c, func(p Part, c Class) int { return p.Class.Compare(c) }); ok {
		return r.Parts[i].Resources
	}
	return Resources{}
}

// Flat returns r without its parts.
func (r Resources) Flat() Resources {
	r.Parts = nil
	return r
}

// In returns the flat resources r as a part of class c.
func (r Resources) In(c Class) Resources {
	if c.Compare(Class{}) == 0 || r.IsZero() {
		return r
	}
	return Resources{Parts: []Part{{c, r}}}
}

// Total returns everything in r as if it had no classes.
func (r Resources) Total() Resources {
	out := r.Flat()
	for _, p := range r.Parts {
		out = out.Add(p.Resources)
	}
	return out
}

// combine applies op class by class; what comes to nothing is left out.
func combine(a, b []Part, op func(Resources, Resources) Resources) []Part {
	if len(b) == 0 {
		return a
	}
	var out []Part
	for len(a) > 0 || len(b) > 0 {
		var p Part
		order := -1
		switch {
		case len(a) == 0:
			order = 1
		case len(b) > 0:
			order = a[0].Class.Compare(b[0].Class)
		}
		switch order {
		case -1:
			p, a = a[0], a[1:]
		case 1:
			p = Part{b[0].Class, op(Resources{}, b[0].Resources)}
			b = b[1:]
		default:
			p = Part{a[0].Class, op(a[0].Resources, b[0].Resources)}
			a, b = a[1:], b[1:]
		}
		if !p.Resources.IsZero() {
			out = append(out, p)
		}
	}
	return out
}
