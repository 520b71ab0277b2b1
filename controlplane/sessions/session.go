package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// session is one admitted agent's connection.
type session struct {
	m      *Manager
	id     fleet.AgentID
	number uint64
	conn   transport.Session
	// capability is what the agent understands.
	capability int

	// binding orders what is put on the uplink, which may block; mu guards the
	// rest and is held for moments only.
	binding sync.Mutex
	up      *uplink
	welcome bool // has been sent
	info    wire.SessionUp
	// capacity is what the agent declared last.
	capacity fleet.Capacity
	heard    time.Time // of the agent
	silence  *silence

	mu sync.Mutex
	// out is what waits to be sent; of desired sets the last one counts. Resync
	// stands for Led.
	out  wire.Relayed
	term uint64
	beat bool // a beat waits for its answer
	// remote is where the agent's packets come from; moved: it does not know yet.
	remote string
	moved  bool
	asked  bool // the next message is an answer
	// bundle is to be sent; nil: none.
	bundle *wire.Bundle
	// upgrade is what the agent was told last to run; upgradeNews: it is on its
	// way.
	upgrade                  fleet.Upgrade
	upgradeTold, upgradeNews bool
	wake                     chan struct{}
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
	key, refusal := m.cfg.AdmitKey(ctx, conn)
	var s *session
	if refusal == nil {
		s, refusal = m.admit(conn, key, hello)
	}
	if refusal != nil {
		return refuse(ctx, conn, st, control, *refusal)
	}
	_ = st.SetDeadline(time.Time{})
	control.SetLimit(wire.MaxControl)
	return s.run(ctx, control)
}

// refuse says why and leaves the peer a moment to read it: closing at once
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
func (m *Manager) admit(conn transport.Session, key string, h wire.Hello) (*session, *wire.Refusal) {
	peer := conn.Peer()
	rec := m.cfg.Agent(fleet.AgentID(peer.ID))
	elsewhere := &wire.Refusal{Code: wire.RefusedNotLeader, Leader: m.cfg.Leader(), RetryAfter: 2 * time.Second}
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
	case rec != nil && rec.Revoked:
		return nil, &wire.Refusal{Code: wire.RefusedRevoked, Text: "the agent " + peer.ID + " has been revoked"}
	case m.stranded():
		elsewhere.Text = "this replica has lost the others"
		return nil, elsewhere
	}
	if rec == nil {
		// A replica that does not lead may lag behind an agent that has just
		// joined; the leader never does.
		if m.leads() {
			return nil, &wire.Refusal{Code: wire.RefusedUnknownAgent, Text: "this control plane does not know the agent " + peer.ID + "; join again with a new token"}
		}
		elsewhere.Text, elsewhere.RetryAfter = "this replica does not know the agent yet", 500*time.Millisecond
		return nil, elsewhere
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	s := &session{
		m: m, id: fleet.AgentID(peer.ID), number: m.next, conn: conn, capability: h.Capability,
		wake: make(chan struct{}, 1), capacity: h.Capacity, heard: time.Now(), silence: newSilence(conn, h.Beat),
		info: wire.SessionUp{
			Agent: fleet.AgentID(peer.ID), Hostname: h.Hostname, BootID: h.BootID, Epoch: h.Epoch, Version: h.Version,
			Since: time.Now(), Link: transport.LinkOf(conn), Remote: transport.RemoteAddr(conn),
			Key: key,
		},
	}
	s.remote = s.info.Remote
	m.open[s.number] = s
	return s, nil
}

