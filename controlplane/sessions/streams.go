package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// acceptStreams answers the streams that the agent opens besides its control
// stream; the transport bounds how many there can be.
func (s *session) acceptStreams(ctx context.Context, g *errgroup.Group) error {
	fetching := make(chan struct{}, maxOwnPackages)
	for {
		st, err := s.conn.Accept(ctx)
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		if st.Kind() == transport.StreamPackage {
			select {
			case fetching <- struct{}{}:
			default: // it needs one, and another when it takes the first for broken
				st.Reset()
				continue
			}
			g.Go(func() error {
				defer func() { <-fetching }()
				if err := s.m.sendPackage(ctx, st); err != nil && ctx.Err() == nil {
					s.m.cfg.Log.Info("package not sent", "agent", s.id, "cause", err)
				}
				return nil
			})
			continue
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

// renew has the leader sign the agent's next certificate.
func (s *session) renew(ctx context.Context, st transport.Stream) error {
	defer st.Close() //nolint:errcheck // the reply is written; nothing is left to do
	_ = st.SetDeadline(time.Now().Add(helloTime))
	s.m.mu.Lock()
	up := s.m.up
	s.m.mu.Unlock()
	if up == nil {
		return wire.NewConn(st, wire.MaxRenew).Send(wire.Refusal{
			Code: wire.RefusedNotLeader, Text: "no leader is known at the moment", RetryAfter: time.Minute,
		})
	}
	return up.renew(ctx, s, st)
}

// sign answers a renewal. Whom it is for comes from a verified session, never
// from the request.
func (m *Manager) sign(ctx context.Context, peer pki.Identity, st transport.Stream) error {
	conn := wire.NewConn(st, wire.MaxRenew)
	msg, err := conn.Recv()
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	req, ok := msg.(wire.RenewRequest)
	if !ok {
		return fmt.Errorf("%T instead of a request", msg)
	}
	cert, next, err := m.cfg.Renew(ctx, peer, req)
	if err != nil {
		return errors.Join(err, conn.Send(wire.Refusal{Code: wire.RefusedBadRequest, Text: err.Error()}))
	}
	if err := conn.Send(cert); err != nil {
		return err
	}
	if len(req.Key) == 0 {
		return nil // the agent keeps its key, so nothing changes with its use
	}
	// Until the agent says that it has the new key on disk, the old one counts.
	if msg, err = conn.Recv(); err != nil {
		return fmt.Errorf("wait for the agent to store its certificate: %w", err)
	}
	if _, ok := msg.(wire.KeyStored); !ok {
		return fmt.Errorf("%T instead of a word that the certificate is stored", msg)
	}
	if err := m.cfg.Stored(ctx, peer, next); err != nil {
		return fmt.Errorf("confirm the new key: %w", err)
	}
	return conn.Send(wire.KeyStored{})
}

// through opens a stream of a session at the other end of a relay.
func through(ctx context.Context, conn transport.Session, kind transport.StreamKind, number uint64) (transport.Stream, error) {
	st, err := conn.Open(ctx, kind)
	if err != nil {
		return nil, err
	}
	if err := wire.NewConn(st, wire.MaxHello).Send(wire.Through{Session: number}); err != nil {
		st.Reset()
		return nil, err
	}
	return st, nil
}

// named reads whose stream it is that came over a relay.
func named(st transport.Stream) (uint64, error) {
	_ = st.SetDeadline(time.Now().Add(helloTime))
	msg, err := wire.NewConn(st, wire.MaxHello).Recv()
	if err != nil {
		return 0, fmt.Errorf("read whose stream it is: %w", err)
	}
	t, ok := msg.(wire.Through)
	if !ok {
		return 0, fmt.Errorf("%T on a relayed stream", msg)
	}
	return t.Session, st.SetDeadline(time.Time{})
}

// join copies between two streams until both directions are at their end, one
// of them fails, or ctx ends. Both are over then.
func join(ctx context.Context, a, b transport.Stream) {
	reset := func() { a.Reset(); b.Reset() }
	defer reset()
	defer context.AfterFunc(ctx, reset)()
	done := make(chan bool)
	pipe := func(to, from transport.Stream) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = to.Close()
		}
		if err != nil {
			reset()
		}
		done <- true
	}
	go pipe(a, b)
	go pipe(b, a)
	<-done
	<-done
}

// readLogs asks an agent for a task's output on a fresh stream and hands it to
// emit until it is complete, emit fails or ctx ends.
func readLogs(ctx context.Context, st transport.Stream, req wire.LogsRequest, emit func(stderr bool, data []byte) error) error {
	defer st.Reset()
	defer context.AfterFunc(ctx, st.Reset)()
	conn := wire.NewConn(st, wire.MaxControl)
	if err := conn.Send(req); err != nil {
		return fmt.Errorf("ask for logs: %w", err)
	}
	for {
		msg, err := conn.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("read logs: %w", err)
		}
		switch msg := msg.(type) {
		case wire.LogChunk:
			if err := emit(msg.Stderr, msg.Data); err != nil {
				return err
			}
		case wire.LogEnd:
			return nil
		case wire.Refusal:
			return &RefusedError{msg}
		default:
			return fmt.Errorf("read logs: unexpected %T", msg)
		}
	}
}
