package controlplane

import (
	"context"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
)

// Ask calls look in the leader's loop, between two steps.
func (r *Replica) Ask(ctx context.Context, look func(*leader.Leader)) error {
	t, err := r.current()
	if err != nil {
		return err
	}
	return t.query(ctx, look)
}

// Reserve has the leader make or end reservations and waits for what the trio
// says. When it gives up waiting the outcome is not known: registrar.ErrTimeout.
func (r *Replica) Reserve(ctx context.Context, ev leader.Reserve) (state.Result, error) {
	t, err := r.current()
	if err != nil {
		return state.Result{}, err
	}
	outcome := make(chan state.Result, 1)
	err = t.query(ctx, func(*leader.Leader) {
		t.reserves++
		ev.Seq = t.reserves
		t.reserving[ev.Seq] = outcome
		t.step(ev)
	})
	if err != nil {
		return state.Result{}, err
	}
	select {
	case res := <-outcome:
		return res, res.Err()
	case <-t.done:
	case <-ctx.Done():
	}
	return state.Result{}, registrar.ErrTimeout
}

// reserved tells whoever waits for a reservation what came of it.
func (t *term) reserved(act leader.Reserved) {
	if w := t.reserving[act.Seq]; w != nil {
		w <- act.Result // it has room for one
		delete(t.reserving, act.Seq)
	}
}
