package state_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func cpus(n int64) fleet.Quantities {
	return fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(n)}}
}

func quota(role fleet.Role, guarantee, limit fleet.Quantities) state.RoleQuota {
	return state.RoleQuota{Role: role, Quota: fleet.Quota{Guarantee: guarantee, Limit: limit}}
}

func TestQuotaIsSound(t *testing.T) {
	for _, tc := range []struct {
		name   string
		quotas []state.RoleQuota
		force  bool
		kind   state.Kind
		says   string
	}{
		{"a guarantee and a limit", []state.RoleQuota{quota("a", cpus(2), cpus(4))}, false, state.OK, ""},
		{"a guarantee above the limit", []state.RoleQuota{quota("a", cpus(3), cpus(2))}, false, state.Invalid, "3 cpus are guaranteed and the limit is 2"},
		{"beyond the fleet", []state.RoleQuota{quota("a", cpus(9), nil)}, false, state.Conflict, "the fleet has 8; add agents, or force it"},
		{"beyond the fleet, forced", []state.RoleQuota{quota("a", cpus(9), nil)}, true, state.OK, ""},
		{"beyond the fleet together", []state.RoleQuota{quota("a", cpus(5), nil), quota("b", cpus(5), nil)}, false, state.Conflict, "guaranteed 10 cpus together"},
		{"the children's guarantees are in the parent's", []state.RoleQuota{quota("a", cpus(8), nil), quota("a/b", cpus(5), nil), quota("a/c", cpus(3), nil)}, false, state.OK, ""},
		{"and count where they are more", []state.RoleQuota{quota("a", cpus(1), nil), quota("a/b", cpus(5), nil), quota("a/c", cpus(5), nil)}, false, state.Conflict, "guaranteed 10 cpus together"},
		{"a limit above the parent's", []state.RoleQuota{quota("a", nil, cpus(2)), quota("a/b", nil, cpus(3))}, false, state.Invalid, "the limit of role a/b, 3 cpus, is above that of its parent a, 2"},
		{"above that of a role further up", []state.RoleQuota{quota("a", nil, cpus(2)), quota("a/b/c", nil, cpus(3))}, true, state.Invalid, "its parent a"},
		{"children guaranteed beyond the parent's limit", []state.RoleQuota{quota("a", nil, cpus(2)), quota("a/b", cpus(2), nil), quota("a/c", cpus(1), nil)}, false, state.Invalid, "guaranteed 3 cpus, and it is limited to 2"},
		{"half a GPU", []state.RoleQuota{quota("a", nil, fleet.Quantities{{Name: "gpus", Amount: 500}})}, false, state.Invalid, "only whole ones exist"},
		{"less than nothing", []state.RoleQuota{quota("a", nil, cpus(-1))}, false, state.Invalid, "out of range"},
		{"ports", []state.RoleQuota{quota("a", nil, fleet.Quantities{{Name: "ports", Amount: 1}})}, false, state.Invalid, "no custom resource"},
		{"the default role", []state.RoleQuota{quota("*", nil, cpus(1))}, false, state.Invalid, `the role "*" has no quota`},
		{"one bad of two", []state.RoleQuota{quota("a", nil, cpus(1)), quota("B", nil, cpus(1))}, false, state.Invalid, "lower-case"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := booted(t)
			must(t, s, state.Command{SetCapacity: &state.SetCapacity{Agent: "a1", Capacity: fleet.Capacity{Total: fleet.Resources{CPUs: fleet.Whole(8)}}}})
			must(t, s, state.Command{SetRole: &state.SetRole{Role: "a", Weight: fleet.Whole(3)}})
			r := apply(s, state.Command{SetQuota: &state.SetQuota{Quotas: tc.quotas, Force: tc.force}})
			if r.Kind != tc.kind || !strings.Contains(r.Text, tc.says) {
				t.Fatalf("%q %q, want %q with %q", r.Kind, r.Text, tc.kind, tc.says)
			}
			for _, q := range tc.quotas {
				rec := s.Roles[q.Role]
				if set := rec != nil && len(rec.Quota.Guarantee)+len(rec.Quota.Limit) > 0; set != (tc.kind == state.OK) {
					t.Errorf("quota of %s is set: %v", q.Role, set)
				}
			}
			if s.Roles["a"].Weight != fleet.Whole(3) {
				t.Error("the weight went with the quota")
			}
		})
	}
}

