package transport

import (
	"bytes"
	"testing"
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
