package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
)

func alert(code quic.TransportErrorCode) error {
	return &quic.TransportError{ErrorCode: code, Remote: true}
}

func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		err  error // of quic-go or net
		kind error
		says string
	}{
		{&quic.HandshakeTimeoutError{}, transport.ErrUnreachable, "No answer from r1.example:7443. Is UDP port 7443 open on the way, and is tenderd running there?"},
		{&quic.IdleTimeoutError{}, transport.ErrIdle, "Is this machine's network up, and does UDP port 7443 still pass?"},
		{&quic.StatelessResetError{}, transport.ErrPeerRestarted, "The replica has restarted"},
		{&quic.VersionNegotiationError{}, transport.ErrNoProtocol, "Is it a replica of this fleet"},
		{alert(quic.ConnectionRefused), transport.ErrBusy, "try again a little later"},
		{alert(0x12a), transport.ErrCertificateRefused, "refused this machine's certificate for agent/1: the identity is revoked, or of another kind."},
		{alert(0x12d), transport.ErrCertificateExpired, "This machine's certificate has expired. Check the clock (timedatectl)"},
		{alert(0x130), transport.ErrUnknownAuthority, "does not know the authority that signed this machine's certificate."},
		{alert(0x174), transport.ErrCertificateRequired, "Join first, with a join line."},
		{alert(0x178), transport.ErrNoProtocol, "At r1.example:7443 nobody speaks agent/1."},
		{context.DeadlineExceeded, context.DeadlineExceeded, "Is UDP port 7443 open"},
		{&net.DNSError{Name: "r1.example", Err: "no such host"}, nil, "The name r1.example cannot be resolved (no such host)."},
		{&quic.StreamError{}, transport.ErrStreamReset, "stream was reset"},
		{alert(quic.InternalError), nil, "INTERNAL_ERROR"},
	} {
		err := transport.Translate(tc.err)
		if tc.kind != nil && !errors.Is(err, tc.kind) {
			t.Errorf("%v became %v, want the kind %v", tc.err, err, tc.kind)
		}
		err = fmt.Errorf("first session: %w", &transport.DialError{Addr: "r1.example:7443", ALPN: "agent/1", Err: err})
		if got := transport.Explain(err); !strings.Contains(got, tc.says) {
			t.Errorf("%v\n explained as %q\n want in it   %q", tc.err, got, tc.says)
		}
	}
	if got := transport.Explain(nil); got != "" {
		t.Errorf("no error is explained as %q", got)
	}
}

func TestExplainOurOwnDistrust(t *testing.T) {
	// What quic-go hands over when our check of the replica's chain fails.
	distrust := func(err error) error {
		return fmt.Errorf("%w: %w", transport.ErrPeerDistrusted, err)
	}
	now := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	clock := &pki.ClockError{Subject: "replica/r1", Now: now, NotBefore: now.AddDate(0, 0, 1), NotAfter: now.AddDate(0, 0, 2)}
	for _, tc := range []struct {
		err  error
		says string
	}{
		{clock, "this machine's clock says 2026-07-01 00:00:00Z"},
		{pki.ErrWrongPin, "Check the address, or ask for a new join line."},
		{pki.ErrForeign, "not from a replica of this fleet"},
		{pki.ErrNotReplica, "not from a replica of this fleet"},
		{errors.New("odd"), "was not accepted. Does the address belong to another fleet?"},
	} {
		if got := transport.Explain(distrust(tc.err)); !strings.Contains(got, tc.says) {
			t.Errorf("%v is explained as %q, want %q in it", tc.err, got, tc.says)
		}
	}
}

func TestExplainEveryCode(t *testing.T) {
	seen := map[string]bool{}
	for code := transport.CodeOK; code <= transport.CodeExpired; code++ {
		got := transport.Explain(&transport.CloseError{Code: code, Reason: "why", Remote: true})
		_, advice, found := strings.Cut(got, "why. ")
		if !found || advice == "" || strings.HasPrefix(code.String(), "code ") {
			t.Errorf("%v is explained as %q", code, got)
		}
		seen[code.String()] = true
	}
	if len(seen) != int(transport.CodeExpired)+1 {
		t.Errorf("two codes have one name: %v", seen)
	}
	err := transport.Translate(&quic.ApplicationError{ErrorCode: 77, ErrorMessage: "news", Remote: true})
	if got := transport.Explain(err); got != "session closed by the peer (code 77): news." {
		t.Errorf("a newer peer's code is explained as %q", got)
	}
	if !errors.Is(err, net.ErrClosed) {
		t.Error("a closed session is not net.ErrClosed")
	}
}

func TestBackoff(t *testing.T) {
	var b transport.Backoff
	var got []time.Duration
	for range 10 {
		got = append(got, b.Next(0.999999999))
	}
	want := []time.Duration{200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000}
	for i := range want {
		if got[i].Round(time.Millisecond) != want[i]*time.Millisecond {
			t.Errorf("limits %v, want %v ms", got, want)
			break
		}
	}
	if d := b.Next(0); d != 0 {
		t.Errorf("the least wait is %v, want none: full jitter", d)
	}
	if d := b.Next(0.5); d != 15*time.Second {
		t.Errorf("half of the range is %v, want 15 s", d)
	}
	b.Reset()
	if d := b.Next(0.5); d != 100*time.Millisecond {
		t.Errorf("after a success %v, want 100 ms", d)
	}
	b = transport.Backoff{Min: time.Second, Max: 3 * time.Second}
	for i, want := range []time.Duration{1, 2, 3, 3} {
		if d := b.Next(1); d != want*time.Second {
			t.Errorf("wait %d is %v, want %v s", i, d, int(want))
		}
	}
}
