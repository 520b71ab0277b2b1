package mesosv1

import (
	"testing"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

func BenchmarkDecodeCall(b *testing.B) {
	for _, e := range []Encoding{JSON, Protobuf} {
		body := decline(e, 100)
		b.Run(e.ContentType(), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeCall(e.ContentType(), body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendOffer(b *testing.B) {
	var offer *pb.Event
	for _, c := range golden {
		if m, ok := c.m.(*pb.Event); ok && m.GetType() == pb.Event_OFFERS {
			offer = m
		}
	}
	for _, e := range []Encoding{JSON, Protobuf} {
		b.Run(e.ContentType(), func(b *testing.B) {
			var record []byte
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if record, err = e.Append(record[:0], offer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
