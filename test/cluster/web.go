package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// PlainPort is added to a replica's address for the listener without TLS.
const PlainPort = ":plain"

// Web is TCP on a fleet's network: connections in memory, by the address of the
// listener.
type Web struct {
	mu  sync.Mutex
	lns map[string]*webListener
}

// Web has the replicas that are started from now on serve HTTPS at their
// addresses, and schedulers without TLS at their addresses with PlainPort,
// where trust is the principal of those that show nothing.
func (f *Fleet) Web(trust string) *Web {
	w := &Web{lns: map[string]*webListener{}}
	// The server lingers for half a second over connections that it ends.
	f.tb.Cleanup(func() { time.Sleep(time.Second) })
	tune := f.Tune
	f.Tune = func(id fleet.ReplicaID, cfg *controlplane.Config) {
		if tune != nil {
			tune(id, cfg)
		}
		addr := cfg.Conn.LocalAddr().String()
		cfg.API, cfg.Dial = w.listen(addr), w.Dial
		cfg.Schedulers.Listener, cfg.Schedulers.Trust = w.listen(addr+PlainPort), trust
	}
	return w
}

func (w *Web) listen(addr string) *webListener {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &webListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	w.lns[addr] = l
	return l
}

// Dial connects to a listener that is open.
func (w *Web) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	l := w.lns[addr]
	w.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
	}
	here, there := newWebConns()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errRefused = errors.New("connection refused")

// Client trusts the fleet and follows no redirection. Its connections end with
// the test.
func (w *Web) Client(f *Fleet) *http.Client {
	t := &http.Transport{DialContext: w.Dial, TLSClientConfig: pki.PinnedTLS(f.Leader().Join(pki.KindFramework).Pin, pki.ALPNHTTP1)}
	f.tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Principal makes a framework's principal and returns its token.
func (f *Fleet) Principal(id string, roles ...fleet.Role) string {
	f.tb.Helper()
	token := access.Token(id, pki.NewSecret())
	f.Propose(state.Command{PutPrincipal: &state.Principal{
		ID: id, Kind: state.KindFramework, Roles: roles, SecretHash: pki.HashSecret(token), Expires: time.Now().Add(30 * 24 * time.Hour),
	}})
	return token
}

type webListener struct {
	addr   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *webListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *webListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *webListener) Addr() net.Addr { return webAddr(l.addr) }

type webAddr string

func (webAddr) Network() string  { return "tcp" }
func (a webAddr) String() string { return string(a) }
