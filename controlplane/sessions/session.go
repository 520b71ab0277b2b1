package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// session is one admitted agent's connection in this term.
type session struct {
	m      *Manager
	id     fleet.AgentID
	host   string
	number uint64
	term   uint64
	events chan leader.Event
	done   chan struct{}
	conn   transport.Session

	mu   sync.Mutex
	soft Soft
	// The outbox: acknowledgements add up, of desired sets the last one counts.
	beat    bool // a beat waits for its answer
	acks    []wire.Ack
	desired *wire.DesiredSet
	wake    chan struct{}
}

// Serve speaks agent/1 on a connection until it ends. The connection is closed
// when it returns.
func (m *Manager) Serve(ctx context.Context, conn transport.Session) {
	log := m.cfg.Log.With("agent", conn.Peer().ID, "remote", transport.RemoteAddr(conn))
	err := m.serve(ctx, conn)
	switch {
	case err == nil || ctx.Err() != nil:
		_ = conn.Close(transport.CodeDraining, "the replica is stopping")
	case conn.Context().Err() != nil:
		log.Info("session ended", "cause", context.Cause(conn.Context()))
	default:
		log.Warn("session refused", "error", err)
		_ = conn.Close(transport.CodeProtocol, err.Error())
	}
}

func (m *Manager) serve(ctx context.Context, conn transport.Session) error {
	helloCtx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	st, err := conn.Accept(helloCtx)
	if err != nil {
		return fmt.Errorf("no control stream: %w", err)
	}
	if st.Kind() != transport.StreamControl {
		return fmt.Errorf("the first stream is %q, not control", st.Kind())
	}
	_ = st.SetDeadline(time.Now().Add(helloTime))
	control := wire.NewConn(st, wire.MaxHello)
	msg, err := control.Recv()
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	hello, ok := msg.(wire.Hello)
	if !ok {
		return fmt.Errorf("%T instead of hello", msg)
	}
	s, refusal := m.admit(conn, hello)
	if refusal != nil {
		return refuse(ctx, conn, st, control, *refusal)
	}
	_ = st.SetDeadline(time.Time{})
	control.SetLimit(wire.MaxControl)
	return s.run(ctx, control, hello)
}

// refuse says why and leaves the agent a moment to read it: closing at once
// would overtake the text.
func refuse(ctx context.Context, conn transport.Session, st transport.Stream, control *wire.Conn, r wire.Refusal) error {
	if err := control.Send(r); err != nil {
		return fmt.Errorf("send refusal: %w", err)
	}
	_ = st.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-conn.Context().Done():
	}
	return errors.New(r.Text)
}

// admit decides on a Hello. The certificate has been verified; the record may
// have changed since.
func (m *Manager) admit(conn transport.Session, h wire.Hello) (*session, *wire.Refusal) {
	peer := conn.Peer()
	rec := m.cfg.Agent(fleet.AgentID(peer.ID))
	switch {
	case peer.Kind != pki.KindAgent || string(h.Agent) != peer.ID:
		return nil, &wire.Refusal{
			Code: wire.RefusedWrongIdentity,
			Text: fmt.Sprintf("the certificate is %s's, the hello says agent %s; each agent needs its own certificate: join with a new token", peer.Short(), h.Agent),
		}
	case h.Capability < wire.MinCapability:
		return nil, &wire.Refusal{
			Code: wire.RefusedTooOld,
			Text: fmt.Sprintf("the agent speaks capability %d, this control plane needs %d or more; upgrade tender-agent", h.Capability, wire.MinCapability),
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.term == 0:
		addr := m.cfg.Leader()
		return nil, &wire.Refusal{Code: wire.RefusedNotLeader, Text: "this replica does not lead", Leader: addr, RetryAfter: 500 * time.Millisecond}
	case rec == nil:
		return nil, &wire.Refusal{Code: wire.RefusedUnknownAgent, Text: "this control plane does not know the agent " + peer.ID + "; join again with a new token"}
	case rec.Revoked:
		return nil, &wire.Refusal{Code: wire.RefusedRevoked, Text: "the agent " + peer.ID + " has been revoked"}
	}
	m.next++
	now := time.Now()
	s := &session{
		m: m, id: fleet.AgentID(peer.ID), host: h.Hostname, number: m.next, term: m.term,
		events: m.events, done: m.done, conn: conn, wake: make(chan struct{}, 1),
		soft: Soft{Since: now, LastSeen: now, Link: transport.LinkOf(conn), Remote: transport.RemoteAddr(conn), Version: h.Version},
	}
	if old := m.byID[s.id]; old != nil {
		_ = old.conn.Close(transport.CodeReplaced, "the same agent has opened a newer session")
	}
	m.byID[s.id] = s
	return s, nil
}

// run carries one session; all its goroutines end before it returns.
func (s *session) run(ctx context.Context, control *wire.Conn, h wire.Hello) error {
	defer s.leave()
	bundle := s.m.cfg.Bundle()
	err := control.Send(wire.Welcome{
		Capability: wire.Capability, Term: s.term, Replica: s.m.cfg.Replica, Heartbeat: Heartbeat,
		BundleVersion: bundle.Version, Bundle: bundle.PEM(), Replicas: s.m.cfg.Replicas(),
	})
	if err != nil {
		return fmt.Errorf("send welcome: %w", err)
	}
	s.emit(leader.AgentUp{Agent: s.id, Session: s.number, Hostname: h.Hostname, Capacity: h.Capacity})
	s.m.cfg.Log.Info("agent connected", "agent", s.id, "link", s.soft.Link, "remote", s.soft.Remote, "version", h.Version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.read(control)
		// The agent is told what is wrong with what it said. Where the session is
		// over already this does nothing.
		_ = s.conn.Close(transport.CodeProtocol, err.Error())
		return err
	})
	g.Go(func() error { return s.write(ctx, control) })
	g.Go(func() error { return s.acceptStreams(ctx, g) })
	g.Go(func() error {
		// Unblocks the reader when another part has failed or the term ended.
		select {
		case <-ctx.Done():
			_ = s.conn.Close(transport.CodeDraining, "the replica is stopping")
		case <-s.done:
			_ = s.conn.Close(transport.CodeNotLeader, "another replica leads")
		case <-s.conn.Context().Done():
		}
		return context.Cause(s.conn.Context())
	})
	return g.Wait()
}

