package enroll

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Whatever is read and found good is written and read back the same, within
// the limits.
func roundTrip[T any](t *testing.T, got T, limit int, read func(*bytes.Buffer) (T, error)) {
	t.Helper()
	var buf bytes.Buffer
	if err := writeFrame(&buf, got, 8*limit); err != nil {
		t.Fatal(err)
	}
	if buf.Len() > limit {
		return // HTML escapes may make it longer than it came
	}
	again, err := read(&buf)
	if err != nil {
		t.Fatalf("%+v does not come back: %v", got, err)
	}
	if d := cmp.Diff(got, again, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func seed(f *testing.F, m any) {
	var buf bytes.Buffer
	if err := writeFrame(&buf, m, MaxReply); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add(buf.Bytes()[:buf.Len()/2])
}

func FuzzRequest(f *testing.F) {
	seed(f, Request{
		Kind: "agent", Secret: "s3cret", Name: "gpu-01", Hostname: "gpu-01.lab", Labels: map[string]string{"site": "berlin"},
		CSR: []byte{0x30, 0}, Capability: 1, Clock: 1700000000,
	})
	seed(f, Request{Kind: "replica", Secret: "s", Name: "r3", CSR: []byte{1}, IntermediateCSR: []byte{2}, Addr: "r3:8750", Capability: 1})
	seed(f, json.RawMessage(`{"kind":"agent","admin":true}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		req, err := readRequest(bytes.NewReader(in))
		if err == nil {
			roundTrip(t, req, MaxRequest, func(b *bytes.Buffer) (Request, error) { return readRequest(b) })
		}
	})
}

func FuzzReply(f *testing.F) {
	seed(f, Reply{
		Identity: "spiffe://fleet.example/agent/a1", Chain: [][]byte{{1}, {2}, {3}}, Bundle: []byte("pem"),
		BundleVersion: 1, Replicas: []string{"r1:8750"}, Intermediate: [][]byte{{4}},
	})
	seed(f, Reply{
		Identity: "spiffe://fleet.example/agent/a1", Chain: [][]byte{{0x30, 0}},
		ReleaseKeys: []string{"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"},
	})
	seed(f, Reply{Refusal: &Refusal{Code: CodeNotLeader, Text: "r2 leads\x1b[2J", Leader: "r2:8750", RetryMillis: 1000}})
	f.Add([]byte{0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		reply, err := readReply(bytes.NewReader(in))
		if err == nil {
			roundTrip(t, reply, MaxReply, func(b *bytes.Buffer) (Reply, error) { return readReply(b) })
		}
	})
}

// fuzzFrames holds the decoder of one message to its rules: nothing panics, and
// what is accepted is accepted again.
func fuzzFrames[T any](f *testing.F, check func(*T) error) {
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	read := func(b *bytes.Buffer) (T, error) {
		var m T
		if err := readFrame(b, &m, MaxRequest); err != nil {
			return m, err
		}
		return m, check(&m)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if m, err := read(bytes.NewBuffer(in)); err == nil {
			roundTrip(t, m, MaxRequest, read)
		}
	})
}

func FuzzHealRequest(f *testing.F) {
	seed(f, HealRequest{Identity: "spiffe://fleet.example/agent/a1", Key: []byte{0x30, 0}, Signature: []byte{1}, CSR: []byte{0x30, 0}, Capability: 2})
	f.Fuzz(func(t *testing.T, in []byte) {
		var req HealRequest
		if readFrame(bytes.NewReader(in), &req, MaxRequest) != nil || req.Check() != nil {
			return
		}
		if _, _, err := checkHeal(&req, make([]byte, nonceLen), make([]byte, exporterLen)); err == nil {
			t.Error("a signature over a challenge that was never sent")
		}
		roundTrip(t, req, MaxRequest, func(b *bytes.Buffer) (HealRequest, error) {
			var again HealRequest
			err := readFrame(b, &again, MaxRequest)
			return again, errors.Join(err, again.Check())
		})
	})
}

func FuzzChallenge(f *testing.F) {
	seed(f, Challenge{Nonce: make([]byte, nonceLen), Capability: 2})
	fuzzFrames(f, (*Challenge).Check)
}

func FuzzClockRequest(f *testing.F) {
	seed(f, ClockRequest{Nonce: make([]byte, nonceLen), Capability: 2})
	fuzzFrames(f, (*ClockRequest).Check)
}

func FuzzClockReply(f *testing.F) {
	seed(f, ClockReply{Millis: 1, Signature: []byte{1}})
	seed(f, ClockReply{Refusal: &Refusal{Code: CodeBusy, Text: "later"}})
	fuzzFrames(f, (*ClockReply).Check)
}

// What a replica says ends on a terminal and must not drive it.
func TestRefusalTextIsPlain(t *testing.T) {
	r := Reply{Refusal: &Refusal{Code: CodeBusy, Text: "wait\x1b[2J\r\n" + string(make([]byte, 5000))}}
	if err := r.Check(); err != nil || r.Refusal.Text != "wait[2J" {
		t.Errorf("%q, %v", r.Refusal.Text, err)
	}
}
