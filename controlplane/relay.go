package controlplane

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	// lookForLeader is how often a replica looks whether the leader has changed.
	lookForLeader = 100 * time.Millisecond
	// relayDial bounds a try to reach the leader.
	relayDial = 2 * time.Second
)

// relay hands the sessions of this replica on to whoever leads, while that is
// another one.
func (r *Replica) relay(ctx context.Context) error {
	var said string
	for ctx.Err() == nil {
		id, addr := r.raft.Leader()
		if id != "" && id != r.self.ID {
			err := r.relayTo(ctx, id, addr)
			if text := transport.Explain(err); ctx.Err() == nil && text != said {
				said = text // once, not ten times a second
				r.log.Info("not relaying", "leader", id, "cause", text)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookForLeader):
		}
	}
	return ctx.Err()
}

// relayTo relays to one leader until the link ends or another one leads.
func (r *Replica) relayTo(ctx context.Context, id fleet.ReplicaID, addr string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialCtx, stop := context.WithTimeout(ctx, relayDial)
	conn, err := r.port.Dial(dialCtx, addr, transport.ALPNRelay, expectReplica(id))
	stop()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		tick := time.NewTicker(lookForLeader)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			// No leader is not another one: a link that works may as well stay.
			if now, _ := r.raft.Leader(); now != "" && now != id {
				return nil
			}
		}
	})
	err = r.mgr.Relay(ctx, conn)
	cancel()
	return errors.Join(err, g.Wait())
}

func (r *Replica) acceptRelays(ctx context.Context, g *errgroup.Group) error {
	for {
		s, err := r.port.Accept(ctx, transport.ALPNRelay)
		if err != nil {
			return err
		}
		g.Go(func() error {
			r.mgr.ServeRelay(ctx, s)
			return nil
		})
	}
}

// watchRevocations ends live sessions of banned agents as soon as this replica
// knows of the ban, whether or not it can reach the leader.
func (r *Replica) watchRevocations(ctx context.Context) error {
	for ctx.Err() == nil {
		st, entries, err := r.raft.Follow(ctx)
		if err != nil {
			return err
		}
		r.mgr.Revoked(func(id pki.Identity) bool { _, banned := st.Revoked[id.String()]; return banned })
		for e := range entries { // until the state is replaced, or ctx ends
			for _, c := range e.Commands {
				if c.Revoke != nil {
					uri := c.Revoke.URI
					r.mgr.Revoked(func(id pki.Identity) bool { return id.String() == uri })
				}
			}
		}
	}
	return ctx.Err()
}

func (r *Replica) agentRecord(id fleet.AgentID) *fleet.Agent {
	var a *fleet.Agent
	r.raft.Stale(func(s *state.State) { a = s.Agents[id] })
	return a
}

func (r *Replica) agentCount() int {
	n := 0
	r.raft.Stale(func(s *state.State) { n = len(s.Agents) })
	return n
}
