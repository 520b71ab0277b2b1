package allocator_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/transport/fleet"
)

// populate makes agents of 24 cpus and 4 GiB and frameworks, ten to a role.
func populate(b *testing.B, agents, frameworks int, want func(*allocator.Allocator, fleet.FrameworkID, fleet.Role)) *allocator.Allocator {
	b.Helper()
	a := allocator.New(allocator.Options{})
	for i := range agents {
		a.SetAgent(agent(fmt.Sprintf("agent-%05d", i), 24, 4096))
	}
	for i := range frameworks {
		want(a, fleet.FrameworkID(fmt.Sprintf("f%04d", i)), fleet.Role(fmt.Sprintf("r%03d", i/10)))
	}
	return a
}

func standing(a *allocator.Allocator, f fleet.FrameworkID, r fleet.Role) { a.SetStanding(f, r, true) }

// giveBack recovers what a round granted, as declines without a filter do.
func giveBack(a *allocator.Allocator, gs []allocator.Grant) {
	for _, g := range gs {
		a.Settle(g.Framework, g.Role, g.Demand, g.Units)
		a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
	}
}

// BenchmarkRound is one full round: every agent is free and is offered once,
// and all is declined before the next. The frameworks want anything
// (standing), or each has a demand for whole agents.
func BenchmarkRound(b *testing.B) {
	for _, s := range []struct{ agents, frameworks int }{{1000, 100}, {10_000, 1000}, {10_000, 3000}, {50_000, 1000}} {
		for kind, want := range map[string]func(*allocator.Allocator, fleet.FrameworkID, fleet.Role){
			"standing": standing,
			"demand": func(a *allocator.Allocator, f fleet.FrameworkID, r fleet.Role) {
				a.SetDemands(f, r, []fleet.Demand{{Name: "d", Role: r, Need: need(24, 4096), Count: s.agents}})
			},
		} {
			b.Run(fmt.Sprintf("agents=%d/frameworks=%d/%s", s.agents, s.frameworks, kind), func(b *testing.B) {
				a := populate(b, s.agents, s.frameworks, want)
				for b.Loop() {
					gs := a.Allocate(t0)
					b.StopTimer()
					if len(gs) != s.agents {
						b.Fatalf("%d grants", len(gs))
					}
					giveBack(a, gs)
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkQuota is Mesos's benchmark of 3,000 roles, each with a guarantee and
// a limit of one of the 3,000 agents: the round that gives each its own, and
// the one after it, which finds that every limit is reached and all that comes
// free goes to nobody.
func BenchmarkQuota(b *testing.B) {
	const n = 3000
	one := fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(24)}, {Name: "mem", Amount: fleet.Whole(4096)}}
	build := func(b *testing.B, agents int) *allocator.Allocator {
		a := populate(b, agents, 0, nil)
		for i := range n {
			r := fleet.Role(fmt.Sprintf("r%04d", i))
			a.SetQuota(r, fleet.Quota{Guarantee: one, Limit: one})
			a.SetStanding(fleet.FrameworkID(fmt.Sprintf("f%04d", i)), r, true)
		}
		return a
	}
	b.Run("fill", func(b *testing.B) {
		a := build(b, n)
		for b.Loop() {
			gs := a.Allocate(t0)
			b.StopTimer()
			if len(gs) != n {
				b.Fatalf("%d grants", len(gs))
			}
			giveBack(a, gs)
			b.StartTimer()
		}
	})
	b.Run("full", func(b *testing.B) {
		a := build(b, 2*n)
		if gs := a.Allocate(t0); len(gs) != n {
			b.Fatalf("%d grants", len(gs))
		}
		for b.Loop() {
			if gs := a.Batch(t0); len(gs) != 0 {
				b.Fatalf("%d grants beyond the limits", len(gs))
			}
		}
	})
}

// BenchmarkChange is one agent's change in a large fleet: what a framework
// declines there is offered to the next.
func BenchmarkChange(b *testing.B) {
	a := populate(b, 10_000, 1000, standing)
	gs := a.Allocate(t0)
	if len(gs) != 10_000 {
		b.Fatalf("%d grants", len(gs))
	}
	i := 0
	now := t0
	for b.Loop() {
		g := gs[i]
		now = now.Add(time.Millisecond)
		a.Refuse(now, g.Framework, g.Role, g.Agent, g.Resources, 5*time.Second)
		a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
		next := a.Allocate(now)
		if len(next) != 1 {
			b.Fatalf("%d grants", len(next))
		}
		gs[i] = next[0]
		i = (i + 7919) % len(gs)
	}
}
