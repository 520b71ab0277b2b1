package mesosv1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// ErrBadRecord is the end of a stream whose next length is not one, or is over
// the reader's limit: where the next record begins cannot be known.
var ErrBadRecord = errors.New("bad record length")

// maxDigits is how long the length of a record may be written: that of the
// largest unsigned 64-bit number.
const maxDigits = 20

// RecordWriter writes a stream of events in RecordIO: each record is its length
// in decimal digits, a line feed and its bytes. One goroutine may use it.
// Deadlines and closing are the stream's.
type RecordWriter struct {
	w     io.Writer
	flush func() error
	buf   []byte
	err   error
}

// NewRecordWriter makes a RecordWriter that flushes w after each record, if w
// is an http.ResponseWriter or has a method Flush.
func NewRecordWriter(w io.Writer) *RecordWriter {
	rw := &RecordWriter{w: w, flush: func() error { return nil }}
	switch f := w.(type) {
	case http.ResponseWriter:
		rw.flush = http.NewResponseController(f).Flush
	case interface{ Flush() error }:
		rw.flush = f.Flush
	case interface{ Flush() }:
		rw.flush = func() error { f.Flush(); return nil }
	}
	return rw
}

// WriteRecord writes one record, which may be empty, and returns when it is
// flushed. It keeps no reference to it. After an error the stream may end
// within a record: every later call returns the same error.
func (w *RecordWriter) WriteRecord(record []byte) error {
	if w.err == nil {
		w.err = w.write(record)
	}
	return w.err
}

// maxKept bounds the memory that is kept for the next record.
const maxKept = 64 << 10

// write makes one Write of each record: over HTTP that is one chunk, and there
// are clients that take a chunk for an event.
func (w *RecordWriter) write(record []byte) error {
	w.buf = append(strconv.AppendInt(w.buf[:0], int64(len(record)), 10), '\n')
	w.buf = append(w.buf, record...)
	_, err := w.w.Write(w.buf)
	if cap(w.buf) > maxKept {
		w.buf = nil
	}
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return fmt.Errorf("mesosv1: write record: %w", err)
	}
	return nil
}

// RecordReader reads a stream in RecordIO. One goroutine may use it. Deadlines
// and closing are the stream's.
type RecordReader struct {
	r     *bufio.Reader
	limit int
	buf   bytes.Buffer
	err   error
}

// NewRecordReader makes a RecordReader that refuses records of more than limit
// bytes.
func NewRecordReader(r io.Reader, limit int) *RecordReader {
	return &RecordReader{r: bufio.NewReader(r), limit: limit}
}

// ReadRecord returns the next record; it is valid until the next call. It
// returns io.EOF as it is when the stream ended between two records, and
// io.ErrUnexpectedEOF or ErrBadRecord wrapped. Every error is final.
func (r *RecordReader) ReadRecord() ([]byte, error) {
	if r.err == nil {
		if err := r.read(); err == io.EOF {
			r.err = err
		} else if err != nil {
			r.err = fmt.Errorf("mesosv1: read record: %w", err)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.buf.Bytes(), nil
}

// read fills the buffer, which grows by what arrives: a peer that announces
// much and sends little holds little.
func (r *RecordReader) read() error {
	size, err := r.length()
	if err != nil {
		return err
	}
	r.buf.Reset()
	_, err = io.CopyN(&r.buf, r.r, int64(size))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r *RecordReader) length() (int, error) {
	size := 0
	for digits := 0; ; digits++ {
		c, err := r.r.ReadByte()
		switch {
		case err == io.EOF && digits > 0:
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case c == '\n' && digits > 0:
			return size, nil
		case c < '0' || c > '9':
			return 0, fmt.Errorf("%w: %q is not a digit", ErrBadRecord, c)
		case digits == maxDigits:
			return 0, fmt.Errorf("%w: more than %d digits", ErrBadRecord, maxDigits)
		}
		// Once over the limit, no further digit makes it less.
		d := int(c - '0')
		if d > r.limit || size > (r.limit-d)/10 {
			return 0, fmt.Errorf("%w: it is over the limit of %d", ErrBadRecord, r.limit)
		}
		size = size*10 + d
	}
}
