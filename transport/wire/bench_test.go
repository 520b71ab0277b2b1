package wire

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func someUpgrade() fleet.Upgrade {
	return fleet.Upgrade{Rollout: "r1", Version: "0.2.0", Packages: []fleet.Package{{Arch: "arm64", SHA256: strings.Repeat("0a", 32), Size: 9, Signature: "s"}}}
}

func someReport(n int) Report {
	var r Report
	for i := range n {
		r.Updates = append(r.Updates, fleet.StatusUpdate{
			ID: fleet.UpdateID(fmt.Sprintf("3f2504e0-4f89-11d3-9a0c-%012d", i)), Seq: 2,
			Status: fleet.Status{
				Task: fleet.TaskID(fmt.Sprintf("train-%d", i)), State: fleet.TaskRunning,
				Time: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), ExitCode: -1,
			},
		})
	}
	return r
}

func someDesired(n int) DesiredSet {
	d := fleet.Desired{Term: 4, Generation: 90, Full: true}
	for i := range n {
		d.Assignments = append(d.Assignments, fleet.Assignment{
			Task: fleet.TaskID(fmt.Sprintf("train-%d", i)),
			Spec: fleet.TaskSpec{
				Name: "train", Image: "docker.io/library/busybox:1.36", Command: []string{"python", "train.py", "--epochs", "3"},
				Env: map[string]string{"MODE": "fast", "SEED": "7"}, Network: fleet.NetworkNone, Labels: map[string]string{"team": "vision"},
			},
			Resources: fleet.Resources{
				CPUs: fleet.Whole(4), Mem: fleet.Whole(8192),
				GPUs: []gpu.UUID{"GPU-11111111-2222-3333-4444-555555555555"},
			},
		})
	}
	return DesiredSet{Desired: d}
}

func BenchmarkEncode(b *testing.B) { each(b, encode) }
func BenchmarkDecode(b *testing.B) { each(b, decode) }

func each(b *testing.B, run func(*testing.B, Message)) {
	b.Run("Readings", func(b *testing.B) { run(b, Readings{fleet.Readings{CPUPercent: 40, Tasks: 3}}) })
	b.Run("Report/1", func(b *testing.B) { run(b, someReport(1)) })
	b.Run("Report/100", func(b *testing.B) { run(b, someReport(100)) })
	b.Run("DesiredSet/8", func(b *testing.B) { run(b, someDesired(8)) })
}

func encode(b *testing.B, m Message) {
	var stream bytes.Buffer
	c := NewConn(&stream, MaxControl)
	b.ReportAllocs()
	for b.Loop() {
		stream.Reset()
		if err := c.Send(m); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(stream.Len()))
}

func decode(b *testing.B, m Message) {
	frame := frameOf(b, m)
	stream := bytes.NewReader(frame)
	c := NewConn(readOnly{stream}, MaxControl)
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		stream.Reset(frame)
		if _, err := c.Recv(); err != nil {
			b.Fatal(err)
		}
	}
}

type readOnly struct{ io.Reader }

func (readOnly) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
