package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	// lookForUpgrades is how often a replica looks whether what its agents are to
	// run has changed.
	lookForUpgrades = time.Second
	// rollEvery is how often a leader looks how far a rollout is.
	rollEvery = time.Second
)

// upgradeOf is what an agent is to run, as this replica's own copy of the state
// has it: nobody leads for that.
func (r *Replica) upgradeOf(id fleet.AgentID) (u fleet.Upgrade, ever bool) {
	r.raft.Stale(func(s *state.State) { u, ever = s.UpgradeOf(id), s.Rollout != nil })
	return u, ever
}

// releaseKeys are those that agents pin when they join.
func (r *Replica) releaseKeys() (keys []string) {
	r.raft.Stale(func(s *state.State) {
		for _, id := range state.SortedKeys(s.ReleaseKeys) {
			keys = append(keys, s.ReleaseKeys[id].Key)
		}
	})
	return keys
}

// tellUpgrades has the sessions here look whenever a rollout has changed.
func (r *Replica) tellUpgrades(ctx context.Context) error {
	tick := time.NewTicker(lookForUpgrades)
	defer tick.Stop()
	var told uint64
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var revision uint64
		r.raft.Stale(func(s *state.State) {
			if s.Rollout != nil {
				revision = s.Rollout.Revision
			}
		})
		if revision != told {
			told = revision
			r.mgr.Upgrade()
		}
	}
}

// rollOut takes a rollout further while this replica leads.
func (r *Replica) rollOut(ctx context.Context) error {
	tick := time.NewTicker(rollEvery)
	defer tick.Stop()
	var said once
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := r.roll(ctx); said.news(err) && ctx.Err() == nil {
			r.log.Warn("the rollout does not go on", "error", err)
		}
	}
}

func (r *Replica) roll(ctx context.Context) error {
	going := false
	r.raft.Stale(func(s *state.State) { going = s.Rollout != nil })
	if !going {
		return nil
	}
	soft, err := r.Soft(ctx)
	if err != nil {
		return err
	}
	seen, now := api.Seen(soft), time.Now()
	var c *state.AdvanceRollout
	r.raft.Stale(func(s *state.State) { c = rollout.Next(rollout.Look(now, s, seen)) })
	if c == nil {
		return nil
	}
	results, err := r.raft.Propose(ctx, state.Command{Time: now, AdvanceRollout: c})
	if err != nil {
		return fmt.Errorf("advance the rollout: %w", err)
	}
	r.logRollout(c)
	return results[0].Err()
}

func (r *Replica) logRollout(c *state.AdvanceRollout) {
	for _, a := range c.Agents {
		if a.To == state.StageFailed {
			r.log.Warn("an agent's upgrade failed", "rollout", c.ID, "agent", a.Agent, "cause", a.Text)
		}
	}
	switch {
	case c.Pause != "":
		r.log.Warn("the rollout is paused", "rollout", c.ID, "cause", c.Pause)
	case c.Finish:
		r.log.Info("the rollout is finished", "rollout", c.ID)
	case c.Open > 0:
		r.log.Info("a ring is open", "rollout", c.ID, "ring", c.Open)
	}
}

// errAway is about a package that a record names and that is not here yet.
var errAway = errors.New("the package is not on this replica yet")
