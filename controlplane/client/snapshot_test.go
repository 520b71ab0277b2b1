package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"
)

func snapshotFile(t testing.TB, body string) []byte {
	var file bytes.Buffer
	h := SnapshotHeader{Format: SnapshotFormat, TrustDomain: "fleet.example", Capability: 1, Term: 3, Index: 7, Time: time.Unix(1_800_000_000, 0).UTC(), Size: int64(len(body))}
	if err := WriteSnapshot(&file, h, []byte(body)); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestSnapshotFile(t *testing.T) {
	file := snapshotFile(t, "the state")
	var body bytes.Buffer
	h, err := CheckSnapshot(bytes.NewReader(file), &body)
	if err != nil || body.String() != "the state" || h.TrustDomain != "fleet.example" || h.Index != 7 {
		t.Fatalf("read %+v, %q, %v", h, body.String(), err)
	}
	// Whichever byte is wrong or missing.
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= 0x20
		if _, err := CheckSnapshot(bytes.NewReader(bad), nil); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("byte %d (%q) may be wrong: %v", i, file[i], err)
		}
		if _, err := CheckSnapshot(bytes.NewReader(file[:i]), nil); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("it may end after %d bytes: %v", i, err)
		}
	}
	if _, err := CheckSnapshot(bytes.NewReader(append(bytes.Clone(file), 'x')), nil); !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "more after its end") {
		t.Errorf("with more behind it: %v", err)
	}
	var newer bytes.Buffer
	if err := WriteSnapshot(&newer, SnapshotHeader{Format: SnapshotFormat + 1, Version: "v9"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckSnapshot(&newer, nil); !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "v9") {
		t.Errorf("of a newer version: %v", err)
	}
	huge := binary.BigEndian.AppendUint32([]byte(snapshotMagic), maxHeader+1)
	if _, err := CheckSnapshot(bytes.NewReader(huge), nil); !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "a header of") {
		t.Errorf("a huge header: %v", err)
	}
}

// FuzzCheckSnapshot: whatever the bytes are, reading ends with a header and the
// state that it announces, or an error.
func FuzzCheckSnapshot(f *testing.F) {
	f.Add(snapshotFile(f, "the state"))
	f.Add(snapshotFile(f, ""))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		var body bytes.Buffer
		h, err := CheckSnapshot(bytes.NewReader(data), &body)
		if err == nil && int64(body.Len()) != h.Size {
			t.Fatalf("%d bytes of %d", body.Len(), h.Size)
		}
	})
}
