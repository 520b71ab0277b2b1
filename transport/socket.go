package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// Who dials an agent/1 session sends a word in it every 15 to 60 seconds,
	// and both sides notice by that when it stays away. What is here is for
	// sessions without: QUIC's keep-alive must not add to those words, and
	// cannot be longer than half the idle timeout.
	idleTimeout      = 150 * time.Second
	keepAlive        = 70 * time.Second
	tcpIdleTimeout   = 80 * time.Second
	tcpKeepAlive     = 70 * time.Second
	raftIdleTimeout  = 15 * time.Second
	raftKeepAlive    = 3 * time.Second
	enrolIdleTimeout = 15 * time.Second
	dialTimeout      = 5 * time.Second // without any answer
	// connectionIDLength 8 makes collisions of tens of thousands unlikely and
	// costs four bytes a packet. Who only dials has a handful.
	connectionIDLength = 8
	dialledIDLength    = 4
)

// quicConfig has what both ends share. Windows begin small, since ten thousand
// idle sessions pay for them, and grow for those that carry much.
func quicConfig() *quic.Config {
	return &quic.Config{
		MaxIdleTimeout:                 idleTimeout,
		InitialStreamReceiveWindow:     64 << 10,
		MaxStreamReceiveWindow:         1 << 20,
		InitialConnectionReceiveWindow: 256 << 10,
		MaxConnectionReceiveWindow:     4 << 20,
		MaxIncomingStreams:             MaxStreams,
		MaxIncomingUniStreams:          -1, // nobody here uses them
	}
}

// timing is when a session is kept alive, and when it is given up.
type timing struct{ idle, keep time.Duration }

func timingOf(alpn string) timing {
	switch alpn {
	case ALPNRaft, ALPNRelay:
		return timing{raftIdleTimeout, raftKeepAlive}
	case ALPNEnrol:
		return timing{enrolIdleTimeout, 0}
	}
	return timing{idleTimeout, keepAlive}
}

// tcpTiming is the same over TCP, where a ping is answered within muxWriteTime
// or never.
func tcpTiming(alpn string) timing {
	if t := timingOf(alpn); t.idle < tcpIdleTimeout {
		return t
	}
	return timing{tcpIdleTimeout, tcpKeepAlive}
}

// dialConfig: only who dials keeps a session alive, since only its side has a
// NAT to keep open; the server learns of a lost agent by its idle timeout.
func dialConfig(alpn string) *quic.Config {
	c, t := quicConfig(), timingOf(alpn)
	c.HandshakeIdleTimeout = dialTimeout
	c.MaxIdleTimeout, c.KeepAlivePeriod = t.idle, t.keep
	return c
}

// socket is one UDP port and the sessions on it.
type socket struct {
	conn net.PacketConn
	tr   *quic.Transport

	known sessions
}

// openSocket takes conn over, or binds addr when conn is nil.
func openSocket(conn net.PacketConn, addr string, idLength int) (*socket, error) {
	if conn == nil {
		at, err := net.ResolveUDPAddr("udp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen on UDP %s: %w", addr, err)
		}
		if conn, err = net.ListenUDP("udp", at); err != nil {
			return nil, fmt.Errorf("listen on UDP %s: %w", addr, err)
		}
	}
	return &socket{
		conn: conn,
		tr:   &quic.Transport{Conn: conn, ConnectionIDLength: idLength},
	}, nil
}

// adopt makes a session of conn and keeps it until it is over, so that close
// can tell its peer.
func (s *socket) adopt(conn *quic.Conn) (*quicSession, error) {
	ses, err := newQUICSession(conn)
	if err != nil {
		return nil, err
	}
	if !s.known.add(ses) {
		ses.cancel(net.ErrClosed)
		return nil, net.ErrClosed
	}
	// Not a goroutine per session: it starts when the connection ends.
	context.AfterFunc(conn.Context(), ses.over)
	return ses, nil
}

// close tells every peer, since closing the socket alone tells nobody and
// leaves them to their idle timeouts, then frees the port.
func (s *socket) close(code Code, reason string) error {
	s.known.close(code, reason)
	return errors.Join(s.tr.Close(), s.conn.Close())
}

// dial tries the addresses behind addr in turn. A refusal ends it: another
// address leads to the same replica.
func (s *socket) dial(ctx context.Context, addr, alpn string, conf *tls.Config) (*quicSession, error) {
	targets, err := resolve(ctx, addr)
	for _, target := range targets {
		var conn *quic.Conn
		if conn, err = s.tr.Dial(ctx, net.UDPAddrFromAddrPort(target), conf, dialConfig(alpn)); err == nil {
			var ses *quicSession
			if ses, err = s.adopt(conn); err == nil {
				return ses, nil
			}
			conn.CloseWithError(quic.ApplicationErrorCode(CodeProtocol), "")
			break
		}
		if err = dialFailure(err); !errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
			break
		}
	}
	return nil, &DialError{Addr: addr, ALPN: alpn, Err: err}
}

func dialFailure(err error) error {
	if errors.Is(err, quic.ErrTransportClosed) {
		return net.ErrClosed
	}
	if _, ok := errors.AsType[*net.OpError](err); ok || errors.Is(err, context.DeadlineExceeded) {
		return &kindError{ErrUnreachable, err} // no route, no such network, no time
	}
	if err := translate(err); !errors.Is(err, ErrIdle) {
		return err
	}
	return &kindError{ErrUnreachable, err}
}

// maxTargets bounds how many addresses of one name are tried.
const maxTargets = 4

func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	if at, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{at}, nil
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number from 0 to 65535", service)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, ip := range ips[:min(len(ips), maxTargets)] {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return out, nil
}
