package leader

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

type (
	// Reserve sets resources of an agent aside for a role and its descendants,
	// or, with End, ends such reservations. Offers are rescinded as far as they
	// stand in the way; what tasks use is left alone. Reserved answers it.
	Reserve struct {
		// Seq tells answers apart; the shell counts, from 1.
		Seq   uint64
		Agent fleet.AgentID
		Role  fleet.Role
		// Resources are how much, without parts. GPUs asks for so many devices
		// beside those that Resources names.
		Resources fleet.Resources
		GPUs      int
		End       bool
		// Principal is noted in the reservation, By in the audit log.
		Principal string
		By        string
	}
	// Reserved answers Reserve: what the trio, or before it the leader, said.
	Reserved struct {
		Seq    uint64
		Result state.Result
	}
)

func (Reserve) event()   {}
func (Reserved) action() {}

// reservation is a conversion on its way through the trio. Until its commit
// comes the allocator is told of the agent as it will be then, or what is on the
// way could be offered to others. A framework's own has no seq.
type reservation struct {
	seq     uint64
	convert state.Convert
}

func (l *Leader) reserve(now time.Time, ev Reserve) {
	c, rescinded, refusal := l.reservation(ev)
	if refusal.Kind != state.OK {
		l.do(Reserved{ev.Seq, refusal})
		return
	}
	for _, id := range rescinded {
		l.rescind(id)
	}
	l.alloc.Reserve(c.Agent, c.From, c.To)
	l.reserving = append(l.reserving, reservation{ev.Seq, c})
	l.due = true
	l.proposeBy(now, ev.By, state.Command{Convert: &c})
}

// converted follows a committed conversion. A refused one leaves no trace.
func (l *Leader) converted(c *state.Convert, r state.Result) {
	i := slices.IndexFunc(l.reserving, func(w reservation) bool {
		return w.convert.Agent == c.Agent && w.convert.Framework == c.Framework && w.convert.From.Equal(c.From) && w.convert.To.Equal(c.To)
	})
	if i >= 0 {
		if seq := l.reserving[i].seq; seq != 0 {
			l.do(Reserved{seq, r})
		}
		l.reserving = slices.Delete(l.reserving, i, i+1)
	}
	l.refreshAgent(c.Agent)
}

// foreseen is an agent's total with the reservations that are on their way.
func (l *Leader) foreseen(id fleet.AgentID, total fleet.Resources) fleet.Resources {
	for _, w := range l.reserving {
		if w.convert.Agent == id && total.Contains(w.convert.From) {
			total = total.Sub(w.convert.From).Add(w.convert.To)
		}
	}
	return total
}

// reservation works out what a Reserve converts and which offers it ends.
func (l *Leader) reservation(ev Reserve) (c state.Convert, rescinded []fleet.OfferID, no state.Result) {
	refuse := func(k state.Kind, format string, args ...any) state.Result {
		return state.Result{Kind: k, Text: fmt.Sprintf(format, args...)}
	}
	rec := l.st.Agents[ev.Agent]
	if rec == nil || rec.Revoked {
		return c, nil, refuse(state.NotFound, "no agent %s; list them with: tender agents", ev.Agent)
	}
	if err := fleet.CheckRole(ev.Role); err != nil {
		return c, nil, refuse(state.Invalid, "%v", err)
	}
	if ev.Role == fleet.DefaultRole {
		return c, nil, refuse(state.Invalid, `nothing can be reserved for the role "*"; it is everybody's`)
	}
	if ev.Resources.IsZero() && ev.GPUs == 0 {
		return c, nil, refuse(state.Invalid, "say how much: cpus=2,mem=4G,gpus=1")
	}
	free := l.alloc.Free(ev.Agent)
	from, ok := ev.choose(ev.pool(free), ev.pool(free))
	if !ok {
		whole := free
		held := l.offersOn(ev.Agent)
		for _, o := range held {
			whole = whole.Add(o.offer.Resources)
		}
		if from, ok = ev.choose(ev.pool(whole), ev.pool(free)); !ok {
			return c, nil, refuse(state.Conflict, "%s", ev.tooMuch(whole))
		}
		for _, o := range held {
			if free.Contains(from) {
				break
			}
			if lessens(from, free, o.offer.Resources) {
				free = free.Add(o.offer.Resources)
				rescinded = append(rescinded, o.offer.ID)
			}
		}
	}
	c = state.Convert{Agent: ev.Agent, From: from, To: ev.to(from)}
	if ev.End {
		return c, rescinded, state.Result{}
	}
	rescinded, text := l.underQuota(ev.Role, from, rescinded)
	if text != "" {
		return c, nil, refuse(state.Conflict, "%s; raise it first: tender quota set", text)
	}
	return c, rescinded, state.Result{}
}

