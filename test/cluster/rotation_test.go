package cluster_test

import (
	"context"
	"crypto/x509"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
	"github.com/tenderfleet/tender/transport/wire"
)

// turning is the rotation as the leader has it.
func turning(f *cluster.Fleet) (rot state.Rotation) {
	f.Leader().Stale(func(s *state.State) {
		if s.Rotation != nil {
			rot = *s.Rotation
		}
	})
	return rot
}

// inPhase waits until the rotation has come to a phase.
func inPhase(f *cluster.Fleet, phase state.RotationPhase, limit time.Duration) {
	order := []state.RotationPhase{state.RotationMaking, state.RotationTrusting, state.RotationIssuing, state.RotationRenewing, state.RotationFinished}
	f.Await("the rotation is "+string(phase), limit, func() bool {
		return slices.Index(order, turning(f).Phase) >= slices.Index(order, phase)
	})
}

// capable waits until the trio knows that all of it can rotate: of a replica
// that is down, what it said last counts.
func capable(f *cluster.Fleet) {
	f.Await("all replicas have said what they can", time.Minute, func() (all bool) {
		f.Leader().Stale(func(s *state.State) {
			all = len(s.Replicas) == len(f.Replicas)
			for _, rec := range s.Replicas {
				all = all && rec.Capability == state.Capability
			}
		})
		return all
	})
}

func rotate(t *testing.T, f *cluster.Fleet, o client.RotateCA) {
	t.Helper()
	if err := f.Leader().Rotate(t.Context(), o, "operator/test"); err != nil {
		t.Fatal(err)
	}
}

// renewed waits until an agent holds a certificate of the new root, and the key
// of that is its only one.
func renewed(f *cluster.Fleet, a *cluster.Agent) {
	f.Await(string(a.ID)+" has renewed", 10*time.Minute, func() bool {
		rot := turning(f)
		return rot.NewPin != "" && under(a.Credential(), rot.NewPin)
	})
	settled(f, a)
}

// under reports whether a credential leads to a root by its own chain.
func under(c *pki.Credential, pin string) bool {
	for _, r := range c.Bundle.Roots {
		if pki.Pin(r) == pin {
			only := *c
			only.Bundle = &pki.Bundle{Version: 1, Roots: []*x509.Certificate{r}}
			return only.Verify(time.Now()) == nil
		}
	}
	return false
}

// The root and all below it are replaced while the fleet works. An agent that
// slept through all of it, the end too, comes back by itself.
func TestRotationOfTheRoot(t *testing.T) {
	for name, wakes := range map[string]time.Duration{"with a certificate that holds": 0, "after its end": 3 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
				if wakes > 0 {
					f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) { cfg.AgentCertLife = 3 * time.Minute }
				}
				f.Trio()
				a, away := f.Agent("edge-1"), f.Agent("edge-2")
				f.Submit("work", "sleep", "1h")
				f.Reach("work", fleet.TaskRunning, time.Minute)
				away.Stop()
				_, since := a.Session()
				began := f.Task("work").History
				old := f.Leader().Bundle().Pins()[0]
				line := f.Line(pki.KindAgent, 2)

				rotate(t, f, client.RotateCA{})
				if err := f.Leader().Rotate(t.Context(), client.RotateCA{}, "operator/test"); err == nil {
					t.Error("a second rotation began")
				}
				inPhase(f, state.RotationRenewing, time.Minute)
				if got := f.Line(pki.KindAgent, 1).Pin; got == old || line.Pin != old {
					t.Errorf("join lines: before %s, now %s", line.Pin, got)
				}
				f.JoinBy(line, "edge-3")
				renewed(f, a)
				f.Await("the leader waits for nobody that is here", time.Minute, func() bool {
					v, err := f.Leader().Turning(t.Context())
					return err == nil && len(v.Waiting)+len(v.Behind)+len(v.Silent) == 0
				})
				err := f.Leader().Rotate(t.Context(), client.RotateCA{Finish: true}, "operator/test")
				if wakes == 0 && (err == nil || !strings.Contains(err.Error(), "agent edge-2")) {
					t.Errorf("finished with an agent of the old root: %v", err)
				}
				rotate(t, f, client.RotateCA{Finish: true, Force: true})
				for _, r := range f.Replicas {
					f.Await(string(r.ID)+" trusts the new root alone", time.Minute, func() bool {
						b := r.Bundle()
						return len(b.Roots) == 1 && b.Pins()[0] != old
					})
				}
				if _, now := a.Session(); now != since {
					t.Error("the session was interrupted")
				}
				if got := f.Task("work"); got.State != fleet.TaskRunning || len(got.History) != len(began) {
					t.Errorf("the task: %v, %+v", got.State, got.History)
				}
				if err := f.TryJoinBy(line, "edge-4"); !errors.Is(err, pki.ErrWrongPin) {
					t.Errorf("an old join line after the end: %v", err)
				}

				time.Sleep(wakes)
				away.Start()
				f.Await("who slept through it is back", time.Minute, away.Connected)
				settled(f, away)
				if got := away.Credential(); len(got.Bundle.Roots) != 1 || got.Bundle.Pins()[0] == old || got.Verify(time.Now()) != nil {
					t.Errorf("it trusts %v", got.Bundle.Pins())
				}
				f.Agent("edge-5")
				for action, least := range map[string]int{"ca.rotate": 2, "ca.issuer": 3} {
					if got := audited(f, action); len(got) < least || got[0].By == "" || got[0].Target == "" {
						t.Errorf("audit of %s: %+v", action, got)
					}
				}
			})
		})
	}
}

