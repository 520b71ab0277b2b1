package bench_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
)

// perLine is how many machines share a join line.
const perLine = 500

// BenchmarkEnrol joins machines, eight at a time, each from an address of its
// own: key and request, handshake, two commits by the trio, the certificate and
// its verification. The rate limit, 50 a second by default, is out of the way.
func BenchmarkEnrol(b *testing.B) {
	f := trio(b, open)
	lines := make([]pki.JoinLine, b.N/perLine+1)
	for i := range lines {
		lines[i] = f.Line(pki.KindAgent, perLine)
	}
	var next atomic.Int64
	b.SetParallelism(4) // per processor
	b.ResetTimer()
	cpu := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := int(next.Add(1) - 1)
			if err := join(b, lines[n/perLine], n); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "joins/s")
	b.ReportMetric(cpu()/float64(b.N), "cpu-µs/join")
}

func join(b *testing.B, line pki.JoinLine, n int) error {
	conn, err := net.ListenPacket("udp", fmt.Sprintf("127.1.%d.%d:0", n/250%250, n%250+1))
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	req, err := enroll.NewRequest(line, key, fmt.Sprintf("host-%d", n))
	if err != nil {
		return err
	}
	reply, err := transport.Enrol(b.Context(), transport.DialerConfig{Conn: conn}, line, req)
	if err != nil {
		return err
	}
	_, err = reply.Credential(key)
	return err
}
