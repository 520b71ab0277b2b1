package allocator

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Allocate runs one round and returns the grants in the order they were made.
// The role with the lowest share goes next, in it the framework with the
// lowest, one unit of demand at a time, until nobody can be served: the
// progressive filling of dominant-resource fairness.
func (a *Allocator) Allocate(now time.Time) []Grant {
	a.expire(now)
	all, changed := a.candidates()
	roles := a.queue(split(all), split(changed))
	var grants []Grant
	last := map[grantKey]int{}
	for len(roles.items) > 0 {
		ro := roles.items[0]
		q := ro.clients.items[0]
		g, ok := a.serve(q)
		if !ok {
			if heap.Pop(&ro.clients); len(ro.clients.items) == 0 {
				heap.Pop(&roles)
			}
			continue
		}
		q.share = q.client.dominant(&a.total)
		heap.Fix(&ro.clients, 0)
		ro.share = ro.role.dominant(&a.total)
		heap.Fix(&roles, 0)
		grants = merge(grants, last, g)
	}
	return grants
}

type grantKey struct {
	framework fleet.FrameworkID
	role      fleet.Role
	agent     fleet.AgentID
	demand    string
}

// merge joins units of one demand on one agent into one grant.
func merge(grants []Grant, last map[grantKey]int, g Grant) []Grant {
	k := grantKey{g.Framework, g.Role, g.Agent, g.Demand}
	if i, ok := last[k]; ok && g.Demand != "" {
		grants[i].Resources = grants[i].Resources.Add(g.Resources)
		grants[i].Units += g.Units
		return grants
	}
	last[k] = len(grants)
	return append(grants, g)
}

// queued is a client in a round with the agents it may still try.
type queued struct {
	client  *client
	share   share
	agents  [2]*list
	tier    int // where a standing demand goes on
	pos     int
	demands []*search
}

// list is a run of agents that all clients of a round walk. Agents with
// nothing left are jumped over, so that a thousand clients do not each walk
// past what the first of them took.
type list struct {
	agents []*agent
	skip   []int32 // from each place, where the walk goes on
}

// split makes two lists: agents without GPUs, and those with.
func split(agents []*agent) [2]*list {
	plain, _ := slices.BinarySearchFunc(agents, 1, func(ag *agent, n int) int {
		return cmp.Compare(len(ag.Capacity.Total.GPUs), n)
	})
	return [2]*list{newList(agents[:plain]), newList(agents[plain:])}
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
	agents [2]*list
	tier   int
	pos    int
	served bool // in this lap
}

type queuedRole struct {
	role    *role
	share   share
	clients clientHeap
}

func (a *Allocator) queue(all, changed [2]*list) roleHeap {
	var roles roleHeap
	for _, ro := range a.roles {
		qr := &queuedRole{role: ro, share: ro.dominant(&a.total)}
		for _, c := range ro.clients {
			agents := changed
			if c.dirty {
				agents, c.dirty = all, false
			}
			if q := newQueued(c, agents); q != nil {
				q.share = c.dominant(&a.total)
				qr.clients.items = append(qr.clients.items, q)
			}
		}
		if len(qr.clients.items) > 0 {
			heap.Init(&qr.clients)
			roles.items = append(roles.items, qr)
		}
	}
	heap.Init(&roles)
	return roles
}

func newQueued(c *client, agents [2]*list) *queued {
	if len(agents[0].agents)+len(agents[1].agents) == 0 {
		return nil
	}
	q := &queued{client: c, agents: agents}
	for _, d := range c.demands {
		if d.open() > 0 {
			s := &search{demand: d, agents: agents}
			if d.Need.GPU.Count > 0 {
				s.tier = 1
			}
			q.demands = append(q.demands, s)
		}
	}
	if len(q.demands) == 0 && !c.standing {
		return nil
	}
	return q
}

// serve gives the client one more grant, or says that nothing fits.
func (a *Allocator) serve(q *queued) (Grant, bool) {
	for len(q.demands) > 0 {
		s := q.demands[0]
		if ag := s.next(q.client); ag != nil {
			res := take(ag, s.demand.Need)
			s.demand.offered++
			return a.grant(q.client, ag, res, s.demand.Name), true
		}
		q.demands = q.demands[1:]
	}
	for ; q.client.standing && q.tier < len(q.agents); q.tier, q.pos = q.tier+1, 0 {
		l := q.agents[q.tier]
		for q.pos = l.from(q.pos); q.pos < len(l.agents); q.pos = l.from(q.pos + 1) {
			ag := l.agents[q.pos]
			if (ag.free.CPUs >= minimum.cpus || ag.free.Mem >= minimum.mem) && !q.client.filtered(ag, ag.free) {
				return a.grant(q.client, ag, ag.free, ""), true
			}
		}
	}
	return Grant{}, false
}

