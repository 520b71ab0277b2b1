package cluster_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// A newer trust bundle is with every replica and every connected agent within
// seconds, on their disks, and with the others as soon as they are back.
func TestNewTrustRootsReachEverybody(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		a, away := f.Agent("edge-1"), f.Agent("edge-2")
		away.Stop()
		_, since := a.Session()
		old := a.Credential().Bundle
		fresh, _, err := pki.NewRoot(cluster.TrustDomain, time.Now(), 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		lead := f.Leader()
		version, err := lead.SetRoots(t.Context(), "operator/test", append(old.Roots, fresh)...)
		if err != nil || version != 2 {
			t.Fatalf("version %d, %v", version, err)
		}
		took := f.Await("the agent has both roots", time.Minute, func() bool {
			b := a.Credential().Bundle
			return b.Version == 2 && len(b.Roots) == 2
		})
		within(t, "pushing the bundle", took, 0, 3*time.Second)
		f.Await("the leader knows that", time.Minute, func() bool {
			soft, err := f.Leader().Soft(t.Context())
			return err == nil && soft.Agents[a.ID].Readings.Bundle == 2
		})
		if _, now := a.Session(); now != since {
			t.Error("the session was interrupted")
		}
		away.Start()
		f.Await("the other one has them as well", time.Minute, func() bool { return away.Credential().Bundle.Version == 2 })

		// It is on the replicas' disks, and a restart keeps it.
		lead.Stop()
		f.Leader()
		lead.Start()
		for _, r := range f.Replicas {
			f.Await(string(r.ID)+" has it", time.Minute, func() bool { return r.Bundle().Version == 2 })
		}
		fresh2, _, err := pki.NewRoot(cluster.TrustDomain, time.Now(), 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		// Joining and renewing go on under the root that signs still.
		f.Agent("edge-3")

		if _, err := f.Leader().SetRoots(t.Context(), "operator/test", fresh2); err == nil {
			t.Error("all roots were replaced at once")
		}
		r := f.Leader()
		results, err := r.Propose(t.Context(), state.Command{Time: time.Now(), SetBundle: &state.SetBundle{Bundle: old.PEM(), Version: 2}})
		var refused *state.Error
		if err != nil || !errors.As(results[0].Err(), &refused) || refused.Kind != state.Conflict {
			t.Errorf("an old version was taken: %v, %v", results, err)
		}
	})
}
