package transport

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// The protocols on the port.
const (
	ALPNAgent = "agent/1"
	ALPNEnrol = pki.ALPNEnrol
	ALPNRaft  = "raft/1"
	// ALPNRelay carries the sessions of a replica to the leader.
	ALPNRelay = "relay/1"
)

// StreamKind says what a stream is for: "control", "renew", "logs". It is 1 to
// 32 of lower-case letters, digits and '-', and travels before the stream's
// first byte.
type StreamKind string

const maxKind = 32

func (k StreamKind) check() error {
	if len(k) == 0 || len(k) > maxKind {
		return fmt.Errorf("stream kind of %d characters, allowed are 1 to %d", len(k), maxKind)
	}
	for i := range len(k) {
		if c := k[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("stream kind %q: use lower-case letters, digits and '-'", string(k))
		}
	}
	return nil
}

// MaxStreams is how many streams the peer may have open at a time.
const MaxStreams = 64

// Stream is a two-way byte stream of a session. Reading and writing may happen
// at the same time, but each by one goroutine; Close not while a Write runs.
//
// The streams of this package also have SetReadDeadline and SetWriteDeadline,
// for those who make a net.Conn of one.
type Stream interface {
	// Read returns io.EOF after the peer's Close, ErrStreamReset after a reset
	// by either side, and why the session is over once it is.
	// Write blocks while the peer's window is full.
	// Close ends the write side; the peer reads io.EOF after what was written.
	io.ReadWriteCloser
	Kind() StreamKind
	// SetDeadline bounds Read and Write, now blocked ones too; they then return
	// os.ErrDeadlineExceeded. The zero time takes the deadline away.
	SetDeadline(t time.Time) error
	// Reset aborts both directions at once. It may be called at any time, and
	// again; after Close and io.EOF it does nothing.
	Reset()
}

// Session is one connection between two parties that know each other's
// identity. All methods may be called concurrently.
type Session interface {
	// Open makes a stream. It does not wait for the peer; when MaxStreams are
	// open already, it returns ErrTooManyStreams.
	Open(ctx context.Context, kind StreamKind) (Stream, error)
	// Accept waits for the peer's next stream.
	Accept(ctx context.Context) (Stream, error)
	// Peer is the verified identity of the other side; the zero Identity for a
	// client on enrol/1.
	Peer() pki.Identity
	// Context is done when the session is over; context.Cause tells why, as a
	// *CloseError when one side said so.
	Context() context.Context
	// Close ends the session and every stream at once and tells the peer why;
	// what has not arrived yet is lost. The first Close counts.
	Close(code Code, reason string) error
}

// Code tells the peer, in a number that it can act on, why a session ended.
// The numbers are part of the protocol.
type Code uint64

const (
	CodeOK           Code = iota // done
	CodeDraining                 // this replica stops; try another
	CodeRevoked                  // the identity is banned; do not come back
	CodeReplaced                 // the same identity opened a newer session
	CodeProtocol                 // the peer broke the protocol
	CodeNotLeader                // ask the leader
	CodeUnknownAgent             // not admitted; join again
	CodeTooOld                   // install a newer version
	CodeBusy                     // too many at a time; try again later
	CodeExpired                  // the certificate ended during the session
	CodeCloned                   // another machine goes by this identity
)

var codeNames = [...]string{
	"ok", "draining", "revoked", "replaced", "protocol", "not leader", "unknown agent", "too old", "busy", "expired", "cloned",
}

// String returns the code's word, for logs.
func (c Code) String() string {
	if c < Code(len(codeNames)) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint64(c))
}

// LinkOf names what carries s: "quic", "tcp" or "memory".
func LinkOf(s Session) string {
	if l, ok := s.(interface{ link() string }); ok {
		return l.link()
	}
	return "unknown"
}

// Received counts what has arrived from the peer, packets or pieces: it moves
// while the peer lives and answers. It stays zero in memory.
func Received(s Session) uint64 {
	if r, ok := s.(interface{ received() uint64 }); ok {
		return r.received()
	}
	return 0
}

// Bytes counts what a session has sent and received on its socket, headers and
// repetitions of QUIC or TLS included, those of UDP, TCP and IP not. It stays
// zero in memory.
func Bytes(s Session) (sent, received uint64) {
	if b, ok := s.(interface{ bytes() (uint64, uint64) }); ok {
		return b.bytes()
	}
	return 0, 0
}

// RemoteAddr is the peer's address and port as this side sees them, for people
// and for limits per address; empty in memory.
func RemoteAddr(s Session) string {
	if r, ok := s.(interface{ remoteAddr() string }); ok {
		return r.remoteAddr()
	}
	return ""
}
