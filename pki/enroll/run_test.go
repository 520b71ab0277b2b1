package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/enroll/enrolltest"
	"github.com/tenderfleet/tender/pki/pkitest"
)

// network is what a joining machine can dial.
type network struct {
	t      *testing.T
	hosts  map[string]func() (*enroll.Server, error)
	dialed []string
}

func (n *network) dial(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
	n.dialed = append(n.dialed, addr)
	host, ok := n.hosts[addr]
	if !ok {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	srv, err := host()
	if err != nil {
		return nil, err
	}
	a, b := enrolltest.Pipe()
	go func() {
		srv.Serve(ctx, b, "192.0.2.1:4000")
		b.Close()
	}()
	return a, nil
}

func up(s *enroll.Server) func() (*enroll.Server, error) {
	return func() (*enroll.Server, error) { return s, nil }
}

func down(err error) func() (*enroll.Server, error) {
	return func() (*enroll.Server, error) { return nil, err }
}

// twoReplicas are one fleet of which the second leads.
func twoReplicas(t *testing.T, hint string) (f *fleet, follower, leader *enroll.Server) {
	f = newFleet(t, nil)
	behind := enrolltest.NewRegistry(domain, time.Now)
	behind.Lead(enroll.ErrNotLeader{Addr: hint})
	return f, f.server(t, func(c *enroll.Config) { c.Registry = behind }), f.srv
}

func TestRunFollowsTheLeader(t *testing.T) {
	f, follower, leader := twoReplicas(t, "r2:1")
	n := &network{t: t, hosts: map[string]func() (*enroll.Server, error){"r1:1": up(follower), "r2:1": up(leader)}}
	line := f.line(pki.KindAgent)
	line.Addrs = []string{"gone:1", "r1:1", "never:1"}
	key := pkitest.Key(t)
	reply, err := enroll.Run(t.Context(), line, n.dial, request(t, line, key))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"gone:1", "r1:1", "r2:1"}; !slices.Equal(n.dialed, want) {
		t.Errorf("dialled %v, want %v", n.dialed, want)
	}
	if c, err := reply.Credential(key); err != nil || c.Identity.ID != "gpu-01" {
		t.Errorf("%v, %v", c, err)
	}
}

// Replicas that point at each other do not keep a machine busy.
func TestRunBoundsHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, nil)
		n := &network{t: t, hosts: make(map[string]func() (*enroll.Server, error))}
		for i := range 10 {
			reg := enrolltest.NewRegistry(domain, time.Now)
			reg.Lead(enroll.ErrNotLeader{Addr: fmt.Sprintf("r%d:1", (i+1)%10)})
			n.hosts[fmt.Sprintf("r%d:1", i)] = up(f.server(t, func(c *enroll.Config) { c.Registry = reg }))
		}
		line := f.line(pki.KindAgent)
		line.Addrs = []string{"r0:1"}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		j := enroll.Joiner{Dial: n.dial, Rand: func() float64 { return 0.5 }}
		_, err := j.Run(ctx, line, request(t, line, pkitest.Key(t)))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, &enroll.Refusal{Code: enroll.CodeNotLeader}) {
			t.Errorf("got %v", err)
		}
		if want := []string{"r0:1", "r1:1", "r2:1", "r3:1"}; !slices.Equal(n.dialed, want) {
			t.Errorf("dialled %v", n.dialed)
		}
	})
}

// What may pass is waited for: with full jitter, doubling, and not sooner than
// the fleet asks for.
func TestRunTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, nil)
		broken := f.server(t, func(c *enroll.Config) { c.Signer = failing{errors.New("no")} })
		var at []time.Duration
		begin := time.Now()
		n := &network{t: t}
		n.hosts = map[string]func() (*enroll.Server, error){"r1:1": func() (*enroll.Server, error) {
			at = append(at, time.Since(begin))
			switch len(at) {
			case 1, 2, 3:
				return nil, errors.New("no route to host")
			case 4:
				return broken, nil // the token is used here, and good for this key still
			}
			return f.srv, nil
		}}
		line := f.line(pki.KindAgent)
		line.Addrs = []string{"r1:1"}
		j := enroll.Joiner{Dial: n.dial, Rand: func() float64 { return 0.5 }}
		if _, err := j.Run(t.Context(), line, request(t, line, pkitest.Key(t))); err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{0, 100, 300, 700, 700 + 800 + 1000}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if !slices.Equal(at, want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
	})
}

