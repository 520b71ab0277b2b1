package allocator

import (
	"math"
	"slices"

	"github.com/tenderfleet/tender/transport/fleet"
)

// account is the quota of one role and what counts against it: reservations
// for the role and its descendants, used or not, and the unreserved, lasting
// amounts that they hold. Mesos has this for top-level roles; here every level
// may have quota, and all levels above a role bind it.
type account struct {
	role       fleet.Role
	parent     *account
	children   int
	guarantee  vector
	guaranteed bool // some guarantee is not zero
	limit      vector
	limited    []int // names with a limit; 0 is one
	reserved   int   // agents that have something reserved for the role
	consumed   vector
	// below is what the children need held back, needed what the whole subtree
	// does: the larger of the role's own open guarantee and below, by name.
	below, needed vector
	cut           map[*client]bool // clients that the limit kept from something
}

// account returns a role's account and makes those that are missing.
func (a *Allocator) account(r fleet.Role) *account {
	if acc := a.accounts[r]; acc != nil {
		return acc
	}
	acc := &account{role: r}
	if p := r.Parent(); p != "" {
		acc.parent = a.account(p)
		acc.parent.children++
	}
	a.accounts[r] = acc
	return acc
}

// closeAccount forgets accounts that say nothing any more.
func (a *Allocator) closeAccount(acc *account) {
	for acc != nil && acc.children == 0 && !acc.guaranteed && len(acc.limited) == 0 && acc.consumed.isZero() && a.roles[acc.role] == nil {
		delete(a.accounts, acc.role)
		if acc = acc.parent; acc != nil {
			acc.children--
		}
	}
}

// SetQuota replaces a role's quota. A name without a guarantee has none, a name
// without a limit is unlimited. Nothing is taken back: what a role holds beyond
// a new limit it keeps.
func (a *Allocator) SetQuota(r fleet.Role, q fleet.Quota) {
	acc := a.account(r)
	if acc.guaranteed {
		a.guarantees--
	}
	acc.guarantee, acc.limit, acc.limited = a.names.quantities(q.Guarantee), a.names.quantities(q.Limit), nil
	for _, l := range q.Limit {
		acc.limited = append(acc.limited, a.names.of(l.Name))
	}
	slices.Sort(acc.limited)
	if acc.guaranteed = !acc.guarantee.isZero(); acc.guaranteed {
		a.guarantees++
	}
	a.need(acc)
	a.loosen(acc)
	a.spareGrew = true
	a.closeAccount(acc)
}

// consume counts an amount against a role and all above it.
func (a *Allocator) consume(acc *account, v *vector, sign int64) {
	for at := acc; at != nil; at = at.parent {
		at.consumed.add(v, sign)
	}
	if a.guarantees > 0 {
		a.need(acc)
	}
	if sign < 0 {
		a.loosen(acc)
	}
}

// loosen has clients try again that a limit on the way up held back.
func (a *Allocator) loosen(acc *account) {
	for ; acc != nil; acc = acc.parent {
		for c := range acc.cut {
			a.retry(c)
		}
		clear(acc.cut)
	}
}

// need works out anew what must be held back for a role and those above.
func (a *Allocator) need(acc *account) {
	for ; acc != nil; acc = acc.parent {
		above := &a.needed
		if acc.parent != nil {
			above = &acc.parent.below
		}
		for i := range max(acc.guarantee.len(), acc.consumed.len(), acc.below.len(), acc.needed.len()) {
			n := max(0, acc.guarantee.at(i)-acc.consumed.at(i), acc.below.at(i))
			if d := n - acc.needed.at(i); d != 0 {
				acc.needed.put(i, n)
				above.put(i, above.at(i)+d)
			}
		}
	}
}

// open is how much of a name the role may still take under a guarantee: its
// own or one above it, less what that one's other descendants are guaranteed.
func (acc *account) open(i int) int64 {
	var n int64
	for at := acc; at != nil; at = at.parent {
		if at.guaranteed {
			n += max(0, at.guarantee.at(i)-at.consumed.at(i)-at.below.at(i))
		}
	}
	return n
}

// hasOpen reports whether any guarantee is open for the role.
func (acc *account) hasOpen() bool {
	for at := acc; at != nil; at = at.parent {
		for i := range at.guarantee.len() {
			if acc.open(i) > 0 {
				return true
			}
		}
	}
	return false
}

// room is how much of a name the role may take before it meets a limit, its
// own or one above.
func (acc *account) room(i int) int64 {
	n := int64(math.MaxInt64)
	for at := acc; at != nil; at = at.parent {
		if slices.Contains(at.limited, i) {
			n = min(n, max(0, at.limit.at(i)-at.consumed.at(i)))
		}
	}
	return n
}

// limiting is the role whose limit leaves less than n of a name, if any.
func (acc *account) limiting(i int, n int64) *account {
	for at := acc; at != nil; at = at.parent {
		if slices.Contains(at.limited, i) && at.limit.at(i)-at.consumed.at(i) < n {
			return at
		}
	}
	return nil
}