// emit hands the leader an event, unless the term is over.
func (s *session) emit(ev leader.Event) {
	select {
	case s.events <- ev:
	case <-s.done:
	}
}

func (s *session) leave() {
	m := s.m
	s.mu.Lock()
	soft := s.soft
	s.mu.Unlock()
	m.mu.Lock()
	if m.byID[s.id] == s {
		delete(m.byID, s.id)
		m.gone[s.id] = soft
	}
	m.mu.Unlock()
	s.emit(leader.AgentDown{Agent: s.id, Session: s.number, Seen: soft.LastSeen})
}

func (s *session) read(control *wire.Conn) error {
	for {
		msg, err := control.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the agent closed its control stream")
			}
			return fmt.Errorf("read control stream: %w", err)
		}
		s.mu.Lock()
		s.soft.LastSeen = time.Now()
		if r, ok := msg.(wire.Readings); ok {
			s.soft.Readings = r.Readings
		}
		s.mu.Unlock()
		switch msg := msg.(type) {
		case wire.Readings:
			s.queue(wire.Acks{}) // lets the agent know that the replica lives
		case wire.Pull:
			s.emit(leader.Pull{Agent: s.id, Session: s.number, Generation: msg.Generation, Full: msg.Full, Stamp: msg.Stamp, CaughtUp: msg.CaughtUp})
		case wire.Report:
			s.emit(leader.Report{Agent: s.id, Session: s.number, Updates: msg.Updates})
		case wire.CapacityChanged:
			s.emit(leader.CapacityChanged{Agent: s.id, Session: s.number, Hostname: s.host, Capacity: msg.Capacity})
		default:
			return fmt.Errorf("an agent must not send %T", msg)
		}
	}
}

// queue adds a message to the outbox.
func (s *session) queue(msg wire.Message) {
	s.mu.Lock()
	switch msg := msg.(type) {
	case wire.Acks:
		s.beat = s.beat || len(msg.Acks) == 0
		s.acks = append(s.acks, msg.Acks...)
	case wire.DesiredSet:
		s.desired = &msg
	}
	full := len(s.acks) > maxQueued
	s.mu.Unlock()
	if full {
		_ = s.conn.Close(transport.CodeBusy, "the agent does not read its messages")
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) write(ctx context.Context, control *wire.Conn) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		}
		s.mu.Lock()
		acks, desired, beat := s.acks, s.desired, s.beat
		s.acks, s.desired, s.beat = nil, nil, false
		s.mu.Unlock()
		if len(acks) > 0 || beat {
			if err := control.Send(wire.Acks{Acks: acks}); err != nil {
				return fmt.Errorf("send acknowledgements: %w", err)
			}
		}
		if desired != nil {
			if err := control.Send(*desired); err != nil {
				return fmt.Errorf("send desired set: %w", err)
			}
		}
	}
}

// acceptStreams answers the streams that the agent opens besides its control
// stream; the transport bounds how many there can be.
func (s *session) acceptStreams(ctx context.Context, g *errgroup.Group) error {
	for {
		st, err := s.conn.Accept(ctx)
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		if st.Kind() != transport.StreamRenew {
			st.Reset()
			continue
		}
		g.Go(func() error {
			if err := s.renew(ctx, st); err != nil {
				s.m.cfg.Log.Warn("renewal failed", "agent", s.id, "error", err)
			}
			return nil
		})
	}
}

// renew signs the agent's next certificate. Whom it is for comes from the
// verified session, never from the request.
func (s *session) renew(ctx context.Context, st transport.Stream) error {
	defer st.Close() //nolint:errcheck // the reply is written; nothing is left to do
	_ = st.SetDeadline(time.Now().Add(helloTime))
	conn := wire.NewConn(st, wire.MaxRenew)
	msg, err := conn.Recv()
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	req, ok := msg.(wire.RenewRequest)
	if !ok {
		return fmt.Errorf("%T instead of a request", msg)
	}
	cert, err := s.m.cfg.Renew(ctx, s.conn.Peer(), req.CSR)
	if err != nil {
		return errors.Join(err, conn.Send(wire.Refusal{Code: wire.RefusedBadRequest, Text: err.Error()}))
	}
	return conn.Send(cert)
}
