package transport

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// tcpStream is a stream of a tcpSession.
type tcpStream struct {
	ses  *tcpSession
	yst  *yamux.Stream
	kind StreamKind

	mu              sync.Mutex
	reading, before time.Time // deadlines of Read and Write
	taken           bool      // handed to who uses it
	wasReset        bool
	resetting       bool // here, and the peer has not confirmed it
	closed          bool // for writing
	ended           bool // read to its end
	finished        bool
	broken          bool // the session is over: deadlines stay in the past
}

func (t *tcpStream) Kind() StreamKind { return t.kind }

// handOut marks a stream as taken, unless it was reset while it waited.
func (t *tcpStream) handOut() bool {
	t.mu.Lock()
	t.taken = true
	gone := t.wasReset
	t.mu.Unlock()
	if gone {
		t.settle()
	}
	return !gone
}

func (t *tcpStream) Read(p []byte) (int, error) {
	t.mu.Lock()
	err := t.state(t.reading)
	if err == nil && t.ended {
		err = io.EOF
	}
	t.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := t.yst.Read(p)
	if err == nil {
		return n, nil
	}
	err = t.failed(err)
	if err == io.EOF {
		t.mu.Lock()
		t.ended = true
		both := t.closed
		t.mu.Unlock()
		if both {
			t.finish()
		}
	}
	return n, err
}

func (t *tcpStream) Write(p []byte) (int, error) {
	t.mu.Lock()
	err := t.state(t.before)
	if err == nil && t.closed {
		err = errWriteAfterClose
	}
	t.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := t.yst.Write(p)
	if err != nil {
		err = t.failed(err)
	}
	return n, err
}

// state is what makes a call fail at once; the caller holds mu.
func (t *tcpStream) state(deadline time.Time) error {
	switch {
	case t.ses.ctx.Err() != nil:
		return context.Cause(t.ses.ctx)
	case t.wasReset:
		return ErrStreamReset
	case !deadline.IsZero() && !time.Now().Before(deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// failed translates what yamux says.
func (t *tcpStream) failed(err error) error {
	t.mu.Lock()
	wasReset, broken := t.wasReset, t.broken
	t.mu.Unlock()
	if broken {
		return t.ses.cause(err)
	}
	if err := t.ses.cause(err); err != nil && t.ses.ctx.Err() != nil {
		return err
	}
	switch {
	case wasReset, errors.Is(err, yamux.ErrConnectionReset):
		return ErrStreamReset
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	}
	return err
}

func (t *tcpStream) Close() error {
	t.mu.Lock()
	if t.closed || t.wasReset || t.broken {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	both := t.ended
	t.mu.Unlock()
	err := t.yst.Close()
	if both {
		t.finish()
	}
	return err
}

func (t *tcpStream) Reset() { t.abort(true) }

// abort ends both directions; here says on which side that was decided. A peer
// that has to hear of it must do so before it sees the end of the stream, so
// that is not sent until it confirms. Until then the stream keeps its place.
func (t *tcpStream) abort(here bool) {
	t.mu.Lock()
	if t.wasReset || t.broken || t.closed && t.ended {
		t.mu.Unlock()
		return
	}
	t.wasReset, t.resetting = true, here
	taken := t.taken
	_ = t.yst.SetDeadline(past) // cannot fail
	t.mu.Unlock()
	switch {
	case here:
		_ = t.ses.send(muxFrame{kind: frameReset, number: uint64(t.yst.StreamID())}) // fails with the session
	case taken:
		t.settle()
	default:
		_ = t.yst.Close() // as in settle; handOut does the rest
	}
}

func (t *tcpStream) isResetting() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resetting
}

// settle forgets a stream that both sides know to be reset.
func (t *tcpStream) settle() {
	_ = t.yst.Close() // so that yamux forgets it; fails with the session
	t.finish()
}

// past is a deadline that has gone by.
var past = time.Unix(1, 0)

// interrupt unblocks the stream when the session is over.
func (t *tcpStream) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = true
	_ = t.yst.SetDeadline(past) // cannot fail
}

// finish strikes the stream off the books, once, and tells a peer that opened
// it that its place is free.
func (t *tcpStream) finish() {
	t.mu.Lock()
	first := !t.finished
	t.finished = true
	t.mu.Unlock()
	if !first {
		return
	}
	s, id := t.ses, t.yst.StreamID()
	s.mu.Lock()
	delete(s.streams, id)
	theirs := !s.mine(id)
	if theirs {
		s.arrived--
	}
	s.mu.Unlock()
	if theirs {
		_ = s.send(muxFrame{kind: frameDone, number: uint64(id)}) // fails with the session
	}
}

func (t *tcpStream) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

func (t *tcpStream) SetReadDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reading = at
	if t.wasReset || t.broken {
		return nil
	}
	return t.yst.SetReadDeadline(at)
}

func (t *tcpStream) SetWriteDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before = at
	if t.wasReset || t.broken {
		return nil
	}
	return t.yst.SetWriteDeadline(at)
}