// exhausted reports whether quota leaves a standing client nothing that is
// worth offering, on whatever agent. Within a round that does not change again.
func (a *Allocator) exhausted(c *client) bool {
	acc := c.role.account
	if len(c.min) == 0 || c.framework.revocable || !a.bound(acc) {
		return false
	}
	for at := acc; at != nil; at = at.parent {
		if at.reserved > 0 {
			return false
		}
	}
	for _, alternative := range c.min {
		reachable := true
		for _, q := range alternative {
			got := a.permit(c, a.names.of(q.Name), int64(q.Amount), false)
			reachable = reachable && got >= int64(q.Amount)
		}
		if reachable {
			return false
		}
	}
	return true
}

// Exceeds reports whether a role or one above it holds more than its limit.
func (a *Allocator) Exceeds(r fleet.Role) bool {
	for at := a.account(r); at != nil; at = at.parent {
		for _, i := range at.limited {
			if at.consumed.at(i) > at.limit.at(i) {
				return true
			}
		}
	}
	return false
}

// spare is how much of a name may be given beyond guarantees: what is free in
// the whole fleet less what is held back for guarantees.
func (a *Allocator) spare(i int) int64 {
	if a.guarantees == 0 {
		return math.MaxInt64
	}
	return max(0, a.available.at(i)-a.needed.at(i))
}

// bound reports whether quota may keep the role from anything at all.
func (a *Allocator) bound(acc *account) bool {
	if a.guarantees > 0 {
		return true
	}
	for at := acc; at != nil; at = at.parent {
		if len(at.limited) > 0 {
			return true
		}
	}
	return false
}

// allows is how much of n of a name quota lets a role be given, with its open
// guarantee or beyond it only, and how much of that the guarantee covers.
func (a *Allocator) allows(acc *account, i int, n int64, guarantee bool) (got, guaranteed int64) {
	room := acc.room(i)
	if guarantee {
		guaranteed = min(n, room, acc.open(i))
	}
	return guaranteed + min(n-guaranteed, room-guaranteed, a.spare(i)), guaranteed
}

// permit returns how much of n of a name the role may be given, with its open
// guarantee or beyond it only, and notes the client where quota is what keeps it
// from more.
func (a *Allocator) permit(c *client, i int, n int64, guarantee bool) int64 {
	if n == 0 {
		return 0
	}
	acc := c.role.account
	got, guaranteed := a.allows(acc, i, n, guarantee)
	if got == n {
		return n
	}
	if a.spare(i) < n-guaranteed {
		a.held[c] = true
	}
	for at := acc; at != nil; at = at.parent {
		if slices.Contains(at.limited, i) && at.limit.at(i)-at.consumed.at(i) < n {
			if at.cut == nil {
				at.cut = map[*client]bool{}
			}
			at.cut[c] = true
		}
	}
	return got
}

// cut shortens the unreserved resources r to what quota permits. A GPU or a
// mounted disk is given whole or not at all; ports are not counted.
func (a *Allocator) cut(c *client, r fleet.Resources, s stage) fleet.Resources {
	// In the second stage a guarantee is no reason any more (Mesos): what it did
	// not take in the first, somebody refused.
	first := s == guarantees
	return a.shorten(c.role.account, r, func(i int, n int64) int64 { return a.permit(c, i, n, first) })
}

// shorten is cut with the say of quota as a function of a name and an amount.
func (a *Allocator) shorten(acc *account, r fleet.Resources, permit func(i int, n int64) int64) fleet.Resources {
	if !a.bound(acc) {
		return r
	}
	v := a.names.flat(&r)
	out := fleet.Resources{Ports: r.Ports}
	out.CPUs = fleet.Scalar(permit(iCPUs, v.at(iCPUs)))
	out.Mem = fleet.Scalar(permit(iMem, v.at(iMem)))
	out.GPUs = r.GPUs[:permit(iGPUs, v.at(iGPUs))/1000]
	disk := fleet.Scalar(permit(iDisk, v.at(iDisk)))
	for _, m := range r.Mounts {
		if m.Size <= disk {
			out.Mounts = append(out.Mounts, m)
			disk -= m.Size
		}
	}
	out.Disk = min(r.Disk, disk)
	for _, x := range r.Custom {
		if n := permit(a.names.of(x.Name), int64(x.Amount)); n > 0 {
			out.Custom = append(out.Custom, fleet.Amount{Name: x.Name, Amount: fleet.Scalar(n)})
		}
	}
	return out
}

// permits reports whether quota lets a role take all of v. In the first stage
// some of it must be under an open guarantee.
func (a *Allocator) permits(c *client, v *vector, s stage) bool {
	acc := c.role.account
	if !a.bound(acc) {
		return true
	}
	for i := range v.len() {
		if a.permit(c, i, v.at(i), true) < v.at(i) {
			return false
		}
	}
	return s != guarantees || acc.covers(v)
}

// covers reports whether some of v is under an open guarantee.
func (acc *account) covers(v *vector) bool {
	for i := range v.len() {
		if v.at(i) > 0 && acc.open(i) > 0 {
			return true
		}
	}
	return false
}
