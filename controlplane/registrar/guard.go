package registrar

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// healEvery is how often a log that could not be written looks for space.
const healEvery = 250 * time.Millisecond

// errDamaged marks a log or snapshot that does not hold what was written.
var errDamaged = errors.New("damaged")

// wal is the log and the small values beside it, as one file store has them.
type wal interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// guard stands between Raft and a log on disk. It keeps apart what Raft treats
// alike:
//
//   - A full disk: writes fail with the reason, so that a leader steps down and
//     a follower acknowledges nothing; reads go on. The log is opened again when
//     there is space, which drops what was half written, and then all goes on.
//   - Any other failure to write, and an entry that reads back as something
//     else: the replica ends. What a failed fsync left behind nobody knows, and
//     trying again would take it for written.
//
// Raft panics when it cannot save its term or read an entry. It is made to wait
// instead, for space or for the end of the replica.
type guard struct {
	open  func() (wal, error)
	space func() (uint64, error) // free bytes
	need  uint64                 // of them, to open the log again
	fatal func(error)
	log   *slog.Logger

	mu   sync.RWMutex // held for writing while the log is opened anew
	w    wal
	last uint64 // newest entry that was written, at most the log's own

	state   sync.Mutex
	full    error
	changed chan struct{} // closed and replaced when full changes
	ended   chan struct{} // closed when no more is written
	healer  sync.WaitGroup
}

func newGuard(g *guard) (*guard, error) {
	w, err := g.open()
	if err != nil {
		return nil, err
	}
	g.changed, g.ended = make(chan struct{}), make(chan struct{})
	g.w = w
	if g.last, err = w.LastIndex(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return g, nil
}

// check reads the whole log: what is damaged is found before Raft relies on it.
func (g *guard) check() error {
	first, err := g.w.FirstIndex()
	for i := first; err == nil && i > 0 && i <= g.last; i++ {
		var l raft.Log
		if err = g.w.GetLog(i, &l); err == nil {
			err = sound(&l)
		}
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", errDamaged, i, err)
		}
	}
	return err
}

// end makes waiting calls return; they would for ever otherwise.
func (g *guard) end() {
	g.state.Lock()
	select {
	case <-g.ended:
	default:
		close(g.ended)
	}
	g.state.Unlock()
	g.healer.Wait()
}

func (g *guard) close() error {
	g.end()
	return g.w.Close()
}

// fault is why nothing can be written, nil while it can, and what is closed
// when that changes.
func (g *guard) fault() (<-chan struct{}, error) {
	g.state.Lock()
	defer g.state.Unlock()
	return g.changed, g.full
}

func (g *guard) setFault(err error) {
	g.state.Lock()
	defer g.state.Unlock()
	if (g.full == nil) == (err == nil) {
		return
	}
	g.full = err
	close(g.changed)
	g.changed = make(chan struct{})
	if err != nil {
		g.log.Error("the disk is full: this replica acknowledges nothing until there is space", "error", err)
		select {
		case <-g.ended:
		default:
			g.healer.Go(g.heal)
		}
		return
	}
	g.log.Info("there is space on the disk again: this replica goes on")
}

// isFull reports whether an error is for want of space. A log whose next file
// could not be made says that its last one is sealed.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, types.ErrSealed)
}

// judge sorts a failed write.
func (g *guard) judge(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case isFull(err):
		err = fmt.Errorf("%s: %w: %w", op, ErrDiskFull, err)
		g.setFault(err)
		return err
	}
	err = fmt.Errorf("%s: %w: what is on the disk now is not known, so this replica ends; look at the disk (dmesg), then start it again", op, err)
	g.fatal(err)
	return err
}

// heal opens the log again when there is space.
func (g *guard) heal() {
	tick := time.NewTicker(healEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.ended:
			return
		}
		if free, err := g.space(); err != nil || free < g.need {
			continue
		}
		if err := g.reopen(); err != nil {
			if !isFull(err) {
				g.fatal(fmt.Errorf("opening the log again: %w", err))
				return
			}
			continue
		}
		g.setFault(nil)
		return
	}
}

// reopen forgets what was half written. What was written whole and reported as
// failed goes as well: Raft counts on its not being there.
func (g *guard) reopen() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w != nil {
		if err := g.w.Close(); err != nil {
			g.log.Warn("closing the log that ran out of space", "error", err)
		}
		g.w = nil
	}
	w, err := g.open()
	if err != nil {
		return err
	}
	last, err := w.LastIndex()
	if err == nil && last > g.last {
		err = w.DeleteRange(g.last+1, last)
	}
	if err == nil && last < g.last {
		err = fmt.Errorf("%w: the log ends with entry %d, %d was written", errDamaged, last, g.last)
	}
	if err != nil {
		return errors.Join(err, w.Close())
	}
	g.w = w
	return nil
}

