package allocator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)

func agent(id string, cpus, mem int64, gpus ...gpu.Device) allocator.Agent {
	a := allocator.Agent{ID: fleet.AgentID(id), Site: "home"}
	a.Capacity.Total = fleet.Resources{CPUs: fleet.Whole(cpus), Mem: fleet.Whole(mem)}
	a.Capacity.Devices = gpus
	for _, g := range gpus {
		a.Capacity.Total.GPUs = append(a.Capacity.Total.GPUs, g.UUID)
	}
	fleet.SortGPUs(a.Capacity.Total.GPUs)
	return a
}

func dev(id string, mem int64) gpu.Device {
	return gpu.Device{UUID: gpu.UUID(id), Model: "NVIDIA RTX A6000", MemoryMB: mem, Health: gpu.Healthy}
}

func demand(name string, count int, n fleet.Need) fleet.Demand {
	return fleet.Demand{Name: name, Role: "*", Need: n, Count: count}
}

func need(cpus, mem int64) fleet.Need {
	return fleet.Need{CPUs: fleet.Whole(cpus), Mem: fleet.Whole(mem)}
}

// show prints grants as "framework/role agent resources xUnits", one a line.
func show(gs []allocator.Grant) string {
	var b strings.Builder
	for _, g := range gs {
		fmt.Fprintf(&b, "%s/%s %s %v", g.Framework, g.Role, g.Agent, g.Resources)
		if g.Units > 0 {
			fmt.Fprintf(&b, " x%d", g.Units)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func expect(t *testing.T, got []allocator.Grant, want ...string) {
	t.Helper()
	w := strings.Join(want, "\n")
	if w != "" {
		w += "\n"
	}
	if g := show(got); g != w {
		t.Fatalf("granted:\n%swant:\n%s", g, w)
	}
}

func TestNoDemandNoGrant(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 4, 4096))
	expect(t, a.Allocate(t0))
}

func TestDemandIsServedByTheUnitAndNoMore(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 4, 4096))
	a.SetAgent(agent("a2", 4, 4096))
	a.SetDemands("f", "*", []fleet.Demand{demand("d", 3, need(1, 512))})
	expect(t, a.Allocate(t0), "f/* a1 cpus:2;mem:1024 x2", "f/* a2 cpus:1;mem:512 x1")
	expect(t, a.Allocate(t0.Add(time.Second)))
}

// The example of the dominant-resource-fairness paper (NSDI 2011, section 4.1):
// 9 CPUs and 18 GB; user A's tasks take 1 CPU and 4 GB, B's 3 CPUs and 1 GB.
// DRF gives A three tasks and B two.
func TestDominantShareFairness(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 9, 18))
	a.SetDemands("A", "x", []fleet.Demand{{Name: "a", Role: "x", Need: need(1, 4), Count: 100}})
	a.SetDemands("B", "y", []fleet.Demand{{Name: "b", Role: "y", Need: need(3, 1), Count: 100}})
	expect(t, a.Allocate(t0), "A/x a1 cpus:3;mem:12 x3", "B/y a1 cpus:6;mem:2 x2")
}

// The same example inside one role: there the frameworks compete.
func TestDominantShareFairnessInARole(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 9, 18))
	a.SetDemands("A", "*", []fleet.Demand{demand("a", 100, need(1, 4))})
	a.SetDemands("B", "*", []fleet.Demand{demand("b", 100, need(3, 1))})
	expect(t, a.Allocate(t0), "A/* a1 cpus:3;mem:12 x3", "B/* a1 cpus:6;mem:2 x2")
}

func TestWeightsScaleShares(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 9, 9))
	a.SetWeight("y", fleet.Whole(2))
	a.SetDemands("A", "x", []fleet.Demand{{Name: "a", Role: "x", Need: need(1, 1), Count: 100}})
	a.SetDemands("B", "y", []fleet.Demand{{Name: "b", Role: "y", Need: need(1, 1), Count: 100}})
	expect(t, a.Allocate(t0), "A/x a1 cpus:3;mem:3 x3", "B/y a1 cpus:6;mem:6 x6")
}

func TestStandingDemandTakesTurnsOnWholeAgents(t *testing.T) {
	a := allocator.New(allocator.Options{})
	for i := range 4 {
		a.SetAgent(agent(fmt.Sprintf("a%d", i), 2, 1024))
	}
	a.SetStanding("f1", "*", true)
	a.SetStanding("f2", "*", true)
	expect(t, a.Allocate(t0),
		"f1/* a0 cpus:2;mem:1024", "f2/* a1 cpus:2;mem:1024",
		"f1/* a2 cpus:2;mem:1024", "f2/* a3 cpus:2;mem:1024")
}

