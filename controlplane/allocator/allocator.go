package allocator

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Agent is what the allocator needs to know of an agent.
type Agent struct {
	ID       fleet.AgentID
	Site     fleet.Site
	Labels   map[string]string
	Capacity fleet.Capacity
	// Inactive says why the agent gets no offers ("disconnected", "revoked"),
	// empty when it gets them.
	Inactive string
}

// Grant is a part of one agent given to one framework in one role. It counts
// as allocated from the moment Allocate returns it until Recover.
type Grant struct {
	Framework fleet.FrameworkID
	Role      fleet.Role
	Agent     fleet.AgentID
	Resources fleet.Resources
	// Demand names the demand it answers, empty for a standing demand; Units
	// says how many units of it.
	Demand string
	Units  int
}

// minimum is Mesos's min_allocatable_resources: an agent with less than either
// of these left is not worth a standing offer.
var minimum = struct{ cpus, mem fleet.Scalar }{10, fleet.Whole(32)}

type agent struct {
	Agent
	devices map[gpu.UUID]*gpu.Device
	used    fleet.Resources
	free    fleet.Resources
	held    int // grants outstanding: the emptier agent is tried first
	changed bool
}

// demand is a fleet.Demand with what is on offer for it.
type demand struct {
	fleet.Demand
	offered int
}

func (d *demand) open() int { return d.Count - d.offered }

type clientKey struct {
	role      fleet.Role
	framework fleet.FrameworkID
}

type filter struct {
	refused fleet.Resources
	until   time.Time
}

// client is one framework in one role: a leaf of the share tree.
type client struct {
	clientKey
	holding
	demands  []*demand
	standing bool
	filters  map[fleet.AgentID]filter
	dirty    bool // its demands or filters changed: try all agents again
}

type role struct {
	holding
	name    fleet.Role
	clients map[fleet.FrameworkID]*client
}

// Allocator is not safe for concurrent use: it belongs to the leader's loop.
type Allocator struct {
	agents  map[fleet.AgentID]*agent
	roles   map[fleet.Role]*role
	weights map[fleet.Role]fleet.Scalar
	total   vector
	// changed are the agents that may have more to give than at the last round.
	changed []*agent
	// nextExpiry is the earliest end of a filter, zero when there is none.
	nextExpiry time.Time
}

// New returns an empty allocator.
func New() *Allocator {
	return &Allocator{
		agents:  map[fleet.AgentID]*agent{},
		roles:   map[fleet.Role]*role{},
		weights: map[fleet.Role]fleet.Scalar{},
	}
}

// SetAgent adds an agent or replaces what is known of it. What is allocated on
// it stays allocated, even beyond a smaller total.
func (a *Allocator) SetAgent(n Agent) {
	ag := a.agents[n.ID]
	if ag == nil {
		ag = &agent{}
		a.agents[n.ID] = ag
	} else {
		if !maps.Equal(ag.Labels, n.Labels) || ag.Site != n.Site {
			a.dropFilters(n.ID)
		}
		a.total.sub(ag.Capacity.Total)
	}
	ag.Agent = n
	a.total.add(n.Capacity.Total)
	ag.devices = make(map[gpu.UUID]*gpu.Device, len(n.Capacity.Devices))
	for i := range n.Capacity.Devices {
		ag.devices[n.Capacity.Devices[i].UUID] = &n.Capacity.Devices[i]
	}
	a.refresh(ag)
}

// RemoveAgent forgets an agent. The caller recovers what was allocated on it.
func (a *Allocator) RemoveAgent(id fleet.AgentID) {
	if ag := a.agents[id]; ag != nil {
		a.total.sub(ag.Capacity.Total)
		delete(a.agents, id)
		a.dropFilters(id)
	}
}

func (a *Allocator) dropFilters(id fleet.AgentID) {
	for _, r := range a.roles {
		for _, c := range r.clients {
			delete(c.filters, id)
		}
	}
}

// refresh works out what is free on an agent and has the next round look at it.
func (a *Allocator) refresh(ag *agent) {
	ag.free = ag.Capacity.Total.Sub(ag.used)
	if !ag.changed {
		ag.changed = true
		a.changed = append(a.changed, ag)
	}
}

// SetWeight sets a role's weight in thousandths; unset roles weigh 1.
func (a *Allocator) SetWeight(r fleet.Role, w fleet.Scalar) {
	a.weights[r] = w
	if ro := a.roles[r]; ro != nil {
		ro.weight = w
	}
}

func (a *Allocator) client(f fleet.FrameworkID, r fleet.Role) *client {
	ro := a.roles[r]
	if ro == nil {
		ro = &role{name: r, clients: map[fleet.FrameworkID]*client{}}
		ro.weight = fleet.Whole(1)
		if w, ok := a.weights[r]; ok {
			ro.weight = w
		}
		a.roles[r] = ro
	}
	c := ro.clients[f]
	if c == nil {
		c = &client{clientKey: clientKey{r, f}, filters: map[fleet.AgentID]filter{}}
		c.weight = fleet.Whole(1)
		ro.clients[f] = c
	}
	return c
}

// SetDemands replaces all that a framework waits for in a role. A demand of
// the same name has the same need, and keeps what is on offer for it.
func (a *Allocator) SetDemands(f fleet.FrameworkID, r fleet.Role, demands []fleet.Demand) {
	c := a.client(f, r)
	old := make(map[string]*demand, len(c.demands))
	for _, d := range c.demands {
		old[d.Name] = d
	}
	c.demands = make([]*demand, 0, len(demands))
	for _, n := range demands {
		d := &demand{Demand: n}
		was := 0
		if o := old[n.Name]; o != nil {
			d.offered, was = o.offered, o.open()
		}
		if d.open() > max(was, 0) {
			c.dirty = true
		}
		c.demands = append(c.demands, d)
	}
	a.prune(a.roles[r], c)
}

