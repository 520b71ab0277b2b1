package allocator

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var (
	someRoles      = []fleet.Role{"*", "a", "a/b", "a/b/c", "a/d", "e"}
	someFrameworks = []fleet.FrameworkID{"f1", "f2", "f3"}
	someAgents     = []fleet.AgentID{"a1", "a2", "a3", "a4"}
	quotaRoles     = []fleet.Role{"a", "a/b", "e"}
)

// model holds what an allocator was told and gave, and knows nothing of how it
// works.
type model struct {
	a      *Allocator
	now    time.Time
	totals map[fleet.AgentID]fleet.Resources
	off    map[fleet.AgentID]bool
	quotas map[fleet.Role]fleet.Quota
	held   []Grant
}

func newModel() *model {
	return &model{
		a: New(Options{}), now: time.Unix(1_000_000, 0), totals: map[fleet.AgentID]fleet.Resources{},
		off: map[fleet.AgentID]bool{}, quotas: map[fleet.Role]fleet.Quota{},
	}
}

func drawResources(t *rapid.T, id fleet.AgentID) fleet.Resources {
	flat := func(what string) fleet.Resources {
		r := fleet.Resources{
			CPUs: fleet.Scalar(rapid.Int64Range(0, 8).Draw(t, what+" cpus")) * 500,
			Mem:  fleet.Whole(rapid.Int64Range(0, 4).Draw(t, what+" mem") * 32),
			Disk: fleet.Whole(rapid.Int64Range(0, 3).Draw(t, what+" disk")),
		}
		for i := range rapid.IntRange(0, 2).Draw(t, what+" gpus") {
			r.GPUs = append(r.GPUs, gpu.UUID(fmt.Sprintf("%s-%s-%d", id, what, i)))
		}
		if rapid.Bool().Draw(t, what+" ports") {
			r.Ports = fleet.Ranges{{First: 31000, Last: 31009}}
		}
		if n := rapid.Int64Range(0, 2).Draw(t, what+" custom"); n > 0 {
			r.Custom = []fleet.Amount{{Name: "licences", Amount: fleet.Whole(n)}}
		}
		if rapid.Bool().Draw(t, what+" mount") {
			r.Mounts = []fleet.Mount{{ID: what, Size: fleet.Whole(2)}}
		}
		return r
	}
	r := flat("free")
	for _, role := range []fleet.Role{"a", "a/b", "e"} {
		if rapid.IntRange(0, 3).Draw(t, "reserve") == 0 {
			part := flat(string(role))
			part.Ports = nil
			r = r.Add(part.In(fleet.Class{Reserved: []fleet.Reservation{{Role: role}}}))
		}
	}
	return r
}

func (m *model) setAgent(t *rapid.T) {
	id := rapid.SampledFrom(someAgents).Draw(t, "agent")
	res := drawResources(t, id)
	ag := Agent{ID: id}
	ag.Capacity.Total = res
	for _, g := range res.Total().GPUs {
		ag.Capacity.Devices = append(ag.Capacity.Devices, gpu.Device{UUID: g})
	}
	off := rapid.IntRange(0, 4).Draw(t, "off") == 0
	if off {
		ag.Inactive = "disconnected"
	}
	if slices.ContainsFunc(m.held, func(g Grant) bool { return g.Agent == id }) {
		return // shrinking below what is held is another test's matter
	}
	m.off[id] = off
	m.totals[id] = res
	m.a.SetAgent(ag)
}

func (m *model) removeAgent(t *rapid.T) {
	id := rapid.SampledFrom(someAgents).Draw(t, "agent")
	m.held = slices.DeleteFunc(m.held, func(g Grant) bool {
		if g.Agent == id {
			m.recover(g)
		}
		return g.Agent == id
	})
	delete(m.totals, id)
	m.a.RemoveAgent(id)
}

