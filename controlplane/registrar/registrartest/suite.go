// Package registrartest is the suite that every registrar passes:
//
//	registrartest.Run(t, func(t *testing.T) registrartest.Registrar {
//		return registrar.NewMemory()
//	})
//
// RunInBubbles is the same under fake time, for one with a network in memory.
package registrartest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Registrar is what the leader's shell needs of one.
type Registrar interface {
	Propose(ctx context.Context, cmds ...state.Command) ([]state.Result, error)
	Read(ctx context.Context, fn func(*state.State)) error
	Stale(fn func(*state.State))
	Follow(ctx context.Context) (*state.State, <-chan registrar.Entry, error)
	Leadership() <-chan registrar.Leadership
}

// Run holds a registrar that leads, or will shortly, to the contract. open
// returns a new, empty one and cleans up after the test; one with a Close
// method is also tested for what Close does.
func Run(t *testing.T, open func(t *testing.T) Registrar) {
	run(t, open, func(t *testing.T, test func(*testing.T)) { test(t) })
}

// RunInBubbles is Run with every test in a bubble of testing/synctest, so that
// a busy machine costs no leader its lease.
func RunInBubbles(t *testing.T, open func(t *testing.T) Registrar) { run(t, open, synctest.Test) }

func run(t *testing.T, open func(t *testing.T) Registrar, in func(*testing.T, func(*testing.T))) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, Registrar)
	}{
		{"propose and read", proposeAndRead},
		{"results come in order", results},
		{"nothing to propose", nothing},
		{"a bad command changes nothing", rejected},
		{"too much at once", tooMuch},
		{"concurrent proposals", concurrent},
		{"follow gives every entry in order", follow},
		{"a follower's channel ends with its context", followEnds},
		{"a full follower stops nothing once it leaves", followerFull},
		{"a given up context", gaveUp},
		{"close", closing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				r := open(t)
				AwaitLeading(t, r)
				tc.test(t, r)
			})
		})
	}
}

// AwaitLeading waits until r leads and returns the term.
func AwaitLeading(tb testing.TB, r Registrar) uint64 {
	tb.Helper()
	patience := time.NewTimer(30 * time.Second)
	defer patience.Stop()
	for {
		select {
		case l, ok := <-r.Leadership():
			if !ok {
				tb.Fatal("Leadership closed before this replica led")
			}
			if l.Leading {
				return l.Term
			}
		case <-patience.C:
			tb.Fatal("this replica does not lead after 30 s")
		}
	}
}

// SetRole is a small command that always succeeds.
func SetRole(role string, weight int64) state.Command {
	return state.Command{
		Time:    time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		SetRole: &state.SetRole{Role: fleet.Role(role), Weight: fleet.Whole(weight)},
	}
}

// Submit queues a task; a second one with its id is a conflict.
func Submit(id string) state.Command {
	return state.Command{
		Time:   time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Submit: &state.Submit{ID: fleet.TaskID(id), Framework: "run", Role: fleet.DefaultRole},
	}
}

// Propose proposes and fails the test when that fails.
func Propose(tb testing.TB, r Registrar, cmds ...state.Command) []state.Result {
	tb.Helper()
	res, err := r.Propose(tb.Context(), cmds...)
	if err != nil {
		tb.Fatalf("Propose: %v", err)
	}
	if len(res) != len(cmds) {
		tb.Fatalf("%d results of %d commands", len(res), len(cmds))
	}
	return res
}

func read(t *testing.T, r Registrar, fn func(*state.State)) {
	t.Helper()
	if err := r.Read(t.Context(), fn); err != nil {
		t.Fatalf("Read: %v", err)
	}
}

