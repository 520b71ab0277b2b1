package allocator

import (
	"slices"

	"github.com/tenderfleet/tender/transport/fleet"
)

func (a *Allocator) framework(id fleet.FrameworkID) *framework {
	f := a.frameworks[id]
	if f == nil {
		f = &framework{info: fleet.FrameworkInfo{ID: id}, roles: map[fleet.Role]*client{}, anything: true}
		a.frameworks[id] = f
	}
	return f
}

// SetFramework says what a framework can handle and on which agents it wants
// offers. A framework of which this was never said is taken to handle anything
// that lasts. An expression in a constraint that cannot be compiled is an
// error, and nothing changes.
func (a *Allocator) SetFramework(info fleet.FrameworkInfo) error {
	constraints := map[fleet.Role]matcher{}
	for r, c := range info.Constraints {
		m, err := compile(c)
		if err != nil {
			return err
		}
		constraints[r] = m
	}
	f := a.framework(info.ID)
	f.info, f.constraints, f.anything = info, constraints, false
	f.gpus, f.revocable, f.refines = info.Can(fleet.CapGPU), info.Can(fleet.CapRevocable), info.Can(fleet.CapRefinement)
	for _, r := range info.Roles {
		a.client(info.ID, r)
	}
	for _, r := range sorted(f.roles) {
		c := f.roles[r]
		a.describe(c)
		a.retry(c)
		a.prune(c)
	}
	return nil
}

// CheckFramework reports what is wrong with a framework's description, before
// anything is decided on it.
func CheckFramework(info fleet.FrameworkInfo) error {
	for _, r := range sorted(info.Constraints) {
		if _, err := compile(info.Constraints[r]); err != nil {
			return err
		}
	}
	return nil
}

// describe gives a client what its framework said of its role.
func (a *Allocator) describe(c *client) {
	c.min, c.match = a.opt.Min, c.framework.constraints[c.role.name]
	if m, ok := c.framework.info.Min[c.role.name]; ok {
		c.min = m
	}
}

// client returns a framework's part in a role and makes it where it is missing.
func (a *Allocator) client(id fleet.FrameworkID, name fleet.Role) *client {
	f := a.framework(id)
	if c := f.roles[name]; c != nil {
		return c
	}
	r := a.roles[name]
	if r == nil {
		r = &role{name: name, account: a.account(name), sorter: newSorter(a.names, &a.total, true), leaf: a.sorter.add(string(name))}
		r.leaf.owner = r
		a.roles[name] = r
	}
	c := &client{framework: f, role: r, filtered: map[*agent]bool{}, leaf: r.sorter.add(string(id))}
	c.leaf.owner = c
	a.wake(c)
	a.describe(c)
	f.roles[name] = c
	return c
}

// wake gives a client turns while it wants something, and its role while any
// of its clients does.
func (a *Allocator) wake(c *client) {
	c.role.sorter.setActive(c.leaf, c.standing || len(c.demands) > 0)
	a.sorter.setActive(c.role.leaf, c.role.sorter.root.live > 0)
}

// retry has a client look at all agents in the next round.
func (a *Allocator) retry(c *client) {
	c.dirty = true
	a.dirty[c] = true
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
			d.offered, d.since, was = o.offered, o.since, o.open()
		}
		if d.open() > max(was, 0) {
			a.retry(c)
		}
		c.demands = append(c.demands, d)
	}
	a.wake(c)
	a.prune(c)
}

// SetStanding makes a framework want anything in a role, as Mesos frameworks
// do until SUPPRESS (off); REVIVE (on again) also ends its filters there.
func (a *Allocator) SetStanding(f fleet.FrameworkID, r fleet.Role, on bool) {
	c := a.client(f, r)
	c.standing = on
	if on {
		a.endFilters(c)
		a.retry(c)
	}
	a.wake(c)
	a.prune(c)
}

// RemoveFramework forgets a framework's demands and filters. Its tasks and
// offers stay charged until they are recovered.
func (a *Allocator) RemoveFramework(id fleet.FrameworkID) {
	f := a.frameworks[id]
	if f == nil {
		return
	}
	f.info.Roles = nil
	for _, r := range sorted(f.roles) {
		c := f.roles[r]
		c.demands, c.standing = nil, false
		a.wake(c)
		a.endFilters(c)
		a.prune(c)
	}
	if len(f.roles) == 0 {
		delete(a.frameworks, id)
	}
}

// prune drops a client that neither wants nor holds anything, and with the last
// one its role.
func (a *Allocator) prune(c *client) {
	if c.standing || len(c.demands) > 0 || len(c.filtered) > 0 || !c.leaf.alloc.isZero() || c.subscribed() {
		return
	}
	r := c.role
	delete(a.dirty, c)
	delete(a.held, c)
	for acc := r.account; acc != nil; acc = acc.parent {
		delete(acc.cut, c)
	}
	delete(c.framework.roles, r.name)
	if len(c.framework.roles) == 0 && c.framework.anything {
		delete(a.frameworks, c.framework.info.ID)
	}
	r.sorter.remove(c.leaf.client)
	if len(r.sorter.clients) == 0 {
		a.sorter.remove(string(r.name))
		delete(a.roles, r.name)
		a.closeAccount(r.account)
	}
}

// subscribed: a framework that said which roles it acts in stays in them.
func (c *client) subscribed() bool { return slices.Contains(c.framework.info.Roles, c.role.name) }