func (m *model) setQuota(t *rapid.T) {
	role := rapid.SampledFrom(quotaRoles).Draw(t, "role")
	var q fleet.Quota
	for _, name := range []string{"cpus", "gpus", "licences", "mem"} {
		limit := fleet.Whole(rapid.Int64Range(0, 6).Draw(t, "limit "+name))
		if name == "mem" {
			limit *= 32
		}
		if rapid.Bool().Draw(t, "limited "+name) {
			q.Limit = append(q.Limit, fleet.Amount{Name: name, Amount: limit})
		}
		if rapid.IntRange(0, 2).Draw(t, "guaranteed "+name) == 0 {
			q.Guarantee = append(q.Guarantee, fleet.Amount{Name: name, Amount: fleet.Whole(int64(limit) / 2000)})
		}
	}
	m.quotas[role] = q
	m.a.SetQuota(role, q)
}

func (m *model) want(t *rapid.T) {
	f, r := rapid.SampledFrom(someFrameworks).Draw(t, "framework"), rapid.SampledFrom(someRoles).Draw(t, "role")
	if rapid.Bool().Draw(t, "standing") {
		m.a.SetStanding(f, r, rapid.IntRange(0, 3).Draw(t, "off") > 0)
		return
	}
	n := fleet.Need{CPUs: fleet.Scalar(rapid.Int64Range(1, 4).Draw(t, "need")) * 500, Mem: fleet.Whole(32)}
	n.GPU.Count = rapid.IntRange(0, 2).Draw(t, "need gpus")
	m.a.SetDemands(f, r, []fleet.Demand{{Name: fmt.Sprint(n), Role: r, Need: n, Count: rapid.IntRange(0, 4).Draw(t, "count")}})
}

func (m *model) recover(g Grant) {
	m.a.Settle(g.Framework, g.Role, g.Demand, g.Units)
	m.a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
}

func (m *model) giveBack(t *rapid.T) {
	if len(m.held) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "grant")
	g := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	if rapid.Bool().Draw(t, "refuse") {
		m.a.Refuse(m.now, g.Framework, g.Role, g.Agent, g.Resources, 3*time.Second)
	}
	m.recover(g)
}

// consumed counts by hand what counts against a role's quota.
func (m *model) consumed(role fleet.Role, name string) fleet.Scalar {
	var n fleet.Scalar
	for _, total := range m.totals {
		for _, p := range total.Parts {
			if r := p.Class.Role(); r != "" && r.Descends(role) {
				n += p.Resources.Quantity(name)
			}
		}
	}
	for _, g := range m.held {
		if g.Role.Descends(role) {
			flat := g.Resources.Flat()
			n += flat.Quantity(name)
		}
	}
	return n
}

// heldBack is what guarantees need, and free what there is for them.
func (m *model) heldBack(name string) (needed, free fleet.Scalar) {
	var need func(fleet.Role) fleet.Scalar
	need = func(r fleet.Role) fleet.Scalar {
		guarantee, _ := m.quotas[r].Guarantee.Get(name)
		var below fleet.Scalar
		for _, c := range quotaRoles {
			if c.Parent() == r {
				below += need(c)
			}
		}
		if r == "" {
			return below
		}
		return max(0, guarantee-m.consumed(r, name), below)
	}
	for id := range m.totals {
		if !m.off[id] {
			flat := m.a.Free(id).Flat()
			free += flat.Quantity(name)
		}
	}
	return need(""), free
}

func (m *model) allocate(t *rapid.T) {
	names := []string{"cpus", "mem", "disk", "gpus", "licences"}
	type before struct{ consumed, slack fleet.Scalar }
	was := map[string]before{}
	for _, name := range names {
		needed, free := m.heldBack(name)
		was[name] = before{slack: free - needed}
		for r := range m.quotas {
			was[string(r)+" "+name] = before{consumed: m.consumed(r, name)}
		}
	}
	m.now = m.now.Add(time.Second)
	m.held = append(m.held, m.a.Allocate(m.now)...)
	for _, name := range names {
		if needed, free := m.heldBack(name); free-needed < min(0, was[name].slack) {
			t.Fatalf("%v %s are held back for guarantees and only %v are free", needed, name, free)
		}
		for r, q := range m.quotas {
			limit, limited := q.Limit.Get(name)
			if n := m.consumed(r, name); limited && n > max(limit, was[string(r)+" "+name].consumed) {
				t.Fatalf("role %s has %v %s, its limit is %v", r, n, name, limit)
			}
		}
	}
	// Nothing that could be given was overlooked because it had not changed.
	// Where a filter stands it may be: what others took since may have made of
	// the offer one that was not refused.
	filtered := m.filtered()
	for _, g := range m.a.Batch(m.now) {
		if !filtered[fmt.Sprint(g.Framework, g.Role, g.Agent)] {
			t.Fatalf("a round over what changed overlooked %v", g)
		}
		m.held = append(m.held, g)
	}
}

