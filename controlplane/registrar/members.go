package registrar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Leader returns the replica that leads as far as this one knows; empty when
// none is known.
func (r *Raft) Leader() (fleet.ReplicaID, string) {
	addr, id := r.raft.LeaderWithID()
	return fleet.ReplicaID(id), string(addr)
}

func leaderIs(id raft.ServerID, addr raft.ServerAddress) error {
	return &NotLeaderError{Leader: fleet.ReplicaID(id), Addr: string(addr)}
}

// Replicas lists the members of the newest Raft configuration this replica
// knows, committed or not, in the order in which they were added.
func (r *Raft) Replicas() []Replica {
	_, leader := r.raft.LeaderWithID()
	leading := r.raft.State() == raft.Leader
	var out []Replica
	for _, s := range r.servers() {
		m := Replica{
			ID: fleet.ReplicaID(s.ID), Addr: string(s.Address),
			Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader,
		}
		switch {
		case m.ID == r.cfg.ID:
			m.LastContact = time.Now()
		case leading:
			m.LastContact = r.trans.progress(s.ID).at
		case m.Leader:
			m.LastContact = r.raft.LastContact()
		}
		out = append(out, m)
	}
	return out
}

func (r *Raft) servers() []raft.Server {
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// answerWithin is how long a newcomer may take to answer for the first time.
const answerWithin = 10 * time.Second

// nearlyThere is how many entries a newcomer may lack when it gets its vote.
const nearlyThere = 256

// AddVoter makes a replica a voting member, or changes the address of one, and
// returns when a majority has agreed. Adding a member again changes nothing.
//
// A newcomer gets its vote when it has caught up: a vote for one that does not
// answer can cost the control plane its majority. One that does not answer at
// all is not added. Where ctx ends before it has caught up, it stays a member
// without a vote, and another AddVoter goes on from there.
func (r *Raft) AddVoter(ctx context.Context, id fleet.ReplicaID, addr string) error {
	if err := fleet.CheckID("replica", string(id)); err != nil {
		return fmt.Errorf("adding a replica: %w", err)
	}
	op := fmt.Sprintf("adding replica %s", id)
	sid, saddr := raft.ServerID(id), raft.ServerAddress(addr)
	member := false
	for _, s := range r.servers() {
		switch {
		case s.ID == sid && s.Suffrage == raft.Voter && r.raft.State() == raft.Leader:
			if s.Address == saddr {
				return nil
			}
			return r.change(ctx, op, func() raft.Future { return r.raft.AddVoter(sid, saddr, 0, 0) })
		case s.ID == sid:
			member = true
		case s.Address == saddr:
			return fmt.Errorf("%s: replica %s has the address %s; remove that one first", op, s.ID, addr)
		}
	}
	began := time.Now()
	if err := r.change(ctx, op, func() raft.Future { return r.raft.AddNonvoter(sid, saddr, 0, 0) }); err != nil {
		return err
	}
	if err := r.caughtUp(ctx, sid, began); err != nil {
		if errors.Is(err, errSilent) && !member {
			err = errors.Join(err, r.Remove(ctx, id))
		}
		return fmt.Errorf("%s at %s: %w", op, addr, err)
	}
	return r.change(ctx, op, func() raft.Future { return r.raft.AddVoter(sid, saddr, 0, 0) })
}

var errSilent = errors.New("it does not answer; check that tenderd runs there under this name, and that its UDP port is open from here")

// caughtUp waits until a member has answered since, and lacks no more than a
// few entries.
func (r *Raft) caughtUp(ctx context.Context, id raft.ServerID, since time.Time) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		p := r.trans.progress(id)
		answered := p.at.After(since)
		switch {
		case answered && p.lastLog+nearlyThere >= r.raft.LastIndex():
			return nil
		case r.raft.State() != raft.Leader:
			return r.notLeader()
		case !answered && time.Since(since) > answerWithin:
			return errSilent
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it has not caught up yet: %w: %w", ErrTimeout, context.Cause(ctx))
		case <-r.ctx.Done():
			return ErrClosed
		}
	}
}

// Remove takes a replica out of the configuration and returns when a majority
// has agreed. A leader that removes itself steps down. Removing a stranger
// changes nothing.
func (r *Raft) Remove(ctx context.Context, id fleet.ReplicaID) error {
	if s := r.servers(); len(s) == 1 && string(s[0].ID) == string(id) {
		return fmt.Errorf("removing replica %s: it is the last one; to end a control plane, stop it", id)
	}
	return r.change(ctx, fmt.Sprintf("removing replica %s", id), func() raft.Future {
		return r.raft.RemoveServer(raft.ServerID(id), 0, 0)
	})
}

// Transfer hands leadership to the replica that is most up to date. Done before
// a planned stop it spares the fleet an election.
func (r *Raft) Transfer(ctx context.Context) error {
	return r.change(ctx, "handing over leadership", func() raft.Future { return r.raft.LeadershipTransfer() })
}

// change runs a membership operation until it is done or ctx ends.
func (r *Raft) change(ctx context.Context, op string, start func() raft.Future) error {
	if r.raft.State() != raft.Leader {
		return fmt.Errorf("%s: %w", op, r.notLeader())
	}
	done := make(chan error, 1)
	if !r.spawn(func() { done <- start().Error() }) {
		return ErrClosed
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", op, ErrTimeout, context.Cause(ctx))
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return fmt.Errorf("%s: %w", op, r.notLeader())
	default:
		return fmt.Errorf("%s: %w", op, r.explain(err))
	}
}
