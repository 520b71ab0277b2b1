package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// blocked is an agent's dialler where UDP does not pass.
func (f *fleet) blocked(id string) *transport.Dialer {
	return f.dialer(f.blockedConfig(f.holder(pki.KindAgent, id)))
}

func (f *fleet) blockedConfig(h *pki.Holder) transport.DialerConfig {
	f.t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	return transport.DialerConfig{Holder: h, Conn: transporttest.NewGate(conn, true), DialTCP: (&net.Dialer{}).DialContext}
}

func TestTCPSessions(t *testing.T) {
	t.Parallel()
	transporttest.Run(t, func(t *testing.T, agent, replica pki.Identity) (transport.Session, transport.Session) {
		f := newFleet(t)
		return f.connect(f.blocked(agent.ID))
	})
}

// TestBlockedUDP: the first session waits for the head start that QUIC has, the
// next ones do not.
func TestBlockedUDP(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.blocked("a1")
	for i, limit := range []struct{ min, max time.Duration }{{400 * time.Millisecond, 2 * time.Second}, {0, 390 * time.Millisecond}} {
		start := time.Now()
		a, r := f.connect(d)
		took := time.Since(start)
		if took < limit.min || took > limit.max {
			t.Errorf("session %d took %v, want %v to %v", i, took, limit.min, limit.max)
		}
		if transport.LinkOf(a) != "tcp" || transport.LinkOf(r) != "tcp" {
			t.Errorf("the links are %s and %s", transport.LinkOf(a), transport.LinkOf(r))
		}
	}
	d.Forget()
	start := time.Now()
	f.connect(d)
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("in a new network the session took %v: QUIC had no chance", took)
	}
	if s, err := d.DialQUIC(t.Context(), f.addr, transport.ALPNAgent, nil); err == nil {
		t.Errorf("UDP is blocked, but there is a session over %s", transport.LinkOf(s))
	}
}

func TestQUICWinsWhereUDPPasses(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for range 5 {
		if a, _ := f.connect(f.agent("a1")); transport.LinkOf(a) != "quic" {
			t.Fatalf("the link is %s", transport.LinkOf(a))
		}
	}
}

func TestBothLegsFail(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.endpoint.Close()
	start := time.Now()
	_, err := f.blocked("a1").Dial(t.Context(), f.addr, transport.ALPNAgent, nil)
	if !errors.Is(err, transport.ErrUnreachable) || time.Since(start) > 8*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	if got := transport.Explain(err); !strings.Contains(got, "Is UDP or TCP port") {
		t.Errorf("explained as %q", got)
	}
	if got := err.Error(); !strings.Contains(got, "; over TCP: ") {
		t.Errorf("the error is %q", got)
	}
}

// TestRefusedClientsOverTCP: the same kinds of refusal as over QUIC.
func TestRefusedClientsOverTCP(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		as   func(*fleet) *pki.Holder
		alpn string
		want error
		says string
	}{
		{
			"operator on agent/1", func(f *fleet) *pki.Holder { return f.holder(pki.KindOperator, "alice") },
			transport.ALPNAgent, transport.ErrCertificateRefused, "refused this machine's certificate",
		},
		{
			"banned", func(f *fleet) *pki.Holder { return f.holder(pki.KindAgent, "banned") },
			transport.ALPNAgent, transport.ErrCertificateRefused, "revoked",
		},
		{
			"unknown protocol", func(f *fleet) *pki.Holder { return f.holder(pki.KindAgent, "a1") },
			"agent/9", transport.ErrNoProtocol, "nobody speaks agent/9",
		},
		{
			"raft is not served over TCP", func(f *fleet) *pki.Holder { return f.holder(pki.KindReplica, "r2") },
			transport.ALPNRaft, transport.ErrNoProtocol, "nobody speaks raft/1",
		},
		{
			"no certificate yet", func(*fleet) *pki.Holder { return pki.NewHolder(nil) },
			transport.ALPNAgent, nil, "join first",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, func(c *transport.Config) {
				c.Allow = func(id pki.Identity, _ *x509.Certificate, _ string) error {
					if id.ID == "banned" {
						return errors.New("revoked")
					}
					return nil
				}
			})
			err := f.end(f.dialer(f.blockedConfig(tc.as(f))), tc.alpn)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if got := transport.Explain(err); !strings.Contains(got, tc.says) {
				t.Errorf("explained as %q, want %q in it", got, tc.says)
			}
		})
	}
}

func TestDistrustedReplicaOverTCP(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stranger := errors.New("I wanted r7")
	_, err := f.blocked("a1").Dial(t.Context(), f.addr, transport.ALPNAgent, func(pki.Identity) error { return stranger })
	if !errors.Is(err, transport.ErrPeerDistrusted) || !errors.Is(err, stranger) {
		t.Errorf("%v, want ErrPeerDistrusted and the reason", err)
	}
}

func TestEnrolOverTCP(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.dialer(f.blockedConfig(nil))
	a, err := d.DialEnrol(t.Context(), f.addr, pki.Pin(f.ca.Root))
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.endpoint.Accept(t.Context(), transport.ALPNEnrol)
	if err != nil {
		t.Fatal(err)
	}
	if (r.Peer() != pki.Identity{}) || a.Peer().ID != "r1" || transport.RemoteAddr(r) == "" {
		t.Errorf("peers %v and %v, from %q", r.Peer(), a.Peer(), transport.RemoteAddr(r))
	}
	_, err = d.DialEnrol(t.Context(), f.addr, "sha256:another")
	if !errors.Is(err, pki.ErrWrongPin) {
		t.Errorf("wrong pin: %v", err)
	}
}