// SetStanding makes a framework want anything in a role, as Mesos frameworks
// do until SUPPRESS; REVIVE (on again) also ends its filters there.
func (a *Allocator) SetStanding(f fleet.FrameworkID, r fleet.Role, on bool) {
	c := a.client(f, r)
	c.standing = on
	if on {
		c.dirty = true
		clear(c.filters)
	}
}

// RemoveFramework forgets a framework's demands and filters. Its tasks and
// offers stay charged until they are recovered.
func (a *Allocator) RemoveFramework(f fleet.FrameworkID) {
	for _, ro := range a.roles {
		if c := ro.clients[f]; c != nil {
			c.demands, c.standing = nil, false
			clear(c.filters)
			a.prune(ro, c)
		}
	}
}

// prune drops a client that neither wants nor holds anything.
func (a *Allocator) prune(ro *role, c *client) {
	if !c.standing && len(c.demands) == 0 && c.alloc == (vector{}) {
		delete(ro.clients, c.framework)
	}
}

// Charge counts resources as allocated that were so before this allocator was
// made: the running tasks after a change of leader.
func (a *Allocator) Charge(f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, res fleet.Resources) {
	c := a.client(f, r)
	c.take(res)
	a.roles[r].take(res)
	if ag := a.agents[id]; ag != nil {
		ag.used = ag.used.Add(res)
		ag.held++
		a.refresh(ag)
	}
}

// Recover gives resources of a grant or charge back to the agent. whole says
// that nothing of the grant remains.
func (a *Allocator) Recover(f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, res fleet.Resources, whole bool) {
	c := a.client(f, r)
	c.give(res)
	a.roles[r].give(res)
	a.prune(a.roles[r], c)
	if ag := a.agents[id]; ag != nil {
		ag.used = ag.used.Sub(res)
		if whole {
			ag.held--
		}
		a.refresh(ag)
	}
}

// Settle ends an offer of units of a demand, accepted or not: the demand is
// open again by that much until the framework restates it.
func (a *Allocator) Settle(f fleet.FrameworkID, r fleet.Role, name string, units int) {
	c := a.client(f, r)
	for _, d := range c.demands {
		if d.Name == name {
			d.offered = max(0, d.offered-units)
			c.dirty = true
		}
	}
}

// Refuse installs a filter: until then, whatever of that agent is contained in
// the refused resources is not offered to the framework in that role.
func (a *Allocator) Refuse(f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, res fleet.Resources, until time.Time) {
	a.client(f, r).filters[id] = filter{refused: res, until: until}
	if a.nextExpiry.IsZero() || until.Before(a.nextExpiry) {
		a.nextExpiry = until
	}
}

// expire ends filters that are over and has their clients look again.
func (a *Allocator) expire(now time.Time) {
	if a.nextExpiry.IsZero() || now.Before(a.nextExpiry) {
		return
	}
	a.nextExpiry = time.Time{}
	for _, ro := range a.roles {
		for _, c := range ro.clients {
			for id, f := range c.filters {
				if !now.Before(f.until) {
					delete(c.filters, id)
					c.dirty = true
				} else if a.nextExpiry.IsZero() || f.until.Before(a.nextExpiry) {
					a.nextExpiry = f.until
				}
			}
		}
	}
}

// Free returns what is neither used nor on offer on an agent.
func (a *Allocator) Free(id fleet.AgentID) fleet.Resources {
	if ag := a.agents[id]; ag != nil {
		return ag.free
	}
	return fleet.Resources{}
}

// candidates lists the agents worth trying: those that changed since the last
// round, and all of them if some client has to try them again.
func (a *Allocator) candidates() (all, changed []*agent) {
	for _, ag := range a.changed {
		ag.changed = false
		if ag.worthTrying() && a.agents[ag.ID] == ag {
			changed = append(changed, ag)
		}
	}
	a.changed = a.changed[:0]
	slices.SortFunc(changed, before)
	if !a.triesAll() {
		return nil, changed
	}
	for _, ag := range a.agents {
		if ag.worthTrying() {
			all = append(all, ag)
		}
	}
	slices.SortFunc(all, before)
	return all, changed
}

func (ag *agent) worthTrying() bool { return ag.Inactive == "" && !ag.free.IsZero() }

// triesAll reports whether a client has reason to look at agents that have not
// changed.
func (a *Allocator) triesAll() bool {
	for _, ro := range a.roles {
		for _, c := range ro.clients {
			if c.dirty && c.wants() {
				return true
			}
		}
	}
	return false
}

func (c *client) wants() bool {
	return c.standing || slices.ContainsFunc(c.demands, func(d *demand) bool { return d.open() > 0 })
}

// before orders agents without GPUs first, so that work that needs none leaves
// GPU machines alone, and among them those with the fewest grants. (Not cmp.Or:
// that would compare the ids of every pair.)
func before(x, y *agent) int {
	if c := cmp.Compare(len(x.Capacity.Total.GPUs), len(y.Capacity.Total.GPUs)); c != 0 {
		return c
	}
	if c := cmp.Compare(x.held, y.held); c != 0 {
		return c
	}
	return cmp.Compare(x.ID, y.ID)
}
