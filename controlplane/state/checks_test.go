package state_test

import (
	"testing"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func checked(seq uint64, h fleet.TaskHealth) state.Command {
	c := observe("t1", "a1", seq, fleet.TaskRunning)
	c.Observe.Update.Status.Health, c.Observe.Update.Status.Reason = h, fleet.ReasonHealthUpdated
	return c
}

func TestAnotherHealthIsNewsOfARunningTask(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, observe("t1", "a1", 1, fleet.TaskRunning))
	for seq, tc := range []struct {
		h         fleet.TaskHealth
		duplicate bool
	}{
		{fleet.TaskHealthy, false},
		{fleet.TaskHealthy, true},
		{fleet.TaskUnhealthy, false},
		{fleet.TaskHealthy, false},
	} {
		gen := s.Agents["a1"].Generation
		r := must(t, s, checked(uint64(seq+2), tc.h))
		got := s.Tasks["t1"]
		if r.Duplicate != tc.duplicate || got.State != fleet.TaskRunning || got.Status.Health != tc.h || got.Seq != uint64(seq+2) {
			t.Errorf("update %d: duplicate %v, state %v, %v", seq+2, r.Duplicate, got.State, got.Status.Health)
		}
		if s.Agents["a1"].Generation != gen {
			t.Errorf("update %d: the agent is to do something else because of it", seq+2)
		}
	}
	must(t, s, state.Command{Reach: &state.Reach{Agent: "a1", Reachable: false}})
	must(t, s, state.Command{Reach: &state.Reach{Agent: "a1", Reachable: true}})
	if got := s.Tasks["t1"]; got.State != fleet.TaskRunning || got.Status.Health != fleet.TaskHealthy {
		t.Errorf("back again it is %v, %v", got.State, got.Status.Health)
	}
}

func TestResultsOfChecksLeaveTheHistoryFirst(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, observe("t1", "a1", 1, fleet.TaskRunning))
	began := len(s.Tasks["t1"].History)
	seq := uint64(2)
	for ; seq < 100; seq++ {
		must(t, s, checked(seq, fleet.TaskHealthy+fleet.TaskHealth(seq%2)))
	}
	must(t, s, observe("t1", "a1", seq, fleet.TaskFinished))
	h := s.Tasks["t1"].History
	if len(h) != state.MaxHistory || h[len(h)-1].State != fleet.TaskFinished || h[len(h)-2].Health != fleet.TaskUnhealthy {
		t.Errorf("%d statuses, the last %+v", len(h), h[len(h)-1])
	}
	for i := range began {
		if h[i].Checked() {
			t.Errorf("status %d of those from its beginning was dropped for %+v", i, h[i])
		}
	}
}

// An outside framework hears of every change that it has room for, in order.
func TestResultsOfChecksWaitForTheirFramework(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{PutFramework: &state.PutFramework{Info: fleet.FrameworkInfo{ID: "f1", Roles: []fleet.Role{"*"}}}})
	must(t, s, state.Command{Launch: &state.Launch{ID: "t1", Framework: "f1", Role: "*", Agent: "a1", Create: true}})
	must(t, s, observe("t1", "a1", 1, fleet.TaskRunning))
	must(t, s, checked(2, fleet.TaskUnhealthy))
	must(t, s, checked(3, fleet.TaskUnhealthy)) // no news
	must(t, s, checked(4, fleet.TaskHealthy))
	var got []fleet.TaskHealth
	for _, p := range s.Tasks["t1"].Pending {
		got = append(got, p.Status.Health)
	}
	if len(got) != 3 || got[0] != fleet.TaskHealthUnknown || got[1] != fleet.TaskUnhealthy || got[2] != fleet.TaskHealthy {
		t.Errorf("it is told %v", got)
	}
}
