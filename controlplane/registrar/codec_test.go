package registrar

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/tenderfleet/tender/controlplane/state"
)

// filler sets every exported field it can reach: always one that differs from
// the zero value where full is set, else empty and missing ones too.
type filler struct {
	rng  *rand.Rand
	full bool
	// parts is how deep the value is in parts of resources.
	parts int
}

// nested: parts have no parts of their own, though the type would allow it.
func nested(field string, parts int) bool { return field == "Parts" && parts > 0 }

func (f *filler) fillField(name string, v reflect.Value) {
	if name == "Parts" {
		f.parts++
		defer func() { f.parts-- }()
	}
	f.fill(v)
}

func (f *filler) fill(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(f.rng.Int64N(1<<34)-1<<32, f.rng.Int64N(1e9)).UTC()))
		return
	}
	if !f.full && f.rng.IntN(8) == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if !nested(v.Type().Field(i).Name, f.parts) {
				f.fillField(v.Type().Field(i).Name, v.Field(i))
			}
			// A list that is left out when empty comes back as none.
			if field := v.Field(i); field.Kind() == reflect.Slice && field.Len() == 0 && strings.Contains(v.Type().Field(i).Tag.Get("cbor"), "omitempty") {
				field.SetZero()
			}
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range f.count() {
			key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(key)
			f.fill(val)
			if val.Kind() == reflect.Pointer && val.IsNil() {
				continue // a record is never nil
			}
			v.SetMapIndex(key, val)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), f.count(), 4))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d\xff", f.rng.Uint32()))
	case reflect.Bool:
		v.SetBool(f.full || f.rng.IntN(2) == 0)
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Int8, reflect.Int16:
		v.SetInt(1 + f.rng.Int64N(1<<min(62, v.Type().Bits()-2)))
		if f.rng.IntN(2) == 0 {
			v.SetInt(-v.Int())
		}
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint8, reflect.Uint16:
		v.SetUint(1 + f.rng.Uint64N(1<<(v.Type().Bits()-1)))
	default:
		panic("no rule for " + v.Type().String())
	}
}

func (f *filler) count() int {
	if f.full {
		return 2
	}
	return f.rng.IntN(4)
}

