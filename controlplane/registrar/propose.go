package registrar

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/controlplane/state"
)

// maxInFlight is how many entries may be on their way to a majority. Two keep
// disk and network busy at once; with more, entries become smaller, not more
// commands pass.
const maxInFlight = 2

// proposal is one Propose on its way.
type proposal struct {
	raws  []cbor.RawMessage
	size  int
	needs uint64 // the capability
	// taken decides between the proposer that gives up and the loop that packs.
	taken   atomic.Bool
	done    chan struct{}
	results []state.Result
	err     error
}

func (p *proposal) finish(results []state.Result, err error) {
	p.results, p.err = results, err
	close(p.done)
}

// Propose commits the commands as part of one log entry, in order, and returns
// what each came to. It is safe for concurrent use; the order among concurrent
// Proposes is not defined. A refusal by the state is a Result, not an error.
//
// Errors: ErrNotLeader, ErrRejected and ErrTooNew (nothing was changed),
// ErrTimeout (the outcome is unknown: ctx ended or leadership was lost while the entry was on
// its way), ErrClosed.
func (r *Raft) Propose(ctx context.Context, cmds ...state.Command) ([]state.Result, error) {
	raws, err := encodeCommands(cmds)
	if err != nil || len(raws) == 0 {
		return nil, err
	}
	if r.raft.State() != raft.Leader {
		return nil, r.notLeader()
	}
	p := &proposal{raws: raws, needs: needs(cmds), done: make(chan struct{})}
	if err := r.allowed(p.needs); err != nil {
		return nil, err
	}
	for _, raw := range raws {
		p.size += len(raw)
	}
	select {
	case r.queue <- p:
	case <-ctx.Done():
		return nil, notProposed(ctx)
	case <-r.ctx.Done():
		return nil, ErrClosed
	}
	select {
	case <-p.done:
		return p.results, p.err
	case <-ctx.Done():
		if p.taken.CompareAndSwap(false, true) {
			return nil, notProposed(ctx)
		}
		return nil, fmt.Errorf("%w: %w", ErrTimeout, context.Cause(ctx))
	case <-r.ctx.Done():
		if p.taken.CompareAndSwap(false, true) {
			return nil, ErrClosed
		}
		<-p.done // Close waits for what is in flight
		return p.results, p.err
	}
}

// proposeLoop packs what has arrived into entries. While maxInFlight entries
// are on their way the queue grows, so a slow disk gives larger entries.
func (r *Raft) proposeLoop() {
	slots := make(chan struct{}, maxInFlight)
	var next *proposal
	for {
		if next == nil {
			select {
			case next = <-r.queue:
			case <-r.ctx.Done():
				return
			}
		}
		select {
		case slots <- struct{}{}:
		case <-r.ctx.Done():
			r.abandon(next)
			return
		}
		// Let those run who were woken by the entry that just came back: what
		// they propose next belongs into this one.
		runtime.Gosched()
		var batch []*proposal
		batch, next = r.pack(next)
		if len(batch) == 0 {
			<-slots
			continue
		}
		r.submit(batch, slots)
	}
}

// abandon answers a proposal that was read from the queue and not packed.
func (r *Raft) abandon(p *proposal) {
	if p.taken.CompareAndSwap(false, true) {
		p.finish(nil, ErrClosed)
	}
}

// pack takes what fits into one entry, and returns the first proposal that did
// not fit. Proposals given up meanwhile are left out.
func (r *Raft) pack(first *proposal) (batch []*proposal, next *proposal) {
	count, size := 0, 0
	for p := first; ; {
		if count+len(p.raws) > MaxCommands || size+p.size > MaxBytes {
			return batch, p
		}
		if p.taken.CompareAndSwap(false, true) {
			batch = append(batch, p)
			count, size = count+len(p.raws), size+p.size
		}
		select {
		case p = <-r.queue:
		default:
			return batch, nil
		}
	}
}

// submit starts one entry; its end frees the slot.
func (r *Raft) submit(batch []*proposal, slots chan struct{}) {
	var raws []cbor.RawMessage
	v := uint64(1)
	for _, p := range batch {
		raws, v = append(raws, p.raws...), max(v, p.needs)
	}
	data, err := encodeEntry(v, raws)
	if err != nil {
		<-slots
		answer(batch, nil, fmt.Errorf("%w: %w", ErrRejected, err))
		return
	}
	future := r.raft.ApplyLog(seal(data), 0)
	r.wg.Go(func() {
		err := future.Error()
		<-slots
		if err != nil {
			answer(batch, nil, r.explain(err))
			return
		}
		results := future.Response().([]state.Result)
		if results == nil { // it was not applied here
			answer(batch, nil, fmt.Errorf("%w: %w", ErrTimeout, r.Failure()))
			return
		}
		answer(batch, results, nil)
	})
}

func answer(batch []*proposal, results []state.Result, err error) {
	for _, p := range batch {
		if err != nil {
			p.finish(nil, err)
			continue
		}
		n := len(p.raws)
		p.finish(results[:n:n], nil)
		results = results[n:]
	}
}

// explain turns Raft's errors of an entry into the few kinds of this package.
func (r *Raft) explain(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return r.notLeader()
	case errors.Is(err, ErrDiskFull): // it is not in the log, and this leader has stepped down
		return fmt.Errorf("%w: %w", err, &NotLeaderError{})
	case errors.Is(err, raft.ErrLeadershipLost):
		return fmt.Errorf("%w: leadership was lost while the entry was on its way", ErrTimeout)
	case errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: %w", ErrTimeout, ErrClosed)
	default:
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
}

func (r *Raft) notLeader() error {
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	addr, id := r.raft.LeaderWithID()
	if string(id) == string(r.cfg.ID) { // about to hand over, or about to learn it
		return &NotLeaderError{}
	}
	return leaderIs(id, addr)
}
