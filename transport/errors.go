package transport

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/quic-go/quic-go"

	"github.com/tenderfleet/tender/pki"
)

// Kinds of failure that callers act on; find them with errors.Is.
var (
	// ErrUnreachable: no answer at all from the address.
	ErrUnreachable = errors.New("no answer")
	// ErrIdle: the session fell silent for its idle timeout.
	ErrIdle = errors.New("the link fell silent")
	// ErrPeerRestarted: the peer no longer knows the session.
	ErrPeerRestarted = errors.New("the peer has restarted")
	// ErrBusy: the peer takes no more connections at the moment.
	ErrBusy = errors.New("the peer is busy")
	// ErrCertificateRefused: the peer refused our certificate: revoked, or of
	// the wrong kind for the protocol.
	ErrCertificateRefused = errors.New("the peer refused our certificate")
	// ErrCertificateExpired: by the peer's clock our certificate has ended.
	ErrCertificateExpired = errors.New("the peer says our certificate has expired")
	// ErrUnknownAuthority: the peer does not trust who signed our certificate.
	ErrUnknownAuthority = errors.New("the peer does not know our certificate's authority")
	// ErrCertificateRequired: the peer wants a certificate and got none.
	ErrCertificateRequired = errors.New("the peer requires a certificate")
	// ErrNoProtocol: the peer does not speak the protocol asked for.
	ErrNoProtocol = errors.New("the peer does not speak the protocol")
	// ErrPeerDistrusted: we refused the peer's certificate.
	ErrPeerDistrusted = errors.New("the peer's certificate was not accepted")

	ErrTooManyStreams = errors.New("too many open streams")
	ErrStreamReset    = errors.New("stream was reset")
)

// CloseError says that one side closed the session, and why.
type CloseError struct {
	Code   Code
	Reason string
	Remote bool // the peer closed
}

// Error names the side, the code and the reason.
func (e *CloseError) Error() string {
	side := "here"
	if e.Remote {
		side = "by the peer"
	}
	text := fmt.Sprintf("session closed %s (%s)", side, e.Code)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Unwrap makes it a net.ErrClosed too.
func (e *CloseError) Unwrap() error { return net.ErrClosed }

// DialError says what was dialled; Explain names the port from it.
type DialError struct {
	Addr, ALPN string
	Err        error
	TCP        error // why it did not go over TCP either, where that was tried
}

func (e *DialError) Error() string {
	text := "dial " + e.ALPN + " at " + e.Addr + ": " + e.Err.Error()
	if e.TCP != nil {
		text += "; over TCP: " + e.TCP.Error()
	}
	return text
}

func (e *DialError) Unwrap() error { return e.Err }

// kindError puts a kind before the cause that quic-go gave.
type kindError struct{ kind, cause error }

func (e *kindError) Error() string   { return e.kind.Error() + ": " + e.cause.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.cause} }

// badCertificate is also how our own check of the peer's certificate fails.
const badCertificate = 0x12a

// TLS alerts arrive as 0x100 and the alert's number.
var alerts = map[quic.TransportErrorCode]error{
	badCertificate: ErrCertificateRefused,
	0x12c:          ErrCertificateRefused, // certificate_revoked
	0x12d:          ErrCertificateExpired,
	0x12e:          ErrCertificateRefused, // certificate_unknown
	0x130:          ErrUnknownAuthority,
	0x174:          ErrCertificateRequired,
	0x178:          ErrNoProtocol,
}

// translate turns quic-go's errors into the kinds of this package, so that
// nobody else needs to know quic-go.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return &CloseError{Code: Code(e.ErrorCode), Reason: e.ErrorMessage, Remote: e.Remote}
	}
	if _, ok := errors.AsType[*quic.StreamError](err); ok {
		return &kindError{ErrStreamReset, err}
	}
	if _, ok := errors.AsType[*quic.StreamLimitReachedError](err); ok {
		return &kindError{ErrTooManyStreams, err}
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return &kindError{ErrIdle, err}
	}
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return &kindError{ErrUnreachable, err}
	}
	if _, ok := errors.AsType[*quic.StatelessResetError](err); ok {
		return &kindError{ErrPeerRestarted, err}
	}
	if _, ok := errors.AsType[*quic.VersionNegotiationError](err); ok {
		return &kindError{ErrNoProtocol, err}
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return translateTransport(e)
	}
	return err
}

