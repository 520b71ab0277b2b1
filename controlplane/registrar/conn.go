package registrar

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/tenderfleet/tender/transport"
)

// conn is a stream as a net.Conn.
type conn struct {
	transport.Stream
	local, remote net.Addr
	lost          func() // set on the dialler's side: the peer did not answer in time
}

var _ net.Conn = (*conn)(nil)

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// Read turns the end of the stream, by whatever cause, into io.EOF on the
// accepting side: Raft would call every connection that its peer has done with
// an error.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	return n, c.judge(err)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return n, c.judge(err)
	}
	return n, err
}

func (c *conn) judge(err error) error {
	switch {
	case err == nil:
		return nil
	case c.lost == nil:
		return io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.lost()
	}
	return err
}

// Close aborts both directions: Raft closes a connection only when it wants no
// more from it, and a stream that is not read to its end stays counted.
func (c *conn) Close() error {
	c.Reset()
	return nil
}

// deadlines are what the streams of package transport have beyond its
// interface.
type deadlines interface {
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if d, ok := c.Stream.(deadlines); ok {
		return d.SetReadDeadline(t)
	}
	return c.SetDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if d, ok := c.Stream.(deadlines); ok {
		return d.SetWriteDeadline(t)
	}
	return c.SetDeadline(t)
}