func TestFilterHoldsUntilItEnds(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 2, 1024))
	a.SetStanding("f", "*", true)
	g := a.Allocate(t0)[0]
	a.Refuse(t0, g.Framework, g.Role, g.Agent, g.Resources, 5*time.Second)
	a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
	expect(t, a.Allocate(t0.Add(4*time.Second)))
	expect(t, a.Allocate(t0.Add(5*time.Second)), "f/* a1 cpus:2;mem:1024")
}

func TestReviveEndsFilters(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 2, 1024))
	a.SetStanding("f", "*", true)
	g := a.Allocate(t0)[0]
	a.Refuse(t0, g.Framework, g.Role, g.Agent, g.Resources, time.Hour)
	a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
	a.SetStanding("f", "*", true)
	expect(t, a.Allocate(t0), "f/* a1 cpus:2;mem:1024")
}

func TestWorkWithoutGPUsLeavesGPUMachinesAlone(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("gpu", 8, 8192, dev("GPU-1", 49140)))
	a.SetAgent(agent("plain", 2, 8192))
	a.SetDemands("f", "*", []fleet.Demand{demand("d", 3, need(1, 512))})
	expect(t, a.Allocate(t0), "f/* plain cpus:2;mem:1024 x2", "f/* gpu cpus:1;mem:512 x1")
}

func TestSingleGPUsArePackedAndSmallestTaken(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("big", 8, 8192, dev("GPU-1", 24000), dev("GPU-2", 24000), dev("GPU-3", 24000), dev("GPU-4", 24000)))
	a.SetAgent(agent("small", 8, 8192, dev("GPU-8", 49140), dev("GPU-9", 24000)))
	one := need(1, 512)
	one.GPU = fleet.GPURequest{Count: 1, MinMemoryMB: 20000, Model: "a6000"}
	a.SetDemands("f", "*", []fleet.Demand{demand("d", 1, one)})
	expect(t, a.Allocate(t0), "f/* small cpus:1;mem:512;gpus:[GPU-9] x1")
	four := need(1, 512)
	four.GPU.Count = 4
	a.SetDemands("f", "*", []fleet.Demand{demand("e", 1, four)})
	expect(t, a.Allocate(t0), "f/* big cpus:1;mem:512;gpus:[GPU-1,GPU-2,GPU-3,GPU-4] x1")
}

func TestSettleOpensTheDemandAgain(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 2, 1024))
	a.SetDemands("f", "*", []fleet.Demand{demand("d", 1, need(1, 512))})
	g := a.Allocate(t0)[0]
	a.Settle("f", "*", g.Demand, g.Units)
	a.Recover("f", "*", "a1", g.Resources, true)
	expect(t, a.Allocate(t0), "f/* a1 cpus:1;mem:512 x1")
}

func TestWhyNot(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("busy", 4, 4096))
	off := agent("off", 64, 65536)
	off.Inactive = "disconnected"
	a.SetAgent(off)
	a.SetAgent(agent("small", 1, 4096))
	far := agent("far", 64, 65536)
	far.Site = "elsewhere"
	a.SetAgent(far)
	a.Charge("g", "*", "busy", fleet.Resources{CPUs: fleet.Whole(3)})
	n := need(2, 128)
	n.Site = "home"
	got, never := a.Why(t0, "f", "*", n)
	want := []allocator.Refusal{
		{Agent: "busy", Reason: "not enough cpus: needs 2, has 1: the rest is in use"},
		{Agent: "far", Reason: `stands at site "elsewhere", not "home"`},
		{Agent: "off", Reason: "disconnected"},
		{Agent: "small", Reason: "not enough cpus: needs 2, has 1"},
	}
	if !slices.Equal(got, want) || never {
		t.Fatalf("got %q, never %v", got, never)
	}
	n.CPUs = fleet.Whole(65)
	if _, never := a.Why(t0, "f", "*", n); !never {
		t.Fatal("65 cpus fit nowhere, ever")
	}
}

