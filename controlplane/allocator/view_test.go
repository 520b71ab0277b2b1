package allocator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/transport/fleet"
)

func quantity(name string, n int64) fleet.Quantities {
	return fleet.Quantities{{Name: name, Amount: fleet.Whole(n)}}
}

func showRoles(a *allocator.Allocator) string {
	var b strings.Builder
	for _, v := range a.Roles() {
		fmt.Fprintf(&b, "%s %v %v%% %s %v\n", v.Role, v.Consumed, v.Share, v.Dominant, v.Frameworks)
	}
	return b.String()
}

func TestRolesView(t *testing.T) {
	a := allocator.New(allocator.Options{})
	if got := a.Roles(); len(got) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
	a1 := agent("a1", 8, 6144)
	a1.Capacity.Total = a1.Capacity.Total.Sub(fleet.Resources{CPUs: fleet.Whole(2)}).
		Add(fleet.Resources{CPUs: fleet.Whole(2)}.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "r"}}}))
	a.SetAgent(a1)
	a.Charge("f", "r/s", "a1", fleet.Resources{CPUs: fleet.Whole(1), Mem: fleet.Whole(2048)})
	a.Charge("g", "r", "a1", fleet.Resources{CPUs: fleet.Whole(2)}.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "r"}}}))
	a.SetQuota("q", fleet.Quota{Limit: quantity("cpus", 1)})
	// The reservation counts once, used or not; shares are of the whole fleet,
	// and those of a role have what is below it.
	want := "q [] 0%  []\n" +
		"r [{cpus 3} {mem 2048}] 37.5% cpus [g]\n" +
		"r/s [{cpus 1} {mem 2048}] 33.333% mem [f]\n"
	if got := showRoles(a); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

func TestBeyond(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 8, 8192))
	a.SetQuota("r", fleet.Quota{Limit: quantity("cpus", 3)})
	a.Charge("f", "r/s", "a1", fleet.Resources{CPUs: fleet.Whole(2)})
	for _, tt := range []struct {
		role fleet.Role
		cpus int64
		want string
	}{
		{"r", 1, ""},
		{"r/s/t", 1, ""},
		{"r/s/t", 2, "role r is at its quota: it may have 3 cpus and holds 2"},
		{"other", 8, ""},
	} {
		if got := a.Beyond(tt.role, fleet.Resources{CPUs: fleet.Whole(tt.cpus)}); got != tt.want {
			t.Errorf("%d for %s: %q", tt.cpus, tt.role, got)
		}
	}
	if n := len(a.Roles()); n != 2 {
		t.Errorf("a question left %d roles", n)
	}
}