// Whatever dies during a rotation, it goes on: a replica that was down for all
// of it until the end, and leaders in each phase.
func TestRotationOutlivesCrashes(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		capable(f)
		a := f.Agent("edge-1")
		f.Submit("work", "sleep", "1h")
		f.Reach("work", fleet.TaskRunning, time.Minute)
		began := f.Task("work").History
		lead := f.Leader()
		down := f.Others(lead)[0]
		other := f.Others(lead)[1]
		down.Stop()
		rotate(t, f, client.RotateCA{})
		inPhase(f, state.RotationTrusting, time.Minute)
		// The holder of the root key, which leads, dies; nothing is waited for then
		// that only it could do, so it is back before the next phase.
		lead.Stop()
		down.Start()
		f.Leader()
		lead.Start()
		inPhase(f, state.RotationIssuing, 20*time.Minute)
		again := f.Leader()
		again.Stop()
		f.Leader()
		again.Start()
		inPhase(f, state.RotationRenewing, 20*time.Minute)
		renewed(f, a)
		pin := turning(f).NewPin
		other.Stop()
		f.Leader()
		rotate(t, f, client.RotateCA{Finish: true})
		inPhase(f, state.RotationFinished, time.Minute)
		other.Start()
		for _, r := range f.Replicas {
			f.Await(string(r.ID)+" trusts the new root alone", time.Minute, func() bool {
				b := r.Bundle()
				return len(b.Roots) == 1 && b.Pins()[0] == pin
			})
		}
		f.Await("all replicas vote", time.Minute, func() bool { return len(f.Voters()) == 3 })
		f.Await("the agent is connected", time.Minute, a.Connected)
		if got := f.Task("work"); got.State != fleet.TaskRunning {
			t.Errorf("the task: %v, %+v, before %+v", got.State, got.History, began)
		}
		f.Leader().Stale(func(s *state.State) {
			for id, rec := range s.Replicas {
				if rec.Round != 1 || len(rec.Cross) == 0 {
					t.Errorf("%s: intermediate of rotation %d, late-comers %v", id, rec.Round, len(rec.Cross) > 0)
				}
			}
		})
	})
}

// A replica that was down while the others changed their authorities follows
// when it is back, if that is before the end.
func TestReplicaThatWasAwayFollows(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		capable(f)
		down := f.Others(f.Leader())[0]
		down.Stop()
		rotate(t, f, client.RotateCA{Force: true})
		inPhase(f, state.RotationRenewing, time.Minute)
		err := f.Leader().Rotate(t.Context(), client.RotateCA{Finish: true}, "operator/test")
		if err == nil || !strings.Contains(err.Error(), "replica "+string(down.ID)) {
			t.Errorf("finished without %s: %v", down.ID, err)
		}
		down.Start()
		f.Await("it has followed", time.Minute, func() bool {
			v, err := f.Leader().Turning(t.Context())
			return err == nil && len(v.Behind)+len(v.Silent) == 0
		})
		rotate(t, f, client.RotateCA{Finish: true})
	})
}

