package allocator

import (
	"cmp"
	"math/bits"

	"github.com/tenderfleet/tender/transport/fleet"
)

// vector holds the amounts that enter a share: cpus, mem, disk, gpus, each in
// thousandths.
type vector [4]int64

func (v *vector) add(r fleet.Resources) {
	v[0] += int64(r.CPUs)
	v[1] += int64(r.Mem)
	v[2] += int64(r.Disk)
	v[3] += int64(len(r.GPUs)) * 1000
}

func (v *vector) sub(r fleet.Resources) {
	v[0] -= int64(r.CPUs)
	v[1] -= int64(r.Mem)
	v[2] -= int64(r.Disk)
	v[3] -= int64(len(r.GPUs)) * 1000
}

// holding is what a role or client has been given.
type holding struct {
	alloc  vector
	weight fleet.Scalar
	// count is the number of grants in the life of the client; it breaks ties,
	// so that clients of equal share take turns (Mesos's sorter).
	count uint64
}

func (h *holding) take(r fleet.Resources) { h.alloc.add(r); h.count++ }
func (h *holding) give(r fleet.Resources) { h.alloc.sub(r) }

// share is a dominant share as a fraction: num / (den * weight).
type share struct {
	num, den, weight uint64
}

// dominant returns the largest of alloc/total over the resources that exist.
func (h *holding) dominant(total *vector) share {
	best := share{num: 0, den: 1, weight: uint64(h.weight)}
	for i, t := range total {
		if t <= 0 || h.alloc[i] <= 0 {
			continue
		}
		s := share{num: uint64(h.alloc[i]), den: uint64(t), weight: uint64(h.weight)}
		if s.compare(best) > 0 {
			best = s
		}
	}
	return best
}

// compare orders shares by a.num*b.den*b.weight against b.num*a.den*a.weight,
// in 192 bits, exactly.
func (s share) compare(o share) int {
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