// Every reason that a standing framework can have, one agent each.
func TestWhyNotByReason(t *testing.T) {
	a := allocator.New(allocator.Options{})
	off := agent("a-off", 4, 4096)
	off.Inactive = "drained"
	far := agent("a-far", 4, 4096)
	far.Labels = map[string]string{"zone": "far"}
	taken := agent("a-taken", 4, 4096)
	reserved := agent("a-reserved", 0, 0)
	reserved.Capacity.Total = fleet.Resources{CPUs: fleet.Whole(4)}.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "others"}}})
	for _, ag := range []allocator.Agent{
		off, far, taken, reserved, agent("b-small-1", 0, 16), agent("b-small-2", 0, 16), agent("c-gpu", 4, 4096, dev("GPU-1", 1)),
		agent("d-declined", 4, 4096), agent("e-open", 4, 4096),
	} {
		a.SetAgent(ag)
	}
	if err := a.SetFramework(fleet.FrameworkInfo{ID: "m", Roles: []fleet.Role{"r"}, Constraints: map[fleet.Role]fleet.OfferConstraints{
		"r": {{{Attribute: "zone", Predicate: fleet.NotExists}}},
	}}); err != nil {
		t.Fatal(err)
	}
	a.Charge("other", "o", "a-taken", taken.Capacity.Total)
	all := agent("", 4, 4096).Capacity.Total
	a.Refuse(t0, "m", "r", "d-declined", all, time.Hour)
	a.Refuse(t0, "m", "r", "d-declined", fleet.Resources{CPUs: 1}, time.Minute) // another filter, of less
	why := func() string {
		var b strings.Builder
		obstacles, open := a.WhyNot("m", "r")
		for _, o := range obstacles {
			fmt.Fprintf(&b, "%d %v %s", o.Count, o.Agents, o.Reason)
			if !o.Until.IsZero() {
				fmt.Fprintf(&b, " until %v", o.Until.Sub(t0))
			}
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%d open\n", open)
		return b.String()
	}
	want := `2 [b-small-1 b-small-2] what is free is less than the least offer it takes: cpus:0.01|mem:32
1 [a-far] does not meet the framework's offer constraints
1 [a-off] drained
1 [a-taken] everything is in use or on offer
1 [c-gpu] has GPUs, and the framework does not have the capability GPU_RESOURCES
1 [d-declined] the framework declined what is free until 1h0m0s
1 [a-reserved] what is free is reserved for other roles, or may be taken back and the framework cannot handle that
1 open
`
	if got := why(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// To ask changes nothing: the next round offers what it was said to.
	a.SetStanding("m", "r", true) // and ends the filters
	got := a.Allocate(t0)
	if len(got) != 2 || got[0].Agent != "d-declined" || got[1].Agent != "e-open" {
		t.Errorf("granted %s", show(got))
	}
}

func TestWhyNotNamesQuota(t *testing.T) {
	a := allocator.New(allocator.Options{})
	a.SetAgent(agent("a1", 4, 4096))
	a.SetAgent(agent("a2", 4, 4096))
	a.SetQuota("top", fleet.Quota{Limit: fleet.Quantities{{Name: "cpus", Amount: 0}, {Name: "mem", Amount: 0}}})
	obstacles, open := a.WhyNot("m", "top/r")
	if open != 0 || len(obstacles) != 1 || obstacles[0].Reason != "role top is at its quota: it may have 0 cpus and holds 0" || obstacles[0].Count != 2 {
		t.Errorf("limit: %+v, %d open", obstacles, open)
	}
	a.SetQuota("kept", fleet.Quota{Guarantee: fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(8)}, {Name: "mem", Amount: fleet.Whole(8192)}}})
	obstacles, _ = a.WhyNot("m", "r")
	if len(obstacles) != 1 || obstacles[0].Reason != "what is free of cpus is held back for guarantees of other roles" {
		t.Errorf("guarantee: %+v", obstacles)
	}
	if obstacles, open = a.WhyNot("m", "kept"); open != 2 {
		t.Errorf("whom it is held back for: %+v, %d open", obstacles, open)
	}
}

func TestWhyNotNamesFew(t *testing.T) {
	a := allocator.New(allocator.Options{})
	for i := range 100 {
		ag := agent(fmt.Sprintf("a%03d", i), 4, 4096)
		ag.Inactive = "disconnected"
		a.SetAgent(ag)
	}
	obstacles, _ := a.WhyNot("m", "r")
	if len(obstacles) != 1 || obstacles[0].Count != 100 || len(obstacles[0].Agents) != allocator.MaxNamed || !slices.IsSorted(obstacles[0].Agents) {
		t.Errorf("%+v", obstacles)
	}
}

// What people ask for is worked out in the leader's loop: it must not hold up
// a large fleet.
func BenchmarkWhyNot(b *testing.B) {
	a := allocator.New(allocator.Options{})
	for i := range 10_000 {
		a.SetAgent(agent(fmt.Sprintf("a%05d", i), 32, 65536, dev(fmt.Sprintf("GPU-%d", i), 1)))
	}
	a.SetQuota("r", fleet.Quota{Limit: quantity("cpus", 1000), Guarantee: quantity("mem", 1000)})
	_ = a.SetFramework(fleet.FrameworkInfo{ID: "m", Roles: []fleet.Role{"r"}, Capabilities: []fleet.Capability{fleet.CapGPU}})
	for i := range 10_000 {
		id := fleet.AgentID(fmt.Sprintf("a%05d", i))
		a.Refuse(t0, "m", "r", id, agent("", 32, 65536, dev(fmt.Sprintf("GPU-%d", i), 1)).Capacity.Total, time.Hour)
	}
	for b.Loop() {
		if o, _ := a.WhyNot("m", "r"); len(o) != 1 {
			b.Fatal(o)
		}
	}
}
