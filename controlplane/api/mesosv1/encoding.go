package mesosv1

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Encoding is one of the two ways in which a message is written.
type Encoding int

// The encodings. JSON is what a scheduler gets that states no wish.
const (
	JSON Encoding = iota
	Protobuf
)

// ContentType is the media type of one message, and of a stream of them in
// RecordIO.
func (e Encoding) ContentType() string {
	if e == Protobuf {
		return "application/x-protobuf"
	}
	return "application/json"
}

// Append writes m, a Call, Event or Response, after b. It refuses a message
// that lacks a required field or has text that is not UTF-8 and, in JSON, NaN
// and the numbers of enums that have no name.
func (e Encoding) Append(b []byte, m proto.Message) ([]byte, error) {
	r, out := m.ProtoReflect(), b
	err := check(r)
	switch {
	case err != nil:
	case e == Protobuf:
		out, err = proto.MarshalOptions{AllowPartial: true, Deterministic: true}.MarshalAppend(b, m)
	default:
		out, err = appendJSON(b, r)
	}
	if err != nil {
		return b, fmt.Errorf("mesosv1: write %s: %w", r.Descriptor().Name(), err)
	}
	return out, nil
}

// Unmarshal reads data into m, a Call, Event or Response. What it accepts has
// every required field, nests no deeper than MaxDepth and has no more than
// MaxElements; its strings are UTF-8 and its enums have names. Amounts may be
// NaN, infinite or negative. The caller bounds the length of data.
func (e Encoding) Unmarshal(data []byte, m proto.Message) error {
	if err := e.unmarshal(data, m); err != nil {
		return fmt.Errorf("mesosv1: read %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

func (e Encoding) unmarshal(data []byte, m proto.Message) error {
	proto.Reset(m)
	r := m.ProtoReflect()
	if e == JSON {
		if err := decodeJSON(data, r, MaxElements); err != nil {
			return err
		}
		return check(r)
	}
	if err := scan(data, r.Descriptor(), MaxElements); err != nil {
		return err
	}
	// Required fields are check's, which says where they are missing.
	o := proto.UnmarshalOptions{AllowPartial: true, DiscardUnknown: true, RecursionLimit: MaxDepth}
	if err := o.Unmarshal(data, m); err != nil {
		return errNotProtobuf
	}
	if err := closeEnums(r); err != nil {
		return err
	}
	return check(r)
}
