package mesosv1

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Limits of what is read.
const (
	// MaxCall is the longest body of a call, in bytes: an acceptance that
	// launches thousands of tasks.
	MaxCall = 8 << 20
	// MaxElements bounds the messages, list elements and map entries in one
	// message, and what its JSON has under unknown keys: two bytes on the wire
	// can stand for hundreds in memory, so its length alone does not bound what
	// reading it takes.
	MaxElements = 1 << 18
	// MaxDepth bounds how deep messages, and in JSON all values, nest. The
	// deepest place of a call is less than half of it.
	MaxDepth = 64
)

var (
	errNotProtobuf = errors.New("the bytes are not a protobuf message")
	errTooMuch     = errors.New("too much for one message")

	errElements = fmt.Errorf("%w: more than %d elements", errTooMuch, MaxElements)
	errDepth    = fmt.Errorf("%w: nested deeper than %d", errTooMuch, MaxDepth)
)

// scan holds a message in protobuf against the limits without allocating.
func scan(b []byte, d protoreflect.MessageDescriptor, elements int) error {
	s := scanner{left: elements}
	return s.message(b, d, 1)
}

type scanner struct{ left int }

func (s *scanner) message(b []byte, d protoreflect.MessageDescriptor, depth int) error {
	if depth > MaxDepth {
		return errDepth
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errNotProtobuf
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return errNotProtobuf
		}
		if f := d.Fields().ByNumber(num); f != nil && (f.Message() != nil || f.IsList()) {
			if s.left--; s.left < 0 {
				return errElements
			}
			if f.Message() != nil && typ == protowire.BytesType {
				value, _ := protowire.ConsumeBytes(b)
				if err := s.message(value, f.Message(), depth+1); err != nil {
					return err
				}
			}
		}
		b = b[size:]
	}
	return nil
}
