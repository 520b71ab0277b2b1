package registrar

import (
	"context"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"

	"github.com/tenderfleet/tender/controlplane/state"
)

// Memory is a registrar of one replica without disk or network. It always
// leads, in term 1. What is proposed takes the same way through encoding and
// state machine as with Raft.
type Memory struct {
	m          *machine
	turn       chan uint64 // holds the index of the last entry; taken by whoever applies
	leadership chan Leadership
	closed     context.Context
	close      context.CancelFunc
	closeOnce  sync.Once
}

// NewMemory returns an empty, leading registrar.
func NewMemory() *Memory {
	r := &Memory{m: newMachine(), turn: make(chan uint64, 1), leadership: make(chan Leadership, 1)}
	r.closed, r.close = context.WithCancel(context.Background())
	r.turn <- 0
	r.leadership <- Leadership{Leading: true, Term: 1}
	return r
}

// Propose applies the commands as one entry: see Raft.Propose.
func (r *Memory) Propose(ctx context.Context, cmds ...state.Command) ([]state.Result, error) {
	raws, err := encodeCommands(cmds)
	if err != nil || len(raws) == 0 {
		return nil, err
	}
	data, err := encodeEntry(needs(cmds), raws)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	if err := r.check(ctx); err != nil {
		return nil, err
	}
	select {
	case index := <-r.turn:
		defer func() { r.turn <- index + 1 }()
		return r.m.apply(index+1, data), nil
	case <-ctx.Done():
		return nil, notProposed(ctx)
	case <-r.closed.Done():
		return nil, ErrClosed
	}
}

func (r *Memory) check(ctx context.Context) error {
	if r.closed.Err() != nil {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return notProposed(ctx)
	}
	return nil
}

// Read calls fn with the state. fn must not keep or change it.
func (r *Memory) Read(ctx context.Context, fn func(*state.State)) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	r.m.read(fn)
	return nil
}

// Stale calls fn with the state. fn must not keep or change it.
func (r *Memory) Stale(fn func(*state.State)) { r.m.read(fn) }

// Follow returns the state and what is applied after it: see Raft.Follow.
func (r *Memory) Follow(ctx context.Context) (*state.State, <-chan Entry, error) {
	return r.m.follow(ctx)
}

// Leadership says once that this replica leads, and closes with the registrar.
func (r *Memory) Leadership() <-chan Leadership { return r.leadership }

// Close ends all followers.
func (r *Memory) Close() error {
	r.closeOnce.Do(func() {
		r.close()
		r.m.close()
		select {
		case <-r.leadership:
		default:
		}
		r.leadership <- Leadership{Term: 1}
		close(r.leadership)
	})
	return nil
}

// encodeCommands encodes and checks the commands of one Propose.
func encodeCommands(cmds []state.Command) ([]cbor.RawMessage, error) {
	if len(cmds) > MaxCommands {
		return nil, fmt.Errorf("%w: %d at once, the limit is %d", ErrRejected, len(cmds), MaxCommands)
	}
	raws := make([]cbor.RawMessage, len(cmds))
	size := 0
	for i, c := range cmds {
		raw, err := encodeCommand(c)
		if err != nil {
			return nil, fmt.Errorf("%w: command %d: %w", ErrRejected, i, err)
		}
		raws[i] = raw
		size += len(raw)
	}
	if size > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes at once, the limit is %d", ErrRejected, size, MaxBytes)
	}
	return raws, nil
}

// notProposed is the error of a Propose that gave up before anything was sent.
func notProposed(ctx context.Context) error {
	return fmt.Errorf("nothing was proposed: %w", context.Cause(ctx))
}
