package mesosv1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func TestRecords(t *testing.T) {
	var stream bytes.Buffer
	w := NewRecordWriter(&stream)
	records := []string{"hello", "", "12\n34", strings.Repeat("x", 1000)}
	for _, r := range records {
		if err := w.WriteRecord([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "5\nhello0\n5\n12\n341000\n" + records[3]; stream.String() != want {
		t.Errorf("the stream is %.40q", stream.String())
	}
	// Where chunks begin and end means nothing.
	r := NewRecordReader(iotest.OneByteReader(&stream), 1000)
	for _, want := range records {
		if got, err := r.ReadRecord(); err != nil || string(got) != want {
			t.Errorf("got %.40q and %v, want %.40q", got, err, want)
		}
	}
	for range 2 {
		if _, err := r.ReadRecord(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestRecordReaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         error
		text         string
	}{
		{"no digit", "x\n", ErrBadRecord, `'x' is not a digit`},
		{"a sign", "-1\n", ErrBadRecord, `'-' is not a digit`},
		{"the other sign", "+1\nx", ErrBadRecord, `'+' is not a digit`},
		{"space", " 1\nx", ErrBadRecord, `' ' is not a digit`},
		{"a carriage return", "1\r\nx", ErrBadRecord, `'\r' is not a digit`},
		{"no length", "\nx", ErrBadRecord, `'\n' is not a digit`},
		{"over the limit", "11\nhello hello", ErrBadRecord, "over the limit of 10"},
		{"far over the limit", "18446744073709551616\n", ErrBadRecord, "over the limit of 10"},
		{"too many digits", strings.Repeat("0", 21), ErrBadRecord, "more than 20 digits"},
		{"an end within the length", "1", io.ErrUnexpectedEOF, ""},
		{"an end before the record", "5\n", io.ErrUnexpectedEOF, ""},
		{"an end within the record", "5\nhell", io.ErrUnexpectedEOF, ""},
		{"nothing", "", io.EOF, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream := "2\nok" + c.stream
			if c.want == ErrBadRecord {
				stream += "2\nok" // never reached
			}
			r := NewRecordReader(strings.NewReader(stream), 10)
			if got, err := r.ReadRecord(); err != nil || string(got) != "ok" {
				t.Fatalf("the record before: %q, %v", got, err)
			}
			_, first := r.ReadRecord()
			if !errors.Is(first, c.want) || !strings.Contains(first.Error(), c.text) {
				t.Errorf("got %v, want %v: %s", first, c.want, c.text)
			}
			if _, second := r.ReadRecord(); second != first {
				t.Errorf("then %v", second)
			}
		})
	}
}

func TestRecordReaderLimit(t *testing.T) {
	for _, c := range []struct {
		limit  int
		stream string
		ok     bool
	}{
		{0, "0\n", true},
		{0, "1\nx", false},
		{5, "7\nsixteen", false},
		{5, "5\nhello", true},
		{5, "005\nhello", true},
		{5, "6\nhello!", false},
		{10, "10\nhellohello", true},
		{1<<63 - 1, "9223372036854775808\n", false},
	} {
		_, err := NewRecordReader(strings.NewReader(c.stream), c.limit).ReadRecord()
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrBadRecord) {
			t.Errorf("%q with the limit %d: %v", c.stream, c.limit, err)
		}
	}
}

// A peer that announces much and sends little holds little.
func TestRecordReaderGrowsByWhatArrives(t *testing.T) {
	r := NewRecordReader(strings.NewReader("1000000000\nlittle"), 1<<30)
	if _, err := r.ReadRecord(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if c := r.buf.Cap(); c > 64<<10 {
		t.Errorf("six bytes are held in %d", c)
	}
}

// failing counts what is written and fails after so much.
type failing struct{ after, writes int }

func (w *failing) Write(b []byte) (int, error) {
	if w.writes++; w.writes > w.after {
		return 0, errors.New("the line is cut")
	}
	return len(b), nil
}

func TestRecordWriterFailsForGood(t *testing.T) {
	for after := range 2 {
		line := &failing{after: after}
		w := NewRecordWriter(line)
		for range after {
			if err := w.WriteRecord([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		first := w.WriteRecord([]byte("x"))
		if first == nil || !strings.Contains(first.Error(), "the line is cut") {
			t.Fatalf("after %d writes: %v", after, first)
		}
		line.after = 99
		if second := w.WriteRecord([]byte("x")); second != first {
			t.Errorf("then: %v", second)
		}
	}
}

// There are clients that take what comes in one piece for an event.
func TestRecordWriterWritesARecordAtOnce(t *testing.T) {
	line := &failing{after: 99}
	w := NewRecordWriter(line)
	for i, record := range []string{"", "x", strings.Repeat("x", 2*maxKept), "x"} {
		if err := w.WriteRecord([]byte(record)); err != nil || line.writes != i+1 {
			t.Errorf("after record %d there were %d writes (%v)", i, line.writes, err)
		}
	}
	if cap(w.buf) > maxKept {
		t.Errorf("%d bytes are kept for the next record", cap(w.buf))
	}
}

// quiet is a response that cannot be flushed.
type quiet struct{ http.ResponseWriter }

func TestRecordWriterFlushes(t *testing.T) {
	var out bytes.Buffer
	if err := NewRecordWriter(bufio.NewWriter(&out)).WriteRecord([]byte("x")); err != nil || out.String() != "1\nx" {
		t.Errorf("a bufio.Writer has passed on %q: %v", out.String(), err)
	}
	rec := httptest.NewRecorder()
	if err := NewRecordWriter(rec).WriteRecord(nil); err != nil || !rec.Flushed {
		t.Errorf("a response was flushed: %t, %v", rec.Flushed, err)
	}
	if err := NewRecordWriter(quiet{rec}).WriteRecord(nil); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("a response that cannot be flushed: %v", err)
	}
	flushed := &flusher{}
	if err := NewRecordWriter(flushed).WriteRecord(nil); err != nil || flushed.times != 1 {
		t.Errorf("flushed %d times: %v", flushed.times, err)
	}
}

type flusher struct {
	bytes.Buffer
	times int
}

func (f *flusher) Flush() { f.times++ }

// A scheduler has each event while the response goes on.
func TestRecordsOverHTTP(t *testing.T) {
	next := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rw := NewRecordWriter(w)
		for r := range next {
			if err := rw.WriteRecord([]byte(r)); err != nil {
				t.Error(err)
			}
		}
	}))
	defer s.Close()
	done := sync.OnceFunc(func() { close(next) })
	defer done()
	next <- "first" // the response begins with it
	c := &http.Client{Timeout: 10 * time.Second}
	resp, err := c.Post(s.URL, "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := NewRecordReader(resp.Body, 100)
	for _, want := range []string{"first", "second", "third"} {
		if got, err := r.ReadRecord(); err != nil || string(got) != want {
			t.Fatalf("got %q and %v, want %q", got, err, want)
		}
		switch want {
		case "first":
			next <- "second"
		case "second":
			next <- "third"
		default:
			done()
		}
	}
	if _, err := r.ReadRecord(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}
