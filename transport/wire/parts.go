package wire

import "github.com/tenderfleet/tender/transport/fleet"

const (
	// partSize keeps a part of a desired set well below MaxControl, whatever its
	// last task adds.
	partSize = 512 << 10
	// MaxParts bounds what an agent puts together: 64 MiB of tasks.
	MaxParts = 128
)

// Split makes messages of a desired set, several where it is too long for one.
func Split(d fleet.Desired) []DesiredSet {
	var out []DesiredSet
	rest := d.Assignments
	for {
		n, size := 0, 0
		for n < len(rest) && n < MaxItems {
			if size += rest[n].Spec.Size() + 256; size > partSize && n > 0 {
				break
			}
			n++
		}
		part := d
		part.Assignments = rest[:n:n]
		rest = rest[n:]
		out = append(out, DesiredSet{Desired: part, Part: len(out), More: len(rest) > 0})
		if len(rest) == 0 {
			return out
		}
	}
}

// Parts puts together what Split took apart. A first part begins anew; one that
// does not follow the part before it is dropped, with those after it, since the
// set comes again when it is pulled again.
type Parts struct {
	set  fleet.Desired
	next int // the part expected, 0 for the first one only
}

// Add takes the next part and returns the set once it is whole.
func (p *Parts) Add(m DesiredSet) (d fleet.Desired, whole bool) {
	switch {
	case m.Part == 0:
		p.set = m.Desired
	case m.Part != p.next || m.Part >= MaxParts || m.Generation != p.set.Generation || m.Term != p.set.Term:
		*p = Parts{}
		return d, false
	default:
		p.set.Assignments = append(p.set.Assignments, m.Assignments...)
	}
	p.next = m.Part + 1
	if m.More {
		return d, false
	}
	d = p.set
	*p = Parts{}
	return d, true
}
