package allocator

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// step has the fields of all allocator steps.
type step struct {
	Op, ID, Framework, Role, Agent string
	Total                          *bag
	Attributes                     map[string]string
	Used                           []holder
	Start                          float64 `json:"start_in_s"`
	Roles                          []string
	Capabilities                   []fleet.Capability
	Min                            map[fleet.Role][]amountsByName `json:"min_allocatable"`
	Suppressed                     []string
	Guarantee, Limit               amountsByName
	Weight, Seconds                float64
	Resources                      json.RawMessage
	Refuse                         *float64 `json:"refuse_seconds"`
	From, To                       bag
	Offers                         []holder
	Alternatives                   [][]holder
	Counts                         map[fleet.FrameworkID]int
	Each                           *bag
	Dominant                       *float64
	Active                         int
}

// holder is who has or gets what; in inverse offers, from when it is asked for.
type holder struct {
	Framework fleet.FrameworkID
	Role      fleet.Role
	Agent     fleet.AgentID
	Resources bag
	Start     float64 `json:"start_s"`
}

type place struct {
	framework fleet.FrameworkID
	role      fleet.Role
	agent     fleet.AgentID
}

// harness is the part of a leader that scenarios need: it holds offers, keeps
// the clock, and starts rounds when rule 2 of the README says so.
type harness struct {
	t        *testing.T
	step     int
	a        *Allocator
	now      float64
	interval float64
	agents   map[fleet.AgentID]Agent
	infos    map[fleet.FrameworkID]fleet.FrameworkInfo
	held     map[place]fleet.Resources
	offers   map[place]fleet.Resources // since the last expectation
	requests []Request
}

func newHarness(s scenario) *harness {
	h := &harness{
		interval: 1, agents: map[fleet.AgentID]Agent{}, infos: map[fleet.FrameworkID]fleet.FrameworkInfo{},
		held: map[place]fleet.Resources{}, offers: map[place]fleet.Resources{},
	}
	o := Options{Unshared: s.Options.Exclude}
	if s.Options.Interval != nil {
		h.interval = *s.Options.Interval
	}
	o.MinRefuse = time.Duration(h.interval * float64(time.Second))
	if s.Options.Min != nil {
		o.Min = []fleet.Quantities{}
		for _, m := range s.Options.Min {
			o.Min = append(o.Min, m.quantities())
		}
	}
	o.ShowGPUs = s.Options.HideGPUs != nil && !*s.Options.HideGPUs
	h.a = New(o)
	return h
}

func (h *harness) take(grants []Grant) {
	for _, g := range grants {
		p := place{g.Framework, g.Role, g.Agent}
		h.held[p] = h.held[p].Add(g.Resources)
		h.offers[p] = h.offers[p].Add(g.Resources)
	}
	h.requests = append(h.requests, h.a.Requests()...)
}

func (h *harness) runOver(ids ...fleet.AgentID) { h.take(h.a.Over(at(h.now), ids...)) }
func (h *harness) runOverAll()                  { h.runOver(sorted(h.agents)...) }

func (h *harness) set(ag Agent) {
	h.agents[ag.ID] = ag
	h.a.SetAgent(ag)
	h.runOver(ag.ID)
}

// place is where a step's framework holds something; the role may be left out.
func (h *harness) places(op step) []place {
	f, role := fleet.FrameworkID(op.Framework), fleet.Role(op.Role)
	if role == "" {
		role = h.infos[f].Roles[0]
	}
	if op.Agent != "all" {
		return []place{{f, role, fleet.AgentID(op.Agent)}}
	}
	var out []place
	for p := range h.held {
		if p.framework == f && p.role == role {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y place) int { return cmp.Compare(x.agent, y.agent) })
	return out
}

// giveBack recovers what a step says of what is held.
func (h *harness) giveBack(op step) {
	for _, p := range h.places(op) {
		res := h.held[p]
		if string(op.Resources) != `"all"` {
			var b bag
			strict(h.t, h.step, op.Resources, &b)
			res = b.resources(res.Total().GPUs)
		}
		h.release(p, res)
		if op.Op == "decline" {
			refuse := 5.0
			if op.Refuse != nil {
				refuse = *op.Refuse
			}
			h.a.Refuse(at(h.now), p.framework, p.role, p.agent, res, time.Duration(refuse*float64(time.Second)))
		}
	}
}

func (h *harness) release(p place, res fleet.Resources) {
	h.held[p] = h.held[p].Sub(res)
	h.a.Recover(p.framework, p.role, p.agent, res, h.held[p].IsZero())
}

