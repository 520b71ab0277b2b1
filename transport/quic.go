package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tenderfleet/tender/pki"
)

// quicSession is a Session on a QUIC connection.
type quicSession struct {
	conn   *quic.Conn
	peer   pki.Identity
	ctx    context.Context
	cancel context.CancelCauseFunc
}

var _ Session = (*quicSession)(nil)

// newQUICSession takes over a connection whose handshake is complete.
func newQUICSession(conn *quic.Conn) (*quicSession, error) {
	s := &quicSession{conn: conn}
	// The TLS configuration verified the chain; a client on enrol/1 has none.
	if certs := conn.ConnectionState().TLS.PeerCertificates; len(certs) > 0 {
		id, err := pki.IdentityOf(certs[0])
		if err != nil {
			return nil, err
		}
		s.peer = id
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s, nil
}

func (s *quicSession) link() string             { return "quic" }
func (s *quicSession) remoteAddr() string       { return s.conn.RemoteAddr().String() }
func (s *quicSession) received() uint64         { return s.conn.ConnectionStats().PacketsReceived }
func (s *quicSession) Peer() pki.Identity       { return s.peer }
func (s *quicSession) Context() context.Context { return s.ctx }

func (s *quicSession) bytes() (sent, received uint64) {
	st := s.conn.ConnectionStats()
	return st.BytesSent, st.BytesReceived
}

// over reports the end of the connection in the session's context.
func (s *quicSession) over() { s.cancel(translate(context.Cause(s.conn.Context()))) }

// maxReason keeps the closing packet small enough for every path.
const maxReason = 256

func (s *quicSession) Close(code Code, reason string) error {
	err := s.conn.CloseWithError(quic.ApplicationErrorCode(code), shorten(reason))
	s.over() // not only soon: who closed sees it at once
	return err
}

func (s *quicSession) Open(ctx context.Context, kind StreamKind) (Stream, error) {
	if err := kind.check(); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
	}
	st, err := s.conn.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", translate(err))
	}
	// A first write this small is queued by quic-go and does not wait for the
	// peer's window.
	if _, err := st.Write(append([]byte{byte(len(kind))}, kind...)); err != nil {
		return nil, fmt.Errorf("open stream: %w", translate(err))
	}
	return &quicStream{Stream: st, kind: kind}, nil
}

// headerTimeout is how long a peer may take between opening a stream and
// naming its kind; an honest one does both in one packet.
const headerTimeout = 5 * time.Second

func (s *quicSession) Accept(ctx context.Context) (Stream, error) {
	for {
		st, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return nil, fmt.Errorf("accept stream: %w", translate(err))
		}
		kind, err := readKind(ctx, st)
		if err == nil {
			return &quicStream{Stream: st, kind: kind}, nil
		}
		reset(st)
		if errors.Is(err, errBadKind) {
			s.Close(CodeProtocol, err.Error())
			return nil, fmt.Errorf("accept stream: %w", err)
		}
		// The peer reset the stream or was too slow: its loss alone. The next
		// round notices when ctx or the connection has ended.
	}
}

var errBadKind = errors.New("bad stream header")

// readable is a stream whose kind has not been read yet.
type readable interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

func readKind(ctx context.Context, st readable) (StreamKind, error) {
	_ = st.SetReadDeadline(time.Now().Add(headerTimeout)) // an error shows in Read
	stop := context.AfterFunc(ctx, func() { _ = st.SetReadDeadline(past) })
	defer stop()
	kind, err := parseKind(st)
	if err != nil {
		return "", err
	}
	if !stop() {
		return "", context.Cause(ctx)
	}
	return kind, st.SetReadDeadline(time.Time{})
}

// parseKind decodes a stream's first bytes: a length, and as many characters.
func parseKind(r io.Reader) (StreamKind, error) {
	var head [1 + maxKind]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return "", err
	}
	n := int(head[0])
	if n > maxKind {
		return "", fmt.Errorf("%w: stream kind of %d characters", errBadKind, n)
	}
	if _, err := io.ReadFull(r, head[1:1+n]); err != nil {
		return "", err
	}
	kind := StreamKind(head[1 : 1+n])
	if err := kind.check(); err != nil {
		return "", fmt.Errorf("%w: %v", errBadKind, err)
	}
	return kind, nil
}

// quicStream adds the kind and this package's errors; deadlines are those of
// quic-go.
type quicStream struct {
	*quic.Stream
	kind StreamKind
}

func (s *quicStream) Kind() StreamKind { return s.kind }

func (s *quicStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != nil && err != io.EOF {
		err = translate(err)
	}
	return n, err
}

func (s *quicStream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	return n, translate(err)
}

func (s *quicStream) Close() error { return translate(s.Stream.Close()) }

func (s *quicStream) Reset() { reset(s.Stream) }

// resetCode is the only code: why a stream ended is said on it, not by it.
const resetCode = 1

func reset(st *quic.Stream) {
	st.CancelRead(resetCode)
	st.CancelWrite(resetCode)
}