// run carries one session; all its goroutines end before it returns.
func (s *session) run(ctx context.Context, control *wire.Conn) error {
	defer s.leave()
	defer s.silence.stop()
	bundle := s.m.cfg.Bundle()
	s.m.mu.Lock()
	up := s.m.up
	s.m.mu.Unlock()
	var term uint64
	if up != nil {
		term = up.term
	}
	err := control.Send(wire.Welcome{
		Capability: wire.Capability, Term: term, Replica: s.m.cfg.Replica, Heartbeat: Heartbeat,
		BundleVersion: bundle.Version, Bundle: bundle.PEM(), Replicas: s.m.cfg.Replicas(), Spread: s.m.spread(),
	})
	if err != nil {
		return fmt.Errorf("send welcome: %w", err)
	}
	s.welcomed(up)
	s.lookForUpgrade()
	s.m.cfg.Log.Info("agent connected", "agent", s.id, "link", s.info.Link, "remote", s.info.Remote, "version", s.info.Version)
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
		// Unblocks the reader when another part has failed.
		select {
		case <-ctx.Done():
			_ = s.conn.Close(transport.CodeDraining, "the replica is stopping")
		case <-s.conn.Context().Done():
		}
		return context.Cause(s.conn.Context())
	})
	return g.Wait()
}

// welcomed announces the session. The Welcome has told the agent of up, so it
// needs to be told only what has changed since.
func (s *session) welcomed(up *uplink) {
	s.binding.Lock()
	s.welcome, s.up = true, up
	if up != nil {
		s.mu.Lock()
		s.term = up.term
		s.mu.Unlock()
		up.put(s.announcement())
	}
	s.binding.Unlock()
	s.bind()
}

// announcement is what a leader that knows nothing of the session must hear.
// The caller holds binding.
func (s *session) announcement() wire.Relayed {
	info, capacity := s.info, s.capacity
	return wire.Relayed{Session: s.number, Up: &info, Capacity: &capacity, Ago: time.Since(s.heard)}
}

// bind follows the manager to another leader.
func (s *session) bind() {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.m.mu.Lock()
	up, open := s.m.up, s.m.open[s.number] == s
	s.m.mu.Unlock()
	if !s.welcome || !open || s.up == up {
		return
	}
	s.up = up
	if up != nil {
		up.put(s.announcement())
	}
	if s.capability < 3 && up != nil {
		// It knows one leader a session.
		_ = s.conn.Close(transport.CodeNotLeader, "another replica leads")
		return
	}
	var term uint64
	if up != nil {
		term = up.term
	}
	s.mu.Lock()
	s.out, s.term, s.asked = wire.Relayed{Resync: true}, term, false
	s.mu.Unlock()
	s.rouse()
}

// put hands on what is new.
func (s *session) put(item wire.Relayed) {
	item.Session = s.number
	s.binding.Lock()
	defer s.binding.Unlock()
	s.heard = time.Now()
	if item.Capacity != nil {
		s.capacity = *item.Capacity
	}
	s.mu.Lock()
	s.asked, item.Answered = false, s.asked
	s.mu.Unlock()
	if s.up != nil {
		s.up.put(item)
	}
}

func (s *session) leave() {
	s.m.mu.Lock()
	delete(s.m.open, s.number)
	s.m.mu.Unlock()
	s.binding.Lock()
	defer s.binding.Unlock()
	if s.up != nil && s.welcome {
		s.up.put(wire.Relayed{Session: s.number, Down: true, Ago: time.Since(s.heard)})
	}
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
		s.silence.heard()
		s.observe()
		switch msg := msg.(type) {
		case wire.Beat:
			if msg.Every > 0 {
				s.silence.set(msg.Every)
			}
			s.answerBeat()
			s.put(wire.Relayed{})
		case wire.Readings:
			s.answerBeat()
			s.put(wire.Relayed{Readings: &msg.Readings})
		case wire.Pull:
			s.put(wire.Relayed{Pull: &msg})
		case wire.Report:
			s.put(wire.Relayed{Updates: msg.Updates})
		case wire.KeyStored:
			// The key that it has shown is going to be the one before. A later
			// leader must not take that for a copy's.
			s.binding.Lock()
			s.info.Key = ""
			s.binding.Unlock()
		case wire.CapacityChanged:
			s.put(wire.Relayed{Capacity: &msg.Capacity})
		case wire.Leave:
			s.put(wire.Relayed{Leave: &msg})
		default:
			return fmt.Errorf("an agent must not send %T", msg)
		}
	}
}

