package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// shortLived makes agents' certificates hold for a minute, so that a sleep of
// two is the sleep of half a year.
func shortLived(f *cluster.Fleet) {
	f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) { cfg.AgentCertLife = time.Minute }
}

const sleep = 2 * time.Minute

// record is what the leader's replica knows of an agent.
func record(f *cluster.Fleet, id fleet.AgentID) (rec fleet.Agent) {
	f.Leader().Stale(func(s *state.State) { rec = *s.Agents[id] })
	return rec
}

func pinOf(c *pki.Credential) string { return enroll.KeyPin(c.Leaf().RawSubjectPublicKeyInfo) }

// settled waits until the key on an agent's disk is the one and only.
func settled(f *cluster.Fleet, a *cluster.Agent) {
	f.Await(string(a.ID)+"'s key is the only one", time.Minute, func() bool {
		rec := record(f, a.ID)
		return rec.KeyHash == pinOf(a.Credential()) && rec.NextKey == ""
	})
}

func TestLapsedCertificateHeals(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		shortLived(f)
		f.Trio()
		a := f.Agent("edge-1")
		f.Submit("work", "sleep", "1h")
		f.Reach("work", fleet.TaskRunning, time.Minute)
		old := a.Credential()
		a.Stop()
		time.Sleep(sleep)
		if err := old.Verify(time.Now()); !errors.Is(err, pki.ErrExpired) {
			t.Fatalf("the certificate has not lapsed: %v", err)
		}
		// It knows a follower alone, which sends it on.
		a.Know(f.Others(f.Leader())[0].Addr)
		a.Start()
		took := f.Await("it is back", time.Minute, a.Connected)
		within(t, "coming back", took, 0, 5*time.Second)
		settled(f, a)
		rec := record(f, a.ID)
		if rec.Healed.IsZero() || rec.PastKeys[0] != pinOf(old) || rec.Cloned != nil {
			t.Errorf("record %+v", rec)
		}
		if got := f.State("work"); got != fleet.TaskRunning {
			t.Errorf("the task is %v, want running as it was", got)
		}
	})
}

// healBy runs one healing as the agent would, and takes the answer nowhere.
func healBy(t *testing.T, f *cluster.Fleet, n *transporttest.Net, cred *pki.Credential) (*pki.Credential, error) {
	t.Helper()
	d, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(cred), Conn: n.Conn("10.9.0.1:1")})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	key := pkitest.Key(t)
	reply, err := d.Heal(t.Context(), f.Leader().Addr, cred, key)
	if err != nil {
		return nil, err
	}
	return reply.Credential(key)
}

// A crash at any step of a healing locks nobody out. Each step is another
// agent's of one fleet.
func TestCrashWhileHealing(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		shortLived(f)
		f.Trio()
		healed := func(a *cluster.Agent) *pki.Credential {
			next, err := healBy(t, f, n, a.Credential())
			if err != nil {
				t.Fatal(err)
			}
			return next
		}
		write := func(a *cluster.Agent) {
			if err := pki.SaveDir(a.Dir("pki"), healed(a)); err != nil {
				t.Fatal(err)
			}
		}
		steps := []struct {
			name  string
			crash func(a *cluster.Agent)
		}{
			{"before-the-commit", func(*cluster.Agent) {}},
			{"after-the-commit-before-the-signature", func(a *cluster.Agent) {
				f.Propose(state.Command{Rekey: &state.Rekey{Agent: a.ID, Key: pinOf(a.Credential()), Next: "lost", Heal: true}})
			}},
			{"the-answer-was-lost", func(a *cluster.Agent) { healed(a) }},
			{"the-answer-was-lost-twice", func(a *cluster.Agent) { healed(a); healed(a) }},
			{"after-the-agents-write", write},
			{"after-the-first-use", func(a *cluster.Agent) {
				a.Start()
				f.Await("it was back", time.Minute, a.Connected)
				a.Stop()
			}},
		}
		var agents []*cluster.Agent
		for _, s := range steps {
			a := f.Agent(s.name)
			a.Stop()
			agents = append(agents, a)
		}
		back := func() {
			for i, a := range agents {
				a.Start()
				f.Await("back after: "+steps[i].name, time.Minute, a.Connected)
				settled(f, a)
				if c := record(f, a.ID).Cloned; c != nil {
					t.Errorf("%s: taken for a copy: %+v", steps[i].name, c)
				}
				a.Stop()
			}
		}
		time.Sleep(sleep)
		for i, s := range steps {
			s.crash(agents[i])
		}
		back()
		// Again, and so long that what was written has lapsed too before it was
		// used, and with another leader.
		time.Sleep(sleep)
		for i, s := range steps {
			s.crash(agents[i])
		}
		f.Leader().Stop()
		f.Leader()
		time.Sleep(sleep)
		back()
	})
}