func proposeAndRead(t *testing.T, r Registrar) {
	zone := time.FixedZone("east", 3600)
	c := Submit("t1")
	c.Time = time.Date(2026, 1, 2, 4, 4, 5, 123456789, zone)
	Propose(t, r, c)
	read(t, r, func(s *state.State) {
		if got := s.Tasks["t1"]; got == nil || got.Submitted != c.Time.UTC() {
			t.Errorf("task: %+v, want it submitted at %v", got, c.Time.UTC())
		}
	})
	r.Stale(func(s *state.State) {
		if s.Tasks["t1"] == nil {
			t.Error("the proposer's own replica does not hold it")
		}
	})
}

func results(t *testing.T, r Registrar) {
	res := Propose(t, r, Submit("t1"), Submit("t1"), SetRole("a", 2), Submit("t2"))
	for i, want := range []state.Kind{state.OK, state.Conflict, state.OK, state.OK} {
		if res[i].Kind != want {
			t.Errorf("result %d: %q, want %q", i, res[i].Kind, want)
		}
	}
	if err := res[1].Err(); err == nil {
		t.Error("a refusal without an error")
	}
}

func nothing(t *testing.T, r Registrar) {
	if res, err := r.Propose(t.Context()); err != nil || len(res) != 0 {
		t.Errorf("Propose of nothing: %v, %v", res, err)
	}
}

func rejected(t *testing.T, r Registrar) {
	two := Submit("t1")
	two.SetRole = &state.SetRole{Role: "a", Weight: 1}
	late := Submit("t1")
	late.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]state.Command{"no kind": {}, "two kinds": two, "year 10000": late} {
		if _, err := r.Propose(t.Context(), Submit("before"), c); !errors.Is(err, registrar.ErrRejected) {
			t.Errorf("%s: %v, want ErrRejected", name, err)
		}
	}
	read(t, r, func(s *state.State) {
		if len(s.Tasks) != 0 {
			t.Error("a part of a rejected proposal was applied")
		}
	})
	// What no text ought to hold is not the registrar's to refuse.
	odd := Submit("t1")
	odd.Submit.Spec.Name = "\xff\x00"
	Propose(t, r, odd)
	read(t, r, func(s *state.State) {
		if got := s.Tasks["t1"].Spec.Name; got != "\xff\x00" {
			t.Errorf("name %q", got)
		}
	})
}

func tooMuch(t *testing.T, r Registrar) {
	many := make([]state.Command, registrar.MaxCommands+1)
	for i := range many {
		many[i] = SetRole("a", 1)
	}
	if _, err := r.Propose(t.Context(), many...); !errors.Is(err, registrar.ErrRejected) {
		t.Errorf("%d commands: %v, want ErrRejected", len(many), err)
	}
	Propose(t, r, many[1:]...)
	big := Submit("t1")
	big.Submit.Spec.Name = string(make([]byte, registrar.MaxBytes))
	if _, err := r.Propose(t.Context(), big); !errors.Is(err, registrar.ErrRejected) {
		t.Errorf("a command of more than a MiB: %v, want ErrRejected", err)
	}
	// Just below the limit, several at a time: each gets its own entry.
	var wg sync.WaitGroup
	for i := range 4 {
		c := Submit(fmt.Sprintf("big%d", i))
		c.Submit.Spec.Name = string(make([]byte, registrar.MaxBytes-2048))
		wg.Go(func() {
			if _, err := r.Propose(t.Context(), c); err != nil {
				t.Errorf("a command just below the limit: %v", err)
			}
		})
	}
	wg.Wait()
}