// observe tells the agent when it comes from another address than before, which
// after a silence means that a NAT has forgotten it.
func (s *session) observe() {
	addr := transport.RemoteAddr(s.conn)
	s.mu.Lock()
	moved := addr != s.remote && s.capability >= 3
	if moved {
		s.remote, s.moved = addr, true
	}
	s.mu.Unlock()
	if moved {
		s.m.cfg.Log.Info("agent's address changed", "agent", s.id, "remote", addr)
		s.binding.Lock()
		s.info.Remote = addr
		info := s.info
		s.binding.Unlock()
		s.put(wire.Relayed{Up: &info})
		s.rouse()
	}
}

// answerBeat lets the agent know that the replica lives. Over QUIC one that
// knows beats sees its packets acknowledged.
func (s *session) answerBeat() {
	if s.capability >= 3 && s.info.Link == "quic" {
		return
	}
	s.mu.Lock()
	s.beat = true
	s.mu.Unlock()
	s.rouse()
}

// deliver adds what the leader has for the agent to the outbox.
func (s *session) deliver(item wire.Relayed) {
	if item.Close != nil {
		_ = s.conn.Close(transport.Code(item.Close.Code), item.Close.Reason)
		return
	}
	if item.Resync && s.capability < 3 {
		_ = s.conn.Close(transport.CodeNotLeader, "connect again")
		return
	}
	s.mu.Lock()
	s.out.Acks = append(s.out.Acks, item.Acks...)
	s.out.Desired = supersede(s.out.Desired, item.Desired)
	s.out.Resync = s.out.Resync || item.Resync
	if item.Ask {
		s.out.Ask, s.asked = true, true
	}
	full := len(s.out.Acks) > maxQueued
	s.mu.Unlock()
	if full {
		_ = s.conn.Close(transport.CodeBusy, "the agent does not read its messages")
		return
	}
	s.rouse()
}

func (s *session) write(ctx context.Context, control *wire.Conn) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		}
		for _, m := range s.take() {
			if err := control.Send(m); err != nil {
				return fmt.Errorf("send %T: %w", m, err)
			}
		}
	}
}

// take empties the outbox.
func (s *session) take() []wire.Message {
	s.mu.Lock()
	out, beat, moved, bundle := s.out, s.beat, s.moved, s.bundle
	s.out, s.beat, s.moved, s.bundle = wire.Relayed{}, false, false, nil
	upgrade, upgradeNews := s.upgrade, s.upgradeNews
	s.upgradeNews = false
	term, remote := s.term, s.remote
	s.mu.Unlock()
	var msgs []wire.Message
	if out.Resync {
		msgs = append(msgs, wire.Led{Term: term})
	}
	if bundle != nil {
		msgs = append(msgs, *bundle)
	}
	if upgradeNews {
		msgs = append(msgs, wire.Upgrade{Upgrade: upgrade})
	}
	if out.Ask && s.capability >= 3 {
		msgs = append(msgs, wire.Ask{})
	}
	if moved {
		msgs = append(msgs, wire.Observed{Addr: remote})
	}
	if len(out.Acks) > 0 || beat {
		msgs = append(msgs, wire.Acks{Acks: out.Acks})
	}
	if s.capability < 3 { // it takes a part for the whole
		out.Desired = whole(out.Desired)
	}
	for _, d := range out.Desired {
		msgs = append(msgs, d)
	}
	return msgs
}

func (s *session) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// whole makes one message of the parts of a set; none of parts that are not one.
func whole(parts []wire.DesiredSet) []wire.DesiredSet {
	var p wire.Parts
	for _, m := range parts {
		if d, ok := p.Add(m); ok {
			return []wire.DesiredSet{{Desired: d}}
		}
	}
	return nil
}
