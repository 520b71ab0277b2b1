package sessions

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

func updates(from, n int) []wire.Ack {
	var out []wire.Ack
	for i := range n {
		out = append(out, wire.Ack{Task: "t", Update: fleet.UpdateID(fmt.Sprintf("u%d", from+i))})
	}
	return out
}

// What is new of one session is put together: the last counts of what replaces,
// everything of what adds up, and the order of the sessions is kept.
func TestOutboxCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(func(n uint64) { t.Errorf("session %d is over its bound", n) })
		o.put(wire.Relayed{Session: 2, Readings: &fleet.Readings{CPUPercent: 1}})
		o.put(wire.Relayed{Session: 1, Pull: &wire.Pull{Generation: 1}, Acks: updates(1, 1)})
		time.Sleep(3 * time.Second)
		o.put(wire.Relayed{Session: 2, Readings: &fleet.Readings{CPUPercent: 2}})
		o.put(wire.Relayed{Session: 1, Pull: &wire.Pull{Generation: 2}, Acks: updates(2, 2), Down: true})
		time.Sleep(2 * time.Second)
		want := []wire.Relayed{
			{Session: 2, Readings: &fleet.Readings{CPUPercent: 2}, Ago: 2 * time.Second},
			{Session: 1, Pull: &wire.Pull{Generation: 2}, Acks: updates(1, 3), Down: true, Ago: 2 * time.Second},
		}
		if diff := cmp.Diff(want, o.take()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if left := o.take(); len(left) != 0 {
			t.Errorf("taken twice: %v", left)
		}
	})
}

// A newer desired set takes the place of the parts that wait of an older one.
func TestOutboxSupersedesSets(t *testing.T) {
	o := newOutbox(func(uint64) {})
	part := func(generation uint64, n int, more bool) wire.DesiredSet {
		return wire.DesiredSet{Desired: fleet.Desired{Generation: generation}, Part: n, More: more}
	}
	o.put(wire.Relayed{Session: 1, Desired: []wire.DesiredSet{part(1, 0, true), part(1, 1, false)}})
	o.put(wire.Relayed{Session: 1, Desired: []wire.DesiredSet{part(2, 0, true), part(2, 1, false)}})
	var got []string
	for _, item := range o.take() {
		for _, d := range item.Desired {
			got = append(got, fmt.Sprintf("%d/%d", d.Generation, d.Part))
		}
		if len(item.Desired) != 1 {
			t.Errorf("an item with %d parts", len(item.Desired))
		}
	}
	if want := []string{"2/0", "2/1"}; !cmp.Equal(want, got) {
		t.Errorf("parts %v, want %v", got, want)
	}
}

func TestOutboxIsBounded(t *testing.T) {
	var over []uint64
	o := newOutbox(func(n uint64) { over = append(over, n) })
	o.put(wire.Relayed{Session: 7, Acks: updates(0, maxQueued)})
	o.put(wire.Relayed{Session: 8, Acks: updates(0, 1)})
	o.put(wire.Relayed{Session: 7, Acks: updates(0, 1)})
	if !cmp.Equal(over, []uint64{7}) {
		t.Errorf("over their bound: %v", over)
	}
}

// shared is a buffer that is looked at while it is written.
type shared struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *shared) Read(p []byte) (int, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.buf.Read(p) }

func (s *shared) Len() int { s.mu.Lock(); defer s.mu.Unlock(); return s.buf.Len() }

// What fits into no message costs its own session, and readings wait for a
// second at most.
func TestOutboxSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var over []uint64
		o := newOutbox(func(n uint64) { over = append(over, n) })
		var stream shared
		control := wire.NewConn(&stream, wire.MaxRelay)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.run(ctx, control) }()
		long := strings.Repeat("x", 40<<10) // more than a label may have
		o.put(wire.Relayed{Session: 1, Acks: updates(1, 1)})
		o.put(wire.Relayed{Session: 2, Desired: []wire.DesiredSet{{Desired: fleet.Desired{Assignments: []fleet.Assignment{{
			Task: "t", Spec: fleet.TaskSpec{Labels: map[string]string{"x": long}},
		}}}}}})
		o.put(wire.Relayed{Session: 3, Acks: updates(1, 1)})
		synctest.Wait()
		o.put(wire.Relayed{Session: 4, Readings: &fleet.Readings{CPUPercent: 3}})
		synctest.Wait()
		size := stream.Len()
		time.Sleep(softEvery + time.Millisecond)
		synctest.Wait()
		if stream.Len() == size {
			t.Error("readings wait for ever")
		}
		cancel()
		<-done
		seen := map[uint64]bool{}
		for {
			m, err := control.Recv()
			if err != nil {
				break
			}
			for _, item := range m.(wire.Relay).Items {
				seen[item.Session] = true
			}
		}
		if want := map[uint64]bool{1: true, 3: true, 4: true}; !cmp.Equal(want, seen) || !cmp.Equal(over, []uint64{2}) {
			t.Errorf("sent of %v, given up %v", seen, over)
		}
	})
}
