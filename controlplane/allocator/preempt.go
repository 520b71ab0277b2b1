package allocator

import (
	"cmp"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Victim is a revocable task: one that may be ended for work that matters more.
type Victim struct {
	Task      fleet.TaskID
	Agent     fleet.AgentID
	Role      fleet.Role
	Resources fleet.Resources
	Priority  int
	Launched  time.Time
}

// Preemption ends tasks on one agent to make room for one unit of a demand.
type Preemption struct {
	Agent   fleet.AgentID
	Victims []fleet.TaskID
	// For is whom room is made for.
	Framework fleet.FrameworkID
	Role      fleet.Role
	Demand    string
	Priority  int
	// Guarantee: it is for an open guarantee of the role, else for the priority.
	Guarantee bool
}

// maxPreemptions bounds the units that room is made for at once: what ends
// changes what the next needs.
const maxPreemptions = 16

// mark keeps what victims give back for whom they ended.
type mark struct {
	client    *client
	demand    string
	resources fleet.Resources
	until     time.Time
}

// Preempt makes room for demands that have been open since patience ago and
// that no agent has room for. Only for a guarantee that is open or for a higher
// priority is anybody ended, only revocable tasks are, and none that its own
// role is guaranteed. victims lists them, in any order. What they give back is kept for the demand until hold has
// passed. It is meant to be called about once a second.
func (a *Allocator) Preempt(now time.Time, patience, hold time.Duration, victims func() []Victim) []Preemption {
	a.unmark(now)
	starved := a.starved(now, patience)
	if len(starved) == 0 {
		return nil
	}
	byAgent := map[fleet.AgentID][]Victim{}
	for _, v := range victims() {
		byAgent[v.Agent] = append(byAgent[v.Agent], v)
	}
	for _, list := range byAgent { // who goes first: the least urgent, of those the youngest
		slices.SortFunc(list, func(x, y Victim) int {
			return cmp.Or(cmp.Compare(x.Priority, y.Priority), y.Launched.Compare(x.Launched), cmp.Compare(x.Task, y.Task))
		})
	}
	var out []Preemption
	for _, s := range starved {
		if len(byAgent) == 0 {
			break
		}
		for units := s.demand.open() - a.marked(s.client, s.demand.Name); units > 0 && len(out) < maxPreemptions; units-- {
			p, room, ok := a.makeRoom(s, byAgent)
			if !ok {
				break
			}
			ag := a.agents[p.Agent]
			ag.marks = append(ag.marks, mark{s.client, s.demand.Name, room, now.Add(hold)})
			byAgent[p.Agent] = slices.DeleteFunc(byAgent[p.Agent], func(v Victim) bool { return slices.Contains(p.Victims, v.Task) })
			out = append(out, p)
		}
	}
	return out
}

// starving is a demand that has waited long enough.
type starving struct {
	client *client
	demand *demand
}

// starved lists the demands that may preempt, the most urgent first.
func (a *Allocator) starved(now time.Time, patience time.Duration) []starving {
	var out []starving
	for _, id := range sorted(a.frameworks) {
		f := a.frameworks[id]
		for _, r := range sorted(f.roles) {
			c := f.roles[r]
			for _, d := range c.demands {
				switch {
				case d.open() <= 0:
					d.since = time.Time{}
				case d.since.IsZero():
					d.since = now
				case now.Sub(d.since) >= patience:
					out = append(out, starving{c, d})
				}
			}
		}
	}
	slices.SortStableFunc(out, func(x, y starving) int { return cmp.Compare(y.demand.Priority, x.demand.Priority) })
	return out
}

// makeRoom finds the agent where the least has to end for one unit.
func (a *Allocator) makeRoom(s starving, victims map[fleet.AgentID][]Victim) (best Preemption, room fleet.Resources, ok bool) {
	for _, id := range sorted(victims) {
		ag := a.agents[id]
		if ag == nil || ag.Inactive != "" || s.client.excludes(ag, a.opt.ShowGPUs) != "" {
			continue
		}
		p, res, found := a.makeRoomOn(s, ag, victims[id])
		if found && (!ok || len(p.Victims) < len(best.Victims)) {
			best, room, ok = p, res, true
		}
	}
	return best, room, ok
}

func (a *Allocator) makeRoomOn(s starving, ag *agent, victims []Victim) (Preemption, fleet.Resources, bool) {
	c, n := s.client, s.demand.Need
	if len(victims) == 0 || lacking(ag, n, c.usable(ag.Capacity.Total)) != nothing {
		return Preemption{}, fleet.Resources{}, false
	}
	free := c.usable(a.visible(c, ag))
	unit, ok := chooseFrom(ag, n, free)
	if ok {
		return Preemption{}, unit, false // there is room: a filter or quota is what keeps it
	}
	flat := vector{std: [standard]int64{int64(n.CPUs), int64(n.Mem), int64(n.Disk), int64(n.GPU.Count) * 1000}}
	guarantee := c.role.account.covers(&flat)
	var chosen []Victim
	for _, v := range victims {
		if (guarantee && !v.Role.Descends(c.role.name) || v.Priority < s.demand.Priority) && a.beyondGuarantee(v) {
			chosen = append(chosen, v)
			free = free.Add(c.usable(v.Resources))
			if unit, ok = chooseFrom(ag, n, free); ok {
				break
			}
		}
	}
	if !ok || !c.role.account.affords(&flat) {
		return Preemption{}, unit, false
	}
	// The first ones may have freed what a later one frees, too.
	for i := 0; i < len(chosen); {
		less := free.Sub(c.usable(chosen[i].Resources))
		if u, fits := chooseFrom(ag, n, less); fits {
			free, unit = less, u
			chosen = slices.Delete(chosen, i, i+1)
			continue
		}
		i++
	}
	p := Preemption{
		Agent: ag.ID, Framework: c.framework.info.ID, Role: c.role.name,
		Demand: s.demand.Name, Priority: s.demand.Priority, Guarantee: guarantee,
	}
	for _, v := range chosen {
		p.Victims = append(p.Victims, v.Task)
	}
	return p, unit, true
}

// affords reports whether limits leave the role room for v.
func (acc *account) affords(v *vector) bool {
	for i := range v.len() {
		if acc.room(i) < v.at(i) {
			return false
		}
	}
	return true
}

// beyondGuarantee reports whether the task's role, and each above it, keeps
// what it is guaranteed when the task ends.
func (a *Allocator) beyondGuarantee(v Victim) bool {
	flat := a.names.flat(&v.Resources)
	for acc := a.account(v.Role); acc != nil; acc = acc.parent {
		for i := range acc.guarantee.len() {
			if g := acc.guarantee.at(i); g > 0 && flat.at(i) > 0 && acc.consumed.at(i)-flat.at(i) < g {
				return false
			}
		}
	}
	return true
}

// visible is what is free of an agent for a client: what is marked for others
// is not.
func (*Allocator) visible(c *client, ag *agent) fleet.Resources {
	free := ag.free
	for i := range ag.marks {
		if ag.marks[i].client != c {
			free = free.Sub(ag.marks[i].resources)
		}
	}
	return free
}

// marked counts the units that room is being made for.
func (a *Allocator) marked(c *client, demand string) int {
	n := 0
	for _, ag := range a.agents {
		for _, m := range ag.marks {
			if m.client == c && m.demand == demand {
				n++
			}
		}
	}
	return n
}

// redeem ends a mark once its client has been given something there.
func (ag *agent) redeem(c *client, demand string) {
	if i := slices.IndexFunc(ag.marks, func(m mark) bool { return m.client == c && m.demand == demand }); i >= 0 {
		ag.marks = slices.Delete(ag.marks, i, i+1)
	}
}

// unmark ends marks whose time is over or whose demand is.
func (a *Allocator) unmark(now time.Time) {
	for _, ag := range a.agents {
		if len(ag.marks) == 0 {
			continue
		}
		n := len(ag.marks)
		ag.marks = slices.DeleteFunc(ag.marks, func(m mark) bool {
			open := slices.ContainsFunc(m.client.demands, func(d *demand) bool { return d.Name == m.demand && d.Count > 0 })
			return !now.Before(m.until) || !open
		})
		if len(ag.marks) < n {
			a.touch(ag)
		}
	}
}

// chooseFrom is choose, where it may not fit.
func chooseFrom(ag *agent, n fleet.Need, free fleet.Resources) (fleet.Resources, bool) {
	if lacking(ag, n, free) != nothing {
		return fleet.Resources{}, false
	}
	return choose(ag, n, free)
}
