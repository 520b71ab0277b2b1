package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/transporttest"
)

func TestCloseTellsEverySession(t *testing.T) {
	f := newFleet(t)
	d := f.agent("a1")
	var sessions []transport.Session
	for range 100 {
		a, _ := f.connect(d)
		sessions = append(sessions, a)
	}
	start := time.Now()
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
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if _, err := f.endpoint.Accept(t.Context(), transport.ALPNAgent); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
}

func TestDialerCloseEndsItsSessions(t *testing.T) {
	f := newFleet(t)
	d := f.agent("a1")
	_, r := f.connect(d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	<-r.Context().Done()
	if ce, ok := errors.AsType[*transport.CloseError](context.Cause(r.Context())); !ok || ce.Code != transport.CodeOK {
		t.Errorf("cause %v", context.Cause(r.Context()))
	}
	if _, err := d.Dial(t.Context(), f.addr, transport.ALPNAgent, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after Close: %v", err)
	}
}

func TestAgentUsesOneSocket(t *testing.T) {
	f := newFleet(t)
	d := f.agent("a1")
	_, r1 := f.connect(d)
	_, r2 := f.connect(d)
	if a, b := transport.RemoteAddr(r1), transport.RemoteAddr(r2); a != b {
		t.Errorf("two sessions of one agent came from %s and %s", a, b)
	}
}

// TestOverflowOfOneProtocol fills the queue of raft/1, which nobody accepts.
func TestOverflowOfOneProtocol(t *testing.T) {
	f := newFleet(t)
	d := f.dialer(transport.DialerConfig{Holder: f.holder(pki.KindReplica, "r2")})
	var busy int
	for range 20 {
		s, err := d.Dial(t.Context(), f.addr, transport.ALPNRaft, nil)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.Context().Done():
			if ce, ok := errors.AsType[*transport.CloseError](context.Cause(s.Context())); ok && ce.Code == transport.CodeBusy {
				busy++
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	if busy != 4 {
		t.Errorf("%d of 20 were refused as too many, want those over 16", busy)
	}
	f.connect(f.agent("a1")) // the other protocols do not suffer
}

// TestRestartedReplicaIsNoticedAtOnce kills a replica without a word: its
// socket is closed under it, and another takes the port with the same key.
func TestRestartedReplicaIsNoticedAtOnce(t *testing.T) {
	n := transporttest.NewNet(t, time.Millisecond)
	key := [32]byte{1, 2, 3}
	with := func(c *transport.Config) { c.Conn, c.StatelessResetKey = n.Conn(replicaAddr), key }
	f := newFleet(t, with)
	f.addr = replicaAddr
	d := f.dialer(transport.DialerConfig{Holder: f.holder(pki.KindAgent, "a1"), Conn: n.Conn(agentAddr)})
	a, _ := f.connect(d)
	out, err := a.Open(t.Context(), "control")
	if err != nil {
		t.Fatal(err)
	}

	n.Cut(agentAddr) // so that the goodbye is lost
	f.endpoint.Close()
	cfg := transport.Config{Holder: f.holder(pki.KindReplica, "r1"), Allow: everybody}
	with(&cfg)
	again, err := transport.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	n.Heal(agentAddr)

	out.Write(make([]byte, 64)) // a beat
	select {
	case <-a.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("not noticed")
	}
	if !errors.Is(context.Cause(a.Context()), transport.ErrPeerRestarted) {
		t.Errorf("cause %v, want ErrPeerRestarted", context.Cause(a.Context()))
	}
}

// raw dials without this package's client, to send what it never would.
func (f *fleet) raw() *quic.Conn {
	f.t.Helper()
	conf := pki.ClientTLS(f.holder(pki.KindAgent, "raw"), nil, transport.ALPNAgent)
	conn, err := quic.DialAddr(f.t.Context(), f.addr, conf, &quic.Config{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.CloseWithError(0, "") })
	return conn
}

func TestBadStreamHeaders(t *testing.T) {
	for name, head := range map[string]string{"empty": "\x00", "long": "\xffxxxx", "characters": "\x02A!"} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			conn := f.raw()
			s, err := f.endpoint.Accept(t.Context(), transport.ALPNAgent)
			if err != nil {
				t.Fatal(err)
			}
			st, _ := conn.OpenStream()
			io.WriteString(st, head)
			if _, err := s.Accept(t.Context()); err == nil {
				t.Error("the stream was accepted")
			}
			<-conn.Context().Done()
			err = transport.Translate(context.Cause(conn.Context()))
			if ce, ok := errors.AsType[*transport.CloseError](err); !ok || ce.Code != transport.CodeProtocol {
				t.Errorf("the peer sees %v, want the protocol code", err)
			}
		})
	}
}

