package cluster_test

import (
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
	"github.com/tenderfleet/tender/transport/wire"
)

// TestSessionWithoutUDP: a machine whose network drops UDP joins, is given work
// and reports over TCP, and moves to QUIC when UDP passes. Time is real here,
// on loopback: yamux shares timers between connections, which a bubble forbids.
func TestSessionWithoutUDP(t *testing.T) {
	t.Parallel()
	f, gate := withoutUDP(t, 0)
	a := f.Agent("behind-a-firewall") // joins over TCP, too
	if got := a.Link(); got != "tcp" {
		t.Fatalf("the link is %q, want tcp", got)
	}
	f.Submit("t1", "sleep", "1h")
	f.Reach("t1", fleet.TaskRunning, 10*time.Second)

	gate.Load().Shut(false)
	f.Await("the session is over QUIC", 20*time.Second, func() bool { return a.Link() == "quic" })
	f.Submit("t2", "exit", "0")
	f.Reach("t2", fleet.TaskFinished, 10*time.Second)
	if got := f.State("t1"); got != fleet.TaskRunning {
		t.Errorf("the task that ran through the change is %v", got)
	}
}

// withoutUDP starts a control plane of one whose agents reach it over TCP alone,
// until the gate is opened. agentLife is how long their certificates hold.
func withoutUDP(t *testing.T, agentLife time.Duration) (*cluster.Fleet, *atomic.Pointer[transporttest.Gate]) {
	t.Helper()
	f := cluster.New(t, nil)
	f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) {
		ln, err := net.Listen("tcp", cfg.Conn.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg.API, cfg.AgentCertLife = ln, agentLife
	}
	gate := new(atomic.Pointer[transporttest.Gate])
	f.TuneAgent = func(cfg *agent.Config) {
		gate.Store(transporttest.NewGate(cfg.Conn, true))
		cfg.Conn, cfg.DialTCP, cfg.SeekQUIC = gate.Load(), (&net.Dialer{}).DialContext, time.Second
	}
	f.Up(1)
	return f, gate
}

// A certificate lapses in a warehouse, and the machine wakes where UDP is dropped,
// with a clock that is wrong by years.
func TestLapsedCertificateHealsWithoutUDP(t *testing.T) {
	t.Parallel()
	const life = 5 * time.Second
	f, _ := withoutUDP(t, life)
	a := f.Agent("behind-a-firewall")
	old := a.Credential()
	a.Stop()
	f.Await("its certificate has lapsed", 3*life, func() bool { return errors.Is(old.Verify(time.Now()), pki.ErrExpired) })
	f.Clock = -30 * 365 * 24 * time.Hour
	a.Start()
	f.Await("it is back", 20*time.Second, a.Connected)
	if got := a.Link(); got != "tcp" {
		t.Errorf("the link is %q, want tcp", got)
	}
	settled(f, a)
	if rec := record(f, a.ID); rec.Healed.IsZero() {
		t.Errorf("record %+v, want it healed", rec)
	}
}

// TestIdleAgentIsCheap counts what an agent without tasks sends and receives in
// three hours, in bytes of UDP payload, with every packet that QUIC adds. The
// figure for a month is in test/README.md.
func TestIdleAgentIsCheap(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Up(1)
		a := f.Agent("idle-1")
		sent, received, packets := n.Traffic(a.Addr)
		const span, spans = 3 * time.Hour, 240 // in a month
		time.Sleep(span)
		sentNow, receivedNow, packetsNow := n.Traffic(a.Addr)
		sent, received, packets = sentNow-sent, receivedNow-received, packetsNow-packets
		t.Logf("%v: %d B up, %d B down, %d packets; 30 days: %.2f MB of UDP payload", span, sent, received, packets, float64(spans*(sent+received))/1e6)
		if month := spans * (sent + received); month > 10_000_000 || month < 1_000_000 {
			t.Errorf("an idle agent needs %d bytes a month, want less than 10 MB (and not nothing)", month)
		}
		soft, _ := f.Leader().Soft(t.Context())
		if got := soft.Agents[a.ID].Since; time.Since(got) < span {
			t.Errorf("the session began anew at %v", got)
		}
		if seen := time.Since(a.LastSeen()); seen > 26*time.Second {
			t.Errorf("last seen %v ago", seen)
		}
	})
}

// TestLossIsNoticedWithin30Seconds: the replica gives up an agent whose link is
// cut, and the agent a replica that does not answer, at any point between two
// beats.
func TestLossIsNoticedWithin30Seconds(t *testing.T) {
	for _, after := range []time.Duration{time.Second, 13 * time.Second, 24 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
				f.Up(1)
				a := f.Agent("edge-1")
				time.Sleep(10*time.Minute + after)
				n.Cut(a.Addr)
				took := f.Await("the agent is given up", time.Minute, func() bool { return !a.Connected() })
				within(t, "noticing the loss", took, 3*time.Second, 30*time.Second+400*time.Millisecond) // the test looks that rarely
				n.Heal(a.Addr)
				took = f.Await("the agent is back", time.Minute, a.Connected)
				within(t, "coming back", took, 0, 35*time.Second)
			})
		})
	}
}

// flight is an agent's socket that loses what the agent sends after its first
// packets, for a while: the end of its handshake.
type flight struct {
	*transporttest.Gate
	begin sync.Once
}

func (f *flight) WriteTo(b []byte, to net.Addr) (int, error) {
	f.begin.Do(func() {
		time.AfterFunc(latency, func() { f.Shut(true) }) // the answer takes twice as long
		time.AfterFunc(3800*time.Millisecond, func() { f.Shut(false) })
	})
	return f.Gate.WriteTo(b, to)
}

