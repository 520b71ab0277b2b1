package allocator

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Obstacle is one reason why a framework is not offered some of the agents.
type Obstacle struct {
	Reason string
	// Count is how many agents it is about, Agents the first of them in order.
	Count  int
	Agents []fleet.AgentID
	// Until, where the framework itself declined, is when the first of these
	// agents may be offered again; zero for other reasons.
	Until time.Time
}

// MaxNamed bounds the agents that one Obstacle names.
const MaxNamed = 10

// WhyNot explains what keeps a framework that wants anything in a role from
// offers: the agents that it is not offered, by reason, the commonest first.
// open counts the agents that the next round would offer it.
func (a *Allocator) WhyNot(f fleet.FrameworkID, r fleet.Role) (obstacles []Obstacle, open int) {
	c := a.client(f, r)
	defer a.prune(c)
	found := map[string]*Obstacle{}
	for _, id := range sorted(a.agents) {
		reason, until := a.obstacle(c, a.agents[id])
		if reason == "" {
			open++
			continue
		}
		o := found[reason]
		if o == nil {
			o = &Obstacle{Reason: reason, Until: until}
			found[reason] = o
		}
		if o.Count++; len(o.Agents) < MaxNamed {
			o.Agents = append(o.Agents, id)
		}
		if until.Before(o.Until) {
			o.Until = until
		}
	}
	for _, reason := range sorted(found) {
		obstacles = append(obstacles, *found[reason])
	}
	slices.SortStableFunc(obstacles, func(x, y Obstacle) int { return cmp.Compare(y.Count, x.Count) })
	return obstacles, open
}

// obstacle is what keeps all that is free on one agent from a client. It names
// no amounts of that agent, so that equal reasons are equal texts.
func (a *Allocator) obstacle(c *client, ag *agent) (string, time.Time) {
	if ag.Inactive != "" {
		return ag.Inactive, time.Time{}
	}
	if text := c.excludes(ag, a.opt.ShowGPUs); text != "" {
		return text, time.Time{}
	}
	there := a.visible(c, ag)
	free := c.usable(there)
	if free.IsZero() {
		switch {
		case ag.free.IsZero():
			return "everything is in use or on offer", time.Time{}
		case there.IsZero():
			return "what is free is kept for work that tasks were stopped for", time.Time{}
		}
		return "what is free is reserved for other roles, or may be taken back and the framework cannot handle that", time.Time{}
	}
	res := a.shorten(c.role.account, free.Flat(), func(i int, n int64) int64 {
		got, _ := a.allows(c.role.account, i, n, true)
		return got
	})
	res.Parts = free.Parts
	if !a.enough(c, &res) {
		if a.enough(c, &free) { // it would be, but for quota
			flat := free.Flat()
			if text := a.withheld(c, &flat); text != "" {
				return text, time.Time{}
			}
		}
		return "what is free is less than the least offer it takes: " + leastText(c.min), time.Time{}
	}
	for _, f := range ag.filters[c] {
		if f.refused.Contains(res) {
			return "the framework declined what is free", f.until
		}
	}
	return "", time.Time{}
}

// leastText prints alternatives in Mesos's notation: "cpus:0.01|mem:32".
func leastText(alternatives []fleet.Quantities) string {
	var parts []string
	for _, q := range alternatives {
		var all []string
		for _, n := range q {
			all = append(all, n.Name+":"+n.Amount.String())
		}
		parts = append(parts, strings.Join(all, ";"))
	}
	return strings.Join(parts, "|")
}
