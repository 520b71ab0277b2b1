package transport

import (
	"context"
	"net"
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
	// Now is the clock that certificates are judged by; nil is time.Now.
	Now func() time.Time
}

// Dialer dials from one UDP socket without listening. It is safe for
// concurrent use.
type Dialer struct {
	holder *pki.Holder
	socket *socket
	now    func() time.Time
}

// NewDialer binds the socket, on any free port.
func NewDialer(cfg DialerConfig) (*Dialer, error) {
	s, err := openSocket(cfg.Conn, ":0")
	if err != nil {
		return nil, err
	}
	if cfg.Holder == nil {
		cfg.Holder = pki.NewHolder(nil)
	}
	return &Dialer{holder: cfg.Holder, socket: s, now: cfg.Now}, nil
}

// Dial connects to the replica at addr ("host:port") that expect accepts; a
// nil expect takes any replica of the trust domain. It blocks for 5 s at most
// when nobody answers. The replica judges our certificate after Dial has
// returned: its refusal ends the session.
func (d *Dialer) Dial(ctx context.Context, addr, alpn string, expect func(pki.Identity) error) (Session, error) {
	conf := pki.ClientTLS(d.holder, expect, alpn)
	conf.Time = d.now
	s, err := d.socket.dial(ctx, addr, alpn, conf)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DialEnrol connects for joining: we show no certificate, and the replica must
// show a chain to the root that pin names.
func (d *Dialer) DialEnrol(ctx context.Context, addr, pin string) (Session, error) {
	conf := pki.PinnedTLS(pin, ALPNEnrol)
	conf.Time = d.now
	s, err := d.socket.dial(ctx, addr, ALPNEnrol, conf)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends every session and frees the socket.
func (d *Dialer) Close() error { return d.socket.close(CodeOK, "") }
