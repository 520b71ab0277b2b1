package registrar

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/tenderfleet/tender/controlplane/state"
)

// Log entries and snapshots carry the capability (package state) that a replica
// needs to read them: 1 is the format of the first version.

const (
	// maxElements bounds arrays and maps of a snapshot; the decoder's own limit
	// of 131072 is less than a big fleet's tasks.
	maxElements = 1 << 24
	// maxSnapshot is far above 100,000 tasks of 2 KiB.
	maxSnapshot = 1 << 30
	// maxNesting is above the deepest record: snapshot, state, map, record,
	// spec, map.
	maxNesting = 16
	// entrySlack is room for an entry's own framing.
	entrySlack = 64
)

// encMode sorts keys, so that equal states give equal bytes; decMode is strict:
// what it does not know, a newer version wrote.
var encMode, decMode = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.EncOptions{
		Sort:        cbor.SortCoreDeterministic,
		Time:        cbor.TimeRFC3339NanoUTC, // exact, and one spelling for one instant
		IndefLength: cbor.IndefLengthForbidden,
		TagsMd:      cbor.TagsForbidden,
	}.EncMode()
	if err != nil {
		panic("registrar: " + err.Error())
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   maxNesting,
		MaxArrayElements:  maxElements,
		MaxMapPairs:       maxElements,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		// A string of an agent may hold any bytes. They are kept as they are:
		// refusing them here would stop every replica.
		UTF8: cbor.UTF8DecodeInvalid,
	}.DecMode()
	if err != nil {
		panic("registrar: " + err.Error())
	}
	return enc, dec
}

// entry is a log entry's payload.
type entry[C any] struct {
	V        uint64 `cbor:"v"`
	Commands []C    `cbor:"commands"`
}

// encodeEntry packs commands that encodeCommand made and that need at most the
// capability v.
func encodeEntry(v uint64, commands []cbor.RawMessage) ([]byte, error) {
	return encMode.Marshal(entry[cbor.RawMessage]{V: v, Commands: commands})
}

// needs is the capability that a replica must have for all of the commands.
func needs(commands []state.Command) uint64 {
	n := uint64(1)
	for i := range commands {
		n = max(n, commands[i].Needs())
	}
	return n
}

// checkVersion refuses what only a newer version can read.
func checkVersion(v, known uint64) error {
	if v < 1 || v > known {
		return fmt.Errorf("format version %d, this version knows %d", v, known)
	}
	return nil
}

// decodeEntry reads a log entry of at most the capability known, and accepts
// nothing that it does not know.
func decodeEntry(data []byte, known uint64) ([]state.Command, error) {
	if len(data) > MaxBytes+entrySlack {
		return nil, fmt.Errorf("an entry of %d bytes, the limit is %d", len(data), MaxBytes)
	}
	var e entry[state.Command]
	if err := unmarshal(data, &e, known); err != nil {
		return nil, err
	}
	if err := checkVersion(e.V, known); err != nil {
		return nil, err
	}
	for i := range e.Commands {
		if _, _, err := kindOf(&e.Commands[i]); err != nil {
			return nil, fmt.Errorf("command %d: %w", i, err)
		}
	}
	return e.Commands, nil
}

// unmarshal decodes strictly; where that fails because of the version, the
// error says so rather than name the first strange field.
func unmarshal(data []byte, into any, known uint64) error {
	err := decMode.Unmarshal(data, into)
	if err == nil {
		return nil
	}
	var head struct {
		V uint64 `cbor:"v"`
	}
	if cbor.Unmarshal(data, &head) == nil {
		if v := checkVersion(head.V, known); v != nil {
			return fmt.Errorf("%w: %w", v, err)
		}
	}
	return err
}

