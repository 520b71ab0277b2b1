package cluster

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// webConn is one end of a connection in memory. Unlike those of net.Pipe its
// writes do not wait for a reader, so that nothing waits for a lock in a bubble.
type webConn struct{ in, out *webPipe }

func newWebConns() (here, there *webConn) {
	a, b := newWebPipe(), newWebPipe()
	return &webConn{a, b}, &webConn{b, a}
}

func (c *webConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *webConn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *webConn) Close() error {
	c.in.close()
	c.out.close()
	return nil
}

func (c *webConn) LocalAddr() net.Addr  { return webAddr("127.0.0.1:1") }
func (c *webConn) RemoteAddr() net.Addr { return webAddr("127.0.0.1:2") }

func (c *webConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *webConn) SetWriteDeadline(time.Time) error { return nil } // writes do not wait
func (c *webConn) SetReadDeadline(t time.Time) error {
	c.in.expire(t)
	return nil
}

// webPipe is one direction.
type webPipe struct {
	mu       sync.Mutex
	changed  *sync.Cond
	buf      bytes.Buffer
	closed   bool
	deadline time.Time
	timer    *time.Timer
}

func newWebPipe() *webPipe {
	p := &webPipe{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *webPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case !p.deadline.IsZero() && !time.Now().Before(p.deadline):
			return 0, os.ErrDeadlineExceeded
		case p.buf.Len() > 0:
			return p.buf.Read(b)
		case p.closed:
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

func (p *webPipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.changed.Broadcast()
	return p.buf.Write(b)
}

func (p *webPipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.changed.Broadcast()
}

func (p *webPipe) expire(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.deadline = t
	if !t.IsZero() && !p.closed {
		p.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed.Broadcast()
		})
	}
	p.changed.Broadcast()
}
