package controlplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
)

// Alive goes once through what would hang: Raft's own loop, the replicated
// state and, where this replica leads, the leader's loop. That nobody leads is
// no error: a replica without a quorum waits, and a restart would not help. The
// text says what the replica does.
func (r *Replica) Alive(ctx context.Context) (string, error) {
	if err := r.raft.Read(ctx, func(*state.State) {}); err != nil && ctx.Err() != nil {
		return "", fmt.Errorf("raft does not answer: %w", err)
	}
	r.raft.Stale(func(*state.State) {})
	t, number := r.termNow()
	if t != nil {
		err := t.query(ctx, func(*leader.Leader) {})
		if err != nil && !errors.Is(err, registrar.ErrNotLeader) {
			return "", fmt.Errorf("the leader's loop does not answer: %w", err)
		}
		return fmt.Sprintf("%s leads, term %d", r.self.ID, number), nil
	}
	if id, _ := r.raft.Leader(); id != "" {
		return fmt.Sprintf("%s follows %s", r.self.ID, id), nil
	}
	return fmt.Sprintf("%s waits for a leader: too few replicas answer", r.self.ID), nil
}
