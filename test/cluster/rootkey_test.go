package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// The root key lies where the control plane began, and another replica leads:
// who joins is signed for all the same. Where nobody can sign, the refusal says
// who could, and uses up no join line.
func TestJoinWhereTheLeaderLacksTheRootKey(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		capable(f)
		holder := f.Leader()
		f.Await("the trio knows who holds the root key", time.Minute, func() (known bool) {
			f.Leader().Stale(func(s *state.State) { known = s.Replicas[holder.ID].RootKey })
			return known
		})
		stop(f, holder)
		line := f.Line(pki.KindReplica, 1)
		refused := func(want ...string) {
			t.Helper()
			_, err := f.TryGrowBy(line, "r4")
			for _, w := range want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("want %q in: %v", w, err)
				}
			}
		}
		refused("r1 held it last and does not answer", "start tenderd there", "DATA/root/root.key", "the join line is still good")
		holder.Start()
		f.Await("the holder follows", time.Minute, func() bool { return f.Leader() != holder && holder.Status().Leader == f.Leader().ID }) // it need not have caught up

		key := filepath.Join(holder.Dir(), "root", "root.key")
		if err := os.Rename(key, key+".away"); err != nil {
			t.Fatal(err)
		}
		refused("r1 held it last, and it lies there no more", "DATA/root/root.key", "the join line is still good")
		if err := os.Rename(key+".away", key); err != nil {
			t.Fatal(err)
		}

		fresh, err := f.TryGrowBy(line, "r4")
		if err != nil {
			t.Fatal(err)
		}
		f.Await("the newcomer has a vote", time.Minute, func() bool { return slices.Contains(f.Voters(), fresh.ID) })
		if f.Leader() == holder {
			t.Error("the holder of the root key leads: this proves nothing")
		}
	})
}