func TestRunStopsWhereNothingHelps(t *testing.T) {
	f := newFleet(t, nil)
	clock := &pki.ClockError{Subject: "replica/r1", Now: time.Unix(0, 0), NotBefore: time.Unix(9, 0), NotAfter: time.Unix(99, 0)}
	wrongPin := fmt.Errorf("handshake: %w", pki.ErrWrongPin)
	for _, tt := range []struct {
		name  string
		hosts map[string]func() (*enroll.Server, error)
		spoil func(*pki.JoinLine, *enroll.Request)
		now   time.Duration
		want  error
		text  string
		dials int
	}{
		{
			name:  "wrong pin everywhere",
			hosts: map[string]func() (*enroll.Server, error){"r1:1": down(wrongPin), "r2:1": down(wrongPin)},
			want:  pki.ErrWrongPin, text: "r2:1", dials: 2,
		},
		{
			name:  "wrong pin at one address only",
			hosts: map[string]func() (*enroll.Server, error){"r1:1": down(wrongPin), "r2:1": up(f.srv)},
			dials: 2,
		},
		{
			name:  "clock wrong at every handshake",
			hosts: map[string]func() (*enroll.Server, error){"r1:1": down(clock), "r2:1": down(clock)},
			want:  pki.ErrNotYetValid, text: "set the clock", dials: 2,
		},
		{
			name:  "refused for good",
			hosts: map[string]func() (*enroll.Server, error){"r1:1": up(f.srv), "r2:1": up(f.srv)},
			spoil: func(l *pki.JoinLine, r *enroll.Request) { r.Secret = "foreign" },
			want:  &enroll.Refusal{Code: enroll.CodeTokenUnknown}, text: "new join line", dials: 1,
		},
		{
			name:  "clock a day off, told by the replica",
			hosts: map[string]func() (*enroll.Server, error){"r1:1": up(f.srv), "r2:1": up(f.srv)},
			now:   -24 * time.Hour,
			want:  &enroll.Refusal{Code: enroll.CodeClock}, text: "timedatectl", dials: 1,
		},
		{
			name:  "a fleet of another name",
			hosts: map[string]func() (*enroll.Server, error){"r1:1": up(f.srv), "r2:1": up(f.srv)},
			spoil: func(l *pki.JoinLine, r *enroll.Request) { l.TrustDomain = "other.example" },
			text:  "the join line is for", dials: 2, want: pki.ErrForeign,
		},
		{
			name:  "a line that is none",
			spoil: func(l *pki.JoinLine, r *enroll.Request) { l.Pin = "" },
			want:  pki.ErrJoinLine, dials: 0,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := &network{t: t, hosts: tt.hosts}
			line := f.line(pki.KindAgent)
			line.Addrs = []string{"r1:1", "r2:1"}
			req := request(t, line, pkitest.Key(t))
			if tt.spoil != nil {
				tt.spoil(&line, &req)
			}
			j := enroll.Joiner{Dial: n.dial, Now: func() time.Time { return time.Now().Add(tt.now) }}
			_, err := j.Run(t.Context(), line, req)
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if len(n.dialed) != tt.dials {
				t.Errorf("dialled %v", n.dialed)
			}
		})
	}
}

// A reply is believed only as far as the pin of the line goes.
func TestReplyVerify(t *testing.T) {
	f := newFleet(t, nil)
	other := pkitest.New(t, domain)
	line := f.line(pki.KindAgent)
	key := pkitest.Key(t)
	req := request(t, line, key)
	good, err := ask(t, f.srv, req)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := good.Verify(line, req.CSR, now); err != nil {
		t.Fatal(err)
	}
	sign := func(ca *pkitest.CA, id pki.Identity) [][]byte {
		chain, err := ca.Sign(t.Context(), id, req.CSR, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	agent := f.ca.Identity(pki.KindAgent, "gpu-01")
	for name, tt := range map[string]struct {
		change func(*enroll.Reply)
		at     time.Time
		want   error
	}{
		"another fleet's bundle": {func(r *enroll.Reply) { r.Bundle = other.Bundle().PEM() }, now, pki.ErrWrongPin},
		"another fleet's chain":  {func(r *enroll.Reply) { r.Chain = sign(other, agent) }, now, nil},
		"another identity told":  {func(r *enroll.Reply) { r.Identity = "spiffe://fleet.example/agent/a2" }, now, pki.ErrIdentity},
		"another kind": {func(r *enroll.Reply) {
			id := f.ca.Identity(pki.KindReplica, "gpu-01")
			r.Identity, r.Chain = id.String(), sign(f.ca, id)
		}, now, nil},
		"another key":     {func(r *enroll.Reply) { r.Chain = f.ca.Credential(t, pki.KindAgent, "gpu-01").Chain.Certificate }, now, pki.ErrKeyMismatch},
		"no identity":     {func(r *enroll.Reply) { r.Identity = "x" }, now, pki.ErrIdentity},
		"no bundle":       {func(r *enroll.Reply) { r.Bundle = nil }, now, nil},
		"a day too early": {func(*enroll.Reply) {}, now.Add(-24 * time.Hour), pki.ErrNotYetValid},
		"a month later":   {func(*enroll.Reply) {}, now.AddDate(0, 1, 0), pki.ErrExpired},
	} {
		r := good
		tt.change(&r)
		err := r.Verify(line, req.CSR, tt.at)
		if !errors.Is(err, enroll.ErrReply) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, err := good.Credential(pkitest.Key(t)); !errors.Is(err, pki.ErrKeyMismatch) {
		t.Errorf("credential with another key: %v", err)
	}
}
