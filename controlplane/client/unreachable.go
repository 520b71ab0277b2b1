package client

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/tenderfleet/tender/pki"
)

// Attempt is one server that did not answer.
type Attempt struct {
	Server string
	Err    error
}

// UnreachableError says that no server answered. Unknown: one of them may have
// done what was asked before the connection broke.
type UnreachableError struct {
	Attempts []Attempt
	Unknown  bool
}

// Error names each server and its cause.
func (e *UnreachableError) Error() string {
	parts := make([]string, len(e.Attempts))
	for i, a := range e.Attempts {
		parts[i] = a.Server + ": " + cause(a.Err)
	}
	text := strings.Join(parts, "; ")
	if e.Unknown {
		text += "; the request may have been carried out"
	}
	return text
}

// Unwrap gives the causes.
func (e *UnreachableError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, a := range e.Attempts {
		errs[i] = a.Err
	}
	return errs
}

// Next says what to do.
func (e *UnreachableError) Next() string {
	if e.Unknown {
		return "look before you repeat it: tender ps --all"
	}
	next := ""
	for _, a := range e.Attempts {
		next = advice(a.Err)
	}
	return next
}

// The texts of TLS alerts by which a server refuses our certificate: crypto/tls
// has no values for them.
var alerts = []struct{ alert, cause, next string }{
	{"tls: expired certificate", "the server says that this certificate has ended", "check this machine's clock, then log in again with: tender login"},
	{"tls: certificate required", "the server wants a certificate", "log in with: tender login"},
	{"tls: unknown certificate authority", "the server does not know who signed this certificate", "check that the address belongs to the fleet you logged in to"},
	{"tls: no application protocol", "the server does not speak this API", "check the address and its port"},
	{"tls: bad certificate", "the server refused this certificate: it is revoked, or not for the API", "log in again with: tender login"},
	{"tls: revoked certificate", "the server refused this certificate: it is revoked", "log in again with: tender login"},
	{"tls: access denied", "the server refused this certificate", "log in again with: tender login"},
}

// refusedTLS reports whether the server ended the handshake, so that it has
// not looked at the request.
func refusedTLS(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func cause(err error) string {
	for _, a := range alerts {
		if strings.Contains(err.Error(), a.alert) {
			return a.cause
		}
	}
	var clock *pki.ClockError
	var dns *net.DNSError
	var foreign x509.UnknownAuthorityError
	switch {
	case errors.As(err, &clock):
		return clock.Error()
	case errors.As(err, &foreign):
		return "its certificate is not of this fleet"
	case errors.As(err, &dns):
		return "the name cannot be resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there"
	case errors.Is(err, fs.ErrNotExist):
		return "no such socket, so no replica runs on this machine"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection broke off"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return "no answer in time"
	default:
		return err.Error()
	}
}

func advice(err error) string {
	for _, a := range alerts {
		if strings.Contains(err.Error(), a.alert) {
			return a.next
		}
	}
	var clock *pki.ClockError
	var dns *net.DNSError
	var foreign x509.UnknownAuthorityError
	switch {
	case errors.As(err, &clock):
		return ""
	case errors.As(err, &dns):
		return "check the name and this machine's DNS"
	case errors.As(err, &foreign), errors.Is(err, pki.ErrForeign), errors.Is(err, pki.ErrNotReplica):
		return "check that the address belongs to the fleet you logged in to"
	case errors.Is(err, fs.ErrPermission):
		return "run the command as root, or log in with: tender login"
	case errors.Is(err, fs.ErrNotExist):
		return "log in with 'tender login', or name a replica with --server HOST:PORT"
	default:
		return "check the address, and that tenderd runs there: systemctl status tenderd"
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
