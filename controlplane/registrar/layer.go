package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
)

// Endpoint carries sessions between replicas. *transport.Endpoint is one.
// Accept and Dial block until ctx ends; what they return belongs to the caller.
type Endpoint interface {
	Accept(ctx context.Context, alpn string) (transport.Session, error)
	Dial(ctx context.Context, addr, alpn string, expect func(pki.Identity) error) (transport.Session, error)
}

var _ Endpoint = (*transport.Endpoint)(nil)

const (
	// rpcTimeout is how long one message to another replica may take. When it
	// is over, the session is given up as well: the peer may have lost it.
	rpcTimeout = 3 * time.Second
	streamKind = transport.StreamKind("raft")
	// acceptPause keeps a failing endpoint from being asked in a tight loop.
	acceptPause = 200 * time.Millisecond
)

// members is what the layer asks about the Raft configuration.
type members interface {
	// replicaAt returns the member with that address.
	replicaAt(addr string) (id string, ok bool)
	// mayConnect says whether a replica has business here.
	mayConnect(id string) error
	// tell answers a stream that asks about this replica, and closes it.
	tell(st transport.Stream)
	// answer answers a member's question, and closes the stream.
	answer(from string, st transport.Stream)
}

// layer is Raft's stream layer over sessions: one dialled session per peer, and
// on it one stream per connection of Raft.
//
// The certificate says who a session's peer is: the dialler demands the
// identity of the member with that address, the other side that of a member.
type layer struct {
	ep    Endpoint
	addr  string
	log   *slog.Logger
	conns chan net.Conn

	ready   chan struct{} // closed when members is set
	members members

	ctx    context.Context
	cancel context.CancelFunc
	// out is ctx for what this replica begins; it ends first, see hangUp.
	out     context.Context
	outOver context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	peers    map[string]*peer             // by address
	incoming map[string]transport.Session // by identity: a newer one ends the older
}

// peer is where the session to one address is kept.
type peer struct {
	turn    chan struct{} // held while dialling
	session transport.Session
}

var _ raft.StreamLayer = (*layer)(nil)

func newLayer(ep Endpoint, addr string, log *slog.Logger) *layer {
	l := &layer{
		ep: ep, addr: addr, log: log,
		conns: make(chan net.Conn), ready: make(chan struct{}),
		peers: map[string]*peer{}, incoming: map[string]transport.Session{},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.out, l.outOver = context.WithCancel(l.ctx)
	return l
}

// start begins to accept. Until then nothing passes, in either direction: the
// layer exists before the Raft that knows the members.
func (l *layer) start(m members) {
	l.members = m
	close(l.ready)
	l.wg.Go(l.acceptSessions)
}

// Accept implements net.Listener.
func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends every session. It does not wait: see wait.
func (l *layer) Close() error {
	l.cancel()
	l.hangUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.incoming {
		closeSession(s, transport.CodeDraining, "the replica is stopping")
	}
	return nil
}

// hangUp ends what this replica has dialled, and dials no more: a Raft that is
// being shut down waits for each of its calls, also for one to a dead peer.
func (l *layer) hangUp() {
	l.outOver()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.peers {
		select {
		case p.turn <- struct{}{}: // else its dialler does it: see endTurn
			closeSession(p.session, transport.CodeDraining, "the replica is stopping")
			<-p.turn
		default:
		}
	}
}

func (l *layer) wait() { l.wg.Wait() }

func closeSession(s transport.Session, code transport.Code, reason string) {
	if s != nil {
		_ = s.Close(code, reason) // it is over either way
	}
}

// Addr implements net.Listener: the address that the other replicas dial.
func (l *layer) Addr() net.Addr { return addr(l.addr) }

type addr string

func (a addr) Network() string { return "quic" }
func (a addr) String() string  { return string(a) }

// Dial implements raft.StreamLayer.
func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.out, timeout)
	defer cancel()
	st, s, err := l.stream(ctx, string(address), streamKind)
	if err != nil {
		return nil, err
	}
	return &conn{Stream: st, local: l.Addr(), remote: addr(address), lost: func() { l.giveUp(s) }}, nil
}

// stream opens a stream on the session to the member with that address.
func (l *layer) stream(ctx context.Context, address string, kind transport.StreamKind) (transport.Stream, transport.Session, error) {
	select {
	case <-l.ready:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("dial %s: %w", address, context.Cause(ctx))
	}
	p := l.peer(address)
	select {
	case p.turn <- struct{}{}:
		defer l.endTurn(p)
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("dial %s: %w", address, context.Cause(ctx))
	}
	if err := l.connect(ctx, p, address); err != nil {
		return nil, nil, err
	}
	st, err := p.session.Open(ctx, kind)
	if err != nil {
		l.giveUp(p.session)
		return nil, nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return st, p.session, nil
}

func (l *layer) peer(address string) *peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[address]
	if p == nil {
		p = &peer{turn: make(chan struct{}, 1)}
		l.peers[address] = p
	}
	return p
}

