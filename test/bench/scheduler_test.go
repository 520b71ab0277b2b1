package bench_test

import (
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
)

// BenchmarkSubscribeToOffer is the time from a new framework's SUBSCRIBE, over
// HTTPS on loopback with a connection that is open, until its first offer is
// read: the trio commits the framework in between.
func BenchmarkSubscribeToOffer(b *testing.B) {
	f := trio(b, func(id fleet.ReplicaID, cfg *controlplane.Config) {
		open(id, cfg)
		ln, err := net.Listen("tcp", cfg.Conn.LocalAddr().String())
		if err != nil {
			b.Fatal(err)
		}
		cfg.API = ln
	})
	f.Agent("a1")
	t := &http.Transport{TLSClientConfig: pki.PinnedTLS(f.Leader().Join(pki.KindFramework).Pin, pki.ALPNHTTP1)}
	defer t.CloseIdleConnections()
	token := f.Principal("bench", "bench")
	for _, enc := range []mesosv1.Encoding{mesosv1.JSON, mesosv1.Protobuf} {
		b.Run(map[mesosv1.Encoding]string{mesosv1.JSON: "json", mesosv1.Protobuf: "protobuf"}[enc], func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				s := cluster.NewScheduler(b, &http.Client{Transport: t}, "https://"+f.Leader().Addr, token)
				s.Encoding = enc
				began := time.Now()
				s.Subscribe(cluster.Framework("bench"))
				s.Subscribed()
				s.Next(pb.Event_OFFERS)
				took = append(took, time.Since(began))
				s.Call(&pb.Call{Type: pb.Call_TEARDOWN.Enum()})
				s.Next(pb.Event_ERROR)
				s.Disconnect()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}
