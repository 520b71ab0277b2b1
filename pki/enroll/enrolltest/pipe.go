package enrolltest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns the two ends of a stream that, like one of QUIC and unlike
// net.Pipe, takes what is written without waiting for the reader.
func Pipe() (a, b *Conn) {
	x, y := newHalf(), newHalf()
	return &Conn{in: x, out: y}, &Conn{in: y, out: x}
}

// Conn is one end of a Pipe.
type Conn struct{ in, out *half }

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends both directions.
func (c *Conn) Close() error {
	c.in.close(net.ErrClosed)
	c.out.close(io.EOF)
	return nil
}

// SetDeadline bounds reads; writes never wait.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.deadline(t)
	return nil
}

// half is one direction.
type half struct {
	mu    sync.Mutex
	cond  *sync.Cond
	data  []byte
	err   error
	late  bool
	timer *time.Timer
}

func newHalf() *half {
	h := &half{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.data) == 0 && h.err == nil && !h.late {
		h.cond.Wait()
	}
	switch {
	case h.late:
		return 0, os.ErrDeadlineExceeded
	case len(h.data) == 0:
		return 0, h.err
	}
	n := copy(p, h.data)
	h.data = h.data[n:]
	return n, nil
}

var errTooMuch = errors.New("more than a test writes")

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return 0, net.ErrClosed
	}
	if len(h.data)+len(p) > 1<<20 {
		return 0, errTooMuch
	}
	h.data = append(h.data, p...)
	h.cond.Broadcast()
	return len(p), nil
}

func (h *half) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	if h.timer != nil {
		h.timer.Stop()
	}
	h.cond.Broadcast()
}

func (h *half) deadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
	}
	h.late = false
	if t.IsZero() {
		return
	}
	h.timer = time.AfterFunc(time.Until(t), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.late = true
		h.cond.Broadcast()
	})
}