// connect gives p a live session. The caller holds its turn.
func (l *layer) connect(ctx context.Context, p *peer, address string) error {
	if p.session != nil && p.session.Context().Err() == nil {
		return nil
	}
	id, ok := l.members.replicaAt(address)
	if !ok {
		return fmt.Errorf("dial %s: no replica of the configuration has this address", address)
	}
	s, err := l.ep.Dial(ctx, address, transport.ALPNRaft, func(got pki.Identity) error {
		if got.Kind != pki.KindReplica || got.ID != id {
			return fmt.Errorf("%s is %s, expected replica/%s", address, got.Short(), id)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("dial replica %s: %w", id, err)
	}
	p.session = s
	return nil
}

// endTurn lets the next Dial to the peer go on. Where Close came during the
// turn it did not see the session.
func (l *layer) endTurn(p *peer) {
	if l.out.Err() != nil {
		closeSession(p.session, transport.CodeDraining, "the replica is stopping")
	}
	<-p.turn
}

// giveUp ends a session that does not answer, so that the next Dial makes
// another instead of waiting for this one's idle timeout.
func (l *layer) giveUp(s transport.Session) {
	closeSession(s, transport.CodeOK, "no answer in time")
}

func (l *layer) acceptSessions() {
	for {
		s, err := l.ep.Accept(l.ctx, transport.ALPNRaft)
		switch {
		case err == nil:
			l.wg.Go(func() { l.serve(s) })
		case l.ctx.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			l.log.Warn("endpoint closed before the registrar", "error", err)
			return
		default:
			l.log.Warn("accepting a replica's session", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-l.ctx.Done():
				return
			}
		}
	}
}

// serve feeds one session's streams to Accept. Each session has its own
// goroutine here: a silent peer holds up nobody else.
func (l *layer) serve(s transport.Session) {
	who := s.Peer()
	if err := l.allow(who); err != nil {
		l.log.Warn("refused a replica's session", "peer", who.String(), "error", err)
		closeSession(s, transport.CodeProtocol, err.Error())
		return
	}
	if !l.admit(who.ID, s) {
		return
	}
	defer l.dismiss(who.ID, s)
	for {
		st, err := s.Accept(l.ctx)
		if err != nil {
			return
		}
		// Again for every stream: the peer may have been removed meanwhile.
		if err := l.allow(who); err != nil {
			closeSession(s, transport.CodeProtocol, err.Error())
			return
		}
		switch st.Kind() {
		case streamKind:
		case aboutKind:
			l.wg.Go(func() { l.members.tell(st) })
			continue
		case askKind:
			l.wg.Go(func() { l.members.answer(who.ID, st) })
			continue
		default:
			st.Reset()
			continue
		}
		c := &conn{Stream: st, local: l.Addr(), remote: addr(who.Short())}
		select {
		case l.conns <- c:
		case <-l.ctx.Done():
			st.Reset()
			return
		}
	}
}

func (l *layer) allow(who pki.Identity) error {
	if who.Kind != pki.KindReplica {
		return fmt.Errorf("%s is not a replica", who.Short())
	}
	return l.members.mayConnect(who.ID)
}

// admit keeps s as the session from that replica and ends an older one.
func (l *layer) admit(id string, s transport.Session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		closeSession(s, transport.CodeDraining, "the replica is stopping")
		return false
	}
	closeSession(l.incoming[id], transport.CodeReplaced, "a newer session from the same replica")
	l.incoming[id] = s
	return true
}

func (l *layer) dismiss(id string, s transport.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.incoming[id] == s {
		delete(l.incoming, id)
	}
	closeSession(s, transport.CodeOK, "")
}

// replicaAt implements members.
func (r *Raft) replicaAt(address string) (string, bool) {
	for _, s := range r.servers() {
		if string(s.Address) == address {
			return string(s.ID), true
		}
	}
	return "", false
}

// mayConnect implements members. Members may, and so may the leader. Without a
// leader any replica of the trust domain may: a newcomer has no configuration
// yet, and one that was away for long may know none of today's members.
func (r *Raft) mayConnect(id string) error {
	for _, s := range r.servers() {
		if string(s.ID) == id {
			return nil
		}
	}
	if _, leader := r.raft.LeaderWithID(); leader == "" || string(leader) == id {
		return nil
	}
	return fmt.Errorf("replica %s is not a member of the control plane; add it first, or, if it was removed, stop it", id)
}
