package transport

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tenderfleet/tender/pki"
)

const (
	serverHandshakeTimeout = 3 * time.Second
	// retryAbove: with more handshakes than that in flight, a client must first
	// show that its address is its own. That costs it a round trip and makes
	// forged addresses worthless.
	retryAbove = 64
	// maxHandshakes bounds the memory (about 70 KiB each) of those who did.
	maxHandshakes = 1024
)

// protocols says who may speak what, and how many sessions may wait in Accept.
var protocols = map[string]struct {
	kind  pki.Kind // empty: no certificate asked
	queue int
}{
	ALPNAgent: {pki.KindAgent, 256},
	ALPNRaft:  {pki.KindReplica, 16},
	ALPNRelay: {pki.KindReplica, 16},
	ALPNEnrol: {"", 64},
}

// ErrWrongKind refuses an identity that has no business on a protocol.
var ErrWrongKind = errors.New("identity of the wrong kind")

// Config is what a replica listens with.
type Config struct {
	// Addr is "host:port" of the UDP port and of the TCP port, for example
	// ":7443".
	Addr string
	// Conn and TCP replace the two; the Endpoint closes them. With a Conn and
	// without a TCP nothing is served over TCP.
	Conn   net.PacketConn
	TCP    net.Listener
	Holder *pki.Holder
	// Allow decides in every handshake, after the kind was checked. It must not
	// block; a nil Allow refuses everybody.
	Allow pki.Authorize
	// StatelessResetKey, kept secret and across restarts, lets agents learn at
	// once that the replica has restarted. The zero key switches that off, and
	// they wait for their idle timeout.
	StatelessResetKey [32]byte
	Log               *slog.Logger
}

// Endpoint is a replica's port: it listens for every protocol over UDP, and
// over TCP for those of agents and of HTTP, and dials the other replicas from
// the same UDP address.
type Endpoint struct {
	cfg      Config
	socket   *socket
	listener *quic.Listener
	tcp      *tcpPort // nil without a TCP port
	queues   map[string]chan Session

	handshakes atomic.Int64
	ctx        context.Context
	stop       context.CancelFunc
	wg         sync.WaitGroup
}