func (m *model) filtered() map[string]bool {
	out := map[string]bool{}
	for id, ag := range m.a.agents {
		for c := range ag.filters {
			out[fmt.Sprint(c.framework.info.ID, c.role.name, id)] = true
		}
	}
	return out
}

func (m *model) check(t *rapid.T) {
	sum := map[fleet.AgentID]fleet.Resources{}
	for _, g := range m.held {
		s := sum[g.Agent]
		for _, id := range g.Resources.Total().GPUs {
			if slices.Contains(s.Total().GPUs, id) {
				t.Fatalf("GPU %s was granted twice", id)
			}
		}
		sum[g.Agent] = s.Add(g.Resources)
	}
	for id, total := range m.totals {
		if !total.Contains(sum[id]) {
			t.Fatalf("agent %s has %v and gave %v", id, total, sum[id])
		}
		if free := total.Sub(sum[id]); !m.a.Free(id).Equal(free) {
			t.Fatalf("agent %s: free %v, want %v", id, m.a.Free(id), free)
		}
	}
}

// Whatever happens: nothing is oversold, no limit is exceeded, guarantees are
// held back, and a round over what changed finds all that a round over
// everything would.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		t.Repeat(map[string]func(*rapid.T){
			"set agent":    m.setAgent,
			"remove agent": m.removeAgent,
			"set quota":    m.setQuota,
			"want":         m.want,
			"give back":    m.giveBack,
			"allocate":     m.allocate,
			"":             m.check,
		})
	})
}

// What is granted and recovered leaves no trace: recover(allocate(x)) = x.
func TestRecoverUndoesAllocate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			rapid.SampledFrom([]func(*rapid.T){m.setAgent, m.setQuota, m.want, m.allocate}).Draw(t, "op")(t)
		}
		for _, g := range m.held {
			m.recover(g)
		}
		m.held = nil
		m.check(t)
		for _, f := range someFrameworks {
			m.a.RemoveFramework(f)
		}
		if len(m.a.frameworks)+len(m.a.roles)+len(m.a.sorter.clients)+len(m.a.sorter.root.children) > 0 {
			t.Fatalf("%d frameworks, %d roles are left", len(m.a.frameworks), len(m.a.roles))
		}
		for _, id := range someAgents {
			m.a.RemoveAgent(id)
		}
		for _, r := range quotaRoles {
			m.a.SetQuota(r, fleet.Quota{})
		}
		if len(m.a.accounts) > 0 || !m.a.total.isZero() || !m.a.available.isZero() || !m.a.needed.isZero() {
			t.Fatalf("left: accounts %v, total %v, available %v, needed %v", m.a.accounts, m.a.total, m.a.available, m.a.needed)
		}
	})
}

// A guarantee is kept whenever it can be: as long as a role's guarantee is
// open, its framework has everything of that name that others do not hold.
func TestGuaranteeIsKeptWhenItCanBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := New(Options{Min: []fleet.Quantities{}})
		guarantee := fleet.Whole(rapid.Int64Range(1, 12).Draw(t, "guarantee"))
		role := rapid.SampledFrom([]fleet.Role{"a", "a/b"}).Draw(t, "role")
		a.SetQuota("a", fleet.Quota{Guarantee: fleet.Quantities{{Name: "cpus", Amount: guarantee}}})
		for _, f := range someFrameworks {
			a.SetStanding(f, "e", true)
		}
		var fleetCPUs fleet.Scalar
		guaranteed := fleet.Scalar(0)
		late := rapid.Bool().Draw(t, "late")
		for i := range rapid.IntRange(1, 6).Draw(t, "agents") {
			if i == 2 == late {
				a.SetStanding("g", role, true)
			}
			n := fleet.Whole(rapid.Int64Range(1, 4).Draw(t, "cpus"))
			fleetCPUs += n
			ag := Agent{ID: fleet.AgentID(fmt.Sprint("a", i))}
			ag.Capacity.Total = fleet.Resources{CPUs: n}
			a.SetAgent(ag)
			for _, g := range a.Allocate(time.Unix(int64(i), 0)) {
				if g.Framework == "g" {
					guaranteed += g.Resources.CPUs
				}
			}
		}
		a.SetStanding("g", role, true)
		for _, g := range a.Allocate(time.Unix(100, 0)) {
			if g.Framework == "g" {
				guaranteed += g.Resources.CPUs
			}
		}
		if want := min(guarantee, fleetCPUs); guaranteed < want {
			t.Fatalf("role a has %v cpus of %v guaranteed; the fleet has %v", guaranteed, guarantee, fleetCPUs)
		}
	})
}

