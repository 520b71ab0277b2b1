package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// What speaks against a version is an answer that another version might not have
// got, and nothing that the site or an operator did.
func TestWhatSpeaksAgainstAVersion(t *testing.T) {
	dial := func(err error) error { return &transport.DialError{Addr: "r1:7443", ALPN: "agent/1", Err: err} }
	refused := func(code wire.RefusalCode) error {
		return fmt.Errorf("greet: %w", &refusedError{wire.Refusal{Code: code, Text: "no"}})
	}
	closed := func(code transport.Code) error { return &transport.CloseError{Code: code, Remote: true} }
	for _, tc := range []struct {
		name    string
		err     error
		against bool
	}{
		{"nobody answers", dial(transport.ErrUnreachable), false},
		{"no such name", dial(&net.DNSError{Name: "r1", IsNotFound: true}), false},
		{"no route", dial(syscall.ENETUNREACH), false},
		{"the link fell silent", fmt.Errorf("read: %w", transport.ErrIdle), false},
		{"silent after a beat", errSilent, false},
		{"the replica has restarted", transport.ErrPeerRestarted, false},
		{"the replica is full", dial(transport.ErrBusy), false},
		{"no time", fmt.Errorf("dial: %w", context.DeadlineExceeded), false},
		{"no welcome", fmt.Errorf("wait for welcome: %w", os.ErrDeadlineExceeded), false},
		{"no room on the disk", fmt.Errorf("remember: %w", syscall.ENOSPC), false},
		{"revoked", refused(wire.RefusedRevoked), false},
		{"removed", refused(wire.RefusedUnknownAgent), false},
		{"cloned", refused(wire.RefusedCloned), false},
		{"not the leader", refused(wire.RefusedNotLeader), false},
		{"draining", closed(transport.CodeDraining), false},
		{"a newer session", closed(transport.CodeReplaced), false},
		{"a TLS alert", dial(fmt.Errorf("%w: alert", transport.ErrCertificateRefused)), true},
		{"an alert on a stream", fmt.Errorf("wait for welcome: %w", transport.ErrUnknownAuthority), true},
		{"we refuse the replica", dial(transport.ErrPeerDistrusted), true},
		{"another protocol", dial(transport.ErrNoProtocol), true},
		{"too old", refused(wire.RefusedTooOld), true},
		{"a message that makes no sense", refused(wire.RefusedBadRequest), true},
		{"somebody else", refused(wire.RefusedWrongIdentity), true},
		{"the protocol is broken", closed(transport.CodeProtocol), true},
		{"too new for the replica", errors.New("the replica speaks capability 1"), true},
	} {
		if got := missed(tc.err); (got.Err != "") != tc.against {
			t.Errorf("%s: %q is said against the version, want something: %v", tc.name, got.Err, tc.against)
		}
	}
}

func TestWhatTheRuntimeSays(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want gate.Runtime
	}{
		{nil, gate.Runtime{}},
		{fmt.Errorf("list: %w: no socket", executor.ErrUnavailable), gate.Runtime{Away: true}},
		{fmt.Errorf("list: %w", context.DeadlineExceeded), gate.Runtime{Away: true}},
		{errors.New("unknown method"), gate.Runtime{Err: "unknown method"}},
	} {
		if got := called(tc.err); got != tc.want {
			t.Errorf("%v: %+v, want %+v", tc.err, got, tc.want)
		}
	}
}