// With the old root revoked nothing of it is served: who was away joins again.
func TestRotationThatRevokesTheOldRoot(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Up(1)
		a, away := f.Agent("edge-1"), f.Agent("edge-2")
		away.Stop()
		rotate(t, f, client.RotateCA{RevokeOld: true})
		inPhase(f, state.RotationRenewing, time.Minute)
		renewed(f, a)
		_, since := a.Session()
		rotate(t, f, client.RotateCA{Finish: true, Force: true})
		f.Await("the session of the old root has given way to one of the new", 5*time.Second, func() bool {
			_, now := a.Session()
			return now.After(since)
		})
		f.Leader().Stale(func(s *state.State) {
			if len(s.Replicas["r1"].Cross) > 0 {
				t.Error("the old root's signature is still there")
			}
		})
		away.Start()
		time.Sleep(time.Minute)
		if away.Connected() || !a.Connected() {
			t.Errorf("away: %v, the other one: %v", away.Connected(), a.Connected())
		}
	})
}

// Who speaks as a replica by a stolen disk is put out with the root.
func TestRevokedRootEndsReplicasSessions(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		capable(f)
		a := f.Agent("edge-1")
		leader, as := f.Leader(), f.Others(f.Leader())[0]
		stolen, err := pki.LoadDir(filepath.Join(as.Dir(), "pki"))
		if err != nil {
			t.Fatal(err)
		}
		as.Stop()
		d, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(stolen), Conn: n.Conn("10.9.0.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		thief, err := d.Dial(t.Context(), leader.Addr, transport.ALPNRelay, nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err := thief.Open(t.Context(), transport.StreamControl)
		if err != nil {
			t.Fatal(err)
		}
		control := wire.NewConn(st, wire.MaxRelay)
		if err := control.Send(wire.RelayHello{Capability: wire.Capability, Replica: as.ID}); err != nil {
			t.Fatal(err)
		}
		if m, err := control.Recv(); err != nil {
			t.Fatalf("%T, %v", m, err)
		}

		rotate(t, f, client.RotateCA{RevokeOld: true, Force: true})
		inPhase(f, state.RotationRenewing, time.Minute)
		renewed(f, a)
		if err := thief.Context().Err(); err != nil {
			t.Fatalf("the session is over before the root is: %v", context.Cause(thief.Context()))
		}
		rotate(t, f, client.RotateCA{Finish: true, Force: true})
		f.Await("the session is ended", 5*time.Second, func() bool { return thief.Context().Err() != nil })
		f.Submit("t1", "sleep", "5m")
		f.Reach("t1", fleet.TaskRunning, time.Minute)
		if f.Leader() != leader {
			t.Error("the leader lost its lead over it")
		}
	})
}

// Intermediates are replaced on demand, and by themselves before they end.
func TestRotationOfIntermediates(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) { cfg.IssuerLife = 6 * time.Minute }
		f.Trio()
		a := f.Agent("edge-1")
		_, since := a.Session()
		issuers := func() map[fleet.ReplicaID]string {
			out := map[fleet.ReplicaID]string{}
			f.Leader().Stale(func(s *state.State) {
				for id, rec := range s.Replicas {
					out[id] = string(rec.Intermediate)
				}
			})
			return out
		}
		f.Await("all authorities are known", time.Minute, func() bool {
			m := issuers()
			return m["r1"] != "" && m["r2"] != "" && m["r3"] != ""
		})
		before := issuers()
		rotate(t, f, client.RotateCA{Intermediate: true})
		inPhase(f, state.RotationFinished, time.Minute)
		for id, was := range before {
			if issuers()[id] == was {
				t.Errorf("%s has its old intermediate", id)
			}
		}
		before = issuers()
		f.Await("they are replaced before they end", 6*time.Minute, func() bool {
			now := issuers()
			return now["r1"] != before["r1"] && now["r2"] != before["r2"] && now["r3"] != before["r3"]
		})
		f.Agent("edge-2")
		if _, now := a.Session(); now != since {
			t.Error("the session was interrupted")
		}
	})
}
