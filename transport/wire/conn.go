package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tenderfleet/tender/transport/wire/pb"
)

// Limits for NewConn: the longest frame without its length.
const (
	MaxControl = 1 << 20  // a control stream after Welcome, and logs
	MaxHello   = 64 << 10 // a control stream before Welcome
	MaxRenew   = 16 << 10
)

// MinBeat is the least length of a heartbeat's frame: QUIC answers a packet of
// 42 bytes or less with no stateless reset, and an agent that sent such ones
// would learn of a replica's restart only by its idle timeout.
const MinBeat = 64

// MinSignal is the least length of a Beat. QUIC's packet has 27 bytes of header
// and tag, 4 of the stream's header once a Hello was sent, 4 of the frame's
// length: with 8 more it is one byte longer than those that get no answer.
const MinSignal = 8

var (
	// ErrTooLarge refuses a frame over the limit of the Conn.
	ErrTooLarge = errors.New("frame is over the size limit")
	// ErrUnknownMessage is a frame of a newer peer. The frame is read to its
	// end; Recv may be called again.
	ErrUnknownMessage = errors.New("message of a kind this version does not know; the peer is newer")
)

const header = 4

// Conn carries messages over one stream. Send and Recv may be called at the
// same time, each by one or more goroutines. Deadlines and closing are the
// stream's. An idle Conn holds no buffer.
type Conn struct {
	rw io.ReadWriter

	limit atomic.Int64

	recv sync.Mutex
	head [header]byte // here and not in Recv, where it would escape
	fail error        // under recv: the stream is no longer at the start of a frame

	send   sync.Mutex
	broken error // under send: a frame was cut short
}

// NewConn makes a Conn that refuses frames longer than limit in both
// directions.
func NewConn(rw io.ReadWriter, limit int) *Conn {
	c := &Conn{rw: rw}
	c.SetLimit(limit)
	return c
}

// SetLimit changes the limit, once the peer is known.
func (c *Conn) SetLimit(limit int) { c.limit.Store(int64(limit)) }

// Send writes m with one Write. After an error of the stream the Conn cannot
// be written any more; after ErrInvalid or ErrTooLarge it can.
func (c *Conn) Send(m Message) error {
	buf := buffers.Get().(*[]byte)
	defer release(buf)
	frame, err := Append(append((*buf)[:0], make([]byte, header)...), m)
	if err != nil {
		return fmt.Errorf("wire: send %T: %w", m, err)
	}
	*buf = frame

	c.send.Lock()
	defer c.send.Unlock()
	if c.broken != nil {
		return fmt.Errorf("wire: send %T: %w", m, c.broken)
	}
	size := len(frame) - header
	if limit := c.limit.Load(); int64(size) > limit {
		return fmt.Errorf("wire: send %T: %w: %d bytes, the limit is %d", m, ErrTooLarge, size, limit)
	}
	binary.BigEndian.PutUint32(frame, uint32(size))
	if _, err := c.rw.Write(frame); err != nil {
		c.broken = err
		return fmt.Errorf("wire: send %T: %w", m, err)
	}
	return nil
}

// Recv reads one message. It returns io.EOF as it is when the peer ended
// between two frames, and io.ErrUnexpectedEOF within one. After
// ErrUnknownMessage and ErrInvalid the next call reads the next frame; every
// other error is final.
func (c *Conn) Recv() (Message, error) {
	c.recv.Lock()
	defer c.recv.Unlock()
	if c.fail != nil {
		return nil, c.fail
	}
	buf, err := c.frame()
	if err == io.EOF {
		c.fail = err
		return nil, err
	}
	if err != nil {
		c.fail = fmt.Errorf("wire: receive: %w", err)
		return nil, c.fail
	}
	defer release(buf)
	m, err := Parse(*buf)
	if err != nil {
		return nil, fmt.Errorf("wire: receive: %w", err)
	}
	return m, nil
}

// frame reads one frame into a pooled buffer, which the caller releases.
func (c *Conn) frame() (*[]byte, error) {
	if _, err := io.ReadFull(c.rw, c.head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(c.head[:]))
	if limit := c.limit.Load(); size > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, limit)
	}
	buf := buffers.Get().(*[]byte)
	if err := fill(c.rw, buf, int(size)); err != nil {
		release(buf)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf, nil
}

// fill reads size bytes into buf. It grows the buffer by what has arrived, so
// that a peer who announces much and sends little holds little.
func fill(r io.Reader, buf *[]byte, size int) error {
	b := (*buf)[:0]
	for len(b) < size {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := io.ReadFull(r, b[len(b):min(cap(b), size)])
		b = b[:len(b)+n]
		if err != nil {
			*buf = b
			return err
		}
	}
	*buf = b
	return nil
}

// Append serialises m without a length after b. It refuses what Parse would
// refuse.
func Append(b []byte, m Message) ([]byte, error) {
	e, err := toWire(m)
	if err != nil {
		return b, err
	}
	if err := check(m, false); err != nil {
		return b, err
	}
	start := len(b)
	b, err = proto.MarshalOptions{}.MarshalAppend(b, e)
	if err != nil {
		return b, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	least := 0
	switch m.(type) {
	case Readings:
		least = MinBeat
	case Beat:
		least = MinSignal - padHead
	}
	if short := least - (len(b) - start); short > 0 {
		b = protowire.AppendTag(b, padField, protowire.BytesType)
		b = protowire.AppendBytes(b, make([]byte, short))
	}
	return b, nil
}

// padHead is what an Envelope.pad costs besides its content.
const padHead = 3

// padField is the number of Envelope.pad. It is appended by hand: only after
// serialising is it known how much is missing.
const padField = 31

// Parse reads what Append wrote. The caller bounds the length of b.
func Parse(b []byte) (Message, error) {
	if err := envelope.scan(b); err != nil {
		return nil, err
	}
	e := &pb.Envelope{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	m, err := fromWire(e)
	if err != nil {
		return nil, err
	}
	if err := check(m, true); err != nil {
		return nil, err
	}
	return m, nil
}

// maxPooled keeps one large frame from staying in memory for ever.
const maxPooled = 64 << 10

// buffers is shared by all connections: an agent's stream is silent nearly
// always, and ten thousand of them need a handful of buffers.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

func release(b *[]byte) {
	if cap(*b) <= maxPooled {
		buffers.Put(b)
	}
}
