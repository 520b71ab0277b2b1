package sessions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// Heartbeat is how often an agent sends readings, and so shows that it lives.
const Heartbeat = 10 * time.Second

// helloTime bounds the wait for an agent's first message.
const helloTime = 10 * time.Second

// maxQueued bounds the messages that wait for one slow agent.
const maxQueued = 4096

// Config is what the sessions need of their replica.
type Config struct {
	Replica fleet.ReplicaID
	// Leader returns the address of the leader, "" when none is known.
	Leader func() string
	// Agent returns the record of an agent, nil when it is not admitted.
	Agent func(fleet.AgentID) *fleet.Agent
	// Bundle and Replicas go into every Welcome.
	Bundle   func() *pki.Bundle
	Replicas func() []string
	// AdmitKey returns the pin of the key that an agent has shown, and refuses
	// one that the agent has left behind. It may wait for the trio.
	AdmitKey func(ctx context.Context, conn transport.Session) (key string, refusal *wire.Refusal)
	// Renew signs the next certificate of an agent known by key, and returns the
	// pin of the next key; Stored commits that the agent has both on disk.
	Renew  func(ctx context.Context, conn transport.Session, key string, csr []byte) (cert wire.Certificate, next string, err error)
	Stored func(ctx context.Context, conn transport.Session, next string) error
	Log    *slog.Logger
}

// Soft is what is known of a connected agent and never replicated.
type Soft struct {
	Since, LastSeen time.Time
	Link, Remote    string
	Version         string
	Readings        fleet.Readings
}

// Manager holds the sessions of one replica. It is safe for concurrent use.
type Manager struct {
	cfg    Config
	mu     sync.Mutex
	term   uint64 // 0 while this replica does not lead
	events chan leader.Event
	done   chan struct{} // closed when the term ends
	next   uint64
	byID   map[fleet.AgentID]*session
	gone   map[fleet.AgentID]Soft // last seen, of agents that left
}

// New returns a manager that refuses agents until Lead.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, byID: map[fleet.AgentID]*session{}, gone: map[fleet.AgentID]Soft{}}
}

// Lead begins to admit agents in a term and returns their events. The owner
// reads them until Yield.
func (m *Manager) Lead(term uint64) <-chan leader.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term, m.events, m.done = term, make(chan leader.Event, 1024), make(chan struct{})
	return m.events
}

// Yield ends the term: every session is told to look for the leader.
func (m *Manager) Yield(reason string) {
	m.mu.Lock()
	if m.term == 0 {
		m.mu.Unlock()
		return
	}
	m.term = 0
	close(m.done)
	open := m.byID
	m.byID = map[fleet.AgentID]*session{}
	m.mu.Unlock()
	for _, s := range open {
		_ = s.conn.Close(transport.CodeNotLeader, reason)
	}
}

// Send queues a message for an agent. It is dropped when the session is over:
// the agent pulls and resends in its next one.
func (m *Manager) Send(id fleet.AgentID, session uint64, msg wire.Message) {
	if s := m.find(id, session); s != nil {
		s.queue(msg)
	}
}

// Disconnect ends a session with a code that the agent acts on.
func (m *Manager) Disconnect(id fleet.AgentID, session uint64, code transport.Code, reason string) {
	if s := m.find(id, session); s != nil {
		_ = s.conn.Close(code, reason)
	}
}

func (m *Manager) find(id fleet.AgentID, session uint64) *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.byID[id]; s != nil && s.number == session {
		return s
	}
	return nil
}

// Soft returns what is known of an agent and whether it is connected now.
func (m *Manager) Soft(id fleet.AgentID) (Soft, bool) {
	m.mu.Lock()
	s := m.byID[id]
	gone := m.gone[id]
	m.mu.Unlock()
	if s == nil {
		return gone, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.soft, true
}

// ErrNotConnected: the agent has no session with this replica.
var ErrNotConnected = errors.New("the agent is not connected")

// Logs reads a task's output from its agent and hands it to emit until it is
// complete, emit fails or ctx ends.
func (m *Manager) Logs(ctx context.Context, id fleet.AgentID, req wire.LogsRequest, emit func(stderr bool, data []byte) error) error {
	m.mu.Lock()
	s := m.byID[id]
	m.mu.Unlock()
	if s == nil {
		return ErrNotConnected
	}
	st, err := s.conn.Open(ctx, transport.StreamLogs)
	if err != nil {
		return fmt.Errorf("open log stream: %w", err)
	}
	defer st.Reset()
	defer context.AfterFunc(ctx, st.Reset)()
	conn := wire.NewConn(st, wire.MaxControl)
	if err := conn.Send(req); err != nil {
		return fmt.Errorf("ask for logs: %w", err)
	}
	for {
		msg, err := conn.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("read logs: %w", err)
		}
		switch msg := msg.(type) {
		case wire.LogChunk:
			if err := emit(msg.Stderr, msg.Data); err != nil {
				return err
			}
		case wire.LogEnd:
			return nil
		case wire.Refusal:
			return &RefusedError{msg}
		default:
			return fmt.Errorf("read logs: unexpected %T", msg)
		}
	}
}

// RefusedError is an agent's refusal.
type RefusedError struct{ Refusal wire.Refusal }

func (e *RefusedError) Error() string { return e.Refusal.Text }