func TestStreamWithoutHeaderHoldsNobodyUp(t *testing.T) {
	f := newFleet(t)
	conn := f.raw()
	s, err := f.endpoint.Accept(t.Context(), transport.ALPNAgent)
	if err != nil {
		t.Fatal(err)
	}
	cut, _ := conn.OpenStream()
	io.WriteString(cut, "\x07con")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accept: %v, want the context's end", err)
	}
	next, _ := conn.OpenStream()
	io.WriteString(next, "\x07control")
	if st, err := s.Accept(t.Context()); err != nil || st.Kind() != "control" {
		t.Errorf("the next stream: %v", err)
	}
}

func TestPeerCannotOpenUnidirectionalStreams(t *testing.T) {
	f := newFleet(t)
	if _, err := f.raw().OpenUniStream(); err == nil {
		t.Error("a stream that nobody would read was opened")
	}
}

// TestFloodOfHandshakes opens more handshakes than may be in flight, from
// addresses that hear nothing, as forged ones do.
func TestFloodOfHandshakes(t *testing.T) {
	inBubble(t, time.Millisecond, func(t *testing.T, f *fleet, d *transport.Dialer, n *transporttest.Net) {
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(replicaAddr))
		conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{transport.ALPNAgent}}
		for i := range 200 {
			tr := &quic.Transport{Conn: deaf{n.Conn(fmt.Sprintf("10.9.0.1:%d", 1000+i))}}
			defer tr.Close()
			go tr.Dial(t.Context(), to, conf, nil)
		}
		time.Sleep(100 * time.Millisecond)
		if in := transport.Handshakes(f.endpoint); in != 64 {
			t.Errorf("%d handshakes are in flight, want 64 and the rest sent back", in)
		}
		start := time.Now()
		f.connect(d)
		// One round trip to show the address, one for the handshake, half of
		// one until the replica has its end.
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("an honest agent waited %v", took)
		}
		time.Sleep(10 * time.Second)
		if in := transport.Handshakes(f.endpoint); in != 0 {
			t.Errorf("%d handshakes are in flight long after", in)
		}
	})
}

// deaf sends and hears nothing.
type deaf struct{ net.PacketConn }

func (d deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if _, from, err := d.PacketConn.ReadFrom(b); err != nil {
			return 0, from, err
		}
	}
}

func TestResolve(t *testing.T) {
	f := newFleet(t)
	d := f.agent("a1")
	_, port, _ := net.SplitHostPort(f.addr)
	if _, err := d.Dial(t.Context(), "localhost:"+port, transport.ALPNAgent, nil); err != nil {
		t.Errorf("by name: %v", err)
	}
	for _, bad := range []string{"", "r1.example", "127.0.0.1:port", "127.0.0.1:70000"} {
		_, err := d.Dial(t.Context(), bad, transport.ALPNAgent, nil)
		if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Addr != bad {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// relay is a NAT between an agent and a replica: it changes the source port
// that the replica sees whenever rebind is called.
type relay struct {
	t      *testing.T
	front  *net.UDPConn
	target *net.UDPAddr
	wg     sync.WaitGroup

	mu    sync.Mutex
	back  *net.UDPConn
	agent net.Addr
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		t.Fatal(err)
	}
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, front: front, target: to}
	r.rebind()
	r.wg.Go(r.outward)
	t.Cleanup(func() {
		front.Close()
		r.mu.Lock()
		r.back.Close()
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *relay) rebind() {
	back, err := net.DialUDP("udp", nil, r.target)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	old := r.back
	r.back = back
	r.mu.Unlock()
	if old != nil {
		old.Close() // what comes to the old port is lost
	}
	r.wg.Go(func() { r.inward(back) })
}

func (r *relay) outward() {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.front.ReadFrom(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.agent = from
		r.back.Write(buf[:n])
		r.mu.Unlock()
	}
}

func (r *relay) inward(back *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, err := back.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		to := r.agent
		r.mu.Unlock()
		r.front.WriteTo(buf[:n], to)
	}
}

func TestSessionSurvivesNATRebinding(t *testing.T) {
	f := newFleet(t)
	nat := newRelay(t, f.addr)
	f.addr = nat.front.LocalAddr().String()
	a, r := f.connect(f.agent("a1"))
	out, err := a.Open(t.Context(), "control")
	if err != nil {
		t.Fatal(err)
	}
	in, err := r.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 5 {
		if i > 0 {
			nat.rebind()
		}
		for _, way := range []struct{ from, to transport.Stream }{{out, in}, {in, out}} {
			text := fmt.Sprint("message ", i)
			way.to.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(way.from, text)
			got := make([]byte, len(text))
			if _, err := io.ReadFull(way.to, got); err != nil || string(got) != text {
				t.Fatalf("after %d changes of port: %q, %v", i, got, err)
			}
		}
		seen[transport.RemoteAddr(r)] = true
	}
	if len(seen) < 3 {
		t.Errorf("the replica saw the agent at %v only; did the relay change ports?", seen)
	}
}