// filled says which exported field of v is zero, or "".
func zeroField(v reflect.Value, at string) string {
	if v.IsZero() {
		return at
	}
	if _, isTime := v.Interface().(time.Time); isTime {
		return ""
	}
	switch v.Kind() {
	case reflect.Pointer:
		return zeroField(v.Elem(), at)
	case reflect.Struct:
		for i := range v.NumField() {
			if nested(v.Type().Field(i).Name, strings.Count(at, ".Parts")) {
				continue
			}
			if z := zeroField(v.Field(i), at+"."+v.Type().Field(i).Name); z != "" {
				return z
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if z := zeroField(it.Value(), at+"[]"); z != "" {
				return z
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if z := zeroField(v.Index(i), at+"[]"); z != "" {
				return z
			}
		}
	}
	return ""
}

// commands returns one of every kind.
func commands(f *filler) []state.Command {
	var out []state.Command
	kinds := reflect.TypeFor[state.Command]()
	for i := range kinds.NumField() {
		if kinds.Field(i).Type.Kind() != reflect.Pointer {
			continue
		}
		var c state.Command
		v := reflect.ValueOf(&c).Elem()
		f.fill(v.FieldByName("Time"))
		f.fill(v.FieldByName("By"))
		v.Field(i).Set(reflect.New(v.Field(i).Type().Elem()))
		f.fill(v.Field(i).Elem())
		out = append(out, c)
	}
	return out
}

func TestEveryFieldOfACommandSurvives(t *testing.T) {
	for seed := range uint64(200) {
		f := &filler{rng: rand.New(rand.NewPCG(seed, 1)), full: seed < 20}
		want := commands(f)
		raws, err := encodeCommands(want)
		if err != nil {
			t.Fatal(err)
		}
		data, err := encodeEntry(state.Capability, raws)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeEntry(data, state.Capability)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			for i := range want {
				if !reflect.DeepEqual(got[i], want[i]) {
					t.Fatalf("seed %d:\n got %+v\nwant %+v", seed, got[i], want[i])
				}
			}
		}
		if f.full {
			for _, c := range got {
				name, payload, _ := kindOf(&c)
				if z := zeroField(reflect.ValueOf(payload), name); z != "" || c.Time.IsZero() {
					t.Fatalf("the test does not fill %s", z)
				}
			}
		}
	}
}

func TestEveryFieldOfTheStateSurvives(t *testing.T) {
	for seed := range uint64(200) {
		f := &filler{rng: rand.New(rand.NewPCG(seed, 2)), full: seed < 20}
		var want state.State
		f.fill(reflect.ValueOf(&want).Elem())
		if z := zeroField(reflect.ValueOf(want), "State"); f.full && z != "" {
			t.Fatalf("the test does not fill %s", z)
		}
		want.Normalize()
		want.Format = state.Capability
		data, err := EncodeState(&want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeState(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, &want) {
			t.Fatalf("seed %d:\n got %+v\nwant %+v", seed, got, &want)
		}
		if again, _ := EncodeState(got); !bytes.Equal(again, data) || Hash(got) != Hash(&want) {
			t.Fatalf("seed %d: equal states, other bytes", seed)
		}
	}
}

// A snapshot from before there were principals names its operators elsewhere.
func TestOperatorsBecomePrincipals(t *testing.T) {
	end := time.Unix(1_800_000_000, 0).UTC()
	data, err := encMode.Marshal(map[string]any{"v": 1, "state": map[string]any{
		"TrustDomain": "fleet.example",
		"Operators":   map[string]any{"ann": map[string]any{"ID": "ann", "CertNotAfter": end}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeState(data)
	if err != nil {
		t.Fatal(err)
	}
	want := &state.Principal{ID: "ann", Kind: state.KindOperator, AllRoles: true, CertNotAfter: end}
	if p := got.Principals["ann"]; !reflect.DeepEqual(p, want) || got.TrustDomain != "fleet.example" {
		t.Errorf("got %+v", p)
	}
}

// Most commands are the leader's own, and they are what the log is full of.
func TestNobodyCostsNothing(t *testing.T) {
	c := state.Command{Kill: &state.Kill{ID: "t"}}
	own, err := encodeCommand(c)
	if err != nil {
		t.Fatal(err)
	}
	c.By = "operator/alice"
	asked, err := encodeCommand(c)
	if err != nil || len(asked)-len(own) != len("By")+1+len(c.By)+1 || bytes.Contains(own, []byte("By")) {
		t.Errorf("%d bytes without, %d with, %v", len(own), len(asked), err)
	}
}

func TestZeroTimesStayZero(t *testing.T) {
	raw, err := encodeCommand(state.Command{SetRole: &state.SetRole{}})
	if err != nil {
		t.Fatal(err)
	}
	data, _ := encodeEntry(1, []cbor.RawMessage{raw})
	got, err := decodeEntry(data, state.Capability)
	if err != nil || !got[0].Time.IsZero() {
		t.Errorf("%v, %v", got, err)
	}
}

func TestNewerEntriesAreAHardStop(t *testing.T) {
	role := map[string]any{"Role": "a", "Weight": 1}
	entry := func(v int, cmd any) any { return map[string]any{"v": v, "commands": []any{cmd}} }
	const newer = state.Capability + 1
	tooNew := fmt.Sprintf("format version %d, this version knows %d", newer, state.Capability)
	for name, tc := range map[string]struct {
		entry any
		want  string
	}{
		"version":       {entry(newer, map[string]any{"SetRole": role}), tooNew},
		"version, kind": {entry(newer, map[string]any{"SetQuotas": role}), tooNew},
		"kind":          {entry(1, map[string]any{"SetQuota": role}), "unknown field"},
		"field":         {entry(1, map[string]any{"SetRole": map[string]any{"Role": "a", "Limit": 1}}), "unknown field"},
		"case":          {entry(1, map[string]any{"setrole": role}), "unknown field"},
		"no kind":       {entry(1, map[string]any{}), "no kind"},
		"two kinds":     {entry(1, map[string]any{"SetRole": role, "DropToken": map[string]any{}}), "two kinds"},
		"envelope":      {map[string]any{"v": 1, "commands": []any{}, "more": 1}, "unknown field"},
		"junk":          {"junk", "cannot be applied"},
	} {
		data, err := encMode.Marshal(tc.entry)
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				text := fmt.Sprint(recover())
				for _, w := range []string{tc.want, "log entry 7", "Upgrade this replica"} {
					if !strings.Contains(text, w) {
						t.Errorf("%s: %q does not say %q", name, text, w)
					}
				}
			}()
			newMachine().apply(7, data)
		}()
	}
}

func TestSnapshotsOfNewerVersions(t *testing.T) {
	for want, snap := range map[string]any{
		fmt.Sprintf("format version %d, this version knows %d", state.Capability+1, state.Capability): map[string]any{"v": state.Capability + 1, "state": map[string]any{}},
		"unknown field":   map[string]any{"v": 1, "state": map[string]any{"Quotas": 1}},
		"without a state": map[string]any{"v": 1, "state": nil},
		`Tasks["t1"]`:     map[string]any{"v": 1, "state": map[string]any{"Tasks": map[string]any{"t1": nil}}},
		"upgrade":         "junk",
	} {
		data, err := encMode.Marshal(snap)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readSnapshot(bytes.NewReader(data), state.Capability); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func seedEntries(tb testing.TB) [][]byte {
	var out [][]byte
	for seed := range uint64(4) {
		f := &filler{rng: rand.New(rand.NewPCG(seed, 3)), full: seed == 0}
		cmds := commands(f)
		for i := range cmds {
			raws, err := encodeCommands(cmds[i : i+1])
			if err != nil {
				tb.Fatal(err)
			}
			data, _ := encodeEntry(needs(cmds[i:i+1]), raws)
			out = append(out, data)
		}
	}
	return out
}

// FuzzApply: decoding never panics, and what it accepts is applied by two
// machines alike and can be written again.
func FuzzApply(f *testing.F) {
	for _, data := range seedEntries(f) {
		f.Add(data)
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	setup := []state.Command{
		{Time: now, Bootstrap: &state.Bootstrap{TrustDomain: "fleet.example"}},
		{Time: now, PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: 9, Expires: now.Add(time.Hour)}},
		{Time: now, Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1"}},
		{Time: now, Launch: &state.Launch{ID: "t1", Framework: "run", Agent: "a1", Create: true}},
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cmds, err := decodeEntry(data, state.Capability)
		if err != nil {
			return
		}
		a, b := newMachine(), newMachine()
		for _, m := range []*machine{a, b} {
			for _, c := range setup {
				m.st.Apply(1, c)
			}
			m.apply(2, data)
			m.apply(3, data)
		}
		if Hash(a.st) != Hash(b.st) {
			t.Fatal("two machines, one entry, two states")
		}
		raws := make([]cbor.RawMessage, len(cmds))
		for i, c := range cmds {
			if raws[i], err = encodeCommand(c); err != nil {
				t.Fatalf("read and not written: %v", err)
			}
		}
		again, err := encodeEntry(needs(cmds), raws)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxBytes {
			return // written by hand it may be shorter
		}
		back, err := decodeEntry(again, state.Capability)
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		for i, c := range back {
			if raw, err := encodeCommand(c); err != nil || !bytes.Equal(raw, raws[i]) {
				t.Fatalf("written and read again it differs: %v\n%+v\n%+v", err, c, cmds[i])
			}
		}
	})
}

// FuzzRestore: decoding a snapshot never panics, and what it accepts is a
// state that can be used and written.
func FuzzRestore(f *testing.F) {
	for seed := range uint64(4) {
		fl := &filler{rng: rand.New(rand.NewPCG(seed, 4)), full: seed == 0}
		var s state.State
		fl.fill(reflect.ValueOf(&s).Elem())
		s.Format = state.Capability
		data, err := EncodeState(&s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := DecodeState(data)
		if err != nil {
			return
		}
		once, err := EncodeState(s)
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		back, err := DecodeState(once)
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		if Hash(back) != Hash(s) {
			t.Fatal("written and read again it differs")
		}
		s.Apply(1, state.Command{Time: now, Submit: &state.Submit{ID: "t1"}})
		s.Apply(2, state.Command{Time: now, SetRole: &state.SetRole{Role: "a", Weight: 1}})
		for id := range s.Tasks {
			s.Apply(3, state.Command{Time: now, Kill: &state.Kill{ID: id}})
		}
	})
}

// What is not used is written as it was before it was added: an older replica
// reads it (see state.Capability).
func TestUnusedFieldsAreNotWritten(t *testing.T) {
	st := state.New()
	st.Apply(1, state.Command{PutReplica: &state.Replica{ID: "r1", Addr: "a"}})
	st.Apply(2, state.Command{Submit: &state.Submit{ID: "t1"}})
	snap, err := EncodeState(st)
	if err != nil {
		t.Fatal(err)
	}
	command, err := encodeCommand(state.Command{PutReplica: &state.Replica{ID: "r1", Addr: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Format", "Epoch", "Unsettled", "Restored", "Version", "Capability"} {
		key, _ := encMode.Marshal(name)
		if bytes.Contains(snap, key) || bytes.Contains(command, key) {
			t.Errorf("%s is written", name)
		}
	}
	var head struct {
		V     uint64
		State cbor.RawMessage
	}
	if err := cbor.Unmarshal(snap, &head); err != nil || head.V != 1 {
		t.Errorf("version %d, %v", head.V, err)
	}
	if _, err := decodeState(snap, 1); err != nil {
		t.Errorf("the first version does not read it: %v", err)
	}
}
