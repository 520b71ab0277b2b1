package mesosv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// decodeJSON reads one object of at most so many elements into m, which is
// empty. Keys that the schema does not have are passed over.
func decodeJSON(data []byte, m protoreflect.Message, elements int) error {
	if !utf8.Valid(data) {
		return errors.New("the text is not UTF-8")
	}
	d := &jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), left: elements}
	d.dec.UseNumber()
	first, err := d.token()
	if err != nil {
		return err
	}
	if err := d.message(m, first); err != nil {
		return err
	}
	if _, err := d.dec.Token(); err != io.EOF {
		return fmt.Errorf("something follows the object (at byte %d)", d.dec.InputOffset())
	}
	return nil
}

// jsonReader fills messages token by token: the document is never in memory as
// a tree, which would be many times as large.
type jsonReader struct {
	dec   *json.Decoder
	depth int
	left  int // elements that may still come
}

// token returns the next token: nil for null, json.Delim for brackets.
func (d *jsonReader) token() (json.Token, error) {
	t, err := d.dec.Token()
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, fmt.Errorf("the JSON ends too early (at byte %d)", d.dec.InputOffset())
	case err != nil:
		return nil, fmt.Errorf("not JSON: %w (at byte %d)", err, d.dec.InputOffset())
	}
	switch t {
	case json.Delim('{'), json.Delim('['):
		if d.depth++; d.depth > MaxDepth {
			return nil, errDepth
		}
	case json.Delim('}'), json.Delim(']'):
		d.depth--
	}
	return t, nil
}

func (d *jsonReader) element() error {
	if d.left--; d.left < 0 {
		return errElements
	}
	return nil
}

// message reads an object whose first token is given.
func (d *jsonReader) message(m protoreflect.Message, first json.Token) error {
	if first != json.Delim('{') {
		return wants("an object", first)
	}
	fields := m.Descriptor().Fields()
	for d.dec.More() {
		t, err := d.token()
		if err != nil {
			return err
		}
		name, _ := t.(string) // the decoder lets nothing else be a key
		f := fields.ByName(protoreflect.Name(name))
		if f == nil {
			err = d.skip()
		} else {
			err = within(name, d.field(m, f))
		}
		if err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

func (d *jsonReader) field(m protoreflect.Message, f protoreflect.FieldDescriptor) error {
	first, err := d.token()
	if err != nil || first == nil {
		return err // null is unset
	}
	if m.Has(f) {
		return errors.New("stands there twice")
	}
	if o := f.ContainingOneof(); o != nil {
		if other := m.WhichOneof(o); other != nil {
			return fmt.Errorf("excludes %s: choose one", other.Name())
		}
	}
	switch {
	case f.IsMap():
		return d.entries(f, m.Mutable(f).Map(), first)
	case f.IsList():
		return d.list(f, m.Mutable(f).List(), first)
	case f.Message() != nil:
		if err := d.element(); err != nil {
			return err
		}
		return d.message(m.Mutable(f).Message(), first)
	}
	v, ok, err := scalar(f, first)
	if ok {
		m.Set(f, v)
	}
	return err
}

func (d *jsonReader) list(f protoreflect.FieldDescriptor, l protoreflect.List, first json.Token) error {
	if first != json.Delim('[') {
		return wants("an array", first)
	}
	for i := 0; d.dec.More(); i++ {
		if err := d.item(f, l); err != nil {
			return within(index(i), err)
		}
	}
	_, err := d.token()
	return err
}

func (d *jsonReader) item(f protoreflect.FieldDescriptor, l protoreflect.List) error {
	first, err := d.token()
	if err != nil {
		return err
	}
	if err := d.element(); err != nil {
		return err
	}
	if f.Message() != nil {
		return d.message(l.AppendMutable().Message(), first)
	}
	v, ok, err := scalar(f, first)
	if ok {
		l.Append(v)
	}
	return err
}

func (d *jsonReader) entries(f protoreflect.FieldDescriptor, m protoreflect.Map, first json.Token) error {
	if first != json.Delim('{') {
		return wants("an object", first)
	}
	for d.dec.More() {
		t, err := d.token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if err := d.entry(f, m, protoreflect.ValueOfString(name).MapKey()); err != nil {
			return within(key(name), err)
		}
	}
	_, err := d.token()
	return err
}

func (d *jsonReader) entry(f protoreflect.FieldDescriptor, m protoreflect.Map, k protoreflect.MapKey) error {
	first, err := d.token()
	if err != nil || first == nil {
		return err
	}
	if m.Has(k) {
		return errors.New("stands there twice")
	}
	if err := d.element(); err != nil {
		return err
	}
	if f.MapValue().Message() != nil {
		return d.message(m.Mutable(k).Message(), first)
	}
	v, ok, err := scalar(f.MapValue(), first)
	if ok {
		m.Set(k, v)
	}
	return err
}

// skip passes over one value. What is of no use may not be much either.
func (d *jsonReader) skip() error {
	for level := d.depth; ; {
		if err := d.element(); err != nil {
			return err
		}
		if _, err := d.token(); err != nil {
			return err
		}
		if d.depth == level {
			return nil
		}
	}
}
