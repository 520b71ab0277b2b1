package sessions

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// Desk is where the sessions of all replicas meet while this one leads. It
// numbers them anew. It is safe for concurrent use.
type Desk struct {
	m      *Manager
	term   uint64
	events chan leader.Event
	done   chan struct{}
	own    *uplink
	wg     sync.WaitGroup

	mu    sync.Mutex
	next  uint64
	seats map[uint64]*seat
	last  map[fleet.AgentID]*seat // the newest session, also when it is over
	lines map[fleet.ReplicaID]*line
}

// line is the way to the sessions of one replica.
type line struct {
	d       *Desk
	replica fleet.ReplicaID
	// deliver hands on what the leader has for a session; it never blocks.
	deliver func(wire.Relayed)
	// open begins a stream to a session's agent.
	open  func(ctx context.Context, kind transport.StreamKind, number uint64) (transport.Stream, error)
	conn  transport.Session // nil for the own one
	seats map[uint64]*seat  // by the replica's own numbers; guarded by Desk.mu
}

// seat is one session as the leader knows it.
type seat struct {
	line          *line
	agent         fleet.AgentID
	host          string
	number, local uint64
	soft          Soft
}

// Lead begins to take in the sessions of this replica and the relayed ones. The
// caller reads Events until Yield.
func (m *Manager) Lead(term uint64) *Desk {
	d := &Desk{
		m: m, term: term, events: make(chan leader.Event, 1024), done: make(chan struct{}),
		seats: map[uint64]*seat{}, last: map[fleet.AgentID]*seat{}, lines: map[fleet.ReplicaID]*line{},
	}
	own := d.newLine(m.cfg.Replica, nil, m.deliver, func(ctx context.Context, kind transport.StreamKind, number uint64) (transport.Stream, error) {
		s := m.find(number)
		if s == nil {
			return nil, ErrNotConnected
		}
		return s.conn.Open(ctx, kind)
	})
	d.own = &uplink{
		term: term, put: func(item wire.Relayed) { own.take(&item) },
		renew: func(ctx context.Context, s *session, st transport.Stream) error {
			return m.sign(ctx, s.conn.Peer(), st)
		},
	}
	m.mu.Lock()
	m.desk = d
	m.mu.Unlock()
	// Elsewhere, since announcing waits for who reads the events.
	d.wg.Go(func() { m.follow(d.own) })
	return d
}

// leads reports whether this replica's own desk is open.
func (m *Manager) leads() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.desk != nil
}

// Events is what the sessions say, in order for each.
func (d *Desk) Events() <-chan leader.Event { return d.events }

// Yield ends the term: nothing more comes, and the relaying replicas look for
// the next leader. The sessions stay.
func (d *Desk) Yield() {
	close(d.done)
	d.m.mu.Lock()
	d.m.desk = nil
	d.m.mu.Unlock()
	d.mu.Lock()
	lines := d.lines
	d.lines = nil
	d.mu.Unlock()
	for _, l := range lines {
		if l.conn != nil {
			_ = l.conn.Close(transport.CodeNotLeader, "another replica leads")
		}
	}
	d.wg.Wait()
	d.m.unfollow(d.own)
}

// newLine puts a replica's line in the place of its older one, if there is one.
func (d *Desk) newLine(id fleet.ReplicaID, conn transport.Session, deliver func(wire.Relayed),
	open func(context.Context, transport.StreamKind, uint64) (transport.Stream, error),
) *line {
	l := &line{d: d, replica: id, conn: conn, deliver: deliver, open: open, seats: map[uint64]*seat{}}
	d.mu.Lock()
	old := d.lines[id]
	if d.lines != nil {
		d.lines[id] = l
	}
	d.mu.Unlock()
	if old != nil && old.conn != nil {
		_ = old.conn.Close(transport.CodeReplaced, "the same replica has opened a newer relay")
	}
	return l
}

func (d *Desk) emit(ev leader.Event) {
	select {
	case d.events <- ev:
	case <-d.done:
	}
}

