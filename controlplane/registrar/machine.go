package registrar

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/tenderfleet/tender/controlplane/state"
)

// followBuffer is how many entries a follower may be behind before it stops
// the state machine.
const followBuffer = 256

// machine holds the state and hands out what is applied to it. One goroutine
// at a time applies (Raft's, or the holder of Memory's turn); any may read.
type machine struct {
	mu        sync.RWMutex
	st        *state.State
	applied   uint64
	waiters   []waiter
	followers []*follower
	closed    bool
	// known is the capability up to which entries are applied.
	known uint64
	// broken is why nothing is applied any more, nil while things are.
	broken error
	// fail, when set, hears of that and ends the replica.
	fail func(error)
	ends sync.WaitGroup // the goroutines that close followers' channels
}

type waiter struct {
	index uint64
	ready chan struct{}
}

func newMachine() *machine { return &machine{st: state.New(), known: state.Capability} }

// apply decodes and applies one entry. An entry that it cannot read is a hard
// stop: every other answer would let replicas diverge. It then returns nil, and
// so it does from then on.
func (m *machine) apply(index uint64, data []byte) []state.Result {
	if m.stopped() != nil {
		return nil
	}
	commands, err := decodeEntry(data, m.known)
	if err != nil {
		m.stop(fmt.Errorf("log entry %d cannot be applied: %w. A newer version of tenderd wrote it. "+
			"Upgrade this replica; nothing is lost, the entry stays in the log", index, err))
		return nil
	}
	results := make([]state.Result, len(commands))
	m.mu.Lock()
	for i, c := range commands {
		results[i] = m.st.Apply(index, c)
	}
	m.advanceLocked(index)
	followers := m.followers // replaced, never changed, by follow and drop
	m.mu.Unlock()
	for _, f := range followers {
		f.deliver(Entry{Index: index, Commands: commands, Results: results})
	}
	return results
}

// stop ends the application of entries for good.
func (m *machine) stop(err error) {
	if m.fail == nil {
		panic("registrar: " + err.Error())
	}
	m.mu.Lock()
	m.broken = cmp.Or(m.broken, err)
	m.mu.Unlock()
	m.fail(err)
}

// stopped returns why nothing is applied any more.
func (m *machine) stopped() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.broken
}

// advance records that every entry up to index is applied.
func (m *machine) advance(index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advanceLocked(index)
}

func (m *machine) advanceLocked(index uint64) {
	if index <= m.applied {
		return
	}
	m.applied = index
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if w.index > index {
			return false
		}
		close(w.ready)
		return true
	})
}

// wait blocks until the entries up to index are applied.
func (m *machine) wait(ctx context.Context, index uint64) error {
	m.mu.Lock()
	if m.applied >= index {
		m.mu.Unlock()
		return nil
	}
	w := waiter{index: index, ready: make(chan struct{})}
	m.waiters = append(m.waiters, w)
	m.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		m.waiters = slices.DeleteFunc(m.waiters, func(o waiter) bool { return o.ready == w.ready })
		m.mu.Unlock()
		return context.Cause(ctx)
	}
}

func (m *machine) read(fn func(*state.State)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	fn(m.st)
}

// clone copies the state; the records are shared.
func (m *machine) clone() *state.State {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Clone()
}

// restore replaces the state. Followers are cut off: no entries lead from what
// they have seen to what is here now.
func (m *machine) restore(st *state.State) {
	m.mu.Lock()
	m.st = st
	m.mu.Unlock()
	m.cutOff()
}

func (m *machine) cutOff() {
	m.mu.RLock()
	followers := m.followers
	m.mu.RUnlock()
	for _, f := range followers {
		f.cancel()
	}
}

// close ends all followers and waits for their channels to be closed.
func (m *machine) close() {
	m.mu.Lock()
	m.closed = true // no new ones
	m.mu.Unlock()
	m.cutOff()
	m.ends.Wait()
}

// follow returns a clone and a channel with every entry applied after it.
func (m *machine) follow(ctx context.Context) (*state.State, <-chan Entry, error) {
	f := &follower{ch: make(chan Entry, followBuffer)}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, nil, ErrClosed
	}
	f.ctx, f.cancel = context.WithCancel(ctx)
	st := m.st.Clone()
	m.followers = append(slices.Clone(m.followers), f)
	m.ends.Add(1)
	m.mu.Unlock()
	context.AfterFunc(f.ctx, func() {
		defer m.ends.Done()
		m.mu.Lock()
		m.followers = slices.DeleteFunc(slices.Clone(m.followers), func(o *follower) bool { return o == f })
		m.mu.Unlock()
		f.end()
	})
	return st, f.ch, nil
}

type follower struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex // held while sending, so that end closes ch between sends
	ended bool
	ch    chan Entry
}

// deliver blocks until there is room or the follower's context has ended.
func (f *follower) deliver(e Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	select {
	case f.ch <- e:
	case <-f.ctx.Done():
	}
}

func (f *follower) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	close(f.ch)
}