// TestTheEndOfAHandshakeIsLost: the agent takes the handshake for complete, the
// replica gives it up after 3 s, without a word. The agent does not wait for the
// Welcome that it would give a very slow link.
func TestTheEndOfAHandshakeIsLost(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Up(1)
		a := f.Joined("edge-1")
		f.TuneAgent = func(cfg *agent.Config) {
			cfg.Conn = &flight{Gate: transporttest.NewGate(cfg.Conn, false)}
		}
		a.Start()
		took := f.Await("the agent is connected", time.Minute, a.Connected)
		within(t, "the second try", took, 4*time.Second, 6*time.Second)
	})
}

// TestPushAfterASilentRebind: a NAT forgets the agent between two beats. What
// the control plane sends then is lost until the agent's next word, and arrives
// with that; the session goes on.
func TestPushAfterASilentRebind(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Up(1)
		a := f.Agent("behind-nat")
		soft, _ := f.Leader().Soft(t.Context())
		since := soft.Agents[a.ID].Since
		for i, outside := range []string{"198.18.0.1:4001", "198.18.0.1:4002", "198.18.0.1:4003"} {
			time.Sleep(7 * time.Minute)
			n.Rebind(a.Addr, outside)
			id := fleet.TaskID(outside[len(outside)-4:])
			f.Submit(id, "sleep", "1h")
			took := f.Reach(id, fleet.TaskRunning, time.Minute)
			within(t, "a task after a rebind", took, 0, 26*time.Second)
			f.Await("operators see where it is now", 2*time.Second, func() bool { return a.Remote() == outside })
			if i == 0 && took < time.Second {
				t.Errorf("the task came after %v; did the NAT forget anything?", took)
			}
		}
		soft, _ = f.Leader().Soft(t.Context())
		if got := soft.Agents[a.ID].Since; !got.Equal(since) {
			t.Errorf("the session began anew at %v", got)
		}
	})
}

// TestRoamingAgentSpeaksAtOnce: when the way to the replica begins at another
// address, the agent does not wait for its next beat.
func TestRoamingAgentSpeaksAtOnce(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		var way atomic.Value
		way.Store("192.168.0.7")
		f.TuneAgent = func(cfg *agent.Config) { cfg.Route = func(string) string { return way.Load().(string) } }
		f.Up(1)
		a := f.Agent("on-wheels")
		time.Sleep(5 * time.Minute)
		since := a.LastSeen()
		f.Await("a beat", time.Minute, func() bool { return a.LastSeen().After(since) })
		time.Sleep(time.Second)
		began := time.Now()
		n.Rebind(a.Addr, "198.18.0.2:5001")
		way.Store("10.64.0.3")
		took := f.Await("a word from there", time.Minute, func() bool { return a.LastSeen().After(began) })
		within(t, "the first word from the other network", took, 0, 2*time.Second+100*time.Millisecond)
		f.Submit("t1", "sleep", "1h")
		within(t, "a task there", f.Reach("t1", fleet.TaskRunning, time.Minute), 0, 2*time.Second)
	})
}

// TestOverBudgetOnlyStatesAndKillsTravel: a small budget is used up by the
// session itself. Tasks are started and killed all the same, the readings say
// it once, and output is refused with the reason.
func TestOverBudgetOnlyStatesAndKillsTravel(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.TuneAgent = func(cfg *agent.Config) { cfg.Link.Policy.PerMonth = 120_000 }
		f.Up(1)
		a := f.Agent("metered")
		use := func() (fleet.LinkUse, time.Time) {
			soft, err := f.Leader().Soft(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return soft.Agents[a.ID].Readings.Link, soft.Agents[a.ID].Readings.Time
		}
		f.Submit("before", "sleep", "100h")
		f.Reach("before", fleet.TaskRunning, 10*time.Second)
		f.Await("the budget is used up", 48*time.Hour, func() bool { u, _ := use(); return u.State == "over budget" })
		u, told := use()
		sent, received, _ := n.Traffic(a.Addr)
		if onSocket := sent + received; u.Total() < 120_000 || u.Total() > onSocket || u.Total() < onSocket*9/10 {
			t.Errorf("the agent counts %+v, on the socket are %d bytes and its join", u, onSocket)
		}
		if u.Updates == 0 || u.Readings == 0 || u.Keepalive < u.Total()/2 || u.Logs != 0 || u.Month != "2000-01" || u.Budget != 120_000 {
			t.Errorf("by purpose: %+v", u)
		}

		f.Submit("after", "sleep", "100h")
		f.Reach("after", fleet.TaskRunning, 10*time.Second)
		f.Propose(state.Command{Kill: &state.Kill{ID: "before"}})
		f.Reach("before", fleet.TaskKilled, time.Minute)
		err := f.Leader().Logs(t.Context(), "after", wire.LogsRequest{Task: "after", Tail: -1, Stdout: true}, func(bool, []byte) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "raise link.budget_per_month") {
			t.Errorf("logs: %v, want a refusal that says what to do", err)
		}
		time.Sleep(time.Hour)
		if _, again := use(); !again.Equal(told) {
			t.Errorf("readings of %v, after the last ones of %v", again, told)
		}
		if !a.Connected() || time.Since(a.LastSeen()) > 26*time.Second {
			t.Errorf("connected %v, last seen %v ago", a.Connected(), time.Since(a.LastSeen()))
		}
	})
}