// FirstIndex implements raft.LogStore.
func (g *guard) FirstIndex() (i uint64, err error) {
	g.reading(func(w wal) { i, err = w.FirstIndex() })
	return i, err
}

// LastIndex implements raft.LogStore.
func (g *guard) LastIndex() (i uint64, err error) {
	g.reading(func(w wal) { i, err = w.LastIndex() })
	return min(i, g.written()), err
}

func (g *guard) written() uint64 {
	g.state.Lock()
	defer g.state.Unlock()
	return g.last
}

// reading calls fn with the log. Where it could not be opened again the caller
// waits.
func (g *guard) reading(fn func(wal)) {
	for {
		g.mu.RLock()
		if g.w != nil {
			fn(g.w)
			g.mu.RUnlock()
			return
		}
		g.mu.RUnlock()
		changed, _ := g.fault()
		select {
		case <-changed:
		case <-g.ended:
			g.hangForGood()
		}
	}
}

// hangForGood parks the caller, a goroutine of a Raft that is given up.
func (g *guard) hangForGood() { select {} }

// GetLog implements raft.LogStore.
func (g *guard) GetLog(index uint64, l *raft.Log) (err error) {
	g.reading(func(w wal) { err = w.GetLog(index, l) })
	if err == nil {
		err = sound(l)
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	g.fatal(fmt.Errorf("reading entry %d of the log: %w; %s", index, err, damagedNext))
	g.hangForGood()
	return err
}

// damagedNext is what to do about a damaged store.
const damagedNext = "check the disk; then remove this replica (tender replica remove ID, on another one), empty its data directory and let it join again"

// StoreLog implements raft.LogStore.
func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (g *guard) StoreLogs(logs []*raft.Log) error {
	for _, l := range logs {
		if err := sound(l); err != nil { // on the way from the leader
			return err
		}
	}
	return g.write("writing to the log", func(w wal) error {
		if err := w.StoreLogs(logs); err != nil {
			return err
		}
		g.state.Lock()
		g.last = logs[len(logs)-1].Index
		g.state.Unlock()
		return nil
	})
}

// DeleteRange implements raft.LogStore.
func (g *guard) DeleteRange(lo, hi uint64) error {
	return g.write("shortening the log", func(w wal) error {
		if err := w.DeleteRange(lo, hi); err != nil {
			return err
		}
		g.state.Lock()
		if hi >= g.last {
			g.last = lo - 1
		}
		g.state.Unlock()
		return nil
	})
}

// IsMonotonic implements raft.MonotonicLogStore: the log has no holes.
func (g *guard) IsMonotonic() bool { return true }

// write runs one change unless the disk is full.
func (g *guard) write(op string, fn func(wal) error) (err error) {
	if _, err := g.fault(); err != nil {
		return err
	}
	select {
	case <-g.ended:
		return ErrClosed
	default:
	}
	g.reading(func(w wal) { err = fn(w) })
	return g.judge(op, err)
}

// Set implements raft.StableStore. A replica that cannot write its log does not
// vote either: it could not lead.
func (g *guard) Set(key, val []byte) error {
	return g.write("saving a vote", func(w wal) error { return w.Set(key, val) })
}

// Get implements raft.StableStore.
func (g *guard) Get(key []byte) (v []byte, err error) {
	g.reading(func(w wal) { v, err = w.Get(key) })
	return v, err
}

// GetUint64 implements raft.StableStore.
func (g *guard) GetUint64(key []byte) (v uint64, err error) {
	g.reading(func(w wal) { v, err = w.GetUint64(key) })
	return v, err
}

// keyTerm is what Raft calls its term, which it must be able to save.
const keyTerm = "CurrentTerm"

// SetUint64 implements raft.StableStore.
func (g *guard) SetUint64(key []byte, val uint64) error {
	set := func() (err error) {
		g.reading(func(w wal) { err = w.SetUint64(key, val) })
		return err
	}
	if string(key) != keyTerm {
		return g.write("saving a vote", func(wal) error { return set() })
	}
	for {
		changed, _ := g.fault()
		err := set()
		if err == nil {
			return nil
		}
		_ = g.judge("saving the term", err)
		if isFull(err) {
			select {
			case <-time.After(healEvery):
				continue
			case <-changed:
				continue
			case <-g.ended:
			}
		}
		<-g.ended
		// The term is not saved, and neither is a vote or an entry from now on:
		// nothing depends on it.
		return nil
	}
}
