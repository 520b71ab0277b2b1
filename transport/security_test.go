package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport"
)

// end dials and returns why that, or the session after it, failed: a replica
// judges a certificate when Dial has already returned.
func (f *fleet) end(d *transport.Dialer, alpn string) error {
	f.t.Helper()
	s, err := d.Dial(f.t.Context(), f.addr, alpn, nil)
	if err != nil {
		return err
	}
	select {
	case <-s.Context().Done():
		return context.Cause(s.Context())
	case <-time.After(10 * time.Second):
		f.t.Fatal("the session was not refused")
		return nil
	}
}

func TestRefusedClients(t *testing.T) {
	past := pkitest.Validity(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	for _, tc := range []struct {
		name string
		as   func(*fleet) *pki.Holder
		alpn string
		want error
		says string // Explain, in part
	}{
		{
			"agent on raft/1", func(f *fleet) *pki.Holder { return f.holder(pki.KindAgent, "a1") },
			transport.ALPNRaft, transport.ErrCertificateRefused, "refused this machine's certificate",
		},
		{
			"operator on agent/1", func(f *fleet) *pki.Holder { return f.holder(pki.KindOperator, "alice") },
			transport.ALPNAgent, transport.ErrCertificateRefused, "or of another kind",
		},
		{
			"replica on agent/1", func(f *fleet) *pki.Holder { return f.holder(pki.KindReplica, "r2") },
			transport.ALPNAgent, transport.ErrCertificateRefused, "refused",
		},
		{
			"expired", func(f *fleet) *pki.Holder { return f.holder(pki.KindAgent, "a1", past) },
			transport.ALPNAgent, transport.ErrCertificateExpired, "has expired. Check the clock",
		},
		{
			"of another authority", func(f *fleet) *pki.Holder {
				c := pkitest.New(f.t, "fleet.example").Credential(f.t, pki.KindAgent, "a1")
				return pki.NewHolder(&pki.Credential{Identity: c.Identity, Chain: c.Chain, Bundle: f.ca.Bundle()})
			},
			transport.ALPNAgent, transport.ErrUnknownAuthority, "does not know the authority",
		},
		{
			"unknown protocol", func(f *fleet) *pki.Holder { return f.holder(pki.KindAgent, "a1") },
			"agent/9", transport.ErrNoProtocol, "nobody speaks agent/9",
		},
		{
			"a certificate does not open enrol/1 to sessions", func(f *fleet) *pki.Holder { return f.holder(pki.KindAgent, "banned") },
			transport.ALPNAgent, transport.ErrCertificateRefused, "revoked",
		},
		{
			"no certificate yet", func(*fleet) *pki.Holder { return pki.NewHolder(nil) },
			transport.ALPNAgent, nil, "join first",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFleet(t, func(c *transport.Config) {
				c.Allow = func(id pki.Identity, _ *x509.Certificate, _ string) error {
					if id.ID == "banned" {
						return errors.New("revoked")
					}
					return nil
				}
			})
			err := f.end(f.dialer(transport.DialerConfig{Holder: tc.as(f)}), tc.alpn)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if got := transport.Explain(err); !strings.Contains(got, tc.says) {
				t.Errorf("explained as %q, want %q in it", got, tc.says)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if s, err := f.endpoint.Accept(ctx, transport.ALPNAgent); err == nil {
				t.Errorf("the replica accepted %v", s.Peer())
			}
		})
	}
}

func TestNoCertificateOnAgentProtocol(t *testing.T) {
	f := newFleet(t)
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{transport.ALPNAgent}}
	conn, err := quic.DialAddr(t.Context(), f.addr, conf, nil)
	if err == nil {
		<-conn.Context().Done()
		err = context.Cause(conn.Context())
	}
	if err := transport.Translate(err); !errors.Is(err, transport.ErrCertificateRequired) {
		t.Errorf("%v, want ErrCertificateRequired", err)
	} else if got := transport.Explain(err); !strings.Contains(got, "Join first") {
		t.Errorf("explained as %q", got)
	}
}