func concurrent(t *testing.T, r Registrar) {
	const proposers, each = 64, 20
	var wg sync.WaitGroup
	for p := range proposers {
		wg.Go(func() {
			for i := range each {
				// Two commands: the first of each pair must be applied first.
				id := fmt.Sprintf("p%d-%d", p, i)
				res, err := r.Propose(t.Context(), Submit(id), Submit(id))
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				if res[0].Kind != state.OK || res[1].Kind != state.Conflict {
					t.Errorf("%s: %v", id, res)
				}
				if i%5 == 0 {
					err := r.Read(t.Context(), func(s *state.State) {
						if s.Tasks[fleet.TaskID(id)] == nil {
							t.Errorf("%s: proposed and not read", id)
						}
					})
					if err != nil {
						t.Errorf("Read: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	read(t, r, func(s *state.State) {
		if len(s.Tasks) != proposers*each {
			t.Errorf("%d tasks, want %d", len(s.Tasks), proposers*each)
		}
	})
}

// follow checks that a clone and the entries after it make the state.
func follow(t *testing.T, r Registrar) {
	Propose(t, r, Submit("before"))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	st, entries, err := r.Follow(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.Tasks["before"] == nil {
		t.Error("the clone lacks what was committed before it")
	}
	const n = 1000 // more than the channel holds
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			for i := range n / 4 {
				if _, err := r.Propose(t.Context(), Submit(fmt.Sprintf("p%d-%d", p, i)), SetRole("a", int64(i+1))); err != nil {
					t.Errorf("Propose: %v", err)
					return
				}
			}
		})
	}
	var last uint64
	for seen := 0; seen < 2*n; {
		e := <-entries
		if e.Index <= last || len(e.Commands) != len(e.Results) {
			t.Fatalf("entry %d with %d commands and %d results came after %d", e.Index, len(e.Commands), len(e.Results), last)
		}
		last = e.Index
		for i, c := range e.Commands {
			if got := st.Apply(e.Index, c); !reflect.DeepEqual(got, e.Results[i]) {
				t.Fatalf("entry %d: %+v here, %+v there", e.Index, got, e.Results[i])
			}
			seen++
		}
	}
	wg.Wait()
	read(t, r, func(s *state.State) {
		if !reflect.DeepEqual(s, st) {
			t.Error("the clone and the entries after it do not make the state")
		}
	})
}

func followEnds(t *testing.T, r Registrar) {
	ctx, stop := context.WithCancel(t.Context())
	_, entries, err := r.Follow(ctx)
	if err != nil {
		t.Fatal(err)
	}
	Propose(t, r, Submit("t1"))
	stop()
	n := 0
	for range entries { // ends only when the channel is closed
		n++
	}
	if n > 1 {
		t.Errorf("%d entries of one proposal", n)
	}
	Propose(t, r, Submit("t2"))
}

func followerFull(t *testing.T, r Registrar) {
	ctx, stop := context.WithCancel(t.Context())
	_, entries, err := r.Follow(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range cap(entries) { // one entry each
		Propose(t, r, SetRole("a", int64(i+1)))
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.Propose(t.Context(), Submit("t1"))
		done <- err
	}()
	r.Stale(func(*state.State) {}) // never held up by a follower
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func gaveUp(t *testing.T, r Registrar) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := r.Propose(ctx, Submit("t1")); !errors.Is(err, context.Canceled) {
		t.Errorf("Propose: %v, want the context's error", err)
	}
	if err := r.Read(ctx, func(*state.State) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v, want the context's error", err)
	}
}

func closing(t *testing.T, r Registrar) {
	c, ok := r.(interface{ Close() error })
	if !ok {
		t.Fatal("no Close method")
	}
	_, entries, err := r.Follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	Propose(t, r, Submit("t1"))
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for range entries {
	}
	last := registrar.Leadership{Leading: true}
	for l := range r.Leadership() {
		last = l
	}
	if last.Leading {
		t.Error("Leadership closed without saying that it is over")
	}
	if _, err := r.Propose(t.Context(), Submit("t2")); !errors.Is(err, registrar.ErrClosed) {
		t.Errorf("Propose: %v, want ErrClosed", err)
	}
	if err := r.Read(t.Context(), func(*state.State) {}); !errors.Is(err, registrar.ErrClosed) {
		t.Errorf("Read: %v, want ErrClosed", err)
	}
	if _, _, err := r.Follow(t.Context()); !errors.Is(err, registrar.ErrClosed) {
		t.Errorf("Follow: %v, want ErrClosed", err)
	}
	r.Stale(func(s *state.State) {
		if s.Tasks["t1"] == nil {
			t.Error("the last state is gone")
		}
	})
	if err := c.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}
