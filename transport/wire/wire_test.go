package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

func kind(m Message) string { return strings.TrimPrefix(fmt.Sprintf("%T", m), "wire.") }

func TestListIsComplete(t *testing.T) {
	bodies := (&pb.Envelope{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	seen := map[string]bool{}
	for _, m := range everyMessage {
		e, err := toWire(m)
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprintf("%T", e.Body)] = true
	}
	if len(seen) != bodies.Len() {
		t.Errorf("the schema has %d messages, the list leads to %d of them: %v", bodies.Len(), len(seen), seen)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, like := range everyMessage {
		t.Run(kind(like), rapid.MakeCheck(func(t *rapid.T) {
			roundTrip(t, maker{t: t}.message(like))
		}))
	}
}

// TestEveryFieldHasAWireForm fails for a new field of the fleet's nouns that
// the schema does not know yet.
func TestEveryFieldHasAWireForm(t *testing.T) {
	for _, like := range everyMessage {
		t.Run(kind(like), rapid.MakeCheck(func(t *rapid.T) {
			m := maker{t: t, full: true}.message(like)
			if zero := zeros(reflect.ValueOf(m), ""); len(zero) > 0 {
				t.Fatalf("the maker left these fields zero: %v", zero)
			}
			roundTrip(t, m)
		}))
	}
}

func roundTrip(t *rapid.T, m Message) {
	b, err := Append(nil, m)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	got, err := Parse(b)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Fatalf("a field has no wire form, or one that changes it (-sent +received):\n%s", diff)
	}
}

func TestEnumsHaveTheFleetsNumbers(t *testing.T) {
	for n, name := range pb.TaskState_name {
		if got := fleet.TaskState(n).String(); n != 0 && got != name {
			t.Errorf("task state %d is %s on the wire and %s in the fleet", n, name, got)
		}
	}
	if fleet.TaskState(len(pb.TaskState_name)-1) != fleet.TaskUnknown {
		t.Error("the fleet has a task state that the wire does not know")
	}
	for n, name := range pb.TaskHealth_name {
		if got := fleet.TaskHealth(n).String(); !strings.EqualFold("task_health_"+got, name) {
			t.Errorf("task health %d is %s on the wire and %s in the fleet", n, name, got)
		}
	}
	if fleet.TaskHealth(len(pb.TaskHealth_name)-1) != fleet.TaskUnhealthy {
		t.Error("the fleet has a task health that the wire does not know")
	}
	for n, name := range pb.Health_name {
		if got := gpu.Health(n).String(); !strings.EqualFold(got, name) {
			t.Errorf("health %d is %s on the wire and %s in package gpu", n, name, got)
		}
	}
	if gpu.Health(len(pb.Health_name)-1) != gpu.Lost {
		t.Error("package gpu has a health that the wire does not know")
	}
}

func TestConnCarriesMessagesInOrder(t *testing.T) {
	var stream bytes.Buffer
	c := NewConn(&stream, MaxControl)
	sent := []Message{
		Pull{Term: 3, Generation: 9},
		LogEnd{},
		Readings{fleet.Readings{Tasks: 2}},
		LogChunk{Data: bytes.Repeat([]byte("x"), MaxLogChunk)},
		Goaway{Text: "restart"},
	}
	for _, m := range sent {
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range sent {
		got, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-sent +received:\n%s", diff)
		}
	}
	if _, err := c.Recv(); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF itself", err)
	}
}

// writes counts calls: a frame in two packets costs two wake-ups per beat.
type writes struct {
	bytes.Buffer
	n int
}

func (w *writes) Write(b []byte) (int, error) { w.n++; return w.Buffer.Write(b) }

