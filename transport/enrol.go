package transport

import (
	"context"
	"io"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
)

// The kinds of streams that the protocols know.
const (
	StreamControl StreamKind = "control" // agent/1, opened by the agent, first
	StreamRenew   StreamKind = "renew"   // agent/1, opened by the agent
	StreamLogs    StreamKind = "logs"    // agent/1, opened by the replica
	StreamEnrol   StreamKind = "enrol"   // enrol/1, the only one
)

// Enrol joins over QUIC or, where UDP does not pass, over TCP: it asks the
// replicas that line names, one after the other, until one admits, one refuses
// for good, or ctx ends. It dials as cfg says, without a certificate.
func Enrol(ctx context.Context, cfg DialerConfig, line pki.JoinLine, req enroll.Request) (enroll.Reply, error) {
	cfg.Holder = nil
	dialer, err := NewDialer(cfg)
	if err != nil {
		return enroll.Reply{}, err
	}
	defer dialer.Close() //nolint:errcheck // every session has ended
	return enroll.Run(ctx, line, func(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
		s, err := dialer.DialEnrol(ctx, addr, line.Pin)
		if err != nil {
			return nil, err
		}
		return s.Open(ctx, StreamEnrol)
	}, req)
}
