package allocator

import (
	"maps"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Options of an Allocator. The zero value is what a fleet wants.
type Options struct {
	// Unshared names do not enter dominant shares (Mesos's
	// fair_sharing_excluded_resource_names).
	Unshared []string
	// Min is the least offer worth making, unless a framework says otherwise:
	// all names of one of the alternatives. Nil is DefaultMin; present but
	// empty, anything is.
	Min []fleet.Quantities
	// ShowGPUs also offers agents with GPUs to frameworks that cannot handle
	// them (Mesos's filter_gpu_resources turned off).
	ShowGPUs bool
	// MinRefuse is how long a filter lasts at least, so that the next round
	// sees it (Mesos's allocation interval, MESOS-4302); zero means 1 s.
	MinRefuse time.Duration
}

// DefaultMin is Mesos's min_allocatable_resources.
var DefaultMin = []fleet.Quantities{
	{{Name: "cpus", Amount: 10}},
	{{Name: "mem", Amount: fleet.Whole(32)}},
}

// Agent is what the allocator needs to know of an agent.
type Agent struct {
	ID       fleet.AgentID
	Hostname string
	Site     fleet.Site
	Labels   map[string]string
	Capacity fleet.Capacity
	// Inactive says why the agent gets no offers ("disconnected", "revoked"),
	// empty when it gets them.
	Inactive string
	// Unavailable, when not nil, is a maintenance window: those who hold
	// something there are asked to give it back.
	Unavailable *fleet.Unavailability
}

// Grant is a part of one agent given to one framework in one role. It counts
// as allocated from the moment it is returned until Recover.
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

type agent struct {
	Agent
	devices  map[gpu.UUID]*gpu.Device
	hasGPUs  bool
	used     fleet.Resources
	free     fleet.Resources
	held     int // grants outstanding: the emptier agent is tried first
	changed  bool
	fresh    uint64    // the last round that it had changed for
	reserved []reserve // what its total counts in roles' quota
	filters  map[*client][]*filter
	holders  map[fleet.FrameworkID]fleet.Resources
	marks    []mark // what is kept for whom others ended
	// asked are those who have had an inverse offer for this window.
	asked map[fleet.FrameworkID]bool
}

// reserve is an amount reserved for a role on an agent.
type reserve struct {
	role   fleet.Role
	amount vector
}

// framework is what is known of one, in all its roles.
type framework struct {
	info  fleet.FrameworkInfo
	roles map[fleet.Role]*client
	// constraints are compiled, by role.
	constraints              map[fleet.Role]matcher
	gpus, revocable, refines bool
	anything                 bool // nothing was said of it: it can handle all that lasts
}

// client is one framework in one role.
type client struct {
	framework *framework
	role      *role
	leaf      *node
	demands   []*demand
	standing  bool
	min       []fleet.Quantities
	match     matcher // nil admits every agent
	filtered  map[*agent]bool
	dirty     bool // its demands or filters changed: try all agents again
}

// role is one that a framework acts in or holds something of.
type role struct {
	name    fleet.Role
	account *account
	leaf    *node
	sorter  *sorter // of its frameworks
}

// demand is a fleet.Demand with what is on offer for it.
type demand struct {
	fleet.Demand
	offered int
	since   time.Time // it was open, as Preempt saw it
}

func (d *demand) open() int { return d.Count - d.offered }

// Allocator is not safe for concurrent use: it belongs to the leader's loop.
type Allocator struct {
	opt        Options
	names      *names
	agents     map[fleet.AgentID]*agent
	frameworks map[fleet.FrameworkID]*framework
	roles      map[fleet.Role]*role
	sorter     *sorter // of roles
	total      total
	accounts   map[fleet.Role]*account
	guarantees int    // roles that have one
	needed     vector // held back for guarantees
	available  vector // free for good and for anybody, on agents that get offers
	// changed are the agents that may have more to give than at the last round,
	// dirty the clients that have to look at all agents again.
	changed   []*agent
	dirty     map[*client]bool
	held      map[*client]bool // clients that headroom kept from something
	spareGrew bool             // headroom may have grown
	ends      filterQueue
	inForce   int                      // filters that have not ended
	windows   map[fleet.AgentID]*agent // announced to be down
	runs      uint64                   // rounds over everything that changed
	rounds    uint64                   // stages of rounds
}

// New returns an empty allocator.
func New(opt Options) *Allocator {
	if opt.Min == nil {
		opt.Min = DefaultMin
	}
	if opt.MinRefuse == 0 {
		opt.MinRefuse = time.Second
	}
	a := &Allocator{
		opt: opt, names: newNames(opt.Unshared),
		agents:     map[fleet.AgentID]*agent{},
		frameworks: map[fleet.FrameworkID]*framework{},
		roles:      map[fleet.Role]*role{},
		accounts:   map[fleet.Role]*account{},
		dirty:      map[*client]bool{},
		held:       map[*client]bool{},
		windows:    map[fleet.AgentID]*agent{},
	}
	a.sorter = newSorter(a.names, &a.total, false)
	return a
}

// SetAgent adds an agent or replaces what is known of it. What is allocated on
// it stays allocated, even beyond a smaller total.
func (a *Allocator) SetAgent(n Agent) {
	ag := a.agents[n.ID]
	if ag == nil {
		ag = &agent{filters: map[*client][]*filter{}, holders: map[fleet.FrameworkID]fleet.Resources{}}
		a.agents[n.ID] = ag
	} else {
		if !maps.Equal(ag.Labels, n.Labels) || ag.Site != n.Site || ag.Hostname != n.Hostname {
			a.dropFilters(ag)
		}
		a.discount(ag)
	}
	if !sameWindow(ag.Unavailable, n.Unavailable) {
		a.announce(ag, n.Unavailable)
	}
	ag.Agent = n
	if n.Unavailable != nil {
		a.windows[n.ID] = ag
	}
	a.count(ag)
	ag.devices = make(map[gpu.UUID]*gpu.Device, len(n.Capacity.Devices))
	for i := range n.Capacity.Devices {
		ag.devices[n.Capacity.Devices[i].UUID] = &n.Capacity.Devices[i]
	}
	a.refresh(ag)
}

// count adds an agent's total to the fleet's, and its reservations to quota.
func (a *Allocator) count(ag *agent) {
	t := &ag.Capacity.Total
	all := a.names.all(t)
	a.total.change(&all, 1)
	ag.hasGPUs, ag.reserved = all.at(iGPUs) > 0, nil
	for _, p := range t.Parts {
		if r := p.Class.Role(); r != "" {
			v := a.names.flat(&p.Resources)
			ag.reserved = append(ag.reserved, reserve{r, v})
			acc := a.account(r)
			acc.reserved++
			a.consume(acc, &v, 1)
		}
	}
	a.countFree(ag, 1)
}

func (a *Allocator) discount(ag *agent) {
	a.countFree(ag, -1)
	all := a.names.all(&ag.Capacity.Total)
	a.total.change(&all, -1)
	for _, r := range ag.reserved {
		acc := a.account(r.role)
		acc.reserved--
		a.consume(acc, &r.amount, -1)
		a.closeAccount(acc)
	}
}

// countFree keeps the headroom's other half: what is free for anybody.
func (a *Allocator) countFree(ag *agent, sign int64) {
	if ag.Inactive == "" {
		v := a.names.flat(&ag.free)
		a.available.add(&v, sign)
	}
}

// RemoveAgent forgets an agent. The caller recovers what was allocated on it.
func (a *Allocator) RemoveAgent(id fleet.AgentID) {
	if ag := a.agents[id]; ag != nil {
		a.discount(ag)
		delete(a.agents, id)
		delete(a.windows, id)
		a.dropFilters(ag)
		a.spareGrew = true
	}
}

// refresh works out what is free on an agent and has the next round look at it.
func (a *Allocator) refresh(ag *agent) {
	a.countFree(ag, -1)
	ag.free = ag.Capacity.Total.Sub(ag.used)
	a.countFree(ag, 1)
	a.spareGrew = true
	a.touch(ag)
}

func (a *Allocator) touch(ag *agent) {
	if !ag.changed {
		ag.changed = true
		a.changed = append(a.changed, ag)
	}
}

// SetWeight sets a role's weight in thousandths, for it and all below; unset
// roles weigh 1.
func (a *Allocator) SetWeight(r fleet.Role, w fleet.Scalar) { a.sorter.setWeight(string(r), w) }

// Charge counts resources as allocated that were so before this allocator was
// made: the running tasks after a change of leader.
func (a *Allocator) Charge(f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, res fleet.Resources) {
	c := a.client(f, r)
	all := a.names.all(&res)
	flat := a.names.flat(&res)
	a.charge(c, &all)
	a.consume(c.role.account, &flat, 1)
	if ag := a.agents[id]; ag != nil {
		a.take(c, ag, res)
		a.refresh(ag)
	}
}

// charge counts an allocation in the shares.
func (a *Allocator) charge(c *client, all *vector) {
	c.role.sorter.allocated(c.leaf, all)
	a.sorter.allocated(c.role.leaf, all)
}

// take counts an allocation on its agent.
func (*Allocator) take(c *client, ag *agent, res fleet.Resources) {
	ag.used = ag.used.Add(res)
	ag.held++
	id := c.framework.info.ID
	ag.holders[id] = ag.holders[id].Add(res)
}

// Recover gives resources of a grant or charge back to the agent. whole says
// that nothing of the grant remains.
func (a *Allocator) Recover(f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, res fleet.Resources, whole bool) {
	c := a.client(f, r)
	all, flat := a.names.all(&res), a.names.flat(&res)
	c.role.sorter.unallocated(c.leaf, &all)
	a.sorter.unallocated(c.role.leaf, &all)
	a.consume(c.role.account, &flat, -1)
	if ag := a.agents[id]; ag != nil {
		ag.used = ag.used.Sub(res)
		if whole {
			ag.held--
		}
		if left := ag.holders[f].Sub(res); left.IsZero() {
			delete(ag.holders, f)
		} else {
			ag.holders[f] = left
		}
		a.refresh(ag)
	}
	a.prune(c)
}

// Convert changes resources of a grant in place, in the agent's total, too:
// what is reserved or released while somebody holds it.
func (a *Allocator) Convert(f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, from, to fleet.Resources) {
	c, ag := a.client(f, r), a.agents[id]
	if ag == nil {
		return
	}
	before, after := a.names.flat(&from), a.names.flat(&to)
	a.discount(ag)
	ag.Capacity.Total = ag.Capacity.Total.Sub(from).Add(to)
	a.count(ag)
	a.consume(c.role.account, &before, -1)
	a.consume(c.role.account, &after, 1)
	ag.used = ag.used.Sub(from).Add(to)
	ag.holders[f] = ag.holders[f].Sub(from).Add(to)
	a.refresh(ag)
}

// Reserve changes for whom free resources of an agent are. Where they are not
// free it changes nothing.
func (a *Allocator) Reserve(id fleet.AgentID, from, to fleet.Resources) {
	if ag := a.agents[id]; ag != nil && ag.free.Contains(from) {
		a.discount(ag)
		ag.Capacity.Total = ag.Capacity.Total.Sub(from).Add(to)
		a.count(ag)
		a.refresh(ag)
	}
}

// Free returns what is neither used nor on offer on an agent.
func (a *Allocator) Free(id fleet.AgentID) fleet.Resources {
	if ag := a.agents[id]; ag != nil {
		return ag.free
	}
	return fleet.Resources{}
}
