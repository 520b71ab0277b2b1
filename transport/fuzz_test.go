package transport

import (
	"bytes"
	"testing"
	"time"
)

// FuzzParseKind: the first bytes of a stream come from the network. What is
// taken is well formed and is exactly what was sent.
func FuzzParseKind(f *testing.F) {
	for _, s := range []string{"\x07control", "\x04logs rest", "\x00", "\xff", "\x21aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\x03A/b", "\x05ren"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, err := parseKind(bytes.NewReader(data))
		if err != nil {
			return
		}
		if kind.check() != nil || !bytes.HasPrefix(data, append([]byte{byte(len(kind))}, kind...)) {
			t.Fatalf("%q was read as %q", data, kind)
		}
	})
}

// FuzzMuxFrame: what the first stream of a TCP session says comes from the
// network. A frame that is taken is exactly what was sent.
func FuzzMuxFrame(f *testing.F) {
	for _, m := range []muxFrame{{kind: frameReset, number: 3}, {kind: frameDone, number: 8}, {kind: frameClose, number: 1, reason: "stopping"}} {
		f.Add(m.append(nil))
	}
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMuxFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		if !bytes.HasPrefix(data, m.append(nil)) || len(m.reason) > maxReason {
			t.Fatalf("%q was read as %+v", data, m)
		}
	})
}

// FuzzMuxScanner: however the bytes are cut, the same pings are counted.
func FuzzMuxScanner(f *testing.F) {
	ping := "\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"
	f.Add([]byte(ping+"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02xy"+ping), 5)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var whole, parts muxScanner
		at := time.Unix(1, 0)
		want := whole.see(data, at)
		cut = max(0, min(cut, len(data)))
		parts.see(data[:cut], at)
		if got := parts.see(data[cut:], at); got != want {
			t.Fatalf("%d pings in two pieces, %d in one", got, want)
		}
	})
}