func (h *harness) releaseWhere(f func(place) bool) {
	for p, res := range h.held {
		if f(p) && !res.IsZero() {
			h.release(p, res)
		}
	}
}

func (h *harness) advance(seconds float64) {
	end := h.now + seconds
	for n := math.Floor(h.now/h.interval) + 1; n*h.interval <= end; n++ {
		h.now = n * h.interval
		h.take(h.a.Batch(at(h.now)))
	}
	h.now = end
	h.a.expire(at(h.now))
}

var ops = map[string]func(*harness, step){
	"add_agent": func(h *harness, op step) {
		ag := Agent{ID: fleet.AgentID(op.ID), Labels: op.Attributes}
		ag.Capacity.Total = op.Total.resources(nil)
		for _, id := range ag.Capacity.Total.Total().GPUs {
			ag.Capacity.Devices = append(ag.Capacity.Devices, gpu.Device{UUID: id})
		}
		h.agents[ag.ID] = ag
		h.a.SetAgent(ag)
		for _, u := range op.Used {
			p, res := place{u.Framework, u.Role, ag.ID}, u.Resources.resources(nil)
			h.held[p] = h.held[p].Add(res)
			h.a.Charge(p.framework, p.role, p.agent, res)
		}
		h.runOver(ag.ID)
	},
	"update_agent": func(h *harness, op step) {
		ag := h.agents[fleet.AgentID(op.ID)]
		old := ag
		if op.Total != nil {
			ag.Capacity.Total = op.Total.resources(nil)
		}
		if op.Attributes != nil {
			ag.Labels = op.Attributes
		}
		if !old.Capacity.Total.Equal(ag.Capacity.Total) || op.Attributes != nil {
			h.set(ag)
		}
	},
	"remove_agent": func(h *harness, op step) {
		h.releaseWhere(func(p place) bool { return p.agent == fleet.AgentID(op.ID) })
		delete(h.agents, fleet.AgentID(op.ID))
		h.a.RemoveAgent(fleet.AgentID(op.ID))
	},
	"set_unavailability": func(h *harness, op step) {
		ag := h.agents[fleet.AgentID(op.Agent)]
		ag.Unavailable = &fleet.Unavailability{Start: at(h.now + op.Start)}
		h.set(ag)
	},
	"add_framework": func(h *harness, op step) {
		h.describe(fleet.FrameworkID(op.ID), op)
		for _, r := range h.infos[fleet.FrameworkID(op.ID)].Roles {
			h.a.SetStanding(fleet.FrameworkID(op.ID), r, !slices.Contains(op.Suppressed, string(r)))
		}
		h.runOverAll()
	},
	"update_framework": func(h *harness, op step) { h.describe(fleet.FrameworkID(op.ID), op) },
	"remove_framework": func(h *harness, op step) {
		h.releaseWhere(func(p place) bool { return p.framework == fleet.FrameworkID(op.ID) })
		h.a.RemoveFramework(fleet.FrameworkID(op.ID))
	},
	"set_quota": func(h *harness, op step) {
		h.a.SetQuota(fleet.Role(op.Role), fleet.Quota{Guarantee: op.Guarantee.quantities(), Limit: op.Limit.quantities()})
	},
	"set_weight": func(h *harness, op step) { h.a.SetWeight(fleet.Role(op.Role), thousandths(op.Weight)) },
	"advance":    func(h *harness, op step) { h.advance(op.Seconds) },
	"decline":    (*harness).giveBack,
	"recover":    (*harness).giveBack,
	"convert": func(h *harness, op step) {
		for _, p := range h.places(op) {
			ids := h.held[p].Total().GPUs
			from, to := op.From.resources(ids), op.To.resources(ids)
			h.held[p] = h.held[p].Sub(from).Add(to)
			ag := h.agents[p.agent]
			ag.Capacity.Total = ag.Capacity.Total.Sub(from).Add(to)
			h.agents[p.agent] = ag
			h.a.Convert(p.framework, p.role, p.agent, from, to)
		}
	},
	"suppress": func(h *harness, op step) {
		for _, r := range h.roles(op) {
			h.a.SetStanding(fleet.FrameworkID(op.Framework), r, false)
		}
	},
	"revive": func(h *harness, op step) {
		for _, r := range h.roles(op) {
			h.a.SetStanding(fleet.FrameworkID(op.Framework), r, true)
		}
		h.runOverAll()
	},
	"expect_offers":         func(h *harness, op step) { h.expectOneOf(op.Offers) },
	"expect_no_offers":      func(h *harness, _ step) { h.expectOneOf(nil) },
	"expect_one_of":         func(h *harness, op step) { h.expectOneOf(op.Alternatives...) },
	"expect_offer_counts":   (*harness).expectCounts,
	"expect_inverse_offers": (*harness).expectRequests,
	"expect_share":          (*harness).expectShare,
	"expect_filters": func(h *harness, op step) {
		n := 0
		for _, ag := range h.a.agents {
			for c, list := range ag.filters {
				if c.role.name == fleet.Role(op.Role) {
					n += len(list)
				}
			}
		}
		if n != op.Active {
			h.t.Fatalf("step %d: %d filters of role %s, want %d", h.step, n, op.Role, op.Active)
		}
	},
}

