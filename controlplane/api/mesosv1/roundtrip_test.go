package mesosv1

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

func TestRoundTrip(t *testing.T) {
	for _, like := range roots {
		t.Run(string(like.ProtoReflect().Descriptor().Name()), rapid.MakeCheck(func(t *rapid.T) {
			roundTrip(t, maker{t: t}.message(like))
		}))
	}
}

// What is deep in the roots is rarely in a message drawn at random, and a field
// that no message of the maker has is in no other test either.
func TestRoundTripOfEveryMessage(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	for _, d := range descriptors() {
		t.Run(short(d), func(t *testing.T) {
			like := newMessage(t, d)
			some, full := examples(like, 8, maker{}), examples(like, 1, maker{full: true, seen: seen})
			for _, m := range append(some, full...) {
				roundTrip(t, m)
			}
			for i := range d.Fields().Len() {
				if name := d.Fields().Get(i).FullName(); !seen[name] {
					t.Errorf("the maker never set %s", name)
				}
			}
		})
	}
}

// examples are always the same.
func examples(like proto.Message, n int, g maker) []proto.Message {
	gen := rapid.Custom(func(t *rapid.T) proto.Message {
		rapid.Bool().Draw(t, "a message without fields draws nothing, a generator must")
		g.t = t
		return g.message(like)
	})
	var out []proto.Message
	for seed := range n {
		out = append(out, gen.Example(seed))
	}
	return out
}

func TestProtobufKeepsNaN(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := maker{t: t, nan: true}.message(&pb.Call{})
		same(t, m, decode(t, Protobuf, encode(t, Protobuf, m), m))
	})
	m := &pb.Filters{RefuseSeconds: new(math.NaN())}
	if got := decode(t, Protobuf, encode(t, Protobuf, m), m).(*pb.Filters); !math.IsNaN(got.GetRefuseSeconds()) {
		t.Errorf("NaN became %v", got.GetRefuseSeconds())
	}
}

func roundTrip(t rapid.TB, m proto.Message) {
	t.Helper()
	same(t, m, decode(t, Protobuf, encode(t, Protobuf, m), m))

	data := encode(t, JSON, m)
	if !json.Valid(data) {
		t.Fatalf("this is not JSON: %s", data)
	}
	again := decode(t, JSON, data, m)
	same(t, withDefaults(m), again)
	if twice := encode(t, JSON, again); !bytes.Equal(data, twice) {
		t.Fatalf("the second time the JSON is another:\n%s\n%s", data, twice)
	}
}

func encode(t rapid.TB, e Encoding, m proto.Message) []byte {
	t.Helper()
	data, err := e.Append([]byte("before"), m)
	if err != nil {
		t.Fatal(err)
	}
	data, ok := bytes.CutPrefix(data, []byte("before"))
	if !ok {
		t.Fatal("Append lost what stood before")
	}
	return data
}

// decode reads data as a message of the type of like.
func decode(t rapid.TB, e Encoding, data []byte, like proto.Message) proto.Message {
	t.Helper()
	m := like.ProtoReflect().New().Interface()
	if err := e.Unmarshal(data, m); err != nil {
		t.Fatalf("%v, of:\n%s", err, data)
	}
	return m
}

func same(t rapid.TB, want, got proto.Message) {
	t.Helper()
	if !proto.Equal(want, got) {
		t.Fatalf("the message changed (-want +got):\n%s", cmp.Diff(want, got, protocmp.Transform()))
	}
}
