package mesosv1

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxMissing bounds how many missing fields an error lists.
const maxMissing = 8

// check demands every required field and UTF-8 in every string.
func check(m protoreflect.Message) error {
	var c checker
	if err := c.message(m); err != nil {
		return err
	}
	if len(c.missing) == 0 {
		return nil
	}
	text := "required and missing: " + strings.Join(c.missing, ", ")
	if len(c.missing) == maxMissing {
		text += " and maybe more"
	}
	return errors.New(text)
}

type checker struct{ missing []string }

// message walks by the order of the schema, so that errors have one, too.
func (c *checker) message(m protoreflect.Message) error {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			if f.Cardinality() == protoreflect.Required && len(c.missing) < maxMissing {
				c.missing = append(c.missing, string(f.Name()))
			}
			continue
		}
		start := len(c.missing)
		if err := c.field(f, m.Get(f)); err != nil || len(c.missing) > start {
			if err = c.inside(string(f.Name()), start, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) field(f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.IsMap():
		return c.entries(f, v.Map())
	case f.IsList():
		list := v.List()
		for i := range list.Len() {
			start := len(c.missing)
			if err := c.value(f, list.Get(i)); err != nil || len(c.missing) > start {
				if err = c.inside(index(i), start, err); err != nil {
					return err
				}
			}
		}
		return nil
	default:
		return c.value(f, v)
	}
}

func (c *checker) entries(f protoreflect.FieldDescriptor, m protoreflect.Map) error {
	for _, k := range sortedKeys(m) {
		start := len(c.missing)
		err := c.value(f.MapKey(), k.Value())
		if err == nil {
			err = c.value(f.MapValue(), m.Get(k))
		}
		if err = c.inside(key(k.String()), start, err); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) value(f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.Message() != nil:
		return c.message(v.Message())
	case f.Kind() == protoreflect.StringKind && !utf8.ValidString(v.String()):
		return errors.New("the text is not UTF-8")
	}
	return nil
}

// inside puts part before the paths of an error and of the fields that were
// found missing since start.
func (c *checker) inside(part string, start int, err error) error {
	for i := range c.missing[start:] {
		c.missing[start+i] = join(part, c.missing[start+i])
	}
	return within(part, err)
}

func sortedKeys(m protoreflect.Map) []protoreflect.MapKey {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// closeEnums does with the numbers of enums what proto2 demands and what the
// JSON mapping does with names: an unknown one is as good as unset, and an
// error where the field is required.
func closeEnums(m protoreflect.Message) error {
	var failed error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		failed = within(string(f.Name()), closeField(m, f, v))
		return failed == nil
	})
	return failed
}

func closeField(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.IsMap():
		return closeMap(f, v.Map())
	case f.IsList() && f.Message() != nil:
		for i := range v.List().Len() {
			if err := closeEnums(v.List().Get(i).Message()); err != nil {
				return within(index(i), err)
			}
		}
	case f.IsList() && f.Enum() != nil:
		list, n := v.List(), 0
		for i := range list.Len() {
			if e := list.Get(i); known(f, e) {
				list.Set(n, e)
				n++
			}
		}
		list.Truncate(n)
	case f.IsList():
	case f.Message() != nil:
		return closeEnums(v.Message())
	case f.Enum() != nil && !known(f, v):
		if f.Cardinality() == protoreflect.Required {
			return fmt.Errorf("%d is no %s", v.Enum(), f.Enum().Name())
		}
		m.Clear(f)
	}
	return nil
}

func closeMap(f protoreflect.FieldDescriptor, m protoreflect.Map) error {
	if f.MapValue().Message() == nil {
		return nil
	}
	var failed error
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		failed = within(key(k.String()), closeEnums(v.Message()))
		return failed == nil
	})
	return failed
}

func known(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	return f.Enum().Values().ByNumber(v.Enum()) != nil
}