// encodeCommand writes a command as {"Time": t, KIND: {...}}, with "By" where
// somebody asked for it: the kinds that are not set would be most of its size.
//
// The command is read back before it is accepted: one that is committed and
// cannot be read stops every replica, at every start.
func encodeCommand(c state.Command) (cbor.RawMessage, error) {
	name, payload, err := kindOf(&c)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	parts := []any{"Time", c.Time, name, payload}
	if c.By != "" {
		parts = append(parts, "By", c.By)
	}
	buf.WriteByte(0xa0 + byte(len(parts)/2)) // a map of so many
	for _, part := range parts {
		b, err := encMode.Marshal(part)
		if err != nil {
			return nil, err
		}
		buf.Write(b)
	}
	var back state.Command
	if err := decMode.Unmarshal(buf.Bytes(), &back); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// kindOf returns the name and value of the one kind that is set.
func kindOf(c *state.Command) (string, any, error) {
	v := reflect.ValueOf(c).Elem()
	found := -1
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			if found >= 0 {
				return "", nil, fmt.Errorf("a command of two kinds, %s and %s", v.Type().Field(found).Name, v.Type().Field(i).Name)
			}
			found = i
		}
	}
	if found < 0 {
		return "", nil, errors.New("a command of no kind")
	}
	return v.Type().Field(found).Name, v.Field(found).Interface(), nil
}

type snapshot struct {
	V     uint64       `cbor:"v"`
	State *state.State `cbor:"state"`
}

// stored is a state as a snapshot may hold it.
type stored struct {
	state.State
	// Operators were those with a certificate before they became principals.
	Operators map[string]struct {
		ID           string
		CertNotAfter time.Time
	}
}

// fold makes principals of the operators of an older snapshot.
func (s *stored) fold() *state.State {
	s.Normalize()
	for _, id := range state.SortedKeys(s.Operators) {
		if s.Principals[id] == nil {
			s.Principals[id] = &state.Principal{ID: id, Kind: state.KindOperator, AllRoles: true, CertNotAfter: s.Operators[id].CertNotAfter}
		}
	}
	return &s.State
}

// EncodeState writes a state as snapshots hold it. Equal states give equal
// bytes.
func EncodeState(s *state.State) ([]byte, error) {
	return encMode.Marshal(snapshot{V: max(s.Format, 1), State: s})
}

// DecodeState is the inverse of EncodeState.
func DecodeState(data []byte) (*state.State, error) { return decodeState(data, state.Capability) }

func decodeState(data []byte, known uint64) (*state.State, error) {
	var snap struct {
		V     uint64  `cbor:"v"`
		State *stored `cbor:"state"`
	}
	if err := unmarshal(data, &snap, known); err != nil {
		return nil, err
	}
	if err := checkVersion(snap.V, known); err != nil {
		return nil, err
	}
	if snap.State == nil {
		return nil, errors.New("a snapshot without a state")
	}
	if err := noNilRecords(&snap.State.State); err != nil {
		return nil, err
	}
	return snap.State.fold(), nil
}

// noNilRecords refuses maps that hold null where a record belongs: Apply
// follows the pointers that it finds.
func noNilRecords(s *state.State) error {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		m := v.Field(i)
		if m.Kind() != reflect.Map || m.Type().Elem().Kind() != reflect.Pointer {
			continue
		}
		for it := m.MapRange(); it.Next(); {
			if it.Value().IsNil() {
				return fmt.Errorf("%s[%q] is null", v.Type().Field(i).Name, it.Key().String())
			}
		}
	}
	return nil
}

// Hash returns the SHA-256 of a state's encoding: replicas that applied the
// same entries have the same hash.
func Hash(s *state.State) [sha256.Size]byte {
	data, err := EncodeState(s)
	if err != nil {
		panic("registrar: a state that cannot be encoded: " + err.Error())
	}
	return sha256.Sum256(data)
}

func readSnapshot(r io.Reader, known uint64) (*state.State, error) {
	began := time.Now()
	data, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return nil, fmt.Errorf("reading the snapshot after %v: %w", time.Since(began).Round(time.Second), err)
	}
	if len(data) > maxSnapshot {
		return nil, fmt.Errorf("a snapshot of more than %d bytes", maxSnapshot)
	}
	s, err := decodeState(data, known)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w (a newer version of tenderd wrote it, or it is damaged: upgrade this replica, or remove its data directory and let it join again)", err)
	}
	return s, nil
}