// One of two copies heals; the other one is left with a key that is worth
// nothing, refused and reported. Nobody is told more than that it is out.
func TestCopyStaysOut(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		shortLived(f)
		f.Trio()
		a := f.Agent("edge-1")
		a.Stop()
		b := a.Clone("copy")
		time.Sleep(sleep)
		a.Start()
		f.Await("it is back", time.Minute, a.Connected)
		settled(f, a)
		_, err := healBy(t, f, n, b.Credential())
		if r, ok := errors.AsType[*enroll.Refusal](err); !ok || r.Code != enroll.CodeCloned {
			t.Errorf("the copy was told %v", err)
		}
		b.Start()
		time.Sleep(30 * time.Second)
		rec := record(f, a.ID)
		if rec.Cloned == nil || rec.Cloned.Text == "" || rec.Cloned.Addr == "" {
			t.Errorf("recorded %+v", rec.Cloned)
		}
		if remote := a.Remote(); !a.Connected() || remote != a.Addr {
			t.Errorf("the session is %s's, want the agent's own at %s", remote, a.Addr)
		}
		entries := audited(f, "agent.cloned")
		if len(entries) == 0 || entries[0].Target != "agent/"+string(a.ID) {
			t.Errorf("audit log: %+v", entries)
		}
	})
}

func audited(f *cluster.Fleet, action string) (out []state.AuditEntry) {
	f.Leader().Stale(func(s *state.State) {
		out, _ = s.Audit.Last(100, func(e state.AuditEntry) bool { return e.Action == action })
	})
	return out
}

// A copy with a certificate that still holds is refused as soon as the agent
// has renewed its own.
func TestCopyWithAnOldCertificate(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) { cfg.AgentCertLife = 10 * time.Minute }
		f.Trio()
		a := f.Agent("edge-1")
		b := a.Clone("copy")
		old := pinOf(a.Credential())
		f.Await("it has renewed", 9*time.Minute, func() bool { return pinOf(a.Credential()) != old })
		settled(f, a)
		if err := b.Credential().Verify(time.Now()); err != nil {
			t.Fatalf("the copy's certificate has lapsed: %v", err)
		}
		a.Stop() // nobody is there to be asked
		b.Start()
		time.Sleep(30 * time.Second)
		if b.Connected() {
			t.Error("the copy is connected")
		}
		if c := record(f, a.ID).Cloned; c == nil {
			t.Error("it was not recorded")
		}
		a.Start()
		f.Await("the agent itself is back", time.Minute, a.Connected)
		if remote := a.Remote(); remote != a.Addr {
			t.Errorf("the session is %s's, want %s", remote, a.Addr)
		}
	})
}

// A state that is restored from a snapshot knows nothing of the keys that agents
// have had since. They are let in, those that slept meanwhile too.
func TestKeysAfterARestore(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		shortLived(f)
		f.Up(1)
		live, asleep := f.Agent("edge-1"), f.Agent("edge-2")
		h, body, err := f.Leader().Export(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Minute) // several renewals
		asleep.Stop()
		time.Sleep(sleep)
		if _, err := f.Leader().Import(t.Context(), h, body, "operator/test"); err != nil {
			t.Fatal(err)
		}
		asleep.Start()
		for _, a := range []*cluster.Agent{live, asleep} {
			f.Await(string(a.ID)+" is back", time.Minute, a.Connected)
			settled(f, a)
			if c := record(f, a.ID).Cloned; c != nil {
				t.Errorf("%s: taken for a copy: %+v", a.ID, c)
			}
		}
	})
}

// Renewals change the key under a live session, whoever leads and whichever
// replica has the session; nobody is taken for a copy.
func TestRenewalsOverOneSession(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		shortLived(f)
		f.Trio()
		var agents []*cluster.Agent
		for _, name := range []string{"edge-1", "edge-2", "edge-3", "edge-4"} {
			agents = append(agents, f.Agent(name))
		}
		time.Sleep(4 * time.Minute)
		f.Leader().Stop()
		f.Leader()
		time.Sleep(4 * time.Minute)
		for _, a := range agents {
			f.Await(string(a.ID)+" is connected", time.Minute, a.Connected)
			rec := record(f, a.ID)
			if rec.Cloned != nil || !rec.Healed.IsZero() || len(rec.PastKeys) < 5 {
				t.Errorf("%s: cloned %+v, healed %v, %d past keys", a.ID, rec.Cloned, rec.Healed, len(rec.PastKeys))
			}
		}
	})
}