// Listen opens the port and begins to accept.
func Listen(cfg Config) (*Endpoint, error) {
	if cfg.Holder == nil {
		return nil, errors.New("listen: no certificate holder")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, ln, err := openPorts(cfg)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{cfg: cfg, socket: s, queues: make(map[string]chan Session)}
	e.ctx, e.stop = context.WithCancel(context.Background())
	if ln != nil {
		e.tcp = newTCPPort(ln)
	}
	for alpn, p := range protocols {
		e.queues[alpn] = make(chan Session, p.queue)
	}
	if err := e.listen(); err != nil {
		e.stop()
		return nil, errors.Join(fmt.Errorf("listen: %w", err), s.close(CodeOK, ""), e.tcp.close())
	}
	e.wg.Go(e.acceptLoop)
	if e.tcp != nil {
		e.wg.Go(e.acceptTCP)
	}
	return e, nil
}

func (e *Endpoint) listen() error {
	tr := e.socket.tr
	if key := e.cfg.StatelessResetKey; key != [32]byte{} {
		reset := quic.StatelessResetKey(key)
		tr.StatelessResetKey = &reset
		// Address tokens must outlive a restart as resets do.
		token, err := hkdf.Key(sha256.New, key[:], nil, "tender address token", 32)
		if err != nil {
			return err
		}
		generator := quic.TokenGeneratorKey(token)
		tr.TokenGeneratorKey = &generator
	}
	tr.VerifySourceAddress = func(net.Addr) bool { return e.handshakes.Load() >= retryAbove }
	tr.ConnContext = e.beginHandshake
	conf := quicConfig()
	conf.HandshakeIdleTimeout = serverHandshakeTimeout
	var err error
	// Not ListenEarly: a connection counts once its client is verified.
	e.listener, err = tr.Listen(pki.ServerTLS(e.cfg.Holder, e.allow, ALPNAgent, ALPNRaft, ALPNRelay, ALPNEnrol), conf)
	return err
}

func (e *Endpoint) allow(id pki.Identity, leaf *x509.Certificate, alpn string) error {
	err := e.judge(id, leaf, alpn)
	if err != nil {
		e.cfg.Log.Warn("session refused", "peer", id.String(), "protocol", alpn, "error", err)
	}
	return err
}

func (e *Endpoint) judge(id pki.Identity, leaf *x509.Certificate, alpn string) error {
	if pki.IsHTTP(alpn) && e.cfg.Allow != nil {
		return e.cfg.Allow(id, leaf, alpn) // who may use the API is its owner's to say
	}
	if want := protocols[alpn].kind; want == "" || id.Kind != want {
		return fmt.Errorf("%w: %s does not speak %s", ErrWrongKind, id.Short(), alpn)
	}
	if e.cfg.Allow == nil {
		return errors.New("nobody is allowed yet")
	}
	return e.cfg.Allow(id, leaf, alpn)
}

// handshake counts itself in flight until it is done, once.
type handshake struct{ done func() }

type handshakeKey struct{}

func (e *Endpoint) beginHandshake(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if e.handshakes.Add(1) > maxHandshakes {
		e.handshakes.Add(-1)
		return nil, ErrBusy
	}
	once := sync.OnceFunc(func() { e.handshakes.Add(-1) })
	stop := context.AfterFunc(ctx, once) // it failed
	return context.WithValue(ctx, handshakeKey{}, &handshake{done: func() { stop(); once() }}), nil
}

// acceptLoop only sorts: quic-go refuses connections when more than 32 wait
// for it.
func (e *Endpoint) acceptLoop() {
	for {
		conn, err := e.listener.Accept(e.ctx)
		if err != nil {
			return
		}
		if h, ok := conn.Context().Value(handshakeKey{}).(*handshake); ok {
			h.done()
		}
		alpn := conn.ConnectionState().TLS.NegotiatedProtocol
		ses, err := e.socket.adopt(conn)
		if err != nil {
			e.refuse(conn, CodeProtocol, "")
			continue
		}
		if !e.offer(ses, alpn) {
			e.refuse(conn, CodeBusy, tooMany)
		}
	}
}

const (
	tooMany  = "too many connections at a time"
	stopping = "the replica is stopping"
)

// offer puts a session where Accept finds it, unless too many wait there.
func (e *Endpoint) offer(ses Session, alpn string) bool {
	select {
	case e.queues[alpn] <- ses:
		return true
	default:
		e.cfg.Log.Warn("session refused", "peer", ses.Peer().String(), "protocol", alpn, "error", "too many wait to be accepted")
		return false
	}
}

// refuse closes conn elsewhere, since that waits for the connection's loop.
func (e *Endpoint) refuse(conn *quic.Conn, code Code, reason string) {
	e.wg.Go(func() { conn.CloseWithError(quic.ApplicationErrorCode(code), reason) })
}

// Accept waits for the next session of the protocol. It returns net.ErrClosed
// after Close.
func (e *Endpoint) Accept(ctx context.Context, alpn string) (Session, error) {
	queue, ok := e.queues[alpn]
	if !ok {
		return nil, fmt.Errorf("accept: no protocol %q here", alpn)
	}
	for {
		select {
		case ses := <-queue:
			if ses.Context().Err() == nil {
				return ses, nil // one that ended while it waited is not worth a word
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-e.ctx.Done():
			return nil, net.ErrClosed
		}
	}
}

// Dial connects to another replica from the listening port. See Dialer.Dial.
func (e *Endpoint) Dial(ctx context.Context, addr, alpn string, expect func(pki.Identity) error) (Session, error) {
	s, err := e.socket.dial(ctx, addr, alpn, pki.ClientTLS(e.cfg.Holder, expect, alpn))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Distrust ends the sessions, in both directions, that were opened under other
// roots than these, and returns their number: a session outlives the roots that
// it was opened under. A peer that has renewed its certificate is back at once.
func (e *Endpoint) Distrust(roots []*x509.Certificate) int { return e.socket.known.distrust(roots) }

// Addr is the address of the UDP port.
func (e *Endpoint) Addr() net.Addr { return e.socket.conn.LocalAddr() }

// Close tells every session that the replica is stopping, then frees the port.
func (e *Endpoint) Close() error {
	e.stop()
	err := errors.Join(e.listener.Close(), e.tcp.close())
	e.wg.Wait()
	return errors.Join(err, e.socket.close(CodeDraining, stopping))
}