// underQuota adds to the offers to end those of the role itself that use up its
// quota, as far as a reservation needs that. text says what limit stands in the
// way all the same.
func (l *Leader) underQuota(r fleet.Role, more fleet.Resources, rescinded []fleet.OfferID) (_ []fleet.OfferID, text string) {
	counts := func(o fleet.Offer) bool { return o.Role.Descends(r) }
	for _, id := range rescinded {
		if o := l.offers[id].offer; counts(o) {
			more = more.Sub(o.Resources.Flat())
		}
	}
	for _, o := range l.Offers() {
		if text = l.alloc.Beyond(r, more); text == "" {
			return rescinded, ""
		}
		if counts(o) && !slices.Contains(rescinded, o.ID) {
			more = more.Sub(o.Resources.Flat())
			rescinded = append(rescinded, o.ID)
		}
	}
	return rescinded, l.alloc.Beyond(r, more)
}

// offersOn are the offers of an agent, in the order of their ids.
func (l *Leader) offersOn(id fleet.AgentID) []*offerState {
	var out []*offerState
	for _, o := range l.offers {
		if o.offer.Agent == id {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *offerState) int { return compareOffers(a.offer.ID, b.offer.ID) })
	return out
}

// lessens reports whether adding res to free brings it nearer to want.
func lessens(want, free, res fleet.Resources) bool {
	return !want.Sub(free).Equal(want.Sub(free.Add(res)))
}

// pool is what of r may be converted: what nobody has reserved, or what calls
// have reserved for the role.
func (ev *Reserve) pool(r fleet.Resources) fleet.Resources {
	if !ev.End {
		return r.Flat()
	}
	var out fleet.Resources
	for _, p := range r.Parts {
		n := len(p.Class.Reserved)
		if n > 0 && p.Class.Role() == ev.Role && p.Class.Reserved[n-1].Dynamic {
			out.Parts = append(out.Parts, p)
		}
	}
	return out
}

// choose takes what is asked for out of a pool; of the devices that will do,
// those in rather come first.
func (ev *Reserve) choose(pool, rather fleet.Resources) (fleet.Resources, bool) {
	want := ev.Resources
	if ev.GPUs > 0 {
		all := pool.Total().GPUs
		var ids []gpu.UUID
		for _, first := range []bool{true, false} {
			for _, id := range all {
				if slices.Contains(rather.Total().GPUs, id) == first && !slices.Contains(want.GPUs, id) {
					ids = append(ids, id)
				}
			}
		}
		if len(ids) < ev.GPUs {
			return fleet.Resources{}, false
		}
		want.GPUs = fleet.SortGPUs(append(slices.Clone(want.GPUs), ids[:ev.GPUs]...))
	}
	return pool.Pick(want)
}

// to is what from becomes: one level more, or one less, on each stack.
func (ev *Reserve) to(from fleet.Resources) fleet.Resources {
	if !ev.End {
		return from.In(fleet.Class{Reserved: []fleet.Reservation{{Role: ev.Role, Dynamic: true, Principal: ev.Principal}}})
	}
	var out fleet.Resources
	for _, p := range from.Parts {
		below := p.Class
		below.Reserved = below.Reserved[:len(below.Reserved)-1]
		out = out.Add(p.Resources.In(below))
	}
	return out
}

func (ev *Reserve) tooMuch(have fleet.Resources) string {
	asked := ev.Resources.String()
	if ev.GPUs > 0 {
		asked += fmt.Sprintf(";gpus:%d", ev.GPUs)
		if ev.Resources.IsZero() {
			asked = fmt.Sprintf("gpus:%d", ev.GPUs)
		}
	}
	if ev.End {
		return fmt.Sprintf("agent %s cannot give back %s: of what calls have reserved for role %s, tasks do not use %v",
			ev.Agent, asked, ev.Role, ev.pool(have).Total())
	}
	return fmt.Sprintf("agent %s cannot reserve %s: neither reserved nor used by tasks are %v", ev.Agent, asked, ev.pool(have))
}
