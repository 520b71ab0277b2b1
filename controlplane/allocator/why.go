package allocator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Refusal says why one agent cannot hold one unit of a need right now.
type Refusal struct {
	Agent  fleet.AgentID
	Reason string
}

// Why lists, for every agent in order, what it lacks for one unit of a need;
// an agent that could hold it is left out. never is true when no agent could
// hold it even if all of its resources were free.
func (a *Allocator) Why(now time.Time, f fleet.FrameworkID, r fleet.Role, n fleet.Need) (refusals []Refusal, never bool) {
	c := a.client(f, r)
	defer a.prune(c)
	never = true
	for _, ag := range a.agents {
		if lacking(ag, n, c.usable(ag.Capacity.Total)) == nothing {
			never = false
		}
		if reason := a.reason(now, c, ag, n); reason != "" {
			refusals = append(refusals, Refusal{ag.ID, reason})
		}
	}
	slices.SortFunc(refusals, func(x, y Refusal) int { return cmp.Compare(x.Agent, y.Agent) })
	return refusals, never
}

func (a *Allocator) reason(now time.Time, c *client, ag *agent, n fleet.Need) string {
	if ag.Inactive != "" {
		return ag.Inactive
	}
	if text := c.excludes(ag, a.opt.ShowGPUs); text != "" {
		return text
	}
	if slices.ContainsFunc(ag.marks, func(m mark) bool { return m.client == c }) {
		return "room is being made: tasks that it takes precedence over are being stopped there"
	}
	total, free := c.usable(ag.Capacity.Total), c.usable(a.visible(c, ag))
	if l := lacking(ag, n, total); l != nothing {
		text := l.text(ag, n, total)
		if lacking(ag, n, ag.Capacity.Total.Total()) == nothing {
			text += ": the rest is reserved for other roles"
		}
		return text
	}
	if l := lacking(ag, n, free); l != nothing {
		return l.text(ag, n, free) + ": the rest is in use"
	}
	res, ok := choose(ag, n, free)
	if !ok {
		return "what is free there lies in parts that cannot be joined"
	}
	if text := a.withheld(c, &res); text != "" {
		return text
	}
	for _, f := range ag.filters[c] {
		if f.refused.Contains(res) {
			return fmt.Sprintf("declined, offered again in %v", max(0, f.until.Sub(now)).Round(time.Second))
		}
	}
	return ""
}

// withheld says how quota keeps a client from resources that are free.
func (a *Allocator) withheld(c *client, res *fleet.Resources) string {
	acc, v := c.role.account, a.names.flat(res)
	for _, name := range sorted(a.names.number) {
		i := a.names.number[name]
		n := v.at(i)
		if n == 0 {
			continue
		}
		if text := acc.atLimit(name, i, n); text != "" {
			return text
		}
		if beyond := n - min(n, acc.open(i)); beyond > a.spare(i) {
			return fmt.Sprintf("what is free of %s is held back for guarantees of other roles", name)
		}
	}
	return ""
}

// atLimit says which limit leaves the role less than n of a name, if one does.
func (acc *account) atLimit(name string, i int, n int64) string {
	at := acc.limiting(i, n)
	if at == nil {
		return ""
	}
	return fmt.Sprintf("role %s is at its quota: it may have %v %s and holds %v",
		at.role, fleet.Scalar(at.limit.at(i)), name, fleet.Scalar(at.consumed.at(i)))
}

// lack is the first thing of a need that an agent cannot give.
type lack int

const (
	nothing lack = iota
	cpus
	mem
	disk
	site
	otherAgent
	label
	tooFewGPUs
	gpuModel
)

// lacking says what of a need the agent cannot give out of have. It runs for
// every agent and open demand, so the cheap comparisons come first and no text
// is made.
func lacking(ag *agent, n fleet.Need, have fleet.Resources) lack {
	if len(have.Parts) > 0 {
		have = have.Total()
	}
	switch {
	case have.CPUs < n.CPUs:
		return cpus
	case have.Mem < n.Mem:
		return mem
	case have.Disk < n.Disk:
		return disk
	case n.Site != "" && n.Site != ag.Site:
		return site
	case n.Agent != "" && n.Agent != ag.ID:
		return otherAgent
	case len(have.GPUs) < n.GPU.Count:
		return tooFewGPUs
	}
	for k, v := range n.Labels {
		if ag.Labels[k] != v {
			return label
		}
	}
	if n.GPU.Count > 0 && len(matching(ag, n.GPU, have.GPUs)) < n.GPU.Count {
		return gpuModel
	}
	return nothing
}

func (l lack) text(ag *agent, n fleet.Need, have fleet.Resources) string {
	have = have.Total()
	switch l {
	case cpus:
		return fmt.Sprintf("not enough cpus: needs %v, has %v", n.CPUs, have.CPUs)
	case mem:
		return fmt.Sprintf("not enough memory: needs %v MiB, has %v", n.Mem, have.Mem)
	case disk:
		return fmt.Sprintf("not enough disk: needs %v MiB, has %v", n.Disk, have.Disk)
	case site:
		return fmt.Sprintf("stands at site %q, not %q", ag.Site, n.Site)
	case otherAgent:
		return fmt.Sprintf("only agent %s was asked for", n.Agent)
	case label:
		for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
			if ag.Labels[k] != n.Labels[k] {
				return fmt.Sprintf("has no label %s=%s", k, n.Labels[k])
			}
		}
	case tooFewGPUs:
		return fmt.Sprintf("not enough GPUs: needs %d, has %d", n.GPU.Count, len(have.GPUs))
	case gpuModel:
		var like []string
		if n.GPU.Model != "" {
			like = append(like, "model "+n.GPU.Model)
		}
		if n.GPU.MinMemoryMB > 0 {
			like = append(like, fmt.Sprintf("%d MiB or more", n.GPU.MinMemoryMB))
		}
		return fmt.Sprintf("not enough GPUs with %s: needs %d, has %d",
			strings.Join(like, " and "), n.GPU.Count, len(matching(ag, n.GPU, have.GPUs)))
	case nothing:
	}
	return ""
}

// matching returns the devices among ids that meet a request.
func matching(ag *agent, q fleet.GPURequest, ids []gpu.UUID) []gpu.UUID {
	out := make([]gpu.UUID, 0, len(ids))
	for _, id := range ids {
		if d := ag.devices[id]; d != nil && q.Accepts(*d) {
			out = append(out, id)
		}
	}
	return out
}
