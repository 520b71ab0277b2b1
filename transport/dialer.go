package transport

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// DialerConfig is what an agent dials with.
type DialerConfig struct {
	// Holder has the agent's certificate. It may be empty until the agent has
	// joined by DialEnrol.
	Holder *pki.Holder
	// Conn replaces the UDP socket; the Dialer closes it.
	Conn net.PacketConn
	// DialTCP opens the connections of sessions over TCP. Nil is the machine's
	// way, through the proxy that HTTPS_PROXY names; with a Conn, nil is none.
	DialTCP func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the clock that certificates are judged by; nil is time.Now.
	Now func() time.Time
}

// Dialer dials from one UDP socket without listening, and over TCP where UDP
// does not pass. It is safe for concurrent use.
type Dialer struct {
	holder  *pki.Holder
	socket  *socket
	dialTCP func(ctx context.Context, network, addr string) (net.Conn, error)
	now     func() time.Time

	mu sync.Mutex
	// overTCP is when TCP last won, by address, until Forget.
	overTCP map[string]time.Time
}

// NewDialer binds the socket, on any free port.
func NewDialer(cfg DialerConfig) (*Dialer, error) {
	s, err := openSocket(cfg.Conn, ":0", dialledIDLength)
	if err != nil {
		return nil, err
	}
	if cfg.Holder == nil {
		cfg.Holder = pki.NewHolder(nil)
	}
	if cfg.DialTCP == nil && cfg.Conn == nil {
		cfg.DialTCP = machineTCP
	}
	return &Dialer{holder: cfg.Holder, socket: s, dialTCP: cfg.DialTCP, now: cfg.Now, overTCP: map[string]time.Time{}}, nil
}

// Dial connects to the replica at addr ("host:port") that expect accepts; a
// nil expect takes any replica of the trust domain. Where UDP does not pass the
// session is over TCP, on the same port: see LinkOf. It blocks for 5 s at most
// when nobody answers, and about as long again where one of the two is blocked
// and the other very slow. The replica judges our certificate after Dial has
// returned: its refusal ends the session.
func (d *Dialer) Dial(ctx context.Context, addr, alpn string, expect func(pki.Identity) error) (Session, error) {
	return d.race(ctx, target{addr, alpn, d.clientTLS(expect, alpn)})
}

// clientTLS is pki.ClientTLS by the dialer's clock.
func (d *Dialer) clientTLS(expect func(pki.Identity) error, alpn string) *tls.Config {
	conf := pki.ClientTLS(d.holder, expect, alpn)
	conf.Time = d.now
	return conf
}

// DialQUIC is Dial without the fallback, for trying whether UDP passes now.
func (d *Dialer) DialQUIC(ctx context.Context, addr, alpn string, expect func(pki.Identity) error) (Session, error) {
	s, err := d.socket.dial(ctx, addr, alpn, d.clientTLS(expect, alpn))
	if err != nil {
		return nil, err
	}
	d.remember(addr, false)
	return s, nil
}

// DialEnrol connects for joining: we show no certificate, and the replica must
// show a chain to the root that pin names. It falls back as Dial does.
func (d *Dialer) DialEnrol(ctx context.Context, addr, pin string) (Session, error) {
	conf := pki.PinnedTLS(pin, ALPNEnrol)
	conf.Time = d.now
	return d.race(ctx, target{addr, ALPNEnrol, conf})
}

// Close ends every session and frees the socket.
func (d *Dialer) Close() error { return d.socket.close(CodeOK, "") }
