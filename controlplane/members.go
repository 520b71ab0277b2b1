package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	tendEvery = 500 * time.Millisecond
	// askEvery is how often the leader asks the others how they are.
	askEvery = 2 * time.Second
)

// members is what a leader knows of the replicas beside what Raft does.
type members struct {
	mu     sync.Mutex
	said   map[fleet.ReplicaID]registrar.About
	stable map[fleet.ReplicaID]time.Time
}

// tend does a leader's chores for the trio: it records the trust domain and
// itself, asks the replicas how they are, and does what the autopilot says.
func (r *Replica) tend(ctx context.Context) error {
	if err := r.introduce(ctx); err != nil {
		return err
	}
	pilot := newAutopilot(r.cfg.Patience)
	r.members.clear()
	var asked time.Time
	var said once // why a rotation waits
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if time.Since(asked) >= askEvery {
			r.askAll(ctx)
			asked = time.Now()
			if err := r.turn(ctx); said.news(err) && ctx.Err() == nil {
				r.log.Warn("the rotation of the authorities waits", "error", err)
			}
		}
		all := r.observe(ctx)
		c := pilot.step(time.Now(), all)
		r.members.keep(pilot.healthy)
		if c == nil {
			continue
		}
		if err := r.carryOut(ctx, c); err != nil && ctx.Err() == nil {
			r.log.Warn("replica not changed", "change", c.do, "replica", c.id, "error", err)
		}
	}
}

// once tells errors that are new from those that were there the last time.
type once struct{ text string }

func (o *once) news(err error) bool {
	last := o.text
	if o.text = ""; err != nil {
		o.text = err.Error()
	}
	return o.text != "" && o.text != last
}

// again spaces tries of what a replica keeps true: after one that failed, the next
// waits, longer each time, up to most.
type again struct {
	most time.Duration
	at   time.Time
	wait time.Duration
	once
}

// due reports whether it is time for a try.
func (a *again) due() bool { return !time.Now().Before(a.at) }

// ended takes note of a try and reports whether its error is news.
func (a *again) ended(err error) bool {
	if err == nil {
		a.wait = 0
	} else {
		a.wait = min(max(2*a.wait, time.Second), a.most)
		a.at = time.Now().Add(a.wait)
	}
	return a.news(err)
}

func (m *members) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said, m.stable = map[fleet.ReplicaID]registrar.About{}, nil
}

func (m *members) keep(healthy map[fleet.ReplicaID]time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stable = maps.Clone(healthy)
}