func TestAReservationOutlivesWhatTheAgentDeclares(t *testing.T) {
	s := booted(t)
	declare := func(total fleet.Resources) {
		must(t, s, state.Command{SetCapacity: &state.SetCapacity{Agent: "a1", Capacity: fleet.Capacity{Total: total}}})
	}
	reserve := func(r fleet.Resources) fleet.Resources {
		return r.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "x", Dynamic: true}}})
	}
	total := func(want string) {
		t.Helper()
		if got := s.Agents["a1"].Total().String(); got != want {
			t.Fatalf("total %s, want %s", got, want)
		}
	}
	two := fleet.Resources{CPUs: fleet.Whole(2), GPUs: []gpu.UUID{"GPU-1"}}
	declare(fleet.Resources{CPUs: fleet.Whole(4), GPUs: []gpu.UUID{"GPU-1", "GPU-2"}})
	must(t, s, state.Command{Convert: &state.Convert{Agent: "a1", From: two, To: reserve(two)}})
	total("cpus:2;gpus:[GPU-2];cpus(x):2;gpus(x):[GPU-1]")
	declare(fleet.Resources{CPUs: fleet.Whole(1), GPUs: []gpu.UUID{"GPU-2"}}) // a processor and a GPU are left
	total("gpus:[GPU-2];cpus(x):1")
	declare(fleet.Resources{CPUs: fleet.Whole(4), GPUs: []gpu.UUID{"GPU-1", "GPU-2"}})
	total("cpus:2;gpus:[GPU-2];cpus(x):2;gpus(x):[GPU-1]")
	if r := apply(s, state.Command{Convert: &state.Convert{Agent: "a1", From: fleet.Resources{CPUs: fleet.Whole(3)}, To: reserve(fleet.Resources{CPUs: fleet.Whole(3)})}}); r.Kind != state.Conflict {
		t.Errorf("reserved more than there is: %+v", r)
	}
	if r := apply(s, state.Command{Convert: &state.Convert{Agent: "a1", From: fleet.Resources{CPUs: fleet.Whole(1)}, To: reserve(fleet.Resources{CPUs: fleet.Whole(2)})}}); r.Kind != state.Invalid {
		t.Errorf("one became two: %+v", r)
	}
	must(t, s, state.Command{Convert: &state.Convert{Agent: "a1", From: reserve(two), To: two}})
	total("cpus:4;gpus:[GPU-1,GPU-2]")
}

func TestDrainWaitsForTheLastAcknowledgement(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{PutFramework: &state.PutFramework{Info: fleet.FrameworkInfo{ID: "m"}}})
	must(t, s, state.Command{Launch: &state.Launch{ID: "t", Framework: "m", Role: "*", Agent: "a1", Create: true, Spec: fleet.TaskSpec{KillGrace: time.Minute}}})
	must(t, s, state.Command{DrainAgent: &state.DrainAgent{Agent: "a1", MaxGrace: 10 * time.Second}})
	if k := s.Tasks["t"]; !k.Kill || k.KillGrace != 10*time.Second {
		t.Fatalf("kill %v with %v", k.Kill, k.KillGrace)
	}
	end := observe("t", "a1", 1, fleet.TaskKilled)
	end.Observe.Update.ID = "u"
	must(t, s, end)
	if d := s.Agents["a1"].Drain; !d.Done.IsZero() {
		t.Fatal("drained while an update is not acknowledged")
	}
	must(t, s, state.Command{Acknowledge: &state.Acknowledge{Framework: "m", Task: "t", Update: "u"}})
	if d := s.Agents["a1"].Drain; d.Done.IsZero() {
		t.Fatal("not drained")
	}
	must(t, s, state.Command{SetActive: &state.SetActive{Agent: "a1", Active: true}})
	if a := s.Agents["a1"]; a.Drain != nil || a.Deactivated {
		t.Fatalf("after reactivation: %+v", a)
	}
}

func TestDrainOfAnIdleAgentIsDoneAtOnce(t *testing.T) {
	s := booted(t)
	r := must(t, s, state.Command{DrainAgent: &state.DrainAgent{Agent: "a1", MarkGone: true}})
	if a := s.Agents["a1"]; a.Drain.Done.IsZero() || a.Gone.IsZero() || !a.Revoked || r.Gone != "a1" {
		t.Fatalf("agent %+v, result %+v", a, r)
	}
	if r := apply(s, state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1", Suffix: "y", KeyHash: "k2"}}); r.ID == "a1" {
		t.Error("the id of an agent that is gone was given out again")
	}
}

func TestAFrameworkThatWasTornDownIsForgottenInTheEnd(t *testing.T) {
	s := booted(t)
	for i := range state.MaxEndedFrameworks + 1 {
		id := fleet.FrameworkID("m" + strings.Repeat("x", i))
		must(t, s, state.Command{PutFramework: &state.PutFramework{Info: fleet.FrameworkInfo{ID: id}}})
		must(t, s, state.Command{Teardown: &state.Teardown{ID: id}})
	}
	if len(s.Frameworks) != state.MaxEndedFrameworks {
		t.Errorf("%d frameworks are remembered", len(s.Frameworks))
	}
	if r := apply(s, state.Command{PutFramework: &state.PutFramework{Info: fleet.FrameworkInfo{ID: "mx"}}}); r.Kind != state.Conflict {
		t.Errorf("a framework that was torn down is back: %+v", r)
	}
}

func TestUnacknowledgedUpdatesAreBounded(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{PutFramework: &state.PutFramework{Info: fleet.FrameworkInfo{ID: "m"}}})
	must(t, s, state.Command{Launch: &state.Launch{ID: "t", Framework: "m", Role: "*", Agent: "a1", Create: true}})
	before := s.Clone()
	for seq, st := range []fleet.TaskState{fleet.TaskStarting, fleet.TaskRunning, fleet.TaskFinished} {
		must(t, s, observe("t", "a1", uint64(seq+1), st))
	}
	if n := len(s.Tasks["t"].Pending); n != 3 {
		t.Errorf("%d updates wait, want 3", n)
	}
	if n := len(before.Tasks["t"].Pending); n != 0 {
		t.Errorf("a clone changed: %d updates", n)
	}
}
