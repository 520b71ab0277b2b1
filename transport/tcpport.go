package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/tenderfleet/tender/pki"
)

const (
	// tcpHandshakeTimeout leaves room for a slow link that loses packets.
	tcpHandshakeTimeout = 10 * time.Second
	// maxFromAddress bounds the handshakes in flight from one address, so that
	// one machine cannot take up all of maxHandshakes. Behind a NAT a whole
	// site shares an address.
	maxFromAddress = 256
	// httpQueue is how many connections may wait for the HTTP server.
	httpQueue = 64
	// portTries is how often a free port is looked for that UDP and TCP both have.
	portTries = 10
)

// openPorts opens what cfg says. Where the machine chooses the port, both get
// the same one.
func openPorts(cfg Config) (*socket, net.Listener, error) {
	if cfg.Conn != nil {
		s, err := openSocket(cfg.Conn, "", connectionIDLength)
		return s, cfg.TCP, err
	}
	for try := 1; ; try++ {
		s, err := openSocket(nil, cfg.Addr, connectionIDLength)
		if err != nil || cfg.TCP != nil {
			return s, cfg.TCP, err
		}
		addr, chosen := sameAddr(cfg.Addr, s.conn.LocalAddr())
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return s, ln, nil
		}
		err = errors.Join(fmt.Errorf("listen on TCP %s: %w", addr, err), s.close(CodeOK, ""))
		if !chosen || try == portTries {
			return nil, nil, err
		}
	}
}

// sameAddr is addr with the port that bound has, and whether that is another.
func sameAddr(addr string, bound net.Addr) (string, bool) {
	host, port, err := net.SplitHostPort(addr)
	udp, ok := bound.(*net.UDPAddr)
	if err != nil || !ok || port == strconv.Itoa(udp.Port) {
		return addr, false
	}
	return net.JoinHostPort(host, strconv.Itoa(udp.Port)), true
}

// tcpPort is the TCP side of an Endpoint.
type tcpPort struct {
	ln   net.Listener
	http *httpListener

	mu   sync.Mutex
	all  int // handshakes in flight
	from map[string]int
}

func newTCPPort(ln net.Listener) *tcpPort {
	return &tcpPort{
		ln: ln, from: map[string]int{},
		http: &httpListener{addr: ln.Addr(), conns: make(chan net.Conn, httpQueue), closed: make(chan struct{})},
	}
}

// close works on a nil port, too.
func (p *tcpPort) close() error {
	if p == nil {
		return nil
	}
	return errors.Join(p.ln.Close(), p.http.Close())
}

// enter counts a handshake from an address, if there is room for it.
func (p *tcpPort) enter(addr net.Addr) (leave func(), ok bool) {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		host = addr.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxHandshakes || p.from[host] >= maxFromAddress {
		return nil, false
	}
	p.all++
	p.from[host]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
		if p.from[host]--; p.from[host] == 0 {
			delete(p.from, host)
		}
	}, true
}

// HTTP is where the connections for the HTTP API arrive, as *tls.Conn with the
// handshake done; nil without a TCP port. Closing it refuses them from then on.
func (e *Endpoint) HTTP() net.Listener {
	if e.tcp == nil {
		return nil
	}
	return e.tcp.http
}

// acceptTCP only sorts; every handshake has its own goroutine and a time limit.
func (e *Endpoint) acceptTCP() {
	conf := pki.ServerTLS(e.cfg.Holder, e.allow, ALPNAgent, ALPNEnrol, pki.ALPNHTTP2, pki.ALPNHTTP1)
	pause := 5 * time.Millisecond
	for {
		raw, err := e.tcp.ln.Accept()
		switch {
		case e.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = raw.Close()
			}
			return
		case err != nil: // out of files, for example: those in use come back
			e.cfg.Log.Warn("TCP connection not accepted", "error", err)
			select {
			case <-e.ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		leave, ok := e.tcp.enter(raw.RemoteAddr())
		if !ok {
			e.cfg.Log.Warn("TCP connection refused", "remote", raw.RemoteAddr(), "error", "too many handshakes at a time")
			_ = raw.Close()
			continue
		}
		e.wg.Go(func() {
			defer leave()
			if err := e.greet(raw, conf); err != nil {
				e.cfg.Log.Debug("TCP connection ended before it was of use", "remote", raw.RemoteAddr(), "error", err)
			}
		})
	}
}

// greet does the handshake and hands the connection to who serves its protocol.
func (e *Endpoint) greet(raw net.Conn, conf *tls.Config) error {
	ctx, cancel := context.WithTimeout(e.ctx, tcpHandshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		lingerClose(raw)
		return err
	}
	alpn := conn.ConnectionState().NegotiatedProtocol
	if pki.IsHTTP(alpn) {
		return e.tcp.http.offer(conn)
	}
	quietKeepAlive(raw)
	ses, err := newTCPSession(ctx, conn, false, timing{idle: tcpTiming(alpn).idle})
	if err != nil {
		return errors.Join(err, raw.Close())
	}
	if !e.socket.known.add(ses) {
		return ses.Close(CodeDraining, stopping)
	}
	if !e.offer(ses, alpn) {
		return ses.Close(CodeBusy, tooMany)
	}
	return nil
}

// quietKeepAlive switches the kernel's own probes off: a session has its pings,
// and each byte may cost the site money.
func quietKeepAlive(raw net.Conn) {
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetKeepAlive(false)
	}
}

// httpListener hands over connections that the port has sorted out.
type httpListener struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *httpListener) offer(c net.Conn) error {
	select {
	case <-l.closed:
	default:
		select {
		case l.conns <- c:
			return nil
		default:
		}
	}
	return errors.Join(errors.New("the HTTP server takes no more connections"), c.Close())
}

func (l *httpListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // before what may wait
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and the connections that wait for it.
func (l *httpListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	for {
		select {
		case c := <-l.conns:
			_ = c.Close() // nobody speaks on it
		default:
			return nil
		}
	}
}

func (l *httpListener) Addr() net.Addr { return l.addr }
