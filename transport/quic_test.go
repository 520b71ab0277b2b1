package transport_test

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/transporttest"
	"github.com/tenderfleet/tender/transport/wire"
)

func everybody(pki.Identity, *x509.Certificate, string) error { return nil }

// fleet is a certificate authority and one listening replica.
type fleet struct {
	t        *testing.T
	ca       *pkitest.CA
	endpoint *transport.Endpoint
	addr     string
}

type option func(*transport.Config)

func newFleet(t *testing.T, opts ...option) *fleet {
	t.Helper()
	f := &fleet{t: t, ca: pkitest.New(t, "fleet.example")}
	cfg := transport.Config{
		Addr:   "127.0.0.1:0",
		Holder: f.holder(pki.KindReplica, "r1"),
		Allow:  everybody,
	}
	for _, o := range opts {
		o(&cfg)
	}
	e, err := transport.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	f.endpoint, f.addr = e, e.Addr().String()
	return f
}

func (f *fleet) holder(kind pki.Kind, id string, opts ...pkitest.Option) *pki.Holder {
	return pki.NewHolder(f.ca.Credential(f.t, kind, id, opts...))
}

func (f *fleet) dialer(cfg transport.DialerConfig) *transport.Dialer {
	f.t.Helper()
	d, err := transport.NewDialer(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { d.Close() })
	return d
}

func (f *fleet) agent(id string) *transport.Dialer {
	return f.dialer(transport.DialerConfig{Holder: f.holder(pki.KindAgent, id)})
}

// connect dials agent/1 and accepts.
func (f *fleet) connect(d *transport.Dialer) (agent, replica transport.Session) {
	f.t.Helper()
	a, err := d.Dial(f.t.Context(), f.addr, transport.ALPNAgent, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r, err := f.endpoint.Accept(f.t.Context(), transport.ALPNAgent)
	if err != nil {
		f.t.Fatal(err)
	}
	return a, r
}

func TestQUICSessions(t *testing.T) {
	transporttest.Run(t, func(t *testing.T, agent, replica pki.Identity) (transport.Session, transport.Session) {
		f := newFleet(t)
		return f.connect(f.agent(agent.ID))
	})
}

// inBubble is a fleet on a network in memory, under fake time.
func inBubble(t *testing.T, latency time.Duration, test func(*testing.T, *fleet, *transport.Dialer, *transporttest.Net)) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, latency)
		f := newFleet(t, func(c *transport.Config) { c.Conn = n.Conn(replicaAddr) })
		f.addr = replicaAddr
		d := f.dialer(transport.DialerConfig{Holder: f.holder(pki.KindAgent, "a1"), Conn: n.Conn(agentAddr)})
		test(t, f, d, n)
	})
}

const (
	replicaAddr = "10.0.0.1:7443"
	agentAddr   = "10.1.0.1:1000"
)

