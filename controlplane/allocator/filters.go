package allocator

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// filter keeps what was refused from being offered again: to the same
// framework, in the same role, on the same agent.
type filter struct {
	client  *client
	agent   *agent
	refused fleet.Resources
	until   time.Time
	run     uint64 // the last round over everything before it was set
	over    bool
}

// maxFilters bounds the filters of one client on one agent; the oldest goes.
const maxFilters = 16

// Refuse installs a filter for refuse, or Options.MinRefuse where that is
// longer: whatever of the agent is contained in the refused resources is not
// offered to the framework in that role. At least one round sees it
// (MESOS-4302). No refuse, no filter.
func (a *Allocator) Refuse(now time.Time, f fleet.FrameworkID, r fleet.Role, id fleet.AgentID, res fleet.Resources, refuse time.Duration) {
	ag := a.agents[id]
	if ag == nil || refuse <= 0 {
		return
	}
	c := a.client(f, r)
	n := &filter{client: c, agent: ag, refused: res, until: now.Add(max(refuse, a.opt.MinRefuse)), run: a.runs}
	list := ag.filters[c]
	if len(list) == maxFilters {
		a.finish(list[0])
		list = list[1:]
	}
	ag.filters[c] = append(list, n)
	c.filtered[ag] = true
	a.inForce++
	if len(a.ends) > 64+2*a.inForce { // most were ended early
		a.ends = slices.DeleteFunc(a.ends, func(f *filter) bool { return f.over })
		heap.Init(&a.ends)
	}
	heap.Push(&a.ends, n)
}

func (a *Allocator) finish(f *filter) {
	f.over = true
	a.inForce--
}

// blocks reports whether a filter keeps an offer from a client.
func (ag *agent) blocks(c *client, res fleet.Resources) bool {
	return len(ag.filters) > 0 &&
		slices.ContainsFunc(ag.filters[c], func(f *filter) bool { return f.refused.Contains(res) })
}

// endFilters ends all filters of a client.
func (a *Allocator) endFilters(c *client) {
	for ag := range c.filtered {
		for _, f := range ag.filters[c] {
			a.finish(f)
		}
		delete(ag.filters, c)
	}
	clear(c.filtered)
}

// dropFilters ends all filters on an agent.
func (a *Allocator) dropFilters(ag *agent) {
	for c, list := range ag.filters {
		for _, f := range list {
			a.finish(f)
		}
		delete(c.filtered, ag)
	}
	clear(ag.filters)
}

// expire ends the filters whose time is over, once a round has seen them, and
// has the next round look at their agents.
func (a *Allocator) expire(now time.Time) {
	var unseen []*filter
	for len(a.ends) > 0 && !now.Before(a.ends[0].until) {
		f := heap.Pop(&a.ends).(*filter)
		switch {
		case f.over:
		case f.run == a.runs:
			unseen = append(unseen, f)
		default:
			a.end(f)
		}
	}
	for _, f := range unseen {
		heap.Push(&a.ends, f)
	}
}

func (a *Allocator) end(f *filter) {
	a.finish(f)
	ag, c := f.agent, f.client
	if ag.filters[c] = slices.DeleteFunc(ag.filters[c], func(o *filter) bool { return o == f }); len(ag.filters[c]) == 0 {
		delete(ag.filters, c)
		delete(c.filtered, ag)
		a.prune(c)
	}
	a.touch(ag)
}

// filterQueue is a heap by end.
type filterQueue []*filter

func (q filterQueue) Len() int           { return len(q) }
func (q filterQueue) Less(i, j int) bool { return q[i].until.Before(q[j].until) }
func (q filterQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *filterQueue) Push(x any)        { *q = append(*q, x.(*filter)) }
func (q *filterQueue) Pop() any {
	n := len(*q) - 1
	x := (*q)[n]
	(*q)[n] = nil
	*q = (*q)[:n]
	return x
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
