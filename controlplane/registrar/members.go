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
			p := r.trans.progress(s.ID)
			m.LastContact = p.at
			if last := r.raft.LastIndex(); p.lastLog < last {
				m.Lag = last - p.lastLog
			}
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
	member, voter, err := r.member(id, addr)
	if err != nil {
		return err
	}
	if voter && r.raft.State() == raft.Leader {
		return r.Promote(ctx, id, addr)
	}
	began := time.Now()
	if err := r.AddLearner(ctx, id, addr); err != nil {
		return err
	}
	if err := r.caughtUp(ctx, raft.ServerID(id), began); err != nil {
		if errors.Is(err, errSilent) && !member {
			err = errors.Join(err, r.Remove(ctx, id))
		}
		return fmt.Errorf("adding replica %s at %s: %w", id, addr, err)
	}
	return r.Promote(ctx, id, addr)
}

// AddLearner makes a replica a member without a vote: it gets the log.
func (r *Raft) AddLearner(ctx context.Context, id fleet.ReplicaID, addr string) error {
	if _, _, err := r.member(id, addr); err != nil {
		return err
	}
	return r.change(ctx, fmt.Sprintf("adding replica %s", id), func() raft.Future {
		return r.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, 0)
	})
}

// Promote gives a member its vote, whether it has caught up or not, or a voter
// another address.
func (r *Raft) Promote(ctx context.Context, id fleet.ReplicaID, addr string) error {
	for _, m := range r.Replicas() {
		if m.ID == id && m.Voter && m.Addr == addr && r.raft.State() == raft.Leader {
			return nil
		}
	}
	return r.change(ctx, fmt.Sprintf("making replica %s a voter", id), func() raft.Future {
		return r.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, 0)
	})
}

// member says what a replica is now, and refuses an address that is taken.
func (r *Raft) member(id fleet.ReplicaID, addr string) (member, voter bool, err error) {
	if err := fleet.CheckID("replica", string(id)); err != nil {
		return false, false, fmt.Errorf("adding a replica: %w", err)
	}
	for _, m := range r.Replicas() {
		switch {
		case m.ID == id:
			member, voter = true, m.Voter
		case m.Addr == addr:
			return false, false, fmt.Errorf("adding replica %s: replica %s has the address %s; remove that one first", id, m.ID, addr)
		}
	}
	return member, voter, nil
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