func TestSessionLivesOnKeepAlive(t *testing.T) {
	inBubble(t, 20*time.Millisecond, func(t *testing.T, f *fleet, d *transport.Dialer, _ *transporttest.Net) {
		a, r := f.connect(d)
		select {
		case <-a.Context().Done():
			t.Fatalf("over: %v", context.Cause(a.Context()))
		case <-r.Context().Done():
			t.Fatalf("over: %v", context.Cause(r.Context()))
		case <-time.After(2 * time.Hour):
		}
		if _, err := r.Open(t.Context(), "logs"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := a.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 20*time.Millisecond {
			t.Errorf("after two hours a stream took %v to arrive, want the latency", took)
		}
	})
}

func TestCutLinkIsNoticedAfterTheIdleTimeout(t *testing.T) {
	inBubble(t, 20*time.Millisecond, func(t *testing.T, f *fleet, d *transport.Dialer, n *transporttest.Net) {
		a, r := f.connect(d)
		time.Sleep(10*time.Minute + 7*time.Second) // between two keep-alives
		heard := n.LastDelivery(replicaAddr)
		n.Cut(agentAddr)

		<-r.Context().Done()
		if !errors.Is(context.Cause(r.Context()), transport.ErrIdle) {
			t.Errorf("the replica's cause: %v", context.Cause(r.Context()))
		}
		if silent := time.Since(heard); silent != 150*time.Second {
			t.Errorf("the replica gave up %v after the last packet, want 150 s", silent)
		}
		// The agent's clock starts anew with its first packet into the void,
		// the keep-alive 70 s after it last heard something.
		heard = n.LastDelivery(agentAddr)
		<-a.Context().Done()
		if silent := time.Since(heard); silent != 220*time.Second {
			t.Errorf("the agent gave up %v after the last packet, want 220 s", silent)
		}
	})
}

func TestRaftSessionsNoticeSooner(t *testing.T) {
	inBubble(t, time.Millisecond, func(t *testing.T, f *fleet, _ *transport.Dialer, n *transporttest.Net) {
		const addr = "10.0.0.2:7443"
		other, err := transport.Listen(transport.Config{Conn: n.Conn(addr), Holder: f.holder(pki.KindReplica, "r2"), Allow: everybody})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		a, err := other.Dial(t.Context(), f.addr, transport.ALPNRaft, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := f.endpoint.Accept(t.Context(), transport.ALPNRaft)
		if err != nil {
			t.Fatal(err)
		}
		if r.Peer().ID != "r2" || a.Peer().ID != "r1" {
			t.Errorf("peers %v and %v", r.Peer(), a.Peer())
		}
		time.Sleep(time.Hour)
		if a.Context().Err() != nil {
			t.Fatal(context.Cause(a.Context()))
		}
		n.Part(addr, replicaAddr)
		heard := n.LastDelivery(replicaAddr)
		<-r.Context().Done()
		if silent := time.Since(heard); silent != 15*time.Second {
			t.Errorf("given up after %v, want 15 s", silent)
		}
		<-a.Context().Done()
	})
}

func TestNobodyAnswers(t *testing.T) {
	inBubble(t, time.Millisecond, func(t *testing.T, f *fleet, d *transport.Dialer, n *transporttest.Net) {
		n.Cut(replicaAddr)
		start := time.Now()
		_, err := d.Dial(t.Context(), f.addr, transport.ALPNAgent, nil)
		if !errors.Is(err, transport.ErrUnreachable) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v, want ErrUnreachable after 5 s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = d.Dial(ctx, f.addr, transport.ALPNAgent, nil)
		if !errors.Is(err, transport.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
	})
}

// TestFramesOverQUIC is the beginning of every agent's session.
func TestFramesOverQUIC(t *testing.T) {
	f := newFleet(t)
	a, r := f.connect(f.agent("a1"))
	out, err := a.Open(t.Context(), "control")
	if err != nil {
		t.Fatal(err)
	}
	agent := wire.NewConn(out, wire.MaxHello)
	if err := agent.Send(wire.Hello{Capability: wire.Capability, Agent: "a1"}); err != nil {
		t.Fatal(err)
	}
	in, err := r.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	replica := wire.NewConn(in, wire.MaxHello)
	hello, err := replica.Recv()
	if h, ok := hello.(wire.Hello); !ok || string(h.Agent) != r.Peer().ID {
		t.Fatalf("%v, %v", hello, err)
	}
	if err := replica.Send(wire.Welcome{Capability: wire.Capability, Replica: "r1"}); err != nil {
		t.Fatal(err)
	}
	if m, err := agent.Recv(); err != nil {
		t.Errorf("%v, %v", m, err)
	}
	r.Close(transport.CodeDraining, "restart")
	_, err = agent.Recv()
	if ce, ok := errors.AsType[*transport.CloseError](err); !ok || ce.Code != transport.CodeDraining {
		t.Errorf("through the frames the agent sees %v, want the CloseError", err)
	}
}