// take turns what is new of a session into the leader's events.
func (l *line) take(item *wire.Relayed) {
	d := l.d
	d.mu.Lock()
	st := l.seats[item.Session]
	isNew := item.Up != nil && st == nil
	if isNew {
		d.next++
		st = &seat{line: l, agent: item.Up.Agent, host: item.Up.Hostname, number: d.next, local: item.Session}
		st.soft = Soft{
			Since: item.Up.Since, Link: item.Up.Link, Remote: item.Up.Remote, Version: item.Up.Version, Replica: l.replica,
		}
		d.seats[st.number], l.seats[item.Session], d.last[st.agent] = st, st, st
	}
	if item.Up != nil { // or it comes from another address than before
		st.soft.Remote = item.Up.Remote
	}
	if st != nil {
		st.soft.LastSeen = time.Now().Add(-item.Ago)
		if item.Readings != nil {
			st.soft.Readings = *item.Readings
		}
		if item.Down {
			l.forget(st)
		}
	}
	d.mu.Unlock()
	if st == nil {
		return // it is over, and its replica does not know that yet
	}
	agent, number := st.agent, st.number
	switch {
	case isNew:
		up := leader.AgentUp{Agent: agent, Session: number, Hostname: item.Up.Hostname, Boot: item.Up.BootID, Epoch: item.Up.Epoch, Key: item.Up.Key, Remote: item.Up.Remote}
		if item.Capacity != nil {
			up.Capacity = *item.Capacity
		}
		d.emit(up)
	case item.Capacity != nil:
		d.emit(leader.CapacityChanged{Agent: agent, Session: number, Hostname: st.host, Capacity: *item.Capacity})
	}
	if item.Answered {
		d.emit(leader.Answered{Agent: agent, Session: number})
	}
	if len(item.Updates) > 0 {
		d.emit(leader.Report{Agent: agent, Session: number, Updates: item.Updates})
	}
	if item.Pull != nil {
		d.emit(leader.Pull{Agent: agent, Session: number, Generation: item.Pull.Generation, Full: item.Pull.Full, Stamp: item.Pull.Stamp, CaughtUp: item.Pull.CaughtUp})
	}
	if item.Leave != nil {
		d.emit(leader.Leave{Agent: agent, Session: number, Grace: item.Leave.Grace})
	}
	if item.Down {
		d.emit(leader.AgentDown{Agent: agent, Session: number, Seen: st.soft.LastSeen})
	}
}

// forget drops a seat; the caller holds Desk.mu.
func (l *line) forget(st *seat) {
	delete(l.d.seats, st.number)
	delete(l.seats, st.local)
}

// end takes all sessions of a line for lost.
func (l *line) end() {
	d := l.d
	d.mu.Lock()
	var lost []*seat
	for _, st := range l.seats {
		lost = append(lost, st)
		l.forget(st)
	}
	if d.lines[l.replica] == l {
		delete(d.lines, l.replica)
	}
	d.mu.Unlock()
	for _, st := range lost {
		d.emit(leader.AgentDown{Agent: st.agent, Session: st.number, Seen: st.soft.LastSeen})
	}
}

func (d *Desk) seat(number uint64) *seat {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seats[number]
}

// send hands a session what is for it. It is dropped when the session is over:
// the agent pulls and resends in its next one.
func (d *Desk) send(number uint64, item wire.Relayed) {
	if st := d.seat(number); st != nil {
		item.Session = st.local
		st.line.deliver(item)
	}
}

// Acknowledge tells an agent which of its updates are committed.
func (d *Desk) Acknowledge(session uint64, acks []wire.Ack) {
	d.send(session, wire.Relayed{Acks: acks})
}

// Assign tells an agent what it is to hold.
func (d *Desk) Assign(session uint64, desired fleet.Desired) {
	d.send(session, wire.Relayed{Desired: wire.Split(desired)})
}

// Ask wants a sign of life.
func (d *Desk) Ask(session uint64) { d.send(session, wire.Relayed{Ask: true}) }

// Resync has an agent say again what it holds.
func (d *Desk) Resync(session uint64) { d.send(session, wire.Relayed{Resync: true}) }

// Disconnect ends a session with a code that the agent acts on.
func (d *Desk) Disconnect(session uint64, code transport.Code, reason string) {
	d.send(session, wire.Relayed{Close: &wire.SessionClose{Code: uint64(code), Reason: reason}})
}

// Soft returns what is known of an agent's session, or, when there is none (0),
// what was known of its last one.
func (d *Desk) Soft(id fleet.AgentID, session uint64) Soft {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.seats[session]
	if st == nil {
		st = d.last[id]
	}
	if st == nil {
		return Soft{}
	}
	return st.soft
}

// Logs reads a task's output from its agent and hands it to emit until it is
// complete, emit fails or ctx ends.
func (d *Desk) Logs(ctx context.Context, session uint64, req wire.LogsRequest, emit func(stderr bool, data []byte) error) error {
	at := d.seat(session)
	if at == nil {
		return ErrNotConnected
	}
	st, err := at.line.open(ctx, transport.StreamLogs, at.local)
	if err != nil {
		return fmt.Errorf("open log stream: %w", err)
	}
	return readLogs(ctx, st, req, emit)
}

// identity is who a relayed session's agent is. Its replica has verified that.
func (d *Desk) identity(l *line, local uint64) (pki.Identity, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := l.seats[local]
	if st == nil {
		return pki.Identity{}, false
	}
	return pki.Identity{TrustDomain: d.m.cfg.TrustDomain, Kind: pki.KindAgent, ID: string(st.agent)}, true
}
