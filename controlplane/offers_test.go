package controlplane_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// A framework that wants anything and answers nothing holds an offer for 30 s.
func TestAnOfferExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cluster.New(t, transporttest.NewNet(t, time.Millisecond))
		f.Up(1)
		a := f.Agent("edge-1")
		lead := f.Leader()
		offer := func() fleet.Offer {
			t.Helper()
			soft, err := lead.Soft(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(soft.Offers) != 1 {
				t.Fatalf("%d offers are out, want one", len(soft.Offers))
			}
			return soft.Offers[0]
		}
		declared(t, f, lead, a.ID)
		lead.Inject(leader.Subscribe{Framework: "silent", Standing: []fleet.Role{"default"}})
		made := time.Now()
		first := offer()
		if first.Agent != a.ID || first.Expires.Sub(made) != 30*time.Second {
			t.Errorf("an offer of %s for %v, want one of %s for 30 s", first.Agent, first.Expires.Sub(made), a.ID)
		}
		if offer().ID != first.ID {
			t.Error("the offer was replaced at once")
		}
		f.Await("the offer is withdrawn, and what it held offered anew", time.Minute, func() bool { return offer().ID != first.ID })
		second := offer()
		if !second.Resources.Equal(first.Resources) {
			t.Errorf("%v was offered after %v", second.Resources, first.Resources)
		}
		// The leader looks once a second.
		if held := second.Expires.Add(-30 * time.Second).Sub(made); held < 30*time.Second || held > 31*time.Second {
			t.Errorf("the second offer was made after %v, want 30 s to 31 s", held)
		}
	})
}