func (a *Allocator) grant(c *client, ag *agent, res fleet.Resources, demand string) Grant {
	c.take(res)
	a.roles[c.role].take(res)
	ag.used = ag.used.Add(res)
	ag.free = ag.Capacity.Total.Sub(ag.used)
	ag.held++
	g := Grant{Framework: c.framework, Role: c.role, Agent: ag.ID, Resources: res, Demand: demand}
	if demand != "" {
		g.Units = 1
	}
	return g
}

// next finds the next agent that can hold one more unit, nil when none can.
func (s *search) next(c *client) *agent {
	if s.demand.open() <= 0 {
		return nil
	}
	for ; s.tier < len(s.agents); s.tier, s.pos, s.served = s.tier+1, 0, false {
		l := s.agents[s.tier]
		for {
			for s.pos = l.from(s.pos); s.pos < len(l.agents); s.pos = l.from(s.pos) {
				ag := l.agents[s.pos]
				if c.admits(ag, s.demand.Need) {
					s.served = true
					if s.demand.Need.GPU.Count == 0 {
						s.pos++
					}
					return ag
				}
				s.pos++
			}
			if !s.served {
				break
			}
			s.pos, s.served = 0, false // another lap
		}
	}
	return nil
}

// admits reports whether one unit fits on the agent and is not filtered there.
func (c *client) admits(ag *agent, n fleet.Need) bool {
	if lacking(ag, n, ag.free) != nothing {
		return false
	}
	if len(c.filters) == 0 {
		return true
	}
	return !c.filtered(ag, take(ag, n))
}

func (c *client) filtered(ag *agent, res fleet.Resources) bool {
	f, ok := c.filters[ag.ID]
	return ok && f.refused.Contains(res)
}

// take chooses the resources of one unit on an agent where it fits. Of the
// GPUs that will do it takes those with the least memory.
func take(ag *agent, n fleet.Need) fleet.Resources {
	r := fleet.Resources{CPUs: n.CPUs, Mem: n.Mem, Disk: n.Disk}
	if n.GPU.Count == 0 {
		return r
	}
	ids := matching(ag, n.GPU, ag.free.GPUs)
	slices.SortFunc(ids, func(x, y gpu.UUID) int {
		return cmp.Or(cmp.Compare(ag.devices[x].MemoryMB, ag.devices[y].MemoryMB), cmp.Compare(x, y))
	})
	r.GPUs = fleet.SortGPUs(slices.Clone(ids[:n.GPU.Count]))
	return r
}

// Heaps: lower share, then fewer grants, then the lower name (Mesos's order).

type clientHeap struct{ items []*queued }

func (h clientHeap) Len() int { return len(h.items) }
func (h clientHeap) Less(i, j int) bool {
	x, y := h.items[i], h.items[j]
	return cmp.Or(x.share.compare(y.share), cmp.Compare(x.client.count, y.client.count),
		cmp.Compare(x.client.framework, y.client.framework)) < 0
}
func (h clientHeap) Swap(i, j int) { h.items[i], h.items[j] = h.items[j], h.items[i] }
func (h *clientHeap) Push(x any)   { h.items = append(h.items, x.(*queued)) }
func (h *clientHeap) Pop() any {
	n := len(h.items) - 1
	x := h.items[n]
	h.items = h.items[:n]
	return x
}

type roleHeap struct{ items []*queuedRole }

func (h roleHeap) Len() int { return len(h.items) }
func (h roleHeap) Less(i, j int) bool {
	x, y := h.items[i], h.items[j]
	return cmp.Or(x.share.compare(y.share), cmp.Compare(x.role.count, y.role.count),
		cmp.Compare(x.role.name, y.role.name)) < 0
}
func (h roleHeap) Swap(i, j int) { h.items[i], h.items[j] = h.items[j], h.items[i] }
func (h *roleHeap) Push(x any)   { h.items = append(h.items, x.(*queuedRole)) }
func (h *roleHeap) Pop() any {
	n := len(h.items) - 1
	x := h.items[n]
	h.items = h.items[:n]
	return x
}
