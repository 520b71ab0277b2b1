package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// launch is an ordinary launch, as the leader proposes it.
func launch(n uint64) state.Command {
	return state.Command{
		Time: time.Unix(1_800_000_000, int64(n)),
		Launch: &state.Launch{
			ID: fleet.TaskID(fmt.Sprintf("train-%d", n)), Framework: "run", Role: "research/vision", Agent: "a1", Create: true,
			Resources: fleet.Resources{CPUs: fleet.Whole(4), Mem: fleet.Whole(8192)},
			Spec: fleet.TaskSpec{
				Name: "train", Image: "docker.io/library/busybox:1.36", Command: []string{"sleep", "3600"},
				Env: map[string]string{"EPOCHS": "10", "SEED": "1"}, Network: fleet.NetworkNone, KillGrace: 5 * time.Second,
			},
		},
	}
}

func admitAgent(tb testing.TB, r registrartest.Registrar) {
	now := time.Unix(1_800_000_000, 0)
	for _, res := range registrartest.Propose(
		tb, r,
		state.Command{Time: now, Bootstrap: &state.Bootstrap{TrustDomain: "fleet.example"}},
		state.Command{Time: now, PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: 1, Expires: now.Add(time.Hour)}},
		state.Command{Time: now, Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1"}},
	) {
		if err := res.Err(); err != nil {
			tb.Fatal(err)
		}
	}
}

// patient keeps what else runs on the machine from costing the leader its lease:
// throughput is measured here, not elections.
func patient(cfg *registrar.Config) {
	cfg.Heartbeat, cfg.Election, cfg.Lease = 3*time.Second, 3*time.Second, 3*time.Second
}

// BenchmarkPropose measures launches committed per second, on disk and over
// QUIC on loopback, one launch per Propose, all replicas in one process.
func BenchmarkPropose(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		for _, parallel := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("replicas=%d/parallel=%d", replicas, parallel), func(b *testing.B) {
				c := newTrio(b, b.TempDir(), patient)
				c.plain = true
				c.start(replicas)
				lead := c.all[0].Raft
				admitAgent(b, lead)
				var next atomic.Uint64
				work := make(chan struct{}, parallel)
				done := make(chan error, parallel)
				b.ReportAllocs()
				b.ResetTimer()
				for range parallel {
					go func() {
						var failed error // and drain: else nobody takes the rest
						for range work {
							res, err := lead.Propose(b.Context(), launch(next.Add(1)))
							if err == nil {
								err = res[0].Err()
							}
							if err != nil {
								failed = err
							}
						}
						done <- failed
					}()
				}
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				for range parallel {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "launches/s")
				b.ReportMetric(float64(b.N)/float64(lead.Applied()), "launches/entry")
			})
		}
	}
}

// BenchmarkRead measures linearizable reads of a trio's leader.
func BenchmarkRead(b *testing.B) {
	c := newTrio(b, "", patient)
	c.plain = true
	c.start(3)
	lead := c.all[0].Raft
	admitAgent(b, lead)
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := lead.Read(b.Context(), func(*state.State) {}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
}

// BenchmarkFailover measures, from the moment the leader of a trio goes silent,
// the time to the new leader's announcement and to the first commit. The figure
// wanted is 1500 ms.
func BenchmarkFailover(b *testing.B) {
	var toLeader, toCommit, worst time.Duration
	for range b.N {
		b.StopTimer()
		c := newTrio(b, b.TempDir(), nil)
		c.start(3)
		admitAgent(b, c.all[0].Raft)
		old := c.all[0]
		b.StartTimer()
		began := time.Now()
		old.socket.off.Store(true)
		won := make(chan *replica, 2)
		for _, r := range c.without(old) {
			go func() {
				for l := range r.Leadership() {
					if l.Leading {
						won <- r
						return
					}
				}
			}()
		}
		lead := <-won
		d := time.Since(began)
		toLeader += d
		worst = max(worst, d)
		for n := uint64(0); ; n++ {
			ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
			_, err := lead.Propose(ctx, launch(n))
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, registrar.ErrNotLeader) && !errors.Is(err, registrar.ErrTimeout) {
				b.Fatal(err)
			}
		}
		toCommit += time.Since(began)
		b.StopTimer()
		for _, r := range c.all {
			c.down(r)
		}
		b.StartTimer()
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(toLeader)/float64(b.N), "ms-to-leader")
	b.ReportMetric(ms(worst), "ms-to-leader-max")
	b.ReportMetric(ms(toCommit)/float64(b.N), "ms-to-commit")
}
