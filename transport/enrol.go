package transport

import (
	"context"
	"io"
	"net"

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

// Enrol joins over QUIC: it asks the replicas that line names, one after the
// other, until one admits, one refuses for good, or ctx ends.
func Enrol(ctx context.Context, line pki.JoinLine, req enroll.Request) (enroll.Reply, error) {
	return EnrolFrom(ctx, nil, line, req)
}

// EnrolFrom is Enrol from the socket conn, which it closes; nil is any.
func EnrolFrom(ctx context.Context, conn net.PacketConn, line pki.JoinLine, req enroll.Request) (enroll.Reply, error) {
	dialer, err := NewDialer(DialerConfig{Conn: conn})
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
