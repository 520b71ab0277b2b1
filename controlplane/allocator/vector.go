package allocator

import (
	"cmp"
	"math/bits"

	"github.com/tenderfleet/tender/transport/fleet"
)

// The names every fleet has, as places in a vector.
const (
	iCPUs = iota
	iMem
	iDisk
	iGPUs
	standard
)

// vector holds amounts in thousandths by the number of their name. A whole GPU
// is 1000; a mounted disk counts as disk; ports are not counted.
type vector struct {
	std  [standard]int64
	more []int64 // custom names, as long as needed
}

func (v *vector) len() int { return standard + len(v.more) }

func (v *vector) at(i int) int64 {
	switch {
	case i < standard:
		return v.std[i]
	case i-standard < len(v.more):
		return v.more[i-standard]
	default:
		return 0
	}
}

func (v *vector) put(i int, n int64) {
	if i < standard {
		v.std[i] = n
		return
	}
	for i-standard >= len(v.more) {
		v.more = append(v.more, 0)
	}
	v.more[i-standard] = n
}

func (v *vector) add(o *vector, sign int64) {
	for i, n := range o.std {
		v.std[i] += sign * n
	}
	for i, n := range o.more {
		v.put(standard+i, v.at(standard+i)+sign*n)
	}
}

func (v *vector) isZero() bool {
	for _, n := range v.more {
		if n != 0 {
			return false
		}
	}
	return v.std == [standard]int64{}
}

// names numbers the custom names that have been seen. They are never
// forgotten: a fleet has few, and an agent may declare only so many.
type names struct {
	number map[string]int
	// unshared are left out of dominant shares (Mesos's
	// fair_sharing_excluded_resource_names).
	unshared map[int]bool
}

func newNames(unshared []string) *names {
	n := &names{number: map[string]int{"cpus": iCPUs, "mem": iMem, "disk": iDisk, "gpus": iGPUs}, unshared: map[int]bool{}}
	for _, name := range unshared {
		n.unshared[n.of(name)] = true
	}
	return n
}

func (n *names) of(name string) int {
	i, ok := n.number[name]
	if !ok {
		i = len(n.number)
		n.number[name] = i
	}
	return i
}

// flat counts what anybody may be given of r.
func (n *names) flat(r *fleet.Resources) vector {
	v := vector{std: [standard]int64{int64(r.CPUs), int64(r.Mem), int64(r.Disk), int64(len(r.GPUs)) * 1000}}
	for _, m := range r.Mounts {
		v.std[iDisk] += int64(m.Size)
	}
	for _, c := range r.Custom {
		v.put(n.of(c.Name), int64(c.Amount))
	}
	return v
}

// all counts r with its parts.
func (n *names) all(r *fleet.Resources) vector {
	v := n.flat(r)
	for i := range r.Parts {
		p := n.flat(&r.Parts[i].Resources)
		v.add(&p, 1)
	}
	return v
}

// quantities counts amounts by name.
func (n *names) quantities(q fleet.Quantities) vector {
	var v vector
	for _, a := range q {
		v.put(n.of(a.Name), int64(a.Amount))
	}
	return v
}

// share is a dominant share as a fraction: num / (den * weight).
type share struct {
	num, den, weight uint64
}

// dominant returns the largest of alloc/total over the names that exist.
func (n *names) dominant(alloc, total *vector, weight fleet.Scalar) share {
	best := share{num: 0, den: 1, weight: uint64(weight)}
	for i := range alloc.len() {
		a, t := alloc.at(i), total.at(i)
		if a <= 0 || t <= 0 || len(n.unshared) > 0 && n.unshared[i] {
			continue
		}
		s := share{num: uint64(a), den: uint64(t), weight: uint64(weight)}
		if s.compare(best) > 0 {
			best = s
		}
	}
	return best
}

// compare orders shares by a.num*b.den*b.weight against b.num*a.den*a.weight,
// in 192 bits, exactly.
func (s share) compare(o share) int {
	if s.den == o.den && s.weight == o.weight {
		return cmp.Compare(s.num, o.num)
	}
	a2, a1, a0 := mul3(s.num, o.den, o.weight)
	b2, b1, b0 := mul3(o.num, s.den, s.weight)
	return cmp.Or(cmp.Compare(a2, b2), cmp.Compare(a1, b1), cmp.Compare(a0, b0))
}

func mul3(x, y, z uint64) (hi, mid, lo uint64) {
	h, l := bits.Mul64(x, y)
	c, lo := bits.Mul64(l, z)
	hh, hl := bits.Mul64(h, z)
	mid, carry := bits.Add64(hl, c, 0)
	return hh + carry, mid, lo
}
