package transport

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The frames of yamux, which are its published protocol: a header of 12 bytes
// with a type, flags and, for data, the length of what follows.
const (
	muxHeader  = 12
	muxData    = 0
	muxPing    = 2
	muxSYN     = 1
	lingerTime = time.Second
)

// maxPings is how many pings a peer may send in one second: yamux starts a
// goroutine for each, and a peer that reads no answers would pile them up. An
// honest one sends one in ten seconds or more.
const maxPings = 8

var errPingFlood = errors.New("too many pings")

// muxConn is what yamux reads and writes: a TLS connection that gives up after
// its idle timeout, joins a frame's header and body in one record, and keeps
// why reading failed.
type muxConn struct {
	*tls.Conn
	raw  net.Conn // below TLS
	idle time.Duration
	last atomic.Int64 // when something was last read, in Unix nanoseconds

	reads atomic.Uint64

	frames muxScanner
	out    []byte // the header that waits for its body; used by one writer

	mu        sync.Mutex
	lingering bool
	err       error // the first of reading
}

func newMuxConn(conn *tls.Conn, idle time.Duration) *muxConn {
	c := &muxConn{Conn: conn, raw: conn.NetConn(), idle: idle}
	c.last.Store(time.Now().UnixNano())
	return c
}

func (c *muxConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if !c.lingering {
		_ = c.SetReadDeadline(time.Now().Add(c.idle)) // an error shows in Read
	}
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
		c.reads.Add(1)
		if c.frames.see(p[:n], time.Now()) > maxPings {
			n, err = 0, errPingFlood
		}
	}
	if err != nil {
		c.mu.Lock()
		if c.err == nil {
			c.err = err
		}
		c.mu.Unlock()
	}
	return n, err
}

// Write is called with a header and then with the body that it announces.
func (c *muxConn) Write(p []byte) (int, error) {
	if len(c.out) == 0 && len(p) == muxHeader && p[1] == muxData && binary.BigEndian.Uint32(p[8:]) > 0 {
		c.out = append(c.out, p...)
		return len(p), nil
	}
	if len(c.out) == 0 {
		return c.Conn.Write(p)
	}
	c.out = append(c.out, p...)
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > 16<<10 {
		c.out = nil
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says no goodbye of TLS, which could block on a link that is dead.
func (c *muxConn) Close() error { return c.raw.Close() }

// linger bounds what is still written and read.
func (c *muxConn) linger() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lingering = true
	_ = c.raw.SetDeadline(time.Now().Add(lingerTime)) // it is closing in any case
}

// failure is why reading ended, nil while it goes on.
func (c *muxConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// countedConn counts what passes, below TLS.
type countedConn struct {
	net.Conn
	sent, received atomic.Uint64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(uint64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(uint64(n))
	return n, err
}

// muxScanner counts pings in a stream of frames that it sees in pieces.
type muxScanner struct {
	head [muxHeader]byte
	have int    // of head
	skip uint32 // of a body
	in   int64  // the second that count is of
	seen int
}

// see looks at what was read at that time and returns how many pings came in
// its second.
func (s *muxScanner) see(p []byte, at time.Time) int {
	if at.Unix() != s.in {
		s.in, s.seen = at.Unix(), 0
	}
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(uint64(s.skip), uint64(len(p)))
			s.skip -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(s.head[s.have:], p)
		s.have += n
		p = p[n:]
		if s.have < muxHeader {
			break
		}
		s.have = 0
		switch s.head[1] {
		case muxData:
			s.skip = binary.BigEndian.Uint32(s.head[8:])
		case muxPing:
			if binary.BigEndian.Uint16(s.head[2:])&muxSYN != 0 {
				s.seen++
			}
		}
	}
	return s.seen
}

// lingerClose ends a connection that was refused: closing at once, with bytes
// unread, would throw away the reason that is on its way.
func lingerClose(raw net.Conn) {
	_ = raw.SetDeadline(time.Now().Add(lingerTime))
	if half, ok := raw.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, raw, 64<<10)
	}
	_ = raw.Close()
}
