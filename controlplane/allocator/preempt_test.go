package allocator_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/transport/fleet"
)

// site is one agent of 4 cpus, full of tasks of one cpu each.
type site struct {
	a     *allocator.Allocator
	tasks []allocator.Victim
}

func fullSite(tasks ...allocator.Victim) *site {
	s := &site{a: allocator.New(allocator.Options{})}
	s.a.SetAgent(agent("a1", int64(len(tasks)), 4096))
	for i, v := range tasks {
		v.Task, v.Agent = fleet.TaskID(fmt.Sprintf("t%d", i+1)), "a1"
		v.Resources, v.Launched = fleet.Resources{CPUs: fleet.Whole(1)}, t0.Add(time.Duration(i)*time.Minute)
		s.a.Charge("others", v.Role, "a1", v.Resources)
		s.tasks = append(s.tasks, v)
	}
	return s
}

// preempt asks twice, with patience in between.
func (s *site) preempt() string {
	victims := func() []allocator.Victim { return s.tasks }
	first := s.a.Preempt(t0, 5*time.Second, time.Minute, victims)
	var out []string
	for _, p := range append(first, s.a.Preempt(t0.Add(5*time.Second), 5*time.Second, time.Minute, victims)...) {
		why := fmt.Sprintf("priority %d", p.Priority)
		if p.Guarantee {
			why = "guarantee"
		}
		out = append(out, fmt.Sprintf("%v for %s/%s: %s", p.Victims, p.Framework, p.Role, why))
	}
	return strings.Join(out, "; ")
}

func (s *site) demand(role fleet.Role, cpus int64, priority int) {
	d := demand("d", 1, need(cpus, 0))
	d.Role, d.Priority = role, priority
	s.a.SetDemands("f", role, []fleet.Demand{d})
	if gs := s.a.Allocate(t0); len(gs) > 0 {
		panic("the site is not full")
	}
}

func TestWhoIsPreempted(t *testing.T) {
	guarantee := func(r fleet.Role, cpus int64) func(*site) {
		return func(s *site) {
			s.a.SetQuota(r, fleet.Quota{Guarantee: fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(cpus)}}})
		}
	}
	limit := func(s *site) {
		s.a.SetQuota("x", fleet.Quota{Limit: fleet.Quantities{{Name: "cpus", Amount: 500}}})
	}
	v := func(role fleet.Role, priority int) allocator.Victim {
		return allocator.Victim{Role: role, Priority: priority}
	}
	for _, tc := range []struct {
		name     string
		tasks    []allocator.Victim
		setup    func(*site)
		cpus     int64
		priority int
		want     string
		role     fleet.Role
	}{
		{"the least urgent first", []allocator.Victim{v("y", 3), v("y", 1), v("y", 2)}, nil, 1, 5, "[t2] for f/x: priority 5", ""},
		{"of equals the youngest", []allocator.Victim{v("y", 0), v("y", 0)}, nil, 1, 1, "[t2] for f/x: priority 1", ""},
		{"as many as it takes", []allocator.Victim{v("y", 0), v("y", 0), v("y", 0)}, nil, 2, 1, "[t3 t2] for f/x: priority 1", ""},
		{"its own role, too", []allocator.Victim{v("x", 0)}, nil, 1, 1, "[t1] for f/x: priority 1", ""},
		{"not of its own priority", []allocator.Victim{v("y", 1), v("y", 2)}, nil, 1, 1, "", ""},
		{"not when it would not be enough", []allocator.Victim{v("y", 0), v("y", 9)}, nil, 2, 1, "", ""},
		{"for a guarantee, whatever the priority", []allocator.Victim{v("y", 9), v("y", 8)}, guarantee("x", 1), 1, 0, "[t2] for f/x: guarantee", ""},
		{"for a guarantee above the role", []allocator.Victim{v("y", 9)}, guarantee("x", 1), 1, 0, "[t1] for f/x/z: guarantee", "x/z"},
		{"not for a guarantee that is kept", []allocator.Victim{v("x", 9), v("y", 9)}, guarantee("x", 1), 1, 0, "", ""},
		{"not what another role is guaranteed", []allocator.Victim{v("y", 0), v("y", 0)}, guarantee("y", 2), 1, 5, "", ""},
		{"but what it has beyond", []allocator.Victim{v("y", 0), v("y", 0), v("y", 0)}, guarantee("y", 2), 1, 5, "[t3] for f/x: priority 5", ""},
		{"not beyond its own limit", []allocator.Victim{v("y", 0)}, limit, 1, 5, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := fullSite(tc.tasks...)
			if tc.setup != nil {
				tc.setup(s)
			}
			s.demand(cmp.Or(tc.role, "x"), tc.cpus, tc.priority)
			if got := s.preempt(); got != tc.want {
				t.Errorf("preempted %q, want %q", got, tc.want)
			}
		})
	}
}

// What a victim gives back is for whom it ended, though others have a lower
// share; and room is made once.
func TestRoomIsKeptForWhomItWasMade(t *testing.T) {
	s := fullSite(allocator.Victim{Role: "y"}, allocator.Victim{Role: "y"})
	s.a.Charge("f", "x", "elsewhere", fleet.Resources{CPUs: fleet.Whole(9)}) // f holds much already
	s.demand("x", 1, 5)
	s.a.SetStanding("hungry", "z", true)
	if got := s.preempt(); got != "[t2] for f/x: priority 5" {
		t.Fatalf("preempted %q", got)
	}
	refusals, _ := s.a.Why(t0, "f", "x", need(1, 0))
	if len(refusals) != 1 || !strings.Contains(refusals[0].Reason, "room is being made") {
		t.Errorf("why: %v", refusals)
	}
	later := t0.Add(20 * time.Second)
	if more := s.a.Preempt(later, 5*time.Second, time.Minute, func() []allocator.Victim { return s.tasks[:1] }); len(more) > 0 {
		t.Errorf("room was made a second time: %v", more)
	}
	s.a.Recover("others", "y", "a1", fleet.Resources{CPUs: fleet.Whole(1)}, true)
	grants := s.a.Allocate(later)
	if !slices.ContainsFunc(grants, func(g allocator.Grant) bool { return g.Framework == "f" && g.Resources.CPUs == fleet.Whole(1) }) {
		t.Errorf("granted %v, want f to have what was made for it", grants)
	}
	// It has it; what ends after that is for all again.
	s.a.Recover("others", "y", "a1", fleet.Resources{CPUs: fleet.Whole(1)}, true)
	expect(t, s.a.Allocate(later.Add(time.Second)), "hungry/z a1 cpus:1")
}

// What was kept for a demand that is no more goes to others.
func TestRoomIsGivenUpWithItsDemand(t *testing.T) {
	s := fullSite(allocator.Victim{Role: "y"})
	s.demand("x", 1, 5)
	s.preempt()
	s.a.SetDemands("f", "x", nil)
	s.a.SetStanding("g", "z", true)
	s.a.Recover("others", "y", "a1", fleet.Resources{CPUs: fleet.Whole(1)}, true)
	s.a.Preempt(t0.Add(6*time.Second), 5*time.Second, time.Minute, func() []allocator.Victim { return nil })
	expect(t, s.a.Allocate(t0.Add(6*time.Second)), "g/z a1 cpus:1;mem:4096")
}