// A ban holds for every way in; a stranger cannot tell it from an id that
// never was.
func TestRevokedAgentDoesNotHeal(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		shortLived(f)
		f.Trio()
		a, gone := f.Agent("edge-1"), f.Agent("edge-2")
		a.Stop()
		gone.Stop()
		f.Propose(
			state.Command{Revoke: &state.Revoke{URI: a.Credential().Identity.String(), Kind: state.KindAgent, ID: string(a.ID)}},
			state.Command{MarkGone: &state.MarkGone{Agent: gone.ID}},
		)
		stranger := *a.Credential()
		stranger.Identity.ID = "nobody"
		texts := map[string]bool{}
		time.Sleep(sleep)
		for _, c := range []*pki.Credential{a.Credential(), gone.Credential(), &stranger} {
			_, err := healBy(t, f, n, c)
			r, ok := errors.AsType[*enroll.Refusal](err)
			if !ok || r.Code != enroll.CodeNotHealed {
				t.Errorf("%s: %v", c.Identity.ID, err)
				continue
			}
			texts[r.Text] = true
		}
		if len(texts) != 1 {
			t.Errorf("refusals differ: %v", texts)
		}
		if e := audited(f, "agent.heal"); len(e) != 2 || e[0].Refused == "" || e[0].By != "agent/"+string(a.ID) {
			t.Errorf("audit log: %+v", e)
		}
		a.Start()
		time.Sleep(time.Minute)
		if a.Connected() {
			t.Error("the revoked agent is back")
		}
	})
}

// A machine without a battery wakes in 1970, another one's clock was set to
// 2040: both join, work and tell true times.
func TestWrongClocks(t *testing.T) {
	year := 365 * 24 * time.Hour
	for name, off := range map[string]time.Duration{"behind": -30 * year, "ahead": 14 * year} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
				shortLived(f)
				f.Trio()
				f.Clock = off
				a := f.Agent("edge-1")
				if f.Notice == "" {
					t.Error("joining said nothing of the clock")
				}
				f.Submit("work", "sleep", "1h")
				f.Reach("work", fleet.TaskRunning, time.Minute)
				for _, s := range f.Task("work").History {
					if d := time.Since(s.Time); d < -time.Minute || d > time.Minute {
						t.Errorf("%v at %v, now is %v", s.State, s.Time, time.Now())
					}
				}
				soft, err := f.Leader().Soft(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got := soft.Agents[a.ID].Readings.ClockOff; got < -off-time.Minute || got > -off+time.Minute {
					t.Errorf("clock off by %v, want %v", got, -off)
				}
				// It sleeps, wakes with the wrong time again and a lapsed certificate.
				a.Stop()
				time.Sleep(sleep)
				a.Start()
				f.Await("it is back", time.Minute, a.Connected)
				settled(f, a)

				// The clock is put right: nothing of the past holds it back.
				a.Stop()
				f.Clock = 0
				a.Start()
				f.Await("it is back with the right time", time.Minute, a.Connected)
			})
		})
	}
}

// One replica alone is not believed: it may be somebody with a key of the past.
func TestTimeNeedsAMajority(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		a := f.Agent("edge-1")
		a.Stop()
		f.Clock = 14 * 365 * 24 * time.Hour
		others := f.Others(f.Leader())
		n.Part(a.Addr, others[0].Addr)
		n.Part(a.Addr, others[1].Addr)
		a.Start()
		time.Sleep(time.Minute)
		if a.Connected() {
			t.Error("it took the time from one replica of three")
		}
		n.Join(a.Addr, others[0].Addr)
		f.Await("it is back", time.Minute, a.Connected)
	})
}

// A replica has to have the time, since others trust it for that: it is told
// how far its clock is off, and the join line stays good.
func TestAReplicaWithAWrongClockDoesNotJoin(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		line := f.Line(pki.KindReplica, 1)
		for off, want := range map[time.Duration]string{
			-30 * 365 * 24 * time.Hour: "this machine's clock is 30 years behind: it says 1970-",
			14 * 365 * 24 * time.Hour:  "this machine's clock is 14 years ahead: it says 2013-",
			26 * time.Hour:             "this machine's clock is 26 hours ahead: it says 2000-01-02 02:",
			-time.Hour:                 "this machine's clock is 1h0m0s behind: it says 1999-12-31 23:",
		} {
			f.Clock = off
			_, err := f.TryGrowBy(line, "r4")
			for _, w := range []string{want, "the replicas say 2000-01-01 00:00:", "timedatectl set-ntp true", "the join line is still good"} {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("off by %v: want %q in: %v", off, w, err)
				}
			}
			wrong, ok := errors.AsType[*transport.WrongClockError](err)
			if !ok || wrong.Offset < -off-2*time.Second || wrong.Offset > -off+2*time.Second {
				t.Errorf("off by %v: %+v", off, wrong)
			}
		}
		f.Clock = 0
		if _, err := f.TryGrowBy(line, "r4"); err != nil {
			t.Errorf("with the right time: %v", err)
		}
	})
}
