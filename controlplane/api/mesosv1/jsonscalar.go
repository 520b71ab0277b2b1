package mesosv1

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// scalar reads one value that is neither message nor list. ok is false for the
// name of an enum's value that the schema does not have, if the field may do
// without.
func scalar(f protoreflect.FieldDescriptor, t json.Token) (v protoreflect.Value, ok bool, err error) {
	switch f.Kind() {
	case protoreflect.EnumKind:
		return enum(f, t)
	case protoreflect.BoolKind:
		v, err = boolean(t)
	case protoreflect.StringKind:
		s, is := t.(string)
		if !is {
			return v, false, wants("a string", t)
		}
		v = protoreflect.ValueOfString(s)
	case protoreflect.BytesKind:
		v, err = octets(t)
	case protoreflect.DoubleKind:
		v, err = double(t)
	case protoreflect.Int32Kind:
		var x int64
		x, err = integer(t, math.MinInt32, math.MaxInt32)
		v = protoreflect.ValueOfInt32(int32(x))
	case protoreflect.Int64Kind:
		var x int64
		x, err = integer(t, math.MinInt64, math.MaxInt64)
		v = protoreflect.ValueOfInt64(x)
	case protoreflect.Uint32Kind:
		var x int64
		x, err = integer(t, 0, math.MaxUint32)
		v = protoreflect.ValueOfUint32(uint32(x))
	case protoreflect.Uint64Kind:
		var x uint64
		x, err = natural(t)
		v = protoreflect.ValueOfUint64(x)
	default:
		err = fmt.Errorf("fields of type %s have no JSON form here", f.Kind())
	}
	return v, err == nil, err
}

func enum(f protoreflect.FieldDescriptor, t json.Token) (v protoreflect.Value, ok bool, err error) {
	name, is := t.(string)
	if !is {
		return v, false, wants("the name of a value of "+string(f.Enum().Name()), t)
	}
	e := f.Enum().Values().ByName(protoreflect.Name(name))
	switch {
	case e != nil:
		return protoreflect.ValueOfEnum(e.Number()), true, nil
	case f.Cardinality() == protoreflect.Required:
		return v, false, fmt.Errorf("%.40q is no %s", name, f.Enum().Name())
	}
	return v, false, nil // a value of a newer Mesos
}

func boolean(t json.Token) (protoreflect.Value, error) {
	switch t {
	case true, "true":
		return protoreflect.ValueOfBool(true), nil
	case false, "false":
		return protoreflect.ValueOfBool(false), nil
	}
	return protoreflect.Value{}, wants("true or false", t)
}

// octets reads base64, with its padding or without.
func octets(t json.Token) (protoreflect.Value, error) {
	s, ok := t.(string)
	if !ok {
		return protoreflect.Value{}, wants("base64 in a string", t)
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		b, err = base64.RawStdEncoding.DecodeString(s)
	}
	if err != nil {
		return protoreflect.Value{}, errors.New("the string is not base64")
	}
	return protoreflect.ValueOfBytes(b), nil
}

func double(t json.Token) (protoreflect.Value, error) {
	switch t {
	case "Infinity":
		return protoreflect.ValueOfFloat64(math.Inf(1)), nil
	case "-Infinity":
		return protoreflect.ValueOfFloat64(math.Inf(-1)), nil
	}
	s, ok := numeral(t)
	if !ok {
		return protoreflect.Value{}, wants("a number", t)
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return protoreflect.Value{}, fmt.Errorf("%.40s is out of range", s)
	}
	return protoreflect.ValueOfFloat64(x), nil
}

func integer(t json.Token, low, high int64) (int64, error) {
	s, err := whole(t)
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseInt(s, 10, 64)
	if err != nil || x < low || x > high {
		return 0, fmt.Errorf("%.40s is not from %d to %d", s, low, high)
	}
	return x, nil
}

func natural(t json.Token) (uint64, error) {
	s, err := whole(t)
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40s is not from 0 to %d", s, uint64(math.MaxUint64))
	}
	return x, nil
}

// whole returns the digits of a whole number. One with a fraction of zero or an
// exponent is one, too: some languages write their integers so.
func whole(t json.Token) (string, error) {
	const exact = 1 << 53 // above, not every whole number is a double
	s, ok := numeral(t)
	if !ok {
		return "", wants("a whole number", t)
	}
	if !strings.ContainsAny(s, ".eE") {
		return s, nil
	}
	x, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil || x != math.Trunc(x):
		return "", fmt.Errorf("%.40s is not a whole number", s)
	case math.Abs(x) > exact:
		return "", fmt.Errorf("write %.40s without fraction and exponent: it is too large to be exact", s)
	}
	return strconv.FormatInt(int64(x), 10), nil
}

// numeral returns the text of a number, which may stand in a string.
func numeral(t json.Token) (string, bool) {
	switch t := t.(type) {
	case json.Number:
		return t.String(), true
	case string:
		// A numeral of JSON begins and ends with these; strconv knows more.
		const digits = "0123456789"
		ok := t != "" && strings.ContainsRune("-"+digits, rune(t[0])) &&
			strings.ContainsRune(digits, rune(t[len(t)-1])) && json.Valid([]byte(t))
		return t, ok
	}
	return "", false
}

// wants says what a field takes instead of what was found.
func wants(what string, found json.Token) error {
	got := "null"
	switch t := found.(type) {
	case json.Delim:
		got = "an object"
		if t == '[' {
			got = "an array"
		}
	case string:
		got = fmt.Sprintf("the string %.40q", t)
	case json.Number:
		got = fmt.Sprintf("the number %.40s", t)
	case bool:
		got = strconv.FormatBool(t)
	}
	return fmt.Errorf("takes %s, not %s", what, got)
}
