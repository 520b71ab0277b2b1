package wire

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzRecv reads arbitrary bytes as a stream: nothing panics, and what is
// accepted can be sent on and means the same.
func FuzzRecv(f *testing.F) {
	for _, m := range []Message{
		Refusal{Code: RefusedDraining},
		Pull{Full: true},
		Goaway{Text: "x"},
		LogEnd{},
		KeyStored{},
		Bundle{Version: 2, Roots: []byte("pem"), Renew: true},
		Leave{Grace: 7},
		Upgrade{someUpgrade()},
		PackageRequest{SHA256: someUpgrade().Packages[0].SHA256, Offset: 7},
		PackageChunk{Data: []byte("deb")},
		someReport(2), someDesired(2),
	} {
		f.Add(frameOf(f, m))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := NewConn(bytes.NewBuffer(stream), MaxControl)
		for range len(stream) + 1 {
			m, err := c.Recv()
			if c.fail != nil {
				return
			}
			if err != nil {
				continue
			}
			again, err := Parse(mustAppend(t, m))
			if err != nil {
				t.Fatalf("%#v was accepted once, then refused: %v", m, err)
			}
			if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("changed on the second trip:\n%s", diff)
			}
		}
		t.Fatal("the stream does not end")
	})
}