func TestConcurrentSendersWriteWholeFrames(t *testing.T) {
	var stream writes
	c := NewConn(&stream, MaxControl)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				if err := c.Send(Pull{Term: uint64(i), Generation: uint64(j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if stream.n != 400 {
		t.Errorf("400 frames took %d writes", stream.n)
	}
	next := map[uint64]uint64{}
	for range 400 {
		m, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		p := m.(Pull)
		if p.Generation != next[p.Term] {
			t.Fatalf("sender %d: frame %d came after %d", p.Term, p.Generation, next[p.Term])
		}
		next[p.Term]++
	}
}

func TestFrameTooLarge(t *testing.T) {
	var stream bytes.Buffer
	c := NewConn(&stream, 100)
	err := c.Send(RenewRequest{CSR: make([]byte, 200)})
	if !errors.Is(err, ErrTooLarge) || stream.Len() != 0 {
		t.Errorf("send: %v with %d bytes written, want ErrTooLarge and none", err, stream.Len())
	}
	if err := c.Send(Pull{}); err != nil {
		t.Errorf("the next send: %v", err)
	}
	stream.Reset()

	stream.Write([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
	if _, err := c.Recv(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("receive: %v, want ErrTooLarge", err)
	}
	if _, err := c.Recv(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("receive again: %v, want the same: the stream's place is lost", err)
	}
}

func TestAnnouncedBytesAreNotAllocated(t *testing.T) {
	buf := make([]byte, 0, 64)
	err := fill(bytes.NewReader(make([]byte, 100)), &buf, MaxControl)
	if err != io.ErrUnexpectedEOF && err != io.EOF {
		t.Errorf("error %v", err)
	}
	if cap(buf) > 1024 {
		t.Errorf("100 bytes arrived of %d announced, and %d are held", MaxControl, cap(buf))
	}
}

func TestCutFrames(t *testing.T) {
	whole := frameOf(t, Pull{Term: 1, Generation: 2, Full: true})
	for n := range len(whole) {
		_, err := NewConn(bytes.NewBuffer(whole[:n]), MaxControl).Recv()
		if want := io.ErrUnexpectedEOF; n == 0 && err != io.EOF || n > 0 && !errors.Is(err, want) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func frameOf(t testing.TB, m Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := NewConn(&b, MaxControl).Send(m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func framed(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestMessageOfANewerPeer(t *testing.T) {
	newer := protowire.AppendBytes(protowire.AppendTag(nil, 25, protowire.BytesType), []byte("news"))
	stream := bytes.NewBuffer(append(framed(newer), frameOf(t, Goaway{Text: "bye"})...))
	c := NewConn(stream, MaxControl)
	if _, err := c.Recv(); !errors.Is(err, ErrUnknownMessage) {
		t.Fatalf("first frame: %v, want ErrUnknownMessage", err)
	}
	m, err := c.Recv()
	if err != nil || m != (Goaway{Text: "bye"}) {
		t.Errorf("second frame: %v, %v; the stream must go on", m, err)
	}
}

func TestNewFieldsOfANewerPeerAreIgnored(t *testing.T) {
	body, _ := proto.Marshal(&pb.Goaway{Text: "bye"})
	body = protowire.AppendVarint(protowire.AppendTag(body, 400, protowire.VarintType), 7)
	env := protowire.AppendBytes(protowire.AppendTag(nil, 10, protowire.BytesType), body)
	m, err := Parse(env)
	if err != nil || m != (Goaway{Text: "bye"}) {
		t.Errorf("%v, %v", m, err)
	}
}

func TestBeatIsNeverShort(t *testing.T) {
	for _, r := range []fleet.Readings{{}, {Tasks: 1}, {Runtime: strings.Repeat("x", 55)}, {Runtime: strings.Repeat("x", 300)}, {Settings: "agent.yaml:3"}} {
		b, err := Append(nil, Readings{r})
		if err != nil {
			t.Fatal(err)
		}
		if len(b) < MinBeat {
			t.Errorf("a beat of %d bytes, want %d at least", len(b), MinBeat)
		}
		if _, err := Parse(b); err != nil {
			t.Error(err)
		}
	}
}

func TestFreeTextNeverStopsAReport(t *testing.T) {
	status := fleet.Status{Task: "t1", State: fleet.TaskFailed, Message: strings.Repeat("\xff€", 3000)}
	m, err := Parse(mustAppend(t, Report{[]fleet.StatusUpdate{{ID: "u1", Seq: 1, Status: status}}}))
	if err != nil {
		t.Fatal(err)
	}
	got := m.(Report).Updates[0].Status.Message
	if len(got) > MaxText || !strings.HasPrefix(got, "\uFFFD€") {
		t.Errorf("%d bytes, beginning %.10q", len(got), got)
	}
}

func mustAppend(t testing.TB, m Message) []byte {
	t.Helper()
	b, err := Append(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInvalidMessagesAreRefusedBySender(t *testing.T) {
	assign := func(f func(*fleet.Assignment)) Message {
		a := fleet.Assignment{Task: "t1"}
		f(&a)
		return DesiredSet{Desired: fleet.Desired{Assignments: []fleet.Assignment{a}}}
	}
	update := func(f func(*fleet.StatusUpdate)) Message {
		u := fleet.StatusUpdate{ID: "u1", Status: fleet.Status{Task: "t1", State: fleet.TaskRunning}}
		f(&u)
		return Report{[]fleet.StatusUpdate{u}}
	}
	pairs := map[string]string{}
	for i := range MaxPairs + 1 {
		pairs[fmt.Sprint(i)] = ""
	}
	for _, tc := range []struct {
		m    Message
		want string
	}{
		{Hello{}, "agent is empty"},
		{Hello{Agent: "../x"}, `agent "../x": use lower-case`},
		{Hello{Agent: "a", Capability: -1}, "capability is -1"},
		{Welcome{Replica: "r1", Heartbeat: -1}, "heartbeat is -1"},
		{Welcome{Replica: "r1", Replicas: make([]string, MaxReplicas+1)}, "17 replicas, the limit is 16"},
		{Refusal{}, "refusal code is empty"},
		{assign(func(a *fleet.Assignment) { a.Task = "" }), "task is empty"},
		{assign(func(a *fleet.Assignment) { a.Resources.CPUs = -1 }), "cpus -0.001 is out of range"},
		{assign(func(a *fleet.Assignment) { a.Resources.Mem = fleet.MaxScalar + 1 }), "mem 1125899906842.625 is out of range"},
		{assign(func(a *fleet.Assignment) { a.Resources.GPUs = []gpu.UUID{"b", "a"} }), "not sorted"},
		{assign(func(a *fleet.Assignment) { a.Resources.GPUs = []gpu.UUID{"a", "a"} }), "named twice"},
		{assign(func(a *fleet.Assignment) { a.Resources.GPUs = []gpu.UUID{"a b"} }), `GPU name "a b"`},
		{assign(func(a *fleet.Assignment) { a.Resources.GPUs = make([]gpu.UUID, MaxDevices+1) }), "129 GPUs"},
		{assign(func(a *fleet.Assignment) { a.KillGrace = -1 }), "kill grace"},
		{assign(func(a *fleet.Assignment) { a.Spec.Env = pairs }), "257 environment entries, the limit is 256"},
		{assign(func(a *fleet.Assignment) { a.Spec.Labels = map[string]string{"": "x"} }), "an empty name"},
		{assign(func(a *fleet.Assignment) { a.Spec.Labels = map[string]string{"x": strings.Repeat("x", MaxPair+1)} }), "32769 bytes"},
		{assign(func(a *fleet.Assignment) { a.Spec.Command = make([]string, MaxArgs+1) }), "1025 arguments"},
		{assign(func(a *fleet.Assignment) { a.Spec.Network = "bridge" }), `unknown network "bridge"`},
		{assign(func(a *fleet.Assignment) { a.Spec.PIDs = -1 }), "processes is -1"},
		{assign(func(a *fleet.Assignment) { a.Spec.Health = &fleet.Check{} }), `unknown kind "" of health check`},
		{assign(func(a *fleet.Assignment) { a.Spec.Check = &fleet.Check{Kind: fleet.CheckTCP, Port: 1 << 16} }), "port 65536"},
		{assign(func(a *fleet.Assignment) { a.Spec.Check = &fleet.Check{Kind: fleet.CheckTCP, Interval: -1} }), "time of the check is -1"},
		{assign(func(a *fleet.Assignment) {
			a.Spec.Check = &fleet.Check{Kind: fleet.CheckHTTP, Statuses: make([]int, MaxStatuses+1)}
		}), "65 statuses"},
		{assign(func(a *fleet.Assignment) { a.Spec.MaxCompletion = -1 }), "maximum completion time is -1"},
		{assign(func(a *fleet.Assignment) { a.Spec.Limits.Mem = -2 }), "limit -2 is outside 0"},
		{update(func(u *fleet.StatusUpdate) { u.Status.Health = 3 }), "unknown task health 3"},
		{update(func(u *fleet.StatusUpdate) { u.Status.Check.Known = true }), `unknown kind "" of a result`},
		{DesiredSet{Desired: fleet.Desired{Assignments: make([]fleet.Assignment, MaxItems+1)}}, "4097 assignments"},
		{update(func(u *fleet.StatusUpdate) { u.ID = "" }), "update is empty"},
		{update(func(u *fleet.StatusUpdate) { u.Status.State = 0 }), "unknown task state 0"},
		{update(func(u *fleet.StatusUpdate) { u.Status.State = fleet.TaskUnknown + 1 }), "unknown task state 15"},
		{Acks{[]Ack{{Task: "t1"}}}, "update is empty"},
		{CapacityChanged{fleet.Capacity{Devices: []gpu.Device{{UUID: "g", Health: 9}}}}, "unknown GPU health 9"},
		{CapacityChanged{fleet.Capacity{Devices: []gpu.Device{{UUID: "g", MemoryMB: math.MinInt64}}}}, "device memory"},
		{Readings{fleet.Readings{FreeMemMB: -1}}, "free memory"},
		{Certificate{Chain: make([][]byte, MaxChain+1)}, "9 certificates"},
		{LogsRequest{Task: "t1", Tail: -2}, "tail is -2"},
		{LogChunk{Data: make([]byte, MaxLogChunk+1)}, "log bytes"},
		{Leave{Grace: -1}, "grace period is -1"},
		{Relay{[]Relayed{{Leave: &Leave{Grace: -1}}}}, "grace period is -1"},
		{Upgrade{fleet.Upgrade{Rollout: "a b"}}, "rollout"},
		{Upgrade{fleet.Upgrade{Packages: make([]fleet.Package, fleet.MaxPackages+1)}}, "9 packages"},
		{Upgrade{fleet.Upgrade{Packages: []fleet.Package{{Arch: "amd64", SHA256: "0A"}}}}, "no SHA-256"},
		{PackageRequest{Offset: -1}, "offset is -1"},
		{PackageChunk{Data: make([]byte, MaxPackageChunk+1)}, "package bytes"},
		{Readings{fleet.Readings{Upgrade: fleet.UpgradeStatus{State: strings.Repeat("x", MaxName+1)}}}, "state of the upgrade"},
		{&LogEnd{}, "*wire.LogEnd is not sent by value"},
	} {
		if _, err := Append(nil, tc.m); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want ErrInvalid with %q", kind(tc.m), err, tc.want)
		}
	}
}

// TestWhatTheFleetAcceptsCanBeSent: a task that passed fleet.CheckSpec and
// then cannot be sent would hold up its agent's whole desired set.
func TestWhatTheFleetAcceptsCanBeSent(t *testing.T) {
	long := strings.Repeat("x", 32<<10)
	spec := fleet.TaskSpec{
		Name: long[:fleet.MaxIDLen], Image: long[:512], Command: make([]string, fleet.MaxArgs), Env: map[string]string{},
		WorkDir: "/w", User: "u", Network: fleet.NetworkHost, PIDs: 1 << 22, KillGrace: 24 * time.Hour,
		Labels: map[string]string{},
	}
	for i := range fleet.MaxEnv {
		spec.Env[fmt.Sprintf("%040d", i)] = ""
	}
	for i := range fleet.MaxLabels {
		spec.Labels[fmt.Sprintf("%063d", i)] = ""
	}
	for _, c := range []**fleet.Check{&spec.Health, &spec.Check} {
		*c = &fleet.Check{Kind: fleet.CheckCommand, Command: make([]string, fleet.MaxArgs), Env: map[string]string{}}
		(*c).Command[0] = "c"
		for i := range fleet.MaxEnv {
			(*c).Env[fmt.Sprint("k", i)] = ""
		}
	}
	for i := 0; spec.Size() < fleet.MaxSpecSize; i++ { // up to the last byte
		spec.Command[i] = long[:min(len(long), fleet.MaxSpecSize-spec.Size())]
	}
	if err := fleet.CheckSpec(spec); err != nil {
		t.Fatal(err)
	}
	r := fleet.Resources{}
	for i := range fleet.MaxGPUs {
		r.GPUs = append(r.GPUs, gpu.UUID(fmt.Sprintf("GPU-%03d", i)))
	}
	m := DesiredSet{Desired: fleet.Desired{Assignments: []fleet.Assignment{{Task: "t1", Spec: spec, Resources: r}}}}
	if err := NewConn(&bytes.Buffer{}, MaxControl).Send(m); err != nil {
		t.Error(err)
	}
}

// TestReceiverChecksToo sends what an honest sender cannot.
func TestReceiverChecksToo(t *testing.T) {
	for name, e := range map[string]*pb.Envelope{
		"bad id":    {Body: &pb.Envelope_Hello{Hello: &pb.Hello{Agent: "a/b"}}},
		"no status": {Body: &pb.Envelope_Report{Report: &pb.Report{Updates: []*pb.StatusUpdate{{Id: "u1"}}}}},
		"long text": {Body: &pb.Envelope_Goaway{Goaway: &pb.Goaway{Text: strings.Repeat("x", MaxText+1)}}},
		"overflow":  {Body: &pb.Envelope_Capacity{Capacity: &pb.Capacity{Total: &pb.Resources{Flat: &pb.Flat{Cpus: math.MaxInt64}}}}},
	} {
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		c := NewConn(bytes.NewBuffer(append(framed(b), frameOf(t, LogEnd{})...)), MaxControl)
		if _, err := c.Recv(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if m, err := c.Recv(); err != nil || m != (LogEnd{}) {
			t.Errorf("%s: the frame after it: %v, %v", name, m, err)
		}
	}
}

// TestSmallFrameCannotBecomeLarge packs as many empty elements as fit into a
// control frame, at each place where elements repeat.
func TestSmallFrameCannotBecomeLarge(t *testing.T) {
	nest := func(body []byte, path ...protowire.Number) []byte {
		for _, n := range path {
			body = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), body)
		}
		return body
	}
	bomb := func(n protowire.Number) []byte {
		one := protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), nil)
		return bytes.Repeat(one, MaxControl/len(one)-64)
	}
	for name, frame := range map[string][]byte{
		"assignments": nest(bomb(5), 5),
		"updates":     nest(bomb(1), 6),
		"devices":     nest(bomb(2), 8),
		"arguments":   nest(bomb(3), 2, 5, 5),
		"labels":      nest(bomb(11), 2, 5, 5),
		"statuses":    nest(make([]byte, MaxControl/2), 7, 12, 2, 5, 5),
		"parts":       nest(bomb(2), 1, 8),
		"gpu names":   nest(bomb(4), 1, 1, 8),
		"hellos":      bomb(1),
	} {
		if len(frame) > MaxControl {
			t.Fatal("the bomb does not fit")
		}
		allocs := testing.AllocsPerRun(1, func() {
			if _, err := Parse(frame); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		})
		if allocs > 50 {
			t.Errorf("%s: %v allocations before it was refused", name, allocs)
		}
	}
}

func TestTimesWithoutADate(t *testing.T) {
	m, err := Parse(mustAppend(t, Readings{fleet.Readings{}}))
	if err != nil || !m.(Readings).Time.IsZero() {
		t.Errorf("the zero time became %v, %v", m, err)
	}
	at := time.Date(2026, 7, 1, 12, 0, 0, 5, time.FixedZone("x", 7200))
	m, _ = Parse(mustAppend(t, Readings{fleet.Readings{Time: at}}))
	if got := m.(Readings).Time; !got.Equal(at) || got.Location() != time.UTC {
		t.Errorf("%v became %v", at, got)
	}
}

type failing struct{ io.Reader }

func (failing) Write([]byte) (int, error) { return 3, io.ErrShortWrite }

func TestConnIsBrokenAfterACutFrame(t *testing.T) {
	c := NewConn(failing{}, MaxControl)
	for range 2 {
		if err := c.Send(LogEnd{}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%v, want the stream's error each time", err)
		}
	}
}
