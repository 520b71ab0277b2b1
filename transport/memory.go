package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// Pair returns the two ends of a session in memory: the first is a's, whose
// peer is b, the second b's. It is the twin of a session over QUIC for tests.
func Pair(a, b pki.Identity) (Session, Session) {
	l := &memLink{streams: make(map[*memPair]struct{})}
	_, _ = rand.Read(l.secret[:]) // never fails
	first, second := newMemSession(l, b), newMemSession(l, a)
	first.other, second.other = second, first
	return first, second
}

// memLink is what both ends share.
type memLink struct {
	secret  [32]byte // what Exporter derives from
	mu      sync.Mutex
	streams map[*memPair]struct{} // nil once closed
}

type memSession struct {
	shared *memLink
	peer   pki.Identity
	other  *memSession
	accept chan *memStream
	opened int // under shared.mu: live streams that this end opened
	ctx    context.Context
	cancel context.CancelCauseFunc
}

var _ Session = (*memSession)(nil)

func newMemSession(l *memLink, peer pki.Identity) *memSession {
	s := &memSession{shared: l, peer: peer, accept: make(chan *memStream, MaxStreams)}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

func (s *memSession) link() string             { return "memory" }
func (s *memSession) Peer() pki.Identity       { return s.peer }
func (s *memSession) Context() context.Context { return s.ctx }

func (s *memSession) Open(ctx context.Context, kind StreamKind) (Stream, error) {
	if err := kind.check(); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
	}
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	if s.shared.streams == nil {
		return nil, fmt.Errorf("open stream: %w", context.Cause(s.ctx))
	}
	// A stream may be over before it was accepted, so the queue counts too.
	if s.opened >= MaxStreams || len(s.other.accept) == cap(s.other.accept) {
		return nil, fmt.Errorf("open stream: %w", ErrTooManyStreams)
	}
	p := &memPair{opener: s, to: newHalf(), from: newHalf()}
	p.to.over, p.from.over = p.halfOver, p.halfOver
	s.shared.streams[p] = struct{}{}
	s.opened++
	s.other.accept <- &memStream{kind: kind, in: p.to, out: p.from, session: s.other}
	return &memStream{kind: kind, in: p.from, out: p.to, session: s}, nil
}

func (s *memSession) Accept(ctx context.Context) (Stream, error) {
	select {
	case <-s.ctx.Done():
		return nil, fmt.Errorf("accept stream: %w", context.Cause(s.ctx))
	default:
	}
	select {
	case st := <-s.accept:
		return st, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("accept stream: %w", context.Cause(ctx))
	case <-s.ctx.Done():
		return nil, fmt.Errorf("accept stream: %w", context.Cause(s.ctx))
	}
}

func (s *memSession) Close(code Code, reason string) error {
	s.shared.mu.Lock()
	streams := s.shared.streams
	s.shared.streams = nil
	if streams != nil {
		s.cancel(&CloseError{Code: code, Reason: reason})
		s.other.cancel(&CloseError{Code: code, Reason: reason, Remote: true})
	}
	s.shared.mu.Unlock()
	for p := range streams {
		p.to.fail(errSessionOver)
		p.from.fail(errSessionOver)
	}
	return nil
}

// memPair is one stream, both directions.
type memPair struct {
	opener   *memSession
	to, from *half
	ended    int // under shared.mu
}

// halfOver gives the stream's place back once both directions have ended.
func (p *memPair) halfOver() {
	l := p.opener.shared
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.ended++; p.ended == 2 {
		p.opener.opened--
		delete(l.streams, p)
	}
}

// errSessionOver stands for the cause in the session's context, which differs
// between the two ends.
var errSessionOver = errors.New("session is over")

// memStream is one end of a stream.
type memStream struct {
	kind    StreamKind
	in, out *half
	session *memSession
}

func (s *memStream) Kind() StreamKind { return s.kind }

func (s *memStream) cause(err error) error {
	if err == errSessionOver {
		return context.Cause(s.session.ctx)
	}
	return err
}

func (s *memStream) Read(p []byte) (int, error) {
	n, err := s.in.read(p)
	return n, s.cause(err)
}

func (s *memStream) Write(p []byte) (int, error) {
	n, err := s.out.write(p)
	return n, s.cause(err)
}

func (s *memStream) Close() error {
	s.out.end()
	return nil
}

func (s *memStream) Reset() {
	s.in.fail(ErrStreamReset)
	s.out.fail(ErrStreamReset)
}

func (s *memStream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *memStream) SetReadDeadline(t time.Time) error {
	s.in.setDeadline(&s.in.reading, t)
	return nil
}

func (s *memStream) SetWriteDeadline(t time.Time) error {
	s.out.setDeadline(&s.out.writing, t)
	return nil
}