// TestOnePortForAll: HTTP and sessions come over the same TCP port.
func TestOnePortForAll(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", len(r.TLS.PeerCertificates))
	})}
	done := make(chan error)
	go func() { done <- srv.Serve(f.endpoint.HTTP()) }()
	defer func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	f.connect(f.blocked("a1"))
	for _, alpn := range []string{pki.ALPNHTTP1, pki.ALPNHTTP2} {
		for holder, want := range map[*pki.Holder]string{nil: " 0", f.holder(pki.KindOperator, "alice"): " 2"} {
			conf := pki.PinnedTLS(pki.Pin(f.ca.Root), alpn)
			if holder != nil {
				conf = pki.ClientTLS(holder, nil, alpn)
			}
			c := http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: alpn == pki.ALPNHTTP2}}
			resp, err := c.Get("https://" + f.addr)
			if err != nil {
				t.Fatalf("%s: %v", alpn, err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			c.CloseIdleConnections()
			proto := map[string]string{pki.ALPNHTTP1: "HTTP/1.1", pki.ALPNHTTP2: "HTTP/2.0"}[alpn]
			if string(got) != proto+want {
				t.Errorf("%s: %q, want %q", alpn, got, proto+want)
			}
		}
	}
}

// rawTCP is a peer that speaks TLS and yamux as it likes.
func (f *fleet) rawTCP() net.Conn {
	f.t.Helper()
	conn, err := tls.Dial("tcp", f.addr, pki.ClientTLS(f.holder(pki.KindAgent, "raw"), nil, transport.ALPNAgent))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// syn opens stream id in yamux's words; ping asks for an answer.
func syn(id byte) string {
	return "\x00\x01\x00\x01\x00\x00\x00" + string([]byte{id}) + "\x00\x00\x00\x00"
}

func data(id byte, text string) string {
	return "\x00\x00\x00\x00\x00\x00\x00" + string([]byte{id}) + "\x00\x00\x00" + string([]byte{byte(len(text))}) + text
}

const ping = "\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"

// TestHostileTCPPeers: what no honest peer sends ends the session, and the
// replica holds nothing of it.
func TestHostileTCPPeers(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range transport.MaxStreams + 1 {
		many.WriteString(syn(byte(3 + 2*i)))
	}
	resets := ""
	for i := range transport.MaxStreams + 1 { // of streams that were never opened
		resets += data(1, "\x01\x00\x00\x00\x00\x00\x00\x01"+string([]byte{byte(2*i + 1)}))
	}
	for name, sends := range map[string]string{
		"not yamux":                   "GET / HTTP/1.1\r\n\r\n",
		"pings without end":           syn(1) + strings.Repeat(ping, 1000),
		"more streams than allowed":   syn(1) + many.String(),
		"a stream of our numbers":     syn(1) + syn(2),
		"a stream again":              syn(1) + syn(5) + syn(3),
		"an unknown frame":            syn(1) + data(1, "\x09\x00\x00\x00\x00\x00\x00\x00\x01"),
		"a reason that is too long":   syn(1) + data(1, "\x03\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff"),
		"more data than the window":   syn(1) + "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x10\x00\x00" + strings.Repeat("x", 1<<20),
		"resets of what is not there": syn(1) + resets,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			conn := f.rawTCP()
			go io.WriteString(conn, sends)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			accepting, stop := context.WithCancel(ctx)
			go func() { // what ends while it waits there is not handed out
				defer stop()
				if s, err := f.endpoint.Accept(accepting, transport.ALPNAgent); err == nil {
					<-s.Context().Done()
				}
			}()
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
				t.Error("the connection stays open")
			}
			stop()
		})
	}
}

// TestTCPHandshakesAreBounded: who says nothing is dropped in time, and does not
// keep others out.
func TestTCPHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var open []net.Conn
	for range 300 { // all from one address
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	dropped := 0
	for _, c := range open {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == io.EOF || err != nil && !isTimeout(err) {
			dropped++
		}
	}
	if dropped < 300-256 {
		t.Errorf("%d of 300 silent connections were refused, want 44 or more", dropped)
	}
	for _, c := range open {
		c.Close()
	}
	f.connect(f.blocked("a1"))
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// TestKilledTCPPeerIsNoticed: the end of a connection without a goodbye.
func TestKilledTCPPeerIsNoticed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	conn := f.rawTCP()
	conf := yamux.DefaultConfig()
	conf.LogOutput = io.Discard
	mux, err := yamux.Client(conn, conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mux.Open(); err != nil {
		t.Fatal(err)
	}
	s, err := f.endpoint.Accept(t.Context(), transport.ALPNAgent)
	if err != nil {
		t.Fatal(err)
	}
	mux.Close()
	<-s.Context().Done()
	if err := context.Cause(s.Context()); !errors.Is(err, transport.ErrPeerRestarted) {
		t.Errorf("cause %v, want ErrPeerRestarted", err)
	}
}

func TestTCPCloseTellsEverySession(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.blocked("a1")
	var sessions []transport.Session
	for range 10 {
		a, _ := f.connect(d)
		sessions = append(sessions, a)
	}
	if err := f.endpoint.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		<-s.Context().Done()
		ce, ok := errors.AsType[*transport.CloseError](context.Cause(s.Context()))
		if !ok || ce.Code != transport.CodeDraining || !ce.Remote {
			t.Fatalf("cause %v, want draining", context.Cause(s.Context()))
		}
	}
}
