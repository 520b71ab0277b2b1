package mesosv1

import (
	"errors"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

// decline is a call with an id for each of n offers.
func decline(e Encoding, n int) []byte {
	if e == JSON {
		ids := strings.TrimSuffix(strings.Repeat(`{"value":""},`, n), ",")
		return []byte(`{"type":"DECLINE",` + framework + `,"decline":{"offer_ids":[` + ids + `]}}`)
	}
	b := []byte("\x10\x04\x0a\x03\x0a\x01f")
	b = protowire.AppendTag(b, 5, protowire.BytesType)
	return protowire.AppendString(b, strings.Repeat("\x0a\x02\x0a\x00", n))
}

func TestTooManyElements(t *testing.T) {
	for _, e := range []Encoding{JSON, Protobuf} {
		refused(t, e.ContentType(), string(decline(e, MaxElements)), 413, "more than 262144 elements")
	}
}

func TestTooMuchUnderUnknownKeys(t *testing.T) {
	tooMuch(t, JSON, []byte(`{"x":[`+strings.TrimSuffix(strings.Repeat("0,", MaxElements), ",")+`]}`), &pb.Filters{})
	tooMuch(t, JSON, []byte(`{`+strings.TrimSuffix(strings.Repeat(`"x":0,`, MaxElements+1), ",")+`}`), &pb.Filters{})
}

// Messages, the elements of lists and the entries of maps count, whatever is in
// them.
func TestElements(t *testing.T) {
	for _, c := range []struct {
		json string
		like proto.Message
		want int
	}{
		{`{"type": "DECLINE", "framework_id": {"value": "f"}, "decline": {"offer_ids": [{"value": "a"}, {"value": "b"}]}}`, &pb.Call{}, 4},
		{`{"roles": ["a", "b", "c"]}`, &pb.Call_Revive{}, 3},
		{`{"capabilities": ["KILL", "CHOWN"]}`, &pb.CapabilityInfo{}, 2},
		{`{"volume_context": {"a": "1", "b": "2", "c": "3"}, "volume_id": "", "volume_capability": {"access_mode": {"mode": "UNKNOWN"}}}`, &pb.Volume_Source_CSIVolume_StaticProvisioning{}, 5},
		{`{"quantities": {"cpus": {"value": 1}, "mem": {"value": 2}}}`, &pb.OfferFilters_ResourceQuantities{}, 2},
	} {
		m := decode(t, JSON, []byte(c.json), c.like)
		if err := decodeJSON([]byte(c.json), c.like.ProtoReflect().New(), c.want); err != nil {
			t.Errorf("%d elements of %s: %v", c.want, c.json, err)
		}
		if err := decodeJSON([]byte(c.json), c.like.ProtoReflect().New(), c.want-1); !errors.Is(err, errElements) {
			t.Errorf("%d elements of %s: %v", c.want-1, c.json, err)
		}
		d, data := c.like.ProtoReflect().Descriptor(), encode(t, Protobuf, m)
		// In protobuf an entry is a message that may hold one.
		least := c.want + strings.Count(c.json, `"quantities"`)*2
		if err := scan(data, d, least); err != nil {
			t.Errorf("%d elements of %x: %v", least, data, err)
		}
		if err := scan(data, d, least-1); !errors.Is(err, errElements) {
			t.Errorf("%d elements of %x: %v", least-1, data, err)
		}
	}
}

func TestSize(t *testing.T) {
	const before, after = `{"type":"TEARDOWN","framework_id":{"value":"`, `"}}`
	fill := strings.Repeat("x", MaxCall-len(before)-len(after))
	if _, err := DecodeCall("application/json", []byte(before+fill+after)); err != nil {
		t.Error(err)
	}
	refused(t, "application/json", before+fill+"x"+after, 413, "larger than 8388608 bytes")
}

// nested is a container in containers.
func nested(levels int) *pb.ContainerID {
	var id *pb.ContainerID
	for range levels {
		id = &pb.ContainerID{Value: new("c"), Parent: id}
	}
	return id
}

func TestDepth(t *testing.T) {
	for _, e := range []Encoding{JSON, Protobuf} {
		decode(t, e, encode(t, e, nested(MaxDepth)), &pb.ContainerID{})
		tooMuch(t, e, encode(t, e, nested(MaxDepth+1)), &pb.ContainerID{})
	}
	// In JSON also where no field is.
	ok := `{"x":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`
	decode(t, JSON, []byte(ok), &pb.Filters{})
	tooMuch(t, JSON, []byte(`{"x":`+strings.Repeat("[", MaxDepth)), &pb.Filters{})
}

// The deepest place that a call has is within the limit, with room to spare.
func TestDepthOfCalls(t *testing.T) {
	if got := depth((&pb.Call{}).ProtoReflect().Descriptor()); got < 10 || got > MaxDepth/2 {
		t.Errorf("a call in JSON nests %d deep, the limit is %d", got, MaxDepth)
	}
}

func depth(d protoreflect.MessageDescriptor) int {
	deepest := 0
	for i := range d.Fields().Len() {
		f, own := d.Fields().Get(i), 0
		if f.IsList() || f.IsMap() {
			own = 1
		}
		if f.IsMap() {
			f = f.MapValue()
		}
		if f.Message() != nil {
			own += depth(f.Message())
		}
		deepest = max(deepest, own)
	}
	return 1 + deepest
}

func tooMuch(t *testing.T, e Encoding, data []byte, into proto.Message) {
	t.Helper()
	if err := e.Unmarshal(data, into); !errors.Is(err, errTooMuch) {
		t.Errorf("%s: got %v, want too much", e.ContentType(), err)
	}
}

// What is refused for its elements has not been allocated first.
func TestRefusingAllocatesNothing(t *testing.T) {
	body := decline(Protobuf, MaxCall/4)
	allocated := testing.AllocsPerRun(1, func() {
		tooMuch(t, Protobuf, body, &pb.Call{})
	})
	if allocated > 100 {
		t.Errorf("refusing %d bytes took %.0f allocations", len(body), allocated)
	}
}

func TestNumbersAtTheirEnds(t *testing.T) {
	for _, x := range []float64{0, 5e-324, math.MaxFloat64, -math.MaxFloat64, 1 << 53, 0.1} {
		m := &pb.Filters{RefuseSeconds: &x}
		same(t, m, decode(t, JSON, encode(t, JSON, m), m))
	}
}
