package allocator

import (
	"cmp"
	"slices"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// tiers of agents: those without GPUs, and those with.
const tiers = 2

func (ag *agent) tier() int {
	if len(ag.Capacity.Total.GPUs) > 0 {
		return 1
	}
	return 0
}

// list is a run of agents that all clients of a round walk. Agents with
// nothing left are jumped over, so that a thousand clients do not each walk
// past what the first of them took.
type list struct {
	agents []*agent
	skip   []int32 // from each place, where the walk goes on
}

// split makes a list of each tier out of agents in order.
func split(agents []*agent) [tiers]*list {
	plain, _ := slices.BinarySearchFunc(agents, 1, func(ag *agent, n int) int { return cmp.Compare(ag.tier(), n) })
	return [tiers]*list{newList(agents[:plain]), newList(agents[plain:])}
}

func newList(agents []*agent) *list {
	l := &list{agents: agents, skip: make([]int32, len(agents)+1)}
	for i := range l.skip {
		l.skip[i] = int32(i)
	}
	return l
}

// from returns the first place at or after i whose agent has something left,
// or the length of the list. Paths are halved as they are walked.
func (l *list) from(i int) int {
	for i < len(l.agents) {
		if j := int(l.skip[i]); j != i {
			l.skip[i] = l.skip[j]
			i = j
			continue
		}
		if !l.agents[i].free.IsZero() {
			return i
		}
		l.skip[i] = int32(i + 1)
	}
	return i
}

// search walks the agents for one demand. Work without GPUs is spread, one
// unit per agent and lap, first over the machines without GPUs (tier 0). Work
// with GPUs fills one machine before the next, beginning with those that have
// few, so that large machines stay whole for large tasks.
type search struct {
	demand *demand
	agents [tiers]*list
	tier   int
	pos    int
	served bool // in this lap
}

// serveDemand gives the client one unit of its first demand that can be served.
func (r *round) serveDemand(c *client) bool {
	list, ok := r.searches[c]
	if !ok {
		list = r.newSearches(c)
	}
	for len(list) > 0 {
		s := list[0]
		if ag, res := s.next(r, c); ag != nil {
			s.demand.offered++
			r.searches[c] = list
			r.grant(c, ag, res, s.demand.Name)
			return true
		}
		list = list[1:]
	}
	r.searches[c] = list
	return false
}

func (r *round) newSearches(c *client) []*search {
	agents := r.changed
	if c.dirty {
		agents = r.all
	}
	var out []*search
	for _, d := range c.demands {
		if d.open() > 0 {
			s := &search{demand: d, agents: agents}
			if d.Need.GPU.Count > 0 {
				s.tier = 1
			}
			out = append(out, s)
		}
	}
	// The more urgent first; equal ones in the framework's order.
	slices.SortStableFunc(out, func(x, y *search) int { return cmp.Compare(y.demand.Priority, x.demand.Priority) })
	return out
}

// next finds the next agent that can hold one more unit, nil when none can.
func (s *search) next(r *round, c *client) (*agent, fleet.Resources) {
	if s.demand.open() <= 0 {
		return nil, fleet.Resources{}
	}
	for ; s.tier < tiers; s.tier, s.pos, s.served = s.tier+1, 0, false {
		l := s.agents[s.tier]
		for {
			for s.pos = l.from(s.pos); s.pos < len(l.agents); s.pos = l.from(s.pos) {
				ag := l.agents[s.pos]
				if res, ok := r.unit(c, ag, s.demand.Need); ok {
					s.served = true
					if s.demand.Need.GPU.Count == 0 {
						s.pos++
					}
					return ag, res
				}
				s.pos++
			}
			if !s.served {
				break
			}
			s.pos, s.served = 0, false // another lap
		}
	}
	return nil, fleet.Resources{}
}

// unit takes one unit of a need from an agent, where it fits and may be given.
func (r *round) unit(c *client, ag *agent, n fleet.Need) (fleet.Resources, bool) {
	free := c.usable(r.visible(c, ag))
	if lacking(ag, n, free) != nothing || c.excludes(ag, r.opt.ShowGPUs) != "" {
		return fleet.Resources{}, false
	}
	res, ok := choose(ag, n, free)
	if !ok {
		return res, false
	}
	flat := r.names.flat(&res)
	if !r.permits(c, &flat, r.stage) || ag.blocks(c, res) {
		return res, false
	}
	return res, true
}

// usable leaves out of r what is not for the client.
func (c *client) usable(r fleet.Resources) fleet.Resources {
	if len(r.Parts) == 0 {
		return r
	}
	out := r.Flat()
	for _, p := range r.Parts {
		if c.mayUse(p.Class) {
			out.Parts = append(out.Parts, p)
		}
	}
	return out
}

// choose takes the resources of one unit out of what is free, reserved ones
// first. Of the GPUs that will do it takes those with the least memory.
func choose(ag *agent, n fleet.Need, free fleet.Resources) (fleet.Resources, bool) {
	want := fleet.Resources{CPUs: n.CPUs, Mem: n.Mem, Disk: n.Disk}
	if n.GPU.Count > 0 {
		ids := matching(ag, n.GPU, free.Total().GPUs)
		slices.SortFunc(ids, func(x, y gpu.UUID) int {
			return cmp.Or(cmp.Compare(ag.devices[x].MemoryMB, ag.devices[y].MemoryMB), cmp.Compare(x, y))
		})
		want.GPUs = fleet.SortGPUs(slices.Clone(ids[:n.GPU.Count]))
	}
	return free.Pick(want)
}

// Settle ends an offer of units of a demand, accepted or not: the demand is
// open again by that much until the framework restates it.
func (a *Allocator) Settle(f fleet.FrameworkID, r fleet.Role, name string, units int) {
	if name == "" {
		return
	}
	c := a.client(f, r)
	for _, d := range c.demands {
		if d.Name == name {
			d.offered = max(0, d.offered-units)
			a.retry(c)
		}
	}
	a.prune(c)
}
