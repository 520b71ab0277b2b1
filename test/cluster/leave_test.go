package cluster_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// The owner of a machine takes it back while it is cut off. The wish outlives
// the agent's process and the leader that has heard of it.
func TestAMachineLeavesItsFleet(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		a := guest(f, "edge-1", f.Others(f.Leader())[0])
		f.Submit("soft", "polite")
		f.Submit("hard", "stubborn")
		for _, id := range []fleet.TaskID{"soft", "hard"} {
			f.Reach(id, fleet.TaskRunning, time.Minute)
		}
		for _, of := range []string{"release.pub", "packages/x.part"} { // of the fleet, too
			if err := errors.Join(os.MkdirAll(filepath.Dir(a.Dir(of)), 0o700), os.WriteFile(a.Dir(of), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		n.Cut(a.Addr)
		a.Leave(20 * time.Second)
		time.Sleep(time.Minute)
		switch l, err := agent.Left(a.Dir("")); {
		case err != nil:
			t.Fatal(err)
		case !l.Seen || l.Connected || l.Tasks != 2:
			t.Errorf("cut off, its leaving is %+v; want it seen, not connected, and both tasks there", l)
		}
		a.Stop()
		n.Heal(a.Addr)
		a.Start()
		f.Reach("soft", fleet.TaskKilled, 2*time.Minute)
		old := f.Leader()
		old.Stop()
		f.Await("another replica leads", time.Minute, func() bool { return f.Leader() != old })
		took := a.Left(2 * time.Minute)
		within(t, "from the first task's end to the end of the leaving", took, 0, time.Minute)
		f.Reach("hard", fleet.TaskKilled, time.Minute)
		if err := f.Leader().Read(t.Context(), func(s *state.State) {
			if rec := s.Agents[a.ID]; rec.Gone.IsZero() {
				t.Errorf("the agent is %+v, want it gone", rec)
			}
		}); err != nil {
			t.Error(err)
		}
		if _, err := agent.Left(a.Dir("")); !errors.Is(err, agent.ErrLeft) {
			t.Errorf("afterwards: %v", err)
		}
		var names []string
		left, err := os.ReadDir(a.Dir(""))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			names = append(names, e.Name())
		}
		if want := []string{"link.json"}; !slices.Equal(names, want) {
			t.Errorf("left of it: %v, want %v", names, want)
		}
		if err := agent.Leave(a.Dir(""), 0); !errors.Is(err, agent.ErrNotJoined) {
			t.Errorf("leaving a second time: %v", err)
		}
	})
}