func (h *harness) describe(id fleet.FrameworkID, op step) {
	info, known := h.infos[id]
	info.ID = id
	for _, r := range op.Roles {
		info.Roles = append(info.Roles, fleet.Role(r))
	}
	if op.Capabilities != nil || !known {
		info.Capabilities = op.Capabilities
	}
	if op.Min != nil || !known {
		info.Min = map[fleet.Role][]fleet.Quantities{}
		for r, alternatives := range op.Min {
			info.Min[r] = []fleet.Quantities{}
			for _, m := range alternatives {
				info.Min[r] = append(info.Min[r], m.quantities())
			}
		}
	}
	h.infos[id] = info
	if err := h.a.SetFramework(info); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) roles(op step) []fleet.Role {
	if op.Roles == nil {
		return h.infos[fleet.FrameworkID(op.Framework)].Roles
	}
	var out []fleet.Role
	for _, r := range op.Roles {
		out = append(out, fleet.Role(r))
	}
	return out
}

func (h *harness) expectOneOf(alternatives ...[]holder) {
	h.t.Helper()
	got := h.offers
	h.offers = map[place]fleet.Resources{}
	for _, list := range alternatives {
		if same(got, list) {
			return
		}
	}
	h.t.Fatalf("step %d at %v s: offers\n%v\nwant one of\n%+v", h.step, h.now, got, alternatives)
}

func same(got map[place]fleet.Resources, want []holder) bool {
	for _, w := range want {
		g, ok := got[place{w.Framework, w.Role, w.Agent}]
		if !ok || !unnamed(g).Equal(unnamed(w.Resources.resources(nil))) {
			return false
		}
	}
	return len(got) == len(want)
}

func (h *harness) expectCounts(op step) {
	got := map[fleet.FrameworkID]int{}
	for p, res := range h.offers {
		got[p.framework]++
		if op.Each != nil && !unnamed(res).Equal(unnamed(op.Each.resources(nil))) {
			h.t.Fatalf("step %d: %v offered %v, want %v each", h.step, p, res, op.Each.resources(nil))
		}
	}
	h.offers = map[place]fleet.Resources{}
	for _, f := range slices.Concat(sorted(got), sorted(op.Counts)) {
		if got[f] != op.Counts[f] {
			h.t.Fatalf("step %d: offers of %v agents, want %v", h.step, got, op.Counts)
		}
	}
}

func (h *harness) expectRequests(op step) {
	got := h.requests
	h.requests = nil
	if len(got) != len(op.Offers) {
		h.t.Fatalf("step %d: inverse offers %v, want %v", h.step, got, op.Offers)
	}
	for _, w := range op.Offers {
		if !slices.ContainsFunc(got, func(r Request) bool {
			return r.Framework == w.Framework && r.Agent == w.Agent && r.Window.Start.Equal(at(w.Start))
		}) {
			h.t.Fatalf("step %d: inverse offers %v, want %v", h.step, got, op.Offers)
		}
	}
}

func (h *harness) expectShare(op step) {
	r := h.a.roles[fleet.Role(op.Role)]
	if r == nil || op.Dominant == nil {
		if (r == nil) != (op.Dominant == nil) {
			h.t.Fatalf("step %d: role %s is there: %v", h.step, op.Role, r != nil)
		}
		return
	}
	s := h.a.names.dominant(&r.leaf.alloc, &h.a.total.vector, fleet.Whole(1))
	if got := float64(s.num) / float64(s.den); math.Abs(got-*op.Dominant) > 1e-6 {
		h.t.Fatalf("step %d: share %v of role %s, want %v", h.step, got, op.Role, *op.Dominant)
	}
}
