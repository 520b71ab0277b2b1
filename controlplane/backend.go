package controlplane

import (
	"context"
	"fmt"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

var _ api.Backend = (*Replica)(nil)

// Propose commits commands through the trio.
func (r *Replica) Propose(ctx context.Context, cmds ...state.Command) ([]state.Result, error) {
	return r.raft.Propose(ctx, cmds...)
}

// Read gives fn the state as the trio agreed on it, not older than the call.
func (r *Replica) Read(ctx context.Context, fn func(*state.State)) error {
	return r.raft.Read(ctx, fn)
}

// current returns this replica's term as leader, or who leads instead.
func (r *Replica) current() (*term, error) {
	if t := r.lead.Load(); t != nil {
		return t, nil
	}
	id, addr := r.raft.Leader()
	return nil, &registrar.NotLeaderError{Leader: id, Addr: addr}
}

// Soft returns what only the leader knows: offers, connections, readings.
func (r *Replica) Soft(ctx context.Context) (api.Soft, error) {
	t, err := r.current()
	if err != nil {
		return api.Soft{}, err
	}
	soft := api.Soft{Agents: map[fleet.AgentID]api.AgentSoft{}}
	err = t.query(ctx, func(l *leader.Leader) {
		soft.Offers = l.Offers()
		for _, id := range state.SortedKeys(l.State().Agents) {
			session := l.Session(id)
			s := t.desk.Soft(id, session)
			soft.Agents[id] = api.AgentSoft{
				Free: l.Free(id), Orphans: l.Orphans(id), Connected: session != 0, Since: s.Since, LastSeen: s.LastSeen,
				Link: s.Link, Remote: s.Remote, Replica: s.Replica, Version: s.Version, Readings: s.Readings,
			}
		}
	})
	return soft, err
}

// changed returns a channel that is closed at the leader's next commit.
func (r *Replica) changed() <-chan struct{} {
	if t, _ := r.termNow(); t != nil {
		return t.nextCommit()
	}
	ch := make(chan struct{}) // nothing is waited for on a follower
	close(ch)
	return ch
}

// Logs reads a task's output through its agent's own session.
func (r *Replica) Logs(ctx context.Context, id fleet.TaskID, o wire.LogsRequest, emit func(stderr bool, data []byte) error) error {
	t, err := r.current()
	if err != nil {
		return err
	}
	var agent fleet.AgentID
	known := false
	if err := r.raft.Read(ctx, func(s *state.State) {
		if t := s.Tasks[id]; t != nil {
			agent, known = t.Agent, true
		}
	}); err != nil {
		return err
	}
	if !known {
		return &state.Error{Kind: state.NotFound, Text: fmt.Sprintf("no task %s; list them with: tender ps --all", id)}
	}
	o.Task = id
	var session uint64
	if err := t.query(ctx, func(l *leader.Leader) { session = l.Session(agent) }); err != nil {
		return err
	}
	return t.desk.Logs(ctx, session, o, emit)
}

// Status tells of this replica and the trio. It never blocks.
func (r *Replica) Status() api.Status {
	id, addr := r.raft.Leader()
	_, number := r.termNow()
	return api.Status{ID: r.self.ID, Leader: id, LeaderAddr: addr, Term: number, Replicas: r.raft.Replicas()}
}

// termNow is this replica's term as leader, 0 while it does not lead.
func (r *Replica) termNow() (*term, uint64) {
	t := r.lead.Load()
	if t == nil {
		return nil, 0
	}
	return t, t.number
}

// Stale gives fn this replica's own copy of the state; it never blocks.
func (r *Replica) Stale(fn func(*state.State)) { r.raft.Stale(fn) }

// Follow is registrar.Raft.Follow: the caller drains the channel until ctx ends.
func (r *Replica) Follow(ctx context.Context) (*state.State, <-chan registrar.Entry, error) {
	return r.raft.Follow(ctx)
}
