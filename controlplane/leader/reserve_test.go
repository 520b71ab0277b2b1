package leader_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func cpus(n int64) fleet.Resources { return fleet.Resources{CPUs: fleet.Whole(n)} }

// outside connects an outside framework of one role.
func (b *bench) outside(id fleet.FrameworkID, r fleet.Role) {
	b.step(leader.Register{Info: fleet.FrameworkInfo{
		ID: id, Name: string(id), Roles: []fleet.Role{r}, FailoverTimeout: time.Hour,
		Capabilities: []fleet.Capability{fleet.CapGPU, fleet.CapRefinement},
	}, Conn: 1})
	b.commit()
	b.log = nil
}

const convertLog = "propose convert a2: cpus:1 to cpus(r):1"

// Only offers of that agent are rescinded, and no more of them than it takes.
func TestReservationMakesRoom(t *testing.T) {
	b := newBench(t)
	b.up("a1", a1, 1, 0)
	b.up("a2", a2, 1, 0)
	b.outside("m", "x")
	b.step(leader.Decline{Framework: "m", Offers: []fleet.OfferID{"o7-1", "o7-2"}, Filters: &fleet.Filters{Refuse: time.Hour}})
	b.log = nil
	for _, f := range []fleet.FrameworkID{"f", "g"} {
		b.step(leader.Subscribe{Framework: f})
		b.step(leader.Demands{Framework: f, Role: "*", Demands: []fleet.Demand{{Name: "d", Role: "*", Need: fleet.Need{CPUs: fleet.Whole(1), Agent: "a2"}, Count: 1}}})
	}
	b.expect("offer f o7-3 a2 cpus:1", "offer g o7-4 a2 cpus:1")
	b.step(leader.Reserve{Seq: 1, Agent: "a2", Role: "r", Resources: fleet.Resources{Mem: fleet.Whole(1000)}})
	b.expect("propose convert a2: mem:1000 to mem(r):1000") // there was room
	b.step(leader.Reserve{Seq: 2, Agent: "a2", Role: "r", Resources: cpus(1)})
	b.expect("rescind f o7-3", convertLog)
	b.commit()
	b.expect("reserved 1", "reserved 2")
	if got := b.l.Free("a2").String(); got != "mem:24;cpus(r):1;mem(r):1000" {
		t.Errorf("free: %s", got)
	}
	if got := b.l.Offers(); len(got) != 1 || got[0].ID != "o7-4" {
		t.Errorf("offers: %+v", got)
	}
	b.step(leader.Reserve{Seq: 3, Agent: "a2", Role: "r", Resources: cpus(2)})
	b.expect("reserved 3 conflictagent a2 cannot reserve cpus:2: neither reserved nor used by tasks are cpus:1;mem:24")
	b.step(leader.Reserve{Seq: 4, Agent: "a2", Role: "r", Resources: fleet.Resources{CPUs: fleet.Whole(1), Mem: fleet.Whole(1000)}, End: true})
	b.commit()
	if got := b.l.Free("a2").String(); got != "mem:1024" { // what is given back is on offer at once
		t.Errorf("free at last: %s, offers %+v", got, b.l.Offers())
	}
}

// Between its proposal and its commit a reservation is nobody else's, whatever
// else happens to the agent; one that the trio refuses is undone.
func TestReservationOnItsWay(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Reserve{Seq: 1, Agent: "a2", Role: "r", Resources: cpus(2)})
	b.expect("propose convert a2: cpus:2 to cpus(r):2")
	own := b.pending
	b.pending = nil
	// Something else tells the allocator of the agent anew.
	b.commit(state.Command{SetMaintenance: &state.SetMaintenance{Agents: []fleet.AgentID{"a2"}, Window: &fleet.Unavailability{Start: t0}}})
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1)}, 1))
	b.expect() // no offer
	b.step(leader.Reserve{Seq: 2, Agent: "a2", Role: "s", Resources: cpus(1)})
	b.expect("reserved 2 conflictagent a2 cannot reserve cpus:1: neither reserved nor used by tasks are mem:1024")
	// Meanwhile the agent shrinks: the trio refuses.
	b.commit(state.Command{SetCapacity: &state.SetCapacity{Agent: "a2", Capacity: fleet.Capacity{Total: cpus(1)}}})
	b.expect("offer f o7-1 a2 cpus:1")
	b.pending = own
	b.commit()
	b.expect("reserved 1 conflictagent a2 does not have cpus:2 to convert")
	if len(b.l.Offers()) != 1 || !b.l.Free("a2").IsZero() {
		t.Errorf("free: %v", b.l.Free("a2"))
	}
}

// The same holds for what a framework reserves.
func TestFrameworksReservationOnItsWay(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.outside("m", "r")
	to := cpus(2).In(fleet.Class{Reserved: []fleet.Reservation{{Role: "r", Dynamic: true, Principal: "m"}}})
	b.step(leader.Suppress{Framework: "m"})
	b.step(leader.Accept{Framework: "m", Offers: []fleet.OfferID{"o7-1"}, Operations: []leader.Operation{{Convert: &leader.Conversion{From: cpus(2), To: to}}}})
	own := b.pending
	b.pending = nil
	b.commit(state.Command{SetMaintenance: &state.SetMaintenance{Agents: []fleet.AgentID{"a2"}, Window: &fleet.Unavailability{Start: t0}}})
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1)}, 1))
	if got := b.l.Offers(); len(got) != 0 || b.l.Free("a2").String() != "mem:1024;cpus(r):2" {
		t.Errorf("before the commit: free %v, offers %+v", b.l.Free("a2"), got)
	}
	b.pending = own
	b.log = nil
	b.commit()
	b.expect()
	if got := b.l.Free("a2").String(); got != "mem:1024;cpus(r):2" {
		t.Errorf("after it: %s", got)
	}
}

