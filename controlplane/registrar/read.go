package registrar

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/controlplane/state"
)

// readRound is one confirmation of leadership shared by all Reads that began
// before it.
type readRound struct {
	done  chan struct{}
	index uint64 // committed when the round began
	err   error
}

// Read calls fn with a state that holds at least everything committed when
// Read was called. Only the leader can: it asks a majority whether it still
// leads. Concurrent Reads share one such question. fn must be quick and must
// not keep or change the state.
func (r *Raft) Read(ctx context.Context, fn func(*state.State)) error {
	if ctx.Err() != nil {
		return fmt.Errorf("read: %w", context.Cause(ctx))
	}
	r.readMu.Lock()
	round := r.nextRead
	if round == nil {
		round = &readRound{done: make(chan struct{})}
		r.nextRead = round
	}
	r.readMu.Unlock()
	select {
	case r.readWake <- struct{}{}:
	default: // the loop has been told and has not looked yet
	}
	select {
	case <-round.done:
	case <-ctx.Done():
		return fmt.Errorf("read: %w", context.Cause(ctx))
	case <-r.ctx.Done():
		return ErrClosed
	}
	if round.err != nil {
		return round.err
	}
	if err := r.m.wait(ctx, round.index); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	r.m.read(fn)
	return nil
}

// readLoop runs one round after the other while there are readers.
func (r *Raft) readLoop() {
	for {
		select {
		case <-r.readWake:
		case <-r.ctx.Done():
			return
		}
		r.readMu.Lock()
		round := r.nextRead
		r.nextRead = nil
		r.readMu.Unlock()
		if round == nil {
			continue
		}
		round.index, round.err = r.confirm()
		close(round.done)
	}
}

// confirm returns an index so that a state with it applied is not older than
// this call. The index is read before leadership is confirmed: a leader
// confirmed afterwards had committed everything that anybody has seen.
func (r *Raft) confirm() (uint64, error) {
	if r.raft.State() != raft.Leader {
		return 0, r.notLeader()
	}
	// A new leader does not know what is committed until it commits an entry
	// of its own term.
	if err := r.establish(r.raft.CurrentTerm()); err != nil {
		return 0, r.readError(err)
	}
	index := r.raft.CommitIndex()
	if err := r.raft.VerifyLeader().Error(); err != nil {
		return 0, r.readError(err)
	}
	return index, nil
}

func (r *Raft) readError(err error) error {
	switch {
	case errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, context.Canceled):
		return ErrClosed
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, ErrNotLeader):
		return r.notLeader()
	default:
		return fmt.Errorf("read: %w", err)
	}
}

// establish makes sure, once per term, that everything committed before the
// term is applied here. Later in the term the machine sees every entry itself,
// so that its count can be compared with the commit index.
func (r *Raft) establish(term uint64) error {
	// A channel, not a mutex: who waits for a barrier waits for the network.
	select {
	case r.establishing <- struct{}{}:
	case <-r.ctx.Done():
		return context.Canceled
	}
	defer func() { <-r.establishing }()
	if r.established == term {
		return nil
	}
	barrier := r.raft.Barrier(0)
	if err := barrier.Error(); err != nil {
		return err
	}
	if f, ok := barrier.(raft.IndexFuture); ok {
		r.m.advance(f.Index())
	}
	if r.raft.CurrentTerm() != term {
		return raft.ErrLeadershipLost
	}
	r.established = term
	return nil
}