// Whatever happens, no agent is oversold, no GPU is granted twice, and what is
// recovered can be granted again.
func TestNothingIsOversold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := allocator.New(allocator.Options{})
		totals := map[fleet.AgentID]fleet.Resources{}
		for i := range rapid.IntRange(1, 5).Draw(t, "agents") {
			var devs []gpu.Device
			for j := range rapid.IntRange(0, 3).Draw(t, "gpus") {
				devs = append(devs, dev(fmt.Sprintf("GPU-%d-%d", i, j), int64(rapid.IntRange(1, 3).Draw(t, "gpumem"))*1000))
			}
			ag := agent(fmt.Sprintf("a%d", i), int64(rapid.IntRange(0, 8).Draw(t, "cpus")), int64(rapid.IntRange(0, 8).Draw(t, "mem"))*64, devs...)
			totals[ag.ID] = ag.Capacity.Total
			a.SetAgent(ag)
		}
		now := t0
		var held []allocator.Grant
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			f := fleet.FrameworkID(rapid.SampledFrom([]string{"f1", "f2", "f3"}).Draw(t, "framework"))
			r := fleet.Role(rapid.SampledFrom([]string{"*", "r"}).Draw(t, "role"))
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				n := need(int64(rapid.IntRange(0, 3).Draw(t, "n")), 64)
				n.GPU.Count = rapid.IntRange(0, 2).Draw(t, "ng")
				a.SetDemands(f, r, []fleet.Demand{{Name: fmt.Sprint(n), Role: r, Need: n, Count: rapid.IntRange(0, 4).Draw(t, "count")}})
			case 1:
				a.SetStanding(f, r, rapid.Bool().Draw(t, "on"))
			case 2:
				if len(held) > 0 {
					i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
					g := held[i]
					held = slices.Delete(held, i, i+1)
					a.Settle(g.Framework, g.Role, g.Demand, g.Units)
					if rapid.Bool().Draw(t, "refuse") {
						a.Refuse(now, g.Framework, g.Role, g.Agent, g.Resources, 3*time.Second)
					}
					a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
				}
			default:
				now = now.Add(time.Second)
				held = append(held, a.Allocate(now)...)
			}
			sum := map[fleet.AgentID]fleet.Resources{}
			for _, g := range held {
				for _, id := range g.Resources.GPUs {
					if slices.Contains(sum[g.Agent].GPUs, id) {
						t.Fatalf("%s granted twice", id)
					}
				}
				sum[g.Agent] = sum[g.Agent].Add(g.Resources)
			}
			for id, s := range sum {
				if !totals[id].Contains(s) {
					t.Fatalf("agent %s has %v and gave %v", id, totals[id], s)
				}
				if !a.Free(id).Equal(totals[id].Sub(s)) {
					t.Fatalf("agent %s: free %v, want %v", id, a.Free(id), totals[id].Sub(s))
				}
			}
		}
	})
}

func cpuQuota(guarantee, limit int64) fleet.Quota {
	var q fleet.Quota
	if guarantee >= 0 {
		q.Guarantee = fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(guarantee)}}
	}
	if limit >= 0 {
		q.Limit = fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(limit)}}
	}
	return q
}

// A client that quota kept from something tries again when its cause is gone,
// and not only when the agent changes: first two limits, one above the other,
// then a limit and what others are guaranteed.
func TestQuotaLetsGo(t *testing.T) {
	a := allocator.New(allocator.Options{Min: []fleet.Quantities{}})
	a.SetQuota("a", cpuQuota(-1, 0))
	a.SetQuota("a/b", cpuQuota(-1, 1))
	a.SetAgent(agent("a1", 4, 0))
	a.SetStanding("f", "a/b", true)
	expect(t, a.Allocate(t0))
	a.SetQuota("a", cpuQuota(-1, -1))
	expect(t, a.Allocate(t0), "f/a/b a1 cpus:1")

	a = allocator.New(allocator.Options{})
	a.SetQuota("a", cpuQuota(-1, 1))
	a.SetQuota("e", cpuQuota(4, -1))
	a.SetAgent(agent("a1", 4, 0))
	a.SetStanding("f", "a", true)
	expect(t, a.Allocate(t0))
	a.Charge("g", "e", "elsewhere", fleet.Resources{CPUs: fleet.Whole(2)}) // half of the guarantee is met
	a.SetAgent(agent("a2", 0, 0))
	expect(t, a.Allocate(t0), "f/a a1 cpus:1")
}

// A change of the fleet's total counts in the shares of frameworks, too, and
// not only in those of roles.
func TestSharesFollowTheTotal(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 0, 32))
	a.SetAgent(agent("a2", 1, 0))
	a.SetDemands("f1", "*", []fleet.Demand{demand("d", 2, need(1, 32))})
	a.SetStanding("f2", "*", true)
	expect(t, a.Allocate(t0), "f2/* a1 mem:32", "f2/* a2 cpus:1")
	a.Recover("f2", "*", "a1", fleet.Resources{Mem: fleet.Whole(32)}, true)
	a.SetAgent(agent("a3", 2, 96))
	expect(t, a.Allocate(t0), "f1/* a3 cpus:2;mem:64 x2", "f2/* a1 mem:32", "f2/* a3 mem:32")
}
