package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tenderfleet/tender/transport/wire/pb"
)

// shape is what scan must know of a message type: which fields repeat and
// which hold messages.
type shape struct {
	repeated []bool // by field number
	packed   []bool // numbers, many of which may be in one value
	inner    []*shape
}

var envelope = shapeOf((&pb.Envelope{}).ProtoReflect().Descriptor())

func shapeOf(d protoreflect.MessageDescriptor) *shape {
	s := &shape{}
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		for len(s.inner) <= int(f.Number()) {
			s.inner = append(s.inner, nil)
			s.repeated = append(s.repeated, false)
			s.packed = append(s.packed, false)
		}
		s.repeated[f.Number()] = f.Cardinality() == protoreflect.Repeated
		s.packed[f.Number()] = s.repeated[f.Number()] && f.Kind() == protoreflect.Int64Kind
		if f.Message() != nil {
			s.inner[f.Number()] = shapeOf(f.Message())
		}
	}
	return s
}

// scan walks a frame without allocating and refuses more than MaxItems of any
// repeated field, or as many bytes of packed numbers: two bytes on the wire can
// stand for hundreds in memory, so the length of a frame alone does not bound
// what decoding it takes.
func (s *shape) scan(b []byte) error {
	var counts [64]int // no field number here is larger
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %v", ErrInvalid, protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.StartGroupType {
			return fmt.Errorf("%w: a group", ErrInvalid)
		}
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return fmt.Errorf("%w: %v", ErrInvalid, protowire.ParseError(size))
		}
		if int(num) < len(s.inner) {
			if s.packed[num] && typ == protowire.BytesType {
				counts[num] += size // no number takes less than a byte
			}
			if counts[num]++; counts[num] > MaxItems || counts[num] > 1 && !s.repeated[num] {
				return fmt.Errorf("%w: field %d occurs too often", ErrInvalid, num)
			}
			if inner := s.inner[num]; inner != nil && typ == protowire.BytesType {
				value, _ := protowire.ConsumeBytes(b)
				if err := inner.scan(value); err != nil {
					return err
				}
			}
		}
		b = b[size:]
	}
	return nil
}
