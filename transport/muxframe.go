package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The frames of a TCP session's first stream say what yamux has no words for.
const (
	frameReset = 1 // a stream was reset; answered by frameDone, unless by a reset of the same
	frameDone  = 2 // the sender is done with a stream; if the receiver opened it, its place is free
	frameClose = 3 // the session is over
)

// muxFrame is one of them: a type, the stream or the code as eight bytes, and
// for a close the reason with its length in two.
type muxFrame struct {
	kind   byte
	number uint64
	reason string
}

var errBadFrame = errors.New("bad session frame")

func (f muxFrame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, f.kind), f.number)
	if f.kind == frameClose {
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.reason)))
		b = append(b, f.reason...)
	}
	return b
}

func readMuxFrame(r io.Reader) (muxFrame, error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return muxFrame{}, err
	}
	f := muxFrame{kind: head[0], number: binary.BigEndian.Uint64(head[1:])}
	switch f.kind {
	case frameReset, frameDone:
		if f.number > 1<<32-1 {
			return muxFrame{}, fmt.Errorf("%w: stream %d", errBadFrame, f.number)
		}
		return f, nil
	case frameClose:
	default:
		return muxFrame{}, fmt.Errorf("%w: type %d", errBadFrame, f.kind)
	}
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return muxFrame{}, err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxReason {
		return muxFrame{}, fmt.Errorf("%w: reason of %d bytes", errBadFrame, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return muxFrame{}, err
	}
	f.reason = string(text)
	return f, nil
}

// shorten keeps a reason to what a closing message may hold.
func shorten(reason string) string {
	if len(reason) > maxReason {
		return strings.ToValidUTF8(reason[:maxReason], "")
	}
	return reason
}
