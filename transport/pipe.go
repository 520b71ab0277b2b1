package transport

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// half is one direction of a stream in memory: a bounded buffer between a
// writer and a reader.
type half struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	ended   bool // the writer closed
	err     error
	reading deadline
	writing deadline
	over    func() // called once, without mu: nothing moves here any more
	isOver  bool
}

// window is the initial window of a QUIC stream here.
const window = 64 << 10

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// deadline wakes the half when it has passed.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() && h.err == nil {
		d.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
	}
	h.changed.Broadcast()
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	for {
		switch {
		case h.err != nil:
			defer h.mu.Unlock()
			return 0, h.err
		case h.reading.passed():
			defer h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0 || len(p) == 0:
			defer h.mu.Unlock()
			n := copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil // an idle stream holds nothing
			}
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			h.finish()
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

var errWriteAfterClose = errors.New("write on a closed stream")

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for {
		switch {
		case h.err != nil:
			return n, h.err
		case h.ended:
			return n, errWriteAfterClose
		case h.writing.passed():
			return n, os.ErrDeadlineExceeded
		}
		if room := window - len(h.buf); room > 0 {
			m := min(room, len(p)-n)
			h.buf = append(h.buf, p[n:n+m]...)
			n += m
			h.changed.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		h.changed.Wait()
	}
}

// end is the writer's Close.
func (h *half) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.changed.Broadcast()
}

// fail ends both sides with err, unless everything has been read already.
func (h *half) fail(err error) {
	h.mu.Lock()
	if h.err == nil && (!h.isOver || err == errSessionOver) {
		h.err = err
		h.buf = nil
	}
	for _, d := range []*deadline{&h.reading, &h.writing} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	h.changed.Broadcast()
	h.finish()
}

// finish unlocks h and reports, once, that it is over.
func (h *half) finish() {
	first := !h.isOver
	h.isOver = true
	h.mu.Unlock()
	if first && h.over != nil {
		h.over()
	}
}
