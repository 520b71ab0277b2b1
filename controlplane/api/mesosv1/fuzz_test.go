package mesosv1

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

// FuzzCall reads arbitrary bodies: nothing panics, a refusal can be sent, and
// what is accepted can be sent on in both encodings and means the same.
func FuzzCall(f *testing.F) {
	for _, body := range valid {
		c, err := DecodeCall(JSON.ContentType(), []byte(body))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, []byte(body))
		f.Add(false, encode(f, Protobuf, c))
	}
	for _, m := range examples(&pb.Call{}, 8, maker{}) {
		f.Add(true, encode(f, JSON, m))
		f.Add(false, encode(f, Protobuf, m))
	}
	f.Fuzz(func(t *testing.T, isJSON bool, body []byte) {
		e := Protobuf
		if isJSON {
			e = JSON
		}
		c, err := DecodeCall(e.ContentType(), body)
		if err != nil {
			var r *Refusal
			if !errors.As(err, &r) || http.StatusText(r.Status) == "" || r.Text == "" {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		same(t, c, decode(t, Protobuf, encode(t, Protobuf, c), c))
		if e == JSON || !hasNaN(c) {
			same(t, withDefaults(c), decode(t, JSON, encode(t, JSON, c), c))
		}
	})
}

func hasNaN(m proto.Message) bool {
	found := false
	eachMessage(m.ProtoReflect(), func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			found = found || f.Kind() == protoreflect.DoubleKind && math.IsNaN(v.Float())
			return true
		})
	})
	return found
}

// FuzzRecordIO reads arbitrary bytes as a stream: it ends, no record is over the
// limit, an error stays, and the records written again are read as the same.
func FuzzRecordIO(f *testing.F) {
	f.Add([]byte("5\nhello0\n2\nok"))
	f.Add([]byte("100\n" + strings.Repeat("x", 100)))
	f.Add([]byte("007\nsixteen18446744073709551615\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		records, err := readAll(t, stream)
		if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrBadRecord) {
			t.Fatalf("an error of no kind: %v", err)
		}
		var again bytes.Buffer
		w := NewRecordWriter(&again)
		for _, r := range records {
			if err := w.WriteRecord(r); err != nil {
				t.Fatal(err)
			}
		}
		if again.Len() > len(stream) {
			t.Fatalf("%d bytes hold what takes %d", len(stream), again.Len())
		}
		if twice, err := readAll(t, again.Bytes()); err != io.EOF || !slices.EqualFunc(records, twice, bytes.Equal) {
			t.Fatalf("%q is read the second time as %q: %v", records, twice, err)
		}
	})
}

func readAll(t *testing.T, stream []byte) (records [][]byte, end error) {
	t.Helper()
	const limit = 100
	r := NewRecordReader(bytes.NewReader(stream), limit)
	for range len(stream) + 1 {
		record, err := r.ReadRecord()
		if err != nil {
			if _, then := r.ReadRecord(); then != err {
				t.Fatalf("%v, then %v", err, then)
			}
			return records, err
		}
		if len(record) > limit {
			t.Fatalf("a record of %d bytes", len(record))
		}
		records = append(records, bytes.Clone(record))
	}
	t.Fatal("the stream does not end")
	return nil, nil
}
