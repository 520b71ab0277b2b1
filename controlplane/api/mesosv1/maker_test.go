package mesosv1

import (
	"math"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

// roots are what a scheduler and a master say to each other; everything in the
// schemas is there for them.
var roots = []proto.Message{&pb.Call{}, &pb.Event{}, &pb.Response{}}

// maker fills messages by reflection, so that a field added to the schemas is
// in the tests without anybody thinking of it.
type maker struct {
	t *rapid.T
	// full sets every field, and seen has every one that was set.
	full bool
	seen map[protoreflect.FullName]bool
	// nan allows the one value that JSON cannot have.
	nan bool
}

func (g maker) message(like proto.Message) proto.Message {
	m := like.ProtoReflect().New()
	g.fill(m, 0)
	return m.Interface()
}

func (g maker) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Cardinality() != protoreflect.Required && !g.wants(f, depth) {
			continue
		}
		if g.seen != nil {
			g.seen[f.FullName()] = true
		}
		switch {
		case f.IsMap():
			for range rapid.IntRange(1, 3).Draw(g.t, "entries") {
				g.put(m.Mutable(f).Map(), f.MapValue(), depth)
			}
		case f.IsList():
			for range rapid.IntRange(1, 2).Draw(g.t, "elements") {
				g.add(m.Mutable(f).List(), f, depth)
			}
		case f.Message() != nil:
			g.fill(m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, g.scalar(f))
		}
	}
}

// wants says whether an optional field is set. The deeper, the less, so that
// messages end.
func (g maker) wants(f protoreflect.FieldDescriptor, depth int) bool {
	if f.Message() != nil && f.Message() == f.ContainingMessage() && depth > 8 {
		return false
	}
	return g.full || rapid.IntRange(0, 1+depth/2).Draw(g.t, "unset") == 0
}

func (g maker) put(m protoreflect.Map, f protoreflect.FieldDescriptor, depth int) {
	k := protoreflect.ValueOfString(text.Draw(g.t, "key")).MapKey()
	if f.Message() == nil {
		m.Set(k, g.scalar(f))
	} else if !m.Has(k) {
		g.fill(m.Mutable(k).Message(), depth+1)
	}
}

func (g maker) add(l protoreflect.List, f protoreflect.FieldDescriptor, depth int) {
	if f.Message() == nil {
		l.Append(g.scalar(f))
	} else {
		g.fill(l.AppendMutable().Message(), depth+1)
	}
}

var (
	text   = rapid.StringN(0, 12, 40)
	octet  = rapid.SliceOfN(rapid.Byte(), 0, 20)
	number = rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{
		0, math.Copysign(0, -1), 15, -1.5, 1e21, 1e-7, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1),
	}))
)

func (g maker) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	name := string(f.Name())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(g.t, name))
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(rapid.IntRange(0, values.Len()-1).Draw(g.t, name)).Number())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text.Draw(g.t, name))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(octet.Draw(g.t, name))
	case protoreflect.DoubleKind:
		if g.nan && rapid.Bool().Draw(g.t, "nan") {
			return protoreflect.ValueOfFloat64(math.NaN())
		}
		return protoreflect.ValueOfFloat64(number.Draw(g.t, name))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(g.t, name))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(g.t, name))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(g.t, name))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(g.t, name))
	}
	g.t.Fatalf("%s: teach the maker the type %s", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

// withDefaults is a copy of m in which the fields are set that JSON writes out
// although they are not.
func withDefaults(m proto.Message) proto.Message {
	c := proto.Clone(m)
	eachMessage(c.ProtoReflect(), func(m protoreflect.Message) {
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			role := f.Name() == "role" // those with a default are deprecated
			if f.HasDefault() && f.Cardinality() == protoreflect.Optional && !role && !m.Has(f) {
				m.Set(f, f.Default())
			}
		}
	})
	return c
}

func eachMessage(m protoreflect.Message, do func(protoreflect.Message)) {
	do(m)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				eachMessage(v.Message(), do)
				return true
			})
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				eachMessage(v.List().Get(i).Message(), do)
			}
		default:
			eachMessage(v.Message(), do)
		}
		return true
	})
}
