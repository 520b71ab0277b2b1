package nvml

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/gpu"
)

func sampleReplies() []reply {
	d := device{Device: gpu.Device{UUID: "GPU-1", Model: "A", MemoryMB: 1}, GI: noInstance, CI: noInstance, Recovery: -1}
	slice := d
	slice.UUID, slice.Parent, slice.Profile, slice.GI, slice.CI = "MIG-1", "GPU-2", "1g.5gb", 7, 0
	lost := d
	lost.UUID, lost.Lost = "GPU-3", "GPU is lost"
	parent := d
	parent.UUID = "GPU-2"
	return []reply{
		{ID: 1},
		{ID: 2, Error: "failed"},
		{ID: 3, Reason: "no driver"},
		{ID: 4, Inventory: &inventory{Devices: []device{d, slice, lost}, Parents: []device{parent}, Silent: []string{"x"}}},
		{ID: 5, Readings: []gpu.Reading{{UUID: "GPU-1", UtilPercent: -1}}},
		{ID: 6, Minors: map[gpu.UUID]int{"GPU-1": 3}},
		{Event: &event{UUID: "GPU-1", XID: 79, GI: noInstance, CI: noInstance}},
		{Event: &event{Error: "interrupted"}},
	}
}

func TestReplyRoundTrip(t *testing.T) {
	for _, want := range sampleReplies() {
		line, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeReply(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

func TestRepliesThatAreRefused(t *testing.T) {
	for _, line := range []string{
		``, `null x`, `{}`, `[]`, `{"ID":1}{"ID":2}`, `{"ID":1,"Surprise":true}`, `{"ID":-1}`,
		`{"ID":1,"Event":{"UUID":"GPU-1"}}`,
		`{"Event":{"UUID":"all","XID":79}}`,
		`{"ID":1,"Inventory":{"Devices":[{"UUID":"0"}]}}`,
		`{"ID":1,"Inventory":{"Devices":[{"UUID":"GPU-1"},{"UUID":"GPU-1"}]}}`,
		`{"ID":1,"Inventory":{"Devices":[{"UUID":"GPU-1","MemoryMB":-1}]}}`,
		`{"ID":1,"Inventory":{"Devices":[{"UUID":"GPU-1","Health":1}]}}`,
		`{"ID":1,"Inventory":{"Devices":[{"UUID":"GPU-1","Model":"` + strings.Repeat("x", maxText+1) + `"}]}}`,
		`{"ID":1,"Inventory":{"Silent":["` + strings.Repeat(`","`, maxDevices) + `"]}}`,
		`{"ID":1,"Minors":{"GPU-1":-1}}`,
	} {
		if r, err := decodeReply([]byte(line)); err == nil {
			t.Errorf("%.100s was accepted as %+v", line, r)
		}
	}
}

func TestReadLine(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("one\ntwo\nhalf"), maxLine)
	for _, want := range []string{"one\n", "two\n"} {
		if line, err := readLine(r); err != nil || string(line) != want {
			t.Errorf("%q, %v", line, err)
		}
	}
	if _, err := readLine(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a line: %v", err)
	}
	r = bufio.NewReaderSize(strings.NewReader(strings.Repeat("x", maxLine+1)+"\n"), maxLine)
	if _, err := readLine(r); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a line too long: %v", err)
	}
	r = bufio.NewReaderSize(strings.NewReader(""), maxLine)
	if _, err := readLine(r); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

// Whatever the child says, the parent decodes it to something it can use or
// refuses it; what it accepts, it can say again.
func FuzzDecodeReply(f *testing.F) {
	for _, r := range sampleReplies() {
		line, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Add([]byte(`{"ID":6,"Spec":{"cdiVersion":"0.5.0","kind":"tender.local/gpu","devices":[{"name":"GPU-1","containerEdits":{}}],"containerEdits":{}}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeReply(line)
		if err != nil {
			return
		}
		tr := newTracker(0)
		if r.Inventory != nil {
			tr.update(epoch, r.Inventory)
			if n := len(tr.list()); n > maxDevices {
				t.Errorf("%d devices", n)
			}
		}
		if r.Event != nil {
			tr.xid(epoch, *r.Event)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeReply(again); err != nil {
			t.Errorf("said again, it is refused: %v\n%s", err, again)
		}
	})
}