// Devices that nobody has on offer come first, and one that a task has never.
func TestReservationOfGPUs(t *testing.T) {
	three := fleet.Capacity{Total: fleet.Resources{CPUs: fleet.Whole(4), GPUs: []gpu.UUID{"GPU-1", "GPU-2", "GPU-3"}}}
	for _, u := range three.Total.GPUs {
		three.Devices = append(three.Devices, gpu.Device{UUID: u, Model: "A6000", MemoryMB: 49140, Health: gpu.Healthy})
	}
	b := newBench(t)
	b.up("a1", three, 1, 0)
	b.commit()
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1), GPU: fleet.GPURequest{Count: 1}}, 1)) // it is GPU-1
	b.log = nil
	b.step(leader.Reserve{Seq: 9, Agent: "a1", Role: "r", GPUs: 1, Resources: cpus(4)})
	b.expect("rescind f o7-1", "propose convert a1: cpus:4;gpus:[GPU-2] to cpus(r):4;gpus(r):[GPU-2]")
	b.step(leader.Reserve{Seq: 9, Agent: "a1", Role: "r", GPUs: 1, Resources: cpus(4), End: true})
	b.commit()
	b.log = nil
	b.step(leader.Reserve{Seq: 1, Agent: "a1", Role: "r", GPUs: 1})
	b.expect("propose convert a1: gpus:[GPU-2] to gpus(r):[GPU-2]")
	b.step(leader.Reserve{Seq: 2, Agent: "a1", Role: "r", GPUs: 1, Resources: fleet.Resources{GPUs: []gpu.UUID{"GPU-3"}}})
	b.expect("rescind f o7-2", "propose convert a1: gpus:[GPU-1,GPU-3] to gpus(r):[GPU-1,GPU-3]")
	b.step(leader.Reserve{Seq: 3, Agent: "a1", Role: "r", GPUs: 1})
	b.expect("reserved 3 conflictagent a1 cannot reserve gpus:1: neither reserved nor used by tasks are cpus:4")
	b.commit()
	b.expect("reserved 1", "reserved 2")
}

// What a role has on offer is rescinded where it stands between the role and
// a reservation under its quota, on whatever agent it is.
func TestReservationUnderQuota(t *testing.T) {
	b := newBench(t)
	b.up("a1", a1, 1, 0)
	b.up("a2", a2, 1, 0)
	b.commit(state.Command{SetQuota: &state.SetQuota{Quotas: []state.RoleQuota{
		{Role: "r", Quota: fleet.Quota{Limit: fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(2)}}}},
	}}})
	b.outside("m", "r/s")
	if got := b.l.Offers(); len(got) == 0 || got[0].Resources.CPUs != fleet.Whole(2) {
		t.Fatalf("offers: %+v", got)
	}
	agent := b.l.Offers()[0].Agent
	other := map[fleet.AgentID]fleet.AgentID{"a1": "a2", "a2": "a1"}[agent]
	b.log = nil
	b.step(leader.Reserve{Seq: 1, Agent: other, Role: "r", Resources: cpus(3)})
	if len(b.log) != 1 || len(b.pending) != 0 {
		t.Errorf("beyond the quota: %q", b.log)
	}
	b.log = nil
	b.step(leader.Reserve{Seq: 2, Agent: other, Role: "r", Resources: cpus(1)})
	if len(b.pending) != 1 || b.log[0] != "rescind m "+string(b.offers[0].ID) {
		t.Errorf("under the quota: %q", b.log)
	}
	b.commit()
	var held fleet.Scalar
	for _, o := range b.l.Offers() {
		held += o.Resources.CPUs
	}
	if held > fleet.Whole(1) {
		t.Errorf("%v cpus are on offer beside the reservation", held)
	}
}

func TestViewOfFrameworksAndRoles(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.outside("m", "r/s")
	views := b.l.Frameworks()
	if len(views) != 1 || !views[0].Outside || !views[0].Connected || !views[0].Since.Equal(t0) || views[0].Offers != 1 {
		t.Errorf("connected: %+v", views)
	}
	for _, v := range b.l.Roles() {
		if len(v.Consumed) != 0 || len(v.Offered) != 2 || v.Offered[0] != (fleet.Amount{Name: "cpus", Amount: fleet.Whole(2)}) {
			t.Errorf("role %s with an offer: %+v", v.Role, v)
		}
	}
	o := b.l.WhyNot("m")
	if len(o) != 1 || o[0].Offers != 1 || o[0].Open != 0 || len(o[0].Obstacles) != 2 {
		t.Errorf("outlook: %+v", o)
	}
	b.step(leader.Suppress{Framework: "m"})
	if v := b.l.Frameworks()[0]; len(v.Suppressed) != 1 || !b.l.WhyNot("m")[0].Suppressed {
		t.Errorf("suppressed: %+v", v)
	}
	b.now = b.now.Add(time.Minute)
	b.step(leader.Unsubscribe{Framework: "m", Conn: 1})
	if v := b.l.Frameworks()[0]; v.Connected || !v.Away.Equal(b.now) || v.Offers != 0 || b.l.WhyNot("m") != nil {
		t.Errorf("away: %+v", v)
	}
}
