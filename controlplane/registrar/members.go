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
			m.LastContact = r.contact(s.ID)
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

// contact is when a leader last heard from a peer: now, unless heartbeats fail.
func (r *Raft) contact(id raft.ServerID) time.Time {
	r.contactMu.Lock()
	defer r.contactMu.Unlock()
	if t, silent := r.silent[id]; silent {
		return t
	}
	return time.Now()
}

func (r *Raft) forgetContacts() {
	r.contactMu.Lock()
	defer r.contactMu.Unlock()
	clear(r.silent)
}

// contactLoop keeps which peers of a leader miss their heartbeats.
func (r *Raft) contactLoop() {
	ch := make(chan raft.Observation, 16)
	obs := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	})
	r.raft.RegisterObserver(obs)
	defer r.raft.DeregisterObserver(obs)
	for {
		select {
		case <-r.ctx.Done():
			return
		case o := <-ch:
			r.contactMu.Lock()
			switch d := o.Data.(type) {
			case raft.FailedHeartbeatObservation:
				r.silent[d.PeerID] = d.LastContact
			case raft.ResumedHeartbeatObservation:
				delete(r.silent, d.PeerID)
			}
			r.contactMu.Unlock()
		}
	}
}

// AddVoter makes a replica a voting member, or changes the address of one, and
// returns when a majority has agreed. It does not wait until the newcomer has
// caught up. Adding a member again changes nothing.
func (r *Raft) AddVoter(ctx context.Context, id fleet.ReplicaID, addr string) error {
	if err := fleet.CheckID("replica", string(id)); err != nil {
		return fmt.Errorf("adding a replica: %w", err)
	}
	for _, s := range r.servers() {
		if string(s.ID) != string(id) && string(s.Address) == addr {
			return fmt.Errorf("adding replica %s: replica %s has the address %s; remove that one first", id, s.ID, addr)
		}
	}
	return r.change(ctx, fmt.Sprintf("adding replica %s", id), func() raft.Future {
		return r.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, 0)
	})
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
