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
	never = true
	for _, ag := range a.agents {
		if lacking(ag, n, ag.Capacity.Total) == nothing {
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
	if l := lacking(ag, n, ag.Capacity.Total); l != nothing {
		return l.text(ag, n, ag.Capacity.Total)
	}
	if l := lacking(ag, n, ag.free); l != nothing {
		return l.text(ag, n, ag.free) + ": the rest is in use"
	}
	if f, ok := c.filters[ag.ID]; ok && now.Before(f.until) && c.filtered(ag, take(ag, n)) {
		return fmt.Sprintf("declined, offered again in %v", f.until.Sub(now).Round(time.Second))
	}
	return ""
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
	gpus
	gpuModel
)

// lacking says what of a need the agent cannot give out of have. It runs for
// every agent and open demand, so the cheap comparisons come first and no text
// is made.
func lacking(ag *agent, n fleet.Need, have fleet.Resources) lack {
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
		return gpus
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
	case gpus:
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
