package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

const (
	// headStart is how long the first link of a race is alone: long enough for
	// a QUIC handshake over a satellite to be under way, short enough that
	// nobody notices it.
	headStart = 400 * time.Millisecond
	// rememberTCP is how long TCP goes first where it won.
	rememberTCP = 30 * time.Minute
	// maxRemembered bounds the addresses that are remembered.
	maxRemembered = 64
)

// target is who is dialled.
type target struct {
	addr, alpn string
	conf       *tls.Config
}

// leg is how one of the two links ended the race.
type leg struct {
	tcp      bool
	verified bool // over TCP: it was the replica, and nobody on the way, who answered
	session  Session
	err      error
}

// race dials over QUIC and, if that has not connected after headStart or has
// failed, over TCP as well. The first one to complete its handshake wins and
// the other is closed. A completed handshake is enough: where UDP is blocked
// there is none. TCP goes first where it won not long ago.
func (d *Dialer) race(ctx context.Context, t target) (Session, error) {
	if d.dialTCP == nil {
		s, err := d.socket.dial(ctx, t.addr, t.alpn, t.conf)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan leg, 2)
	running := 0
	start := func(tcp bool) {
		running++
		go func() { results <- d.run(ctx, t, tcp) }()
	}
	defer func() {
		cancel() // the loser gives up at once
		for ; running > 0; running-- {
			if l := <-results; l.session != nil {
				_ = l.session.Close(CodeOK, "the other link was faster")
			}
		}
	}()
	first := d.tcpFirst(t.addr)
	start(first)
	second := time.NewTimer(headStart)
	defer second.Stop()
	pending := second.C
	var failed []leg
	for {
		select {
		case l := <-results:
			running--
			if l.err == nil {
				d.remember(t.addr, l.tcp)
				return l.session, nil
			}
			failed = append(failed, l)
			if l.final() || len(failed) == 2 {
				return nil, raceError(t, failed)
			}
			if pending != nil {
				pending = nil
				start(!first)
			}
		case <-pending:
			pending = nil
			start(!first)
		}
	}
}

func (d *Dialer) run(ctx context.Context, t target, tcp bool) leg {
	if tcp {
		s, verified, err := d.overTCPTo(ctx, t)
		if err != nil {
			return leg{tcp: true, verified: verified, err: err}
		}
		return leg{tcp: true, session: s}
	}
	s, err := d.socket.dial(ctx, t.addr, t.alpn, t.conf)
	if err != nil {
		return leg{err: err}
	}
	return leg{session: s}
}

// final reports whether the replica itself has refused, so that the other link
// would lead to the same refusal. Over TCP, what answers may be a proxy on the
// way.
func (l leg) final() bool { return (l.verified || !l.tcp) && !errors.Is(l.err, ErrUnreachable) }

// raceError reports the failure that says most: that there is no answer over
// UDP says less than what came over TCP.
func raceError(t target, failed []leg) error {
	e := &DialError{Addr: t.addr, ALPN: t.alpn}
	for _, l := range failed {
		cause := l.err
		if de, ok := errors.AsType[*DialError](cause); ok {
			cause = de.Err
		}
		if l.tcp {
			e.TCP = cause
		} else {
			e.Err = cause
		}
	}
	if e.Err == nil || e.TCP != nil && errors.Is(e.Err, ErrUnreachable) && !errors.Is(e.TCP, ErrUnreachable) {
		e.Err, e.TCP = e.TCP, nil
	}
	return e
}

// overTCPTo is the TCP leg; verified says whether the replica showed who it is.
func (d *Dialer) overTCPTo(ctx context.Context, t target) (s *tcpSession, verified bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := d.dialTCP(ctx, "tcp", t.addr)
	if err != nil {
		return nil, false, &kindError{ErrUnreachable, err}
	}
	quietKeepAlive(raw)
	s, verified, err = shake(ctx, raw, t)
	if err != nil {
		_ = raw.Close() // it never was of use
		return nil, verified, err
	}
	if !d.socket.known.add(s) {
		return nil, true, errors.Join(net.ErrClosed, s.Close(CodeOK, ""))
	}
	return s, true, nil
}

// shake makes a session of a TCP connection.
func shake(ctx context.Context, raw net.Conn, t target) (s *tcpSession, verified bool, err error) {
	conf := t.conf.Clone()
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := t.conf.VerifyConnection(cs); err != nil {
			return &kindError{ErrPeerDistrusted, err}
		}
		if cs.NegotiatedProtocol != t.alpn {
			return &kindError{ErrNoProtocol, errors.New("it did not agree on one")}
		}
		verified = true
		return nil
	}
	conn := tls.Client(&countedConn{Conn: raw}, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, verified, handshakeFailure(ctx, err)
	}
	if s, err = newTCPSession(ctx, conn, true, tcpTiming(t.alpn)); err != nil {
		return nil, verified, handshakeFailure(ctx, err)
	}
	return s, true, nil
}

func handshakeFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &kindError{ErrUnreachable, context.Cause(ctx)}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return &kindError{ErrNoProtocol, err} // somebody answers, but not in TLS
	}
	err = translateTCP(err)
	if errors.Is(err, ErrPeerRestarted) || errors.Is(err, ErrIdle) {
		return &kindError{ErrUnreachable, err} // hung up on us in the middle of it
	}
	return err
}

// tcpFirst reports whether TCP won at that address not long ago.
func (d *Dialer) tcpFirst(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.overTCP[addr]
	return ok && time.Since(at) < rememberTCP
}

func (d *Dialer) remember(addr string, tcp bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !tcp {
		delete(d.overTCP, addr)
		return
	}
	if len(d.overTCP) >= maxRemembered {
		clear(d.overTCP)
	}
	d.overTCP[addr] = time.Now()
}

// Forget drops what is remembered of the links, as when the machine has moved
// to another network.
func (d *Dialer) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.overTCP)
}