func translateTransport(e *quic.TransportError) error {
	switch {
	case e.ErrorCode == quic.ConnectionRefused:
		return &kindError{ErrBusy, e}
	case !e.ErrorCode.IsCryptoError():
		return e
	case !e.Remote && e.ErrorCode == badCertificate:
		return &kindError{ErrPeerDistrusted, e}
	case !e.Remote:
		return e
	case alerts[e.ErrorCode] != nil:
		return &kindError{alerts[e.ErrorCode], e}
	default:
		return e
	}
}

// Explain says in one sentence what err means and what to do next.
func Explain(err error) string {
	if err == nil {
		return ""
	}
	addr, port, alpn, udp := "the replica", "of the replica", "this protocol", "UDP"
	if d, ok := errors.AsType[*DialError](err); ok {
		addr, alpn = d.Addr, d.ALPN
		if d.TCP != nil {
			udp = "UDP or TCP"
		}
		if _, p, err := net.SplitHostPort(d.Addr); err == nil {
			port = p
		}
	}
	if e, ok := errors.AsType[*CloseError](err); ok {
		return explainClose(e)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return "The name " + e.Name + " cannot be resolved (" + e.Err + "). Check the name and this machine's DNS."
	}
	switch {
	case errors.Is(err, ErrPeerDistrusted):
		return explainDistrust(err, addr)
	case errors.Is(err, ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return "No answer from " + addr + ". Is " + udp + " port " + port + " open on the way, and is tenderd running there?"
	case errors.Is(err, ErrIdle):
		return "Nothing came from " + addr + " for too long. Is this machine's network up, and does UDP port " + port + " still pass?"
	case errors.Is(err, ErrPeerRestarted):
		return "The replica has restarted and no longer knows this session. Nothing to do: dial again."
	case errors.Is(err, ErrBusy):
		return "The replica takes no more connections at the moment. Nothing to do: try again a little later."
	case errors.Is(err, ErrCertificateRefused):
		return "The replica refused this machine's certificate for " + alpn + ": the identity is revoked, or of another kind. " +
			"Ask an operator whether it was revoked; if not, join again."
	case errors.Is(err, ErrCertificateExpired):
		return "This machine's certificate has expired. Check the clock (timedatectl); if it is right, join again with a new join line."
	case errors.Is(err, ErrUnknownAuthority):
		return "The replica does not know the authority that signed this machine's certificate. " +
			"Does the address belong to another fleet? If not, join again with a new join line."
	case errors.Is(err, ErrCertificateRequired):
		return "The replica requires a certificate and this machine sent none. Join first, with a join line."
	case errors.Is(err, ErrNoProtocol):
		return "At " + addr + " nobody speaks " + alpn + ". Is it a replica of this fleet, and is its version recent enough?"
	default:
		return err.Error()
	}
}

// explainDistrust keeps to pki's own texts, which name both clocks or pins.
func explainDistrust(err error, addr string) string {
	if e, ok := errors.AsType[*pki.ClockError](err); ok {
		return "The certificate of " + addr + " does not hold now: " + e.Error() + "."
	}
	switch {
	case errors.Is(err, pki.ErrWrongPin):
		return addr + " is not a replica of the fleet that the join line is for. Check the address, or ask for a new join line."
	case errors.Is(err, pki.ErrForeign), errors.Is(err, pki.ErrNotReplica):
		return "The answer at " + addr + " is not from a replica of this fleet. Check the address."
	default:
		return "The certificate shown by " + addr + " was not accepted. Does the address belong to another fleet? (" + err.Error() + ")"
	}
}

var closeAdvice = map[Code]string{
	CodeOK:           "Nothing to do.",
	CodeDraining:     "The replica is stopping; try another one.",
	CodeRevoked:      "This identity was revoked; an operator must admit the machine again.",
	CodeCloned:       "This machine's disk is a copy of another's: stop tender-agent here, remove its state directory and join with a new join line.",
	CodeReplaced:     "The same identity opened a newer session; if this machine did not, its key was copied: revoke it.",
	CodeProtocol:     "The two sides do not understand each other; install the same version on both.",
	CodeNotLeader:    "Ask the leader.",
	CodeUnknownAgent: "The fleet does not know this machine; join it again with a new join line.",
	CodeTooOld:       "Install a newer version here.",
	CodeBusy:         "Nothing to do: try again a little later.",
	CodeExpired:      "The certificate was not renewed in time; check the clock and the log of the renewal.",
}

func explainClose(e *CloseError) string {
	text := e.Error() + "."
	if advice := closeAdvice[e.Code]; e.Remote && advice != "" {
		text += " " + advice
	}
	return text
}
