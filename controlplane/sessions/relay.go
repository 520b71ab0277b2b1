package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// NotLeaderError: the replica that was asked for a relay does not lead.
type NotLeaderError struct{ Addr string }

func (e *NotLeaderError) Error() string {
	if e.Addr == "" {
		return "the replica does not lead"
	}
	return "the replica at " + e.Addr + " leads"
}

// Relay hands the sessions of this replica on to the leader at the other end of
// conn, until the link or ctx ends. The connection is closed when it returns.
func (m *Manager) Relay(ctx context.Context, conn transport.Session) error {
	defer conn.Close(transport.CodeOK, "") //nolint:errcheck // it may be over already
	control, welcome, err := m.greetLeader(ctx, conn)
	if err != nil {
		return err
	}
	if key := welcome.ResetKey; len(key) == len(m.cfg.ResetKey) && [32]byte(key) != m.cfg.ResetKey {
		if err := m.cfg.Keep([32]byte(key)); err != nil {
			m.cfg.Log.Warn("reset key not kept", "error", err)
		}
	}
	out := newOutbox(func(number uint64) {
		if s := m.find(number); s != nil {
			_ = s.conn.Close(transport.CodeBusy, "the leader does not keep up with the agent")
		}
	})
	up := &uplink{term: welcome.Term, put: out.put}
	up.renew = func(ctx context.Context, s *session, st transport.Stream) error {
		far, err := through(ctx, conn, transport.StreamRenew, s.number)
		if err != nil {
			return err
		}
		join(ctx, st, far)
		return nil
	}
	m.cfg.Log.Info("relaying sessions", "leader", conn.Peer().ID, "term", welcome.Term)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return receiveRelay(control, func(item *wire.Relayed) { m.deliver(*item) }) })
	g.Go(func() error { return out.run(ctx, control) })
	g.Go(func() error { return acceptRelayed(ctx, g, conn, m.carry) })
	closeWith(ctx, g, conn)
	m.follow(up)
	defer m.unfollow(up)
	return g.Wait()
}

// closeWith ends conn when the group does, and the group when conn does.
func closeWith(ctx context.Context, g *errgroup.Group, conn transport.Session) {
	g.Go(func() error {
		select {
		case <-ctx.Done():
			_ = conn.Close(transport.CodeOK, "")
		case <-conn.Context().Done():
		}
		return context.Cause(conn.Context())
	})
}

func (m *Manager) greetLeader(ctx context.Context, conn transport.Session) (*wire.Conn, wire.RelayWelcome, error) {
	var none wire.RelayWelcome
	st, err := conn.Open(ctx, transport.StreamControl)
	if err != nil {
		return nil, none, err
	}
	_ = st.SetDeadline(time.Now().Add(helloTime))
	control := wire.NewConn(st, wire.MaxRelay)
	if err := control.Send(wire.RelayHello{Capability: wire.Capability, Replica: m.cfg.Replica}); err != nil {
		return nil, none, err
	}
	msg, err := control.Recv()
	if err != nil {
		return nil, none, fmt.Errorf("wait for the leader's welcome: %w", err)
	}
	switch msg := msg.(type) {
	case wire.RelayWelcome:
		return control, msg, st.SetDeadline(time.Time{})
	case wire.Refusal:
		if msg.Code == wire.RefusedNotLeader {
			return nil, none, &NotLeaderError{msg.Leader}
		}
		return nil, none, errors.New(msg.Text)
	default:
		return nil, none, fmt.Errorf("%T instead of a welcome", msg)
	}
}

// carry answers a stream that the leader opens to one of the agents here.
func (m *Manager) carry(ctx context.Context, st transport.Stream, number uint64) error {
	s := m.find(number)
	if s == nil || st.Kind() != transport.StreamLogs {
		st.Reset()
		return nil
	}
	near, err := s.conn.Open(ctx, st.Kind())
	if err != nil {
		st.Reset()
		return err
	}
	join(ctx, st, near)
	return nil
}