func TestRevocationHoldsFromTheNextHandshake(t *testing.T) {
	var revoked atomic.Bool
	f := newFleet(t, func(c *transport.Config) {
		c.Allow = func(pki.Identity, *x509.Certificate, string) error {
			if revoked.Load() {
				return errors.New("revoked")
			}
			return nil
		}
	})
	d := f.agent("a1")
	a, _ := f.connect(d)
	revoked.Store(true)
	if err := f.end(d, transport.ALPNAgent); !errors.Is(err, transport.ErrCertificateRefused) {
		t.Errorf("second session: %v, want ErrCertificateRefused", err)
	}
	if a.Context().Err() != nil {
		t.Error("the first session ended by itself; closing it is the owner's decision")
	}
}

// TestNothingIsResumed dials with a client that would resume if it could: a
// resumed session would skip what changed since the first handshake.
func TestNothingIsResumed(t *testing.T) {
	var asked atomic.Int64
	f := newFleet(t, func(c *transport.Config) {
		c.Allow = func(pki.Identity, *x509.Certificate, string) error {
			asked.Add(1)
			return nil
		}
	})
	conf := pki.ClientTLS(f.holder(pki.KindAgent, "a1"), nil, transport.ALPNAgent)
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for i := range 3 {
		conn, err := quic.DialAddr(t.Context(), f.addr, conf, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.endpoint.Accept(t.Context(), transport.ALPNAgent)
		if err != nil {
			t.Fatal(err)
		}
		if st := conn.ConnectionState(); st.TLS.DidResume || st.Used0RTT || asked.Load() != int64(i+1) {
			t.Errorf("connection %d: resumed %v, 0-RTT %v, Allow was asked %d times", i+1, st.TLS.DidResume, st.Used0RTT, asked.Load())
		}
		s.Close(transport.CodeOK, "")
		<-conn.Context().Done()
	}
}

func TestDistrustedReplicas(t *testing.T) {
	t.Run("of another fleet", func(t *testing.T) {
		f := newFleet(t)
		other := pkitest.New(t, "fleet.example")
		d := f.dialer(transport.DialerConfig{Holder: pki.NewHolder(other.Credential(t, pki.KindAgent, "a1"))})
		err := f.end(d, transport.ALPNAgent)
		if !errors.Is(err, transport.ErrPeerDistrusted) {
			t.Errorf("%v, want ErrPeerDistrusted", err)
		}
		if got := transport.Explain(err); !strings.Contains(got, "another fleet") {
			t.Errorf("explained as %q", got)
		}
	})
	t.Run("not the expected one", func(t *testing.T) {
		f := newFleet(t)
		stranger := errors.New("I wanted r7")
		_, err := f.agent("a1").Dial(t.Context(), f.addr, transport.ALPNAgent, func(id pki.Identity) error {
			if id.ID != "r7" {
				return stranger
			}
			return nil
		})
		if !errors.Is(err, transport.ErrPeerDistrusted) || !errors.Is(err, stranger) {
			t.Errorf("%v, want ErrPeerDistrusted and the reason", err)
		}
	})
	t.Run("expired", func(t *testing.T) {
		f := newFleet(t, func(c *transport.Config) {
			late := time.Now().Add(-24 * time.Hour)
			ca := pkitest.New(t, "fleet.example")
			c.Holder = pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1", pkitest.Validity(late.Add(-time.Hour), late)))
		})
		_, err := f.agent("a1").DialEnrol(t.Context(), f.addr, "sha256:x")
		if err == nil {
			t.Fatal("an expired replica was accepted")
		}
	})
	t.Run("no replica at all", func(t *testing.T) {
		f := newFleet(t)
		f.endpoint.Close()
		e, err := transport.Listen(transport.Config{Addr: f.addr, Holder: f.holder(pki.KindAgent, "a2"), Allow: everybody})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if err := f.end(f.agent("a1"), transport.ALPNAgent); !errors.Is(err, transport.ErrPeerDistrusted) {
			t.Errorf("%v, want ErrPeerDistrusted", err)
		}
	})
}

func TestEnrol(t *testing.T) {
	f := newFleet(t, func(c *transport.Config) {
		c.Allow = func(pki.Identity, *x509.Certificate, string) error {
			t.Error("Allow was asked about a client without a name")
			return nil
		}
	})
	d := f.dialer(transport.DialerConfig{}) // has nothing but the pin
	a, err := d.DialEnrol(t.Context(), f.addr, pki.Pin(f.ca.Root))
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.endpoint.Accept(t.Context(), transport.ALPNEnrol)
	if err != nil {
		t.Fatal(err)
	}
	if (r.Peer() != pki.Identity{}) || a.Peer().String() != "spiffe://fleet.example/replica/r1" {
		t.Errorf("peers %v and %v", r.Peer(), a.Peer())
	}
	if transport.RemoteAddr(r) == "" {
		t.Error("no address to count joiners by")
	}
	out, err := a.Open(t.Context(), "enrol")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(out, "let me in")
	out.Close()
	in, err := r.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(in); string(got) != "let me in" {
		t.Errorf("%q, %v", got, err)
	}

	_, err = d.DialEnrol(t.Context(), f.addr, pki.Pin(pkitest.New(t, "fleet.example").Root))
	if !errors.Is(err, pki.ErrWrongPin) {
		t.Errorf("wrong pin: %v", err)
	}
	if got := transport.Explain(err); !strings.Contains(got, "join line") {
		t.Errorf("explained as %q", got)
	}
}

// Sessions of a root that is trusted no more end, whatever they carry and
// whoever dialled; those of another root stay.
func TestDistrust(t *testing.T) {
	old, now := pkitest.New(t, "fleet.example"), pkitest.New(t, "fleet.example")
	both, err := pki.NewBundle(2, old.Root, now.Root)
	if err != nil {
		t.Fatal(err)
	}
	holder := func(ca *pkitest.CA, kind pki.Kind, id string) *pki.Holder {
		c := ca.Credential(t, kind, id)
		c.Bundle = both
		return pki.NewHolder(c)
	}
	f := newFleet(t, func(c *transport.Config) { c.Holder = holder(now, pki.KindReplica, "r1") })
	other := newFleet(t, func(c *transport.Config) { c.Holder = holder(old, pki.KindReplica, "r2") })
	out, err := f.endpoint.Dial(t.Context(), other.addr, transport.ALPNRaft, nil)
	if err != nil {
		t.Fatal(err)
	}
	ending, staying := []transport.Session{out}, []transport.Session{}
	for _, tt := range []struct {
		alpn string
		kind pki.Kind
		tcp  bool
	}{
		{transport.ALPNAgent, pki.KindAgent, false},
		{transport.ALPNAgent, pki.KindAgent, true},
		{transport.ALPNRaft, pki.KindReplica, false},
		{transport.ALPNRelay, pki.KindReplica, false},
	} {
		for _, ca := range []*pkitest.CA{old, now} {
			cfg := transport.DialerConfig{Holder: holder(ca, tt.kind, "x1")}
			if tt.tcp {
				cfg = f.blockedConfig(cfg.Holder)
			}
			d := f.dialer(cfg)
			s, err := d.Dial(t.Context(), f.addr, tt.alpn, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.endpoint.Accept(t.Context(), tt.alpn); err != nil {
				t.Fatal(err)
			}
			if ca == old {
				ending = append(ending, s)
			} else {
				staying = append(staying, s)
			}
		}
	}
	if n := f.endpoint.Distrust(both.Roots); n != 0 {
		t.Errorf("with both trusted, %d sessions ended", n)
	}
	if n := f.endpoint.Distrust([]*x509.Certificate{now.Root}); n != len(ending) {
		t.Errorf("%d sessions ended, want %d", n, len(ending))
	}
	for i, s := range ending {
		select {
		case <-s.Context().Done():
		case <-time.After(5 * time.Second):
			t.Errorf("session %d is not ended", i)
		}
	}
	for _, s := range staying {
		if err := s.Context().Err(); err != nil {
			t.Errorf("a session of the root that stays: %v", context.Cause(s.Context()))
		}
	}
}
