package mesosv1

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// appendJSON writes what is set, and what is not set where the schema has a
// default for it: schedulers read checkpoint:false without knowing the schema.
func appendJSON(b []byte, m protoreflect.Message) ([]byte, error) {
	b = append(b, '{')
	empty := len(b)
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) && !writtenUnset(f) {
			continue
		}
		if len(b) > empty {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), f.Name()...), '"', ':')
		var err error
		if b, err = appendField(b, f, m.Get(f)); err != nil {
			return b, within(string(f.Name()), err)
		}
	}
	return append(b, '}'), nil
}

func writtenUnset(f protoreflect.FieldDescriptor) bool {
	if !f.HasDefault() || f.Cardinality() != protoreflect.Optional {
		return false
	}
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	return !ok || !o.GetDeprecated()
}

func appendField(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch {
	case f.IsMap():
		return appendMap(b, f, v.Map())
	case f.IsList():
		return appendList(b, f, v.List())
	}
	return appendValue(b, f, v)
}

func appendList(b []byte, f protoreflect.FieldDescriptor, l protoreflect.List) ([]byte, error) {
	b = append(b, '[')
	for i := range l.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendValue(b, f, l.Get(i)); err != nil {
			return b, within(index(i), err)
		}
	}
	return append(b, ']'), nil
}

// appendMap writes in the order of the keys, so that equal messages are equal
// bytes.
func appendMap(b []byte, f protoreflect.FieldDescriptor, m protoreflect.Map) ([]byte, error) {
	b = append(b, '{')
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, k.String()), ':')
		var err error
		if b, err = appendValue(b, f.MapValue(), m.Get(k)); err != nil {
			return b, within(key(k.String()), err)
		}
	}
	return append(b, '}'), nil
}

func appendValue(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return appendJSON(b, v.Message())
	case protoreflect.EnumKind:
		e := f.Enum().Values().ByNumber(v.Enum())
		if e == nil {
			return b, fmt.Errorf("%d is no %s", v.Enum(), f.Enum().Name())
		}
		return append(append(append(b, '"'), e.Name()...), '"'), nil
	case protoreflect.StringKind:
		return appendText(b, v.String()), nil
	case protoreflect.BytesKind:
		b = base64.StdEncoding.AppendEncode(append(b, '"'), v.Bytes())
		return append(b, '"'), nil
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.DoubleKind:
		return appendDouble(b, v.Float())
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	default:
		return b, fmt.Errorf("fields of type %s have no JSON form here", f.Kind())
	}
}

// appendDouble leaves whole numbers recognisable as doubles, to languages that
// would take 15 for an integer.
func appendDouble(b []byte, x float64) ([]byte, error) {
	switch {
	case math.IsNaN(x):
		return b, errors.New("NaN has no JSON form")
	case math.IsInf(x, 1):
		return append(b, `"Infinity"`...), nil
	case math.IsInf(x, -1):
		return append(b, `"-Infinity"`...), nil
	}
	s := strconv.FormatFloat(x, 'g', -1, 64)
	b = append(b, s...)
	if !strings.ContainsAny(s, ".e") {
		b = append(b, ".0"...)
	}
	return b, nil
}

func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