func receiveRelay(control *wire.Conn, take func(*wire.Relayed)) error {
	for {
		msg, err := control.Recv()
		if err != nil {
			return fmt.Errorf("read relay: %w", err)
		}
		relay, ok := msg.(wire.Relay)
		if !ok {
			return fmt.Errorf("%T on a relay", msg)
		}
		for i := range relay.Items {
			take(&relay.Items[i])
		}
	}
}

// acceptRelayed serves the streams of sessions that come over a relay.
func acceptRelayed(ctx context.Context, g *errgroup.Group, conn transport.Session, serve func(context.Context, transport.Stream, uint64) error) error {
	for {
		st, err := conn.Accept(ctx)
		if err != nil {
			return err
		}
		g.Go(func() error {
			number, err := named(st)
			if err == nil {
				err = serve(ctx, st, number)
			}
			if err != nil { // the loss of one stream
				st.Reset()
			}
			return nil
		})
	}
}

// ServeRelay carries the relay of another replica, while this one leads, until
// it ends; otherwise it says who does. The connection is closed when it returns.
func (m *Manager) ServeRelay(ctx context.Context, conn transport.Session) {
	m.mu.Lock()
	d := m.desk
	m.mu.Unlock()
	err := m.serveRelay(ctx, d, conn)
	if err != nil && ctx.Err() == nil {
		m.cfg.Log.Info("relay ended", "replica", conn.Peer().ID, "cause", err)
	}
	_ = conn.Close(transport.CodeOK, "")
}

func (m *Manager) serveRelay(ctx context.Context, d *Desk, conn transport.Session) error {
	helloCtx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	st, err := conn.Accept(helloCtx)
	if err != nil {
		return err
	}
	peer := conn.Peer()
	if st.Kind() == transport.StreamPackage && peer.Kind == pki.KindReplica {
		return m.servePackages(ctx, conn, st) // any replica may be asked
	}
	_ = st.SetDeadline(time.Now().Add(helloTime))
	control := wire.NewConn(st, wire.MaxRelay)
	msg, err := control.Recv()
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	hello, ok := msg.(wire.RelayHello)
	switch {
	case !ok:
		return fmt.Errorf("%T instead of hello", msg)
	case peer.Kind != pki.KindReplica || peer.ID != string(hello.Replica):
		return fmt.Errorf("%s calls itself %s", peer.Short(), hello.Replica)
	case d == nil:
		return refuse(ctx, conn, st, control, wire.Refusal{Code: wire.RefusedNotLeader, Text: "this replica does not lead", Leader: m.cfg.Leader()})
	}
	err = control.Send(wire.RelayWelcome{Capability: wire.Capability, Term: d.term, ResetKey: m.cfg.ResetKey[:]})
	if err != nil {
		return fmt.Errorf("send welcome: %w", err)
	}
	_ = st.SetDeadline(time.Time{})
	return d.serve(ctx, control, conn)
}

// serve takes in a replica's sessions. When the link ends, so do they, as far
// as is known here: the replica announces them again when it is back.
func (d *Desk) serve(ctx context.Context, control *wire.Conn, conn transport.Session) error {
	var l *line
	out := newOutbox(func(number uint64) {
		l.deliver(wire.Relayed{Session: number, Close: &wire.SessionClose{Code: uint64(transport.CodeBusy), Reason: "the agent does not read its messages"}})
	})
	open := func(ctx context.Context, kind transport.StreamKind, number uint64) (transport.Stream, error) {
		return through(ctx, conn, kind, number)
	}
	l = d.newLine(fleet.ReplicaID(conn.Peer().ID), conn, out.put, open)
	defer l.end()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return receiveRelay(control, l.take) })
	g.Go(func() error { return out.run(ctx, control) })
	g.Go(func() error {
		return acceptRelayed(ctx, g, conn, func(ctx context.Context, st transport.Stream, number uint64) error {
			id, ok := d.identity(l, number)
			if !ok || st.Kind() != transport.StreamRenew {
				return errors.New("no such session")
			}
			_ = st.SetDeadline(time.Now().Add(helloTime))
			return errors.Join(d.m.sign(ctx, id, st), st.Close())
		})
	})
	closeWith(ctx, g, conn)
	return g.Wait()
}
