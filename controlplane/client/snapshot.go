package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"time"
)

// SnapshotFormat is the version of the snapshot file's frame.
const SnapshotFormat = 1

// A snapshot file is the magic, the length of the header (4 bytes, big endian),
// the header (JSON), the state (Size bytes), and the SHA-256 of all before it.
const (
	snapshotMagic = "TENDER-SNAPSHOT\n"
	maxHeader     = 1 << 20
	// MaxSnapshot bounds the state in a file.
	MaxSnapshot = 1 << 30
)

// SnapshotHeader says what a snapshot file holds.
type SnapshotHeader struct {
	Format      int    `json:"format"`
	TrustDomain string `json:"trust_domain"`
	// Capability is what a tenderd must have to restore it, Version which one
	// wrote it.
	Capability uint64 `json:"capability"`
	Version    string `json:"version,omitempty"`
	// Epoch, Term and Index say up to where the state goes.
	Epoch   uint64          `json:"epoch,omitempty"`
	Term    uint64          `json:"term"`
	Index   uint64          `json:"index"`
	Time    time.Time       `json:"time"`
	Size    int64           `json:"size"`
	Summary SnapshotSummary `json:"summary"`
}

// SnapshotSummary counts what a state holds.
type SnapshotSummary struct {
	Replicas   int            `json:"replicas"`
	Agents     int            `json:"agents"`
	Tasks      map[string]int `json:"tasks"` // by state
	Roles      int            `json:"roles"`
	Frameworks int            `json:"frameworks"`
	Principals int            `json:"principals"`
	Tokens     int            `json:"tokens"`
	Revoked    int            `json:"revoked"`
	Audit      int            `json:"audit_entries"`
}

// ErrSnapshot marks a file that is no snapshot, not a whole one, or not what
// was written.
var ErrSnapshot = errors.New("not a usable snapshot")

// WriteSnapshot writes a snapshot file; h.Size is that of body.
func WriteSnapshot(w io.Writer, h SnapshotHeader, body []byte) error {
	head, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	frame := binary.BigEndian.AppendUint32([]byte(snapshotMagic), uint32(len(head))) //nolint:gosec // a few hundred bytes
	for _, part := range [][]byte{frame, head, body} {
		if _, err := out.Write(part); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// CheckSnapshot reads a snapshot file to its end and says what it holds. The
// error is ErrSnapshot with the reason, or the reader's. body, when not nil,
// gets the state; nothing of it may be used before CheckSnapshot has returned.
func CheckSnapshot(r io.Reader, body io.Writer) (SnapshotHeader, error) {
	sum := sha256.New()
	in := io.TeeReader(r, sum)
	h, err := readHeader(in)
	if err != nil {
		return SnapshotHeader{}, err
	}
	if body == nil {
		body = io.Discard
	}
	n, err := io.CopyN(body, in, h.Size)
	if err != nil {
		return h, short(err, fmt.Sprintf("it ends after %d of %d bytes of the state", n, h.Size))
	}
	return h, checkSum(r, sum)
}

func readHeader(in io.Reader) (SnapshotHeader, error) {
	var h SnapshotHeader
	frame := make([]byte, len(snapshotMagic)+4)
	if _, err := io.ReadFull(in, frame); err != nil {
		return h, short(err, "it is too short")
	}
	if string(frame[:len(snapshotMagic)]) != snapshotMagic {
		return h, fmt.Errorf("%w: it does not begin as one; make one with: tender snapshot save FILE", ErrSnapshot)
	}
	n := binary.BigEndian.Uint32(frame[len(snapshotMagic):])
	if n > maxHeader {
		return h, fmt.Errorf("%w: a header of %d bytes", ErrSnapshot, n)
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(in, head); err != nil {
		return h, short(err, "it ends within its header")
	}
	if err := json.Unmarshal(head, &h); err != nil {
		return h, fmt.Errorf("%w: its header: %w", ErrSnapshot, err)
	}
	switch {
	case h.Format > SnapshotFormat:
		return h, fmt.Errorf("%w: its format is %d, this version knows %d; use the version that wrote it (%.40s)", ErrSnapshot, h.Format, SnapshotFormat, h.Version)
	case h.Format < 1 || h.Size < 0 || h.Size > MaxSnapshot:
		return h, fmt.Errorf("%w: its header makes no sense", ErrSnapshot)
	}
	return h, nil
}

func checkSum(r io.Reader, sum hash.Hash) error {
	var want [sha256.Size]byte
	if _, err := io.ReadFull(r, want[:]); err != nil {
		return short(err, "its checksum is missing")
	}
	if !bytes.Equal(want[:], sum.Sum(nil)) {
		return fmt.Errorf("%w: its checksum does not hold: the file is damaged", ErrSnapshot)
	}
	if n, _ := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return fmt.Errorf("%w: there is more after its end", ErrSnapshot)
	}
	return nil
}

func short(err error, text string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s", ErrSnapshot, text)
	}
	return fmt.Errorf("read snapshot: %w", err)
}

// SaveSnapshot writes a snapshot of the state to w and checks it on the way. It
// may write more than once when a replica fails: begin hands out where to.
func (c *Client) SaveSnapshot(ctx context.Context, begin func() (io.Writer, error)) (h SnapshotHeader, err error) {
	r := get("/v1/snapshot", nil)
	err = c.send(ctx, r, func(body io.Reader) error {
		w, err := begin()
		if err != nil {
			return err
		}
		if h, err = CheckSnapshot(io.TeeReader(body, w), nil); err != nil {
			return &StreamError{err}
		}
		return nil
	})
	return h, err
}

// Restored says what a restore has made.
type Restored struct {
	Epoch uint64 `json:"epoch"`
	// Unsettled are the agents that get no work until they are settled.
	Unsettled int `json:"unsettled_agents"`
	// Lost are tasks that waited and will not run.
	Lost int `json:"lost_tasks"`
}

// restoreTime bounds the sending and the following of a restored snapshot.
const restoreTime = 10 * time.Minute

// RestoreSnapshot replaces the state of the control plane by that of a snapshot
// file.
func (c *Client) RestoreSnapshot(ctx context.Context, file []byte) (out Restored, err error) {
	r := request{method: http.MethodPost, path: "/v1/snapshot", body: file, limit: restoreTime, binary: true}
	err = c.send(ctx, r, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&out)
	})
	return out, err
}