// askAll asks every member how it is, and records what it runs.
func (r *Replica) askAll(ctx context.Context) {
	said := map[fleet.ReplicaID]registrar.About{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := r.raft.Replicas()
	for _, m := range all {
		wg.Go(func() {
			about, err := r.raft.About(ctx, m.ID)
			if err != nil {
				r.log.Debug("replica does not say how it is", "replica", m.ID, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			said[m.ID] = about
		})
	}
	wg.Wait()
	r.members.mu.Lock()
	r.members.said = said
	r.members.mu.Unlock()

	// What is heard now goes before what was said once; who says nothing is
	// taken at its word.
	lowest := r.raft.Health().Capability
	var notes []state.Command
	r.raft.Stale(func(s *state.State) {
		for _, m := range all {
			rec := s.Replicas[m.ID]
			about, heard := said[m.ID]
			if heard && rec != nil && (rec.Version != about.Version || rec.Capability != about.Capability) {
				notes = append(notes, state.Command{Time: time.Now(), NoteReplica: &state.NoteReplica{
					ID: m.ID, Version: about.Version, Capability: about.Capability,
				}})
			}
			if !heard {
				about.Capability = 1
				if rec != nil {
					about.Capability = max(rec.Capability, 1)
				}
			}
			if m.Voter {
				lowest = min(lowest, about.Capability)
			}
		}
	})
	r.raft.SetCapability(lowest)
	if len(notes) == 0 || lowest < notes[0].Needs() {
		return
	}
	if _, err := r.raft.Propose(ctx, notes...); err != nil && ctx.Err() == nil {
		r.log.Debug("versions of the replicas not recorded", "error", err)
	}
}

// observe says how all replicas are now.
func (r *Replica) observe(ctx context.Context) []observed {
	records := map[fleet.ReplicaID]state.Replica{}
	r.raft.Stale(func(s *state.State) {
		for id, rec := range s.Replicas {
			records[id] = *rec
		}
	})
	r.members.mu.Lock()
	said := r.members.said
	r.members.mu.Unlock()
	var all []observed
	for _, m := range r.raft.Replicas() {
		_, known := records[m.ID]
		delete(records, m.ID)
		o := observed{
			ID: m.ID, Addr: m.Addr, Self: m.ID == r.self.ID, Known: known, Member: true, Voter: m.Voter,
			Contact: time.Since(m.LastContact), Lag: m.Lag, BadDisk: said[m.ID].Low || said[m.ID].Fault != "",
		}
		all = append(all, o)
	}
	for _, id := range state.SortedKeys(records) {
		all = append(all, observed{ID: id, Addr: records[id].Addr, Known: true, Self: id == r.self.ID, Answers: r.answers(ctx, records[id])})
	}
	return all
}

// answers reports whether a replica that has joined can be reached. Until it is
// it is not counted, so that one that never starts cannot stop the others.
func (r *Replica) answers(ctx context.Context, n state.Replica) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := r.port.Dial(ctx, n.Addr, transport.ALPNRaft, expectReplica(n.ID))
	if err != nil {
		r.log.Debug("replica does not answer yet", "replica", n.ID, "error", err)
		return false
	}
	_ = s.Close(transport.CodeOK, "")
	return true
}

func (r *Replica) carryOut(ctx context.Context, c *change) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var err error
	switch c.do {
	case addLearner:
		err = r.raft.AddLearner(ctx, c.id, c.addr)
	case promote:
		// From now on it is one of those that must understand what is proposed.
		about, unheard := r.raft.About(ctx, c.id)
		if unheard != nil {
			about.Capability = 1
		}
		r.raft.SetCapability(min(r.raft.Capability(), about.Capability))
		err = r.raft.Promote(ctx, c.id, c.addr)
	case handOver:
		err = r.raft.Transfer(ctx)
	case remove:
		err = r.dismiss(ctx, c.id, "")
	}
	if err == nil {
		r.log.Info("replicas changed", "change", c.do, "replica", c.id, "addr", c.addr, "because", c.why)
	}
	return err
}

// dismiss takes a replica out for good. The record goes first, with the ban of
// its identity: where this leader fails in between, the next one's autopilot
// finishes what the record says.
func (r *Replica) dismiss(ctx context.Context, id fleet.ReplicaID, by string) error {
	who := pki.Identity{TrustDomain: r.self.TrustDomain, Kind: pki.KindReplica, ID: string(id)}
	now := time.Now()
	_, err := r.raft.Propose(ctx,
		state.Command{Time: now, By: by, DropReplica: &state.DropReplica{ID: id}},
		state.Command{Time: now, By: by, Revoke: &state.Revoke{URI: who.String(), Kind: state.KindReplica, ID: string(id)}})
	if err != nil {
		return err
	}
	return r.raft.Remove(ctx, id)
}

// RemoveReplica takes a replica out of the control plane and bans its identity.
// Without force it refuses when those that are left would have no majority that
// answers. A leader that is to go hands over, and the caller asks the next one.
func (r *Replica) RemoveReplica(ctx context.Context, id fleet.ReplicaID, force bool, by string) error {
	if _, err := r.current(); err != nil {
		return err
	}
	// A leader that has just been elected, as when the one before handed over to be
	// removed, has not heard of everybody yet.
	enough := time.Now().Add(r.livingContact())
	voters, living, known := r.without(ctx, id)
	for known && living <= voters/2 && !force && time.Now().Before(enough) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		voters, living, known = r.without(ctx, id)
	}
	switch {
	case !known:
		return client.NewProblem(client.CodeNotFound, "list them with: tender replica ls", "there is no replica %s", id)
	case voters == 0:
		return client.NewProblem(client.CodeConflict, "to end a control plane, stop it: systemctl stop tenderd", "replica %s is the last one", id)
	case living <= voters/2 && !force:
		return client.NewProblem(client.CodeConflict, "start or replace the others first; --force removes it all the same, and the control plane may then stop",
			"without replica %s, %d of %d voters answer, which is no majority", id, living, voters)
	case id == r.self.ID:
		if err := r.raft.Transfer(ctx); err != nil {
			return client.NewProblem(client.CodeUnavailable, "try again shortly", "replica %s leads and cannot hand over: %v", id, err)
		}
		return &registrar.NotLeaderError{} // the asker tries again, at the next leader
	}
	r.log.Info("removing a replica", "replica", id, "by", by)
	return r.dismiss(ctx, id, by)
}

// without counts the voters besides a replica, and those of them that live, and
// tells whether there is such a replica.
func (r *Replica) without(ctx context.Context, id fleet.ReplicaID) (voters, living int, known bool) {
	for _, o := range r.observe(ctx) {
		switch {
		case o.ID == id:
			known = true
		case o.Voter:
			voters++
			if o.Self || o.Contact <= r.livingContact() {
				living++
			}
		}
	}
	return voters, living, known
}

// livingContact is within what a voter counts as alive for an operator.
func (r *Replica) livingContact() time.Duration {
	return 2 * time.Second * time.Duration(max(1, r.cfg.Patience))
}

// Members tells how the replicas are: all of them on the leader, itself on
// another one. It never blocks on others.
func (r *Replica) Members() map[fleet.ReplicaID]api.Member {
	out := map[fleet.ReplicaID]api.Member{}
	r.raft.Stale(func(s *state.State) {
		for id, rec := range s.Replicas {
			out[id] = api.Member{Version: rec.Version, Capability: max(rec.Capability, 1)}
		}
	})
	if r.lead.Load() != nil {
		r.members.mu.Lock()
		defer r.members.mu.Unlock()
		for id, a := range r.members.said {
			out[id] = api.Member{Version: a.Version, Capability: a.Capability, Heard: true, Free: a.Free, Low: a.Low, Fault: a.Fault, Stable: r.members.stable[id]}
		}
	}
	self := r.raft.Health()
	m := out[r.self.ID]
	m.Version, m.Capability, m.Heard, m.Free, m.Low, m.Fault = self.Version, self.Capability, true, self.Free, self.Low, self.Fault
	out[r.self.ID] = m
	return out
}

// failed ends Serve when the replica's log cannot go on.
func (r *Replica) failed(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.raft.Failed():
		return fmt.Errorf("replica %s cannot go on: %w", r.self.ID, r.raft.Failure())
	}
}

// Fault is why this replica acknowledges nothing now, nil while it does.
func (r *Replica) Fault() error {
	if h := r.raft.Health(); h.Fault != "" {
		return errors.New(h.Fault)
	}
	return nil
}