// Equal frameworks take turns: none is ever more than one agent behind another.
func TestNobodyStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := New(Options{})
		n := rapid.IntRange(2, 6).Draw(t, "frameworks")
		nested := rapid.Bool().Draw(t, "roles of their own")
		for i := range n {
			r := fleet.Role("a")
			if nested {
				r = fleet.Role(fmt.Sprintf("a/r%d", i))
			}
			a.SetStanding(fleet.FrameworkID(fmt.Sprintf("f%d", i)), r, true)
		}
		agents := rapid.IntRange(1, 10).Draw(t, "agents")
		for i := range agents {
			ag := Agent{ID: fleet.AgentID(fmt.Sprint("a", i))}
			ag.Capacity.Total = fleet.Resources{CPUs: fleet.Whole(4), Mem: fleet.Whole(1024)}
			a.SetAgent(ag)
		}
		got := map[fleet.FrameworkID]int{}
		for round := range rapid.IntRange(1, 20).Draw(t, "rounds") {
			grants := a.Allocate(time.Unix(int64(round), 0))
			if len(grants) != agents {
				t.Fatalf("%d of %d agents were offered", len(grants), agents)
			}
			for _, g := range grants {
				got[g.Framework]++
			}
			for _, g := range grants {
				a.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
			}
		}
		least, most := agents*20, 0
		for i := range n {
			c := got[fleet.FrameworkID(fmt.Sprintf("f%d", i))]
			least, most = min(least, c), max(most, c)
		}
		if most-least > 1 {
			t.Fatalf("turns: %v", got)
		}
	})
}

// The order in which things become known, and the order of maps, change
// nothing.
func TestOrderChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type agentSpec struct {
			id  fleet.AgentID
			res fleet.Resources
		}
		var agents []agentSpec
		for _, id := range someAgents {
			agents = append(agents, agentSpec{id, drawResources(t, id)})
		}
		run := func(seed uint64) []Grant {
			rng := rand.New(rand.NewPCG(seed, 1))
			a := New(Options{})
			var todo []func()
			for _, s := range agents {
				todo = append(todo, func() {
					ag := Agent{ID: s.id}
					ag.Capacity.Total = s.res
					for _, g := range s.res.Total().GPUs {
						ag.Capacity.Devices = append(ag.Capacity.Devices, gpu.Device{UUID: g, MemoryMB: 1})
					}
					a.SetAgent(ag)
				})
			}
			for i, f := range someFrameworks {
				for j, r := range someRoles {
					todo = append(todo, func() {
						if (i+j)%2 == 0 {
							a.SetStanding(f, r, true)
							return
						}
						n := fleet.Need{CPUs: 500, Mem: fleet.Whole(16)}
						n.GPU.Count = i % 2
						a.SetDemands(f, r, []fleet.Demand{{Name: "d", Role: r, Need: n, Count: 2}})
					})
				}
			}
			for i, r := range quotaRoles {
				todo = append(todo, func() {
					a.SetQuota(r, fleet.Quota{
						Guarantee: fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(int64(i))}},
						Limit:     fleet.Quantities{{Name: "mem", Amount: fleet.Whole(100)}},
					})
				})
			}
			rng.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
			for _, do := range todo {
				do()
			}
			return a.Allocate(time.Unix(1, 0))
		}
		first := run(1)
		for seed := range uint64(4) {
			if again := run(seed + 2); !reflect.DeepEqual(first, again) {
				t.Fatalf("one order gives\n%v\nanother\n%v", first, again)
			}
		}
	})
}
