package controlplane_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// declared returns once the leader knows what an agent has: its session comes
// before that is committed.
func declared(t *testing.T, f *cluster.Fleet, lead *cluster.Replica, id fleet.AgentID) {
	t.Helper()
	f.Await("the agent says what it has", time.Minute, func() (has bool) {
		_ = lead.Ask(t.Context(), func(l *leader.Leader) { has = l.Free(id).CPUs >= fleet.Whole(1) })
		return has
	})
}

// An operator's reservation goes through the leader's loop and the trio, and
// whoever asked hears what came of it.
func TestReserveThroughTheTrio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cluster.New(t, transporttest.NewNet(t, time.Millisecond))
		f.Trio()
		a := f.Agent("edge-1")
		lead := f.Leader()
		declared(t, f, lead, a.ID)
		lead.Inject(leader.Subscribe{Framework: "silent", Standing: []fleet.Role{"default"}})
		want := leader.Reserve{Agent: a.ID, Role: "r", Resources: fleet.Resources{CPUs: fleet.Whole(1)}, Principal: "operator/ann", By: "operator/ann"}
		if _, err := lead.Reserve(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		var offers []fleet.Offer
		if err := lead.Ask(t.Context(), func(l *leader.Leader) { offers = l.Offers() }); err != nil {
			t.Fatal(err)
		}
		for _, o := range offers {
			if len(o.Resources.Parts) > 0 {
				t.Errorf("what is reserved is on offer to everybody: %v", o.Resources)
			}
		}
		for _, r := range f.Replicas {
			f.Await("replica "+string(r.ID)+" knows", 5*time.Second, func() (known bool) {
				r.Stale(func(st *state.State) { known = len(st.Agents[a.ID].Dynamic) == 1 })
				return known
			})
		}
		want.Resources.CPUs = fleet.Whole(1000)
		var refused *state.Error
		if _, err := lead.Reserve(t.Context(), want); !errors.As(err, &refused) || refused.Kind != state.Conflict {
			t.Errorf("too much: %v", err)
		}
		var other *registrar.NotLeaderError
		if _, err := f.Others(lead)[0].Reserve(t.Context(), want); !errors.As(err, &other) || other.Leader != lead.ID {
			t.Errorf("asked of a follower: %v", err)
		}
		lead.Stale(func(st *state.State) {
			log, _ := st.Audit.Last(9, func(e state.AuditEntry) bool { return e.Action == "agent.reserve" })
			if len(log) != 1 || log[0].By != "operator/ann" {
				t.Errorf("audit: %+v", log)
			}
		})
	})
}
