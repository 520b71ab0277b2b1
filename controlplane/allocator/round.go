package allocator

import (
	"cmp"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// stage is a pass of a round: first the roles whose guarantee is open get what
// it covers, then all roles share the rest.
type stage int

const (
	guarantees stage = iota + 1
	fairShare
)

// Allocate runs a round over what has changed since the last one: agents that
// may have more to give are tried by everybody, and clients that want more try
// all agents. It returns the grants in the order they were made.
func (a *Allocator) Allocate(now time.Time) []Grant {
	a.expire(now)
	if a.spareGrew {
		a.spareGrew = false
		for c := range a.held {
			a.retry(c)
		}
		clear(a.held)
	}
	changed := make([]*agent, 0, len(a.changed))
	for _, ag := range a.changed {
		ag.changed = false
		if ag.worthTrying() && a.agents[ag.ID] == ag {
			changed = append(changed, ag)
		}
	}
	a.changed = a.changed[:0]
	var all []*agent
	if a.triesAll() {
		all = a.worthTrying(a.agents)
	}
	return a.ran(now, a.round(changed, all))
}

// ran ends a round that has seen everything there was to see.
func (a *Allocator) ran(now time.Time, grants []Grant) []Grant {
	a.runs++
	for c := range a.dirty {
		c.dirty = false
	}
	clear(a.dirty)
	a.expire(now)
	return grants
}

func (*Allocator) worthTrying(agents map[fleet.AgentID]*agent) []*agent {
	list := []*agent{}
	for _, ag := range agents {
		if ag.worthTrying() {
			list = append(list, ag)
		}
	}
	return list
}

func (ag *agent) worthTrying() bool { return ag.Inactive == "" && !ag.free.IsZero() }

// triesAll reports whether a client has reason to look at agents that have not
// changed.
func (a *Allocator) triesAll() bool {
	for c := range a.dirty {
		if c.wants() {
			return true
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

// round is one round under way.
type round struct {
	*Allocator
	id     uint64
	stage  stage
	number uint64
	// changed agents are for everybody, all of them for clients that are dirty.
	changed, all [tiers]*list
	// tier and pos are where standing demands go on.
	tier, pos int
	searches  map[*client][]*search
	grants    []Grant
	last      map[grantKey]int
	charges   []charge
}

type grantKey struct {
	client *client
	agent  *agent
	demand string
}

// charge is an allocation that the shares do not show yet.
type charge struct {
	client *client
	amount vector
}

// round serves the client with the lowest share until nobody can be served:
// the progressive filling of dominant-resource fairness. A client with a
// demand is given one unit of it at a time. When it is a standing client's
// turn, the next agent is divided among all standing clients in their order,
// as Mesos does; usually the first one takes it whole.
func (a *Allocator) round(changed, all []*agent) []Grant {
	if len(changed)+len(all) == 0 {
		return nil
	}
	a.rounds++
	n := max(len(changed), len(all))
	r := &round{Allocator: a, id: a.rounds, last: make(map[grantKey]int, n), grants: make([]Grant, 0, n)}
	for _, ag := range changed {
		ag.fresh = r.id
	}
	slices.SortFunc(changed, before)
	r.changed = split(changed)
	r.all = r.changed
	if all != nil {
		slices.SortFunc(all, before)
		r.all = split(all)
	}
	if a.guarantees > 0 && !a.needed.isZero() {
		r.fill(guarantees)
	}
	r.fill(fairShare)
	return r.grants
}

func (r *round) fill(s stage) {
	r.rounds++
	r.stage, r.number, r.tier, r.pos = s, r.rounds, 0, 0
	r.searches = map[*client][]*search{}
	for {
		ro := r.nextRole()
		if ro == nil {
			return
		}
		n := ro.sorter.first(r.number)
		if n == nil {
			ro.leaf.done = r.number
			continue
		}
		if c := n.owner.(*client); !r.serve(c) {
			n.done = r.number
		}
		r.settle()
	}
}

func (r *round) nextRole() *role {
	for {
		n := r.sorter.first(r.number)
		if n == nil {
			return nil
		}
		ro := n.owner.(*role)
		if r.stage == fairShare || ro.account.hasOpen() {
			return ro
		}
		n.done = r.number
	}
}

// serve gives the client one more grant, or takes its turn at the next agent
// for all standing clients. It reports false when the client is done.
func (r *round) serve(c *client) bool {
	if len(c.demands) > 0 && r.serveDemand(c) {
		return true
	}
	if !c.standing {
		return false
	}
	ag := r.nextAgent()
	if ag == nil {
		return false
	}
	r.divide(ag)
	return true
}

// settle brings the shares up to date.
func (r *round) settle() {
	for i := range r.charges {
		r.charge(r.charges[i].client, &r.charges[i].amount)
	}
	r.charges = r.charges[:0]
}

// nextAgent is the next one for standing clients.
func (r *round) nextAgent() *agent {
	for ; r.tier < tiers; r.tier, r.pos = r.tier+1, 0 {
		l := r.all[r.tier]
		if r.pos = l.from(r.pos); r.pos < len(l.agents) {
			r.pos++
			return l.agents[r.pos-1]
		}
	}
	return nil
}

// divide gives an agent to the standing clients that may have it, in their
// order; what the first one leaves the next may take.
func (r *round) divide(ag *agent) {
	fresh := ag.fresh == r.id
	r.sorter.walk(r.number, func(n *node) bool {
		ro := n.owner.(*role)
		if r.stage == guarantees && !ro.account.hasOpen() {
			return true
		}
		ro.sorter.walk(r.number, func(n *node) bool {
			c := n.owner.(*client)
			if c.standing && (fresh || c.dirty) {
				if res, ok := r.offer(c, ag); ok {
					r.grant(c, ag, res, "")
				} else if r.stage == fairShare && len(c.demands) == 0 && r.exhausted(c) {
					n.done = r.number
				}
			}
			return !ag.free.IsZero()
		})
		if r.stage == fairShare && ro.sorter.first(r.number) == nil {
			n.done = r.number
		}
		return !ag.free.IsZero()
	})
}

// offer is what a standing client may be given of an agent: all it can use and
// quota permits.
func (r *round) offer(c *client, ag *agent) (fleet.Resources, bool) {
	if c.excludes(ag, r.opt.ShowGPUs) != "" {
		return fleet.Resources{}, false
	}
	free := r.visible(c, ag)
	res := r.cut(c, free.Flat(), r.stage)
	if r.stage == guarantees {
		if v := r.names.flat(&res); !c.role.account.covers(&v) {
			return fleet.Resources{}, false
		}
	}
	for _, p := range free.Parts {
		// A guarantee brings along what is the role's very own; what is above it
		// belongs to others, too, and is shared fairly.
		own := p.Class.Role() == c.role.name || p.Class.Role() == ""
		if c.mayUse(p.Class) && (r.stage == fairShare || own) {
			res.Parts = append(res.Parts, p)
		}
	}
	if !r.enough(c, &res) || ag.blocks(c, res) {
		return fleet.Resources{}, false
	}
	return res, true
}

// enough reports whether an offer is worth making.
func (a *Allocator) enough(c *client, res *fleet.Resources) bool {
	if res.IsZero() {
		return false
	}
	if len(c.min) == 0 {
		return true
	}
	v := a.names.all(res)
	for _, alternative := range c.min {
		ok := true
		for _, q := range alternative {
			ok = ok && v.at(a.names.of(q.Name)) >= int64(q.Amount)
		}
		if ok {
			return true
		}
	}
	return false
}

// mayUse reports whether a class of resources is for the client.
func (c *client) mayUse(k fleet.Class) bool {
	f := c.framework
	if k.Revocable && !f.revocable || len(k.Reserved) > 1 && !f.refines && !f.anything {
		return false
	}
	return len(k.Reserved) == 0 || c.role.name.Descends(k.Role())
}

// excludes says why a client gets no offers of an agent, whatever is free.
func (c *client) excludes(ag *agent, showGPUs bool) string {
	switch {
	case ag.hasGPUs && !showGPUs && !c.framework.gpus && !c.framework.anything:
		return "has GPUs, and the framework does not have the capability GPU_RESOURCES"
	case c.match != nil && !c.match(&ag.Agent):
		return "does not meet the framework's offer constraints"
	}
	return ""
}

// grant gives resources to a client. The shares follow with settle, so that an
// order that is being walked holds still.
func (r *round) grant(c *client, ag *agent, res fleet.Resources, demand string) {
	flat := r.names.flat(&res)
	r.consume(c.role.account, &flat, 1)
	r.take(c, ag, res)
	r.available.add(&flat, -1)
	ag.free = ag.Capacity.Total.Sub(ag.used)
	all := flat
	if len(res.Parts) > 0 {
		all = r.names.all(&res)
	}
	r.charges = append(r.charges, charge{c, all})
	g := Grant{Framework: c.framework.info.ID, Role: c.role.name, Agent: ag.ID, Resources: res, Demand: demand}
	if demand != "" {
		g.Units = 1
		ag.redeem(c, demand)
	}
	k := grantKey{c, ag, demand}
	if i, ok := r.last[k]; ok {
		// One offer, however many units, or stages, it was made of.
		r.grants[i].Resources = r.grants[i].Resources.Add(res)
		r.grants[i].Units += g.Units
		ag.held--
		return
	}
	r.last[k] = len(r.grants)
	r.grants = append(r.grants, g)
}
