package sessions

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// Heartbeat is how often an agent sends readings, and so shows that it lives.
const Heartbeat = 10 * time.Second

// helloTime bounds the wait for a peer's first message.
const helloTime = 10 * time.Second

// maxQueued bounds the acknowledgements, and the updates, that wait for one
// slow agent or one slow leader.
const maxQueued = 4096

// leaderless is how long a replica keeps its agents when it knows no leader.
// An election takes a second or two; who is cut off from the others for longer
// had better send its agents to them.
const leaderless = 20 * time.Second

// Config is what the sessions need of their replica.
type Config struct {
	Replica     fleet.ReplicaID
	TrustDomain string
	// Leader returns the address of the leader, "" when none is known.
	Leader func() string
	// Agent returns the record of an agent, nil when it is not admitted.
	Agent func(fleet.AgentID) *fleet.Agent
	// Agents counts the fleet's agents.
	Agents func() int
	// Bundle and Replicas go into every Welcome.
	Bundle   func() *pki.Bundle
	Replicas func() []string
	// AdmitKey returns the pin of the key that an agent has shown, and refuses
	// one that the agent has left behind. It may wait for the trio.
	AdmitKey func(ctx context.Context, conn transport.Session) (key string, refusal *wire.Refusal)
	// Renew signs the next certificate of an agent and returns the pin of the
	// next key; Stored commits that the agent has both on disk. They are called
	// while leading.
	Renew  func(ctx context.Context, peer pki.Identity, req wire.RenewRequest) (cert wire.Certificate, next string, err error)
	Stored func(ctx context.Context, peer pki.Identity, next string) error
	// Upgrade returns what an agent is to run instead of what it runs, and false
	// while there never was a rollout; nil: nothing. It never waits.
	Upgrade func(fleet.AgentID) (u fleet.Upgrade, ever bool)
	// Package opens a package by its digest. The error is ErrNoPackage, or why it
	// is not here now; nil: there are none.
	Package func(sum string) (PackageFile, error)
	// ResetKey signs stateless resets; Keep stores that of the leader for the
	// next start.
	ResetKey [32]byte
	Keep     func(key [32]byte) error
	Log      *slog.Logger
}

// Soft is what is known of a connected agent and never replicated.
type Soft struct {
	Since, LastSeen time.Time
	Link, Remote    string
	Version         string
	// Replica is the one that has the session.
	Replica  fleet.ReplicaID
	Readings fleet.Readings
}

// uplink is the way to the leader of a term. It is compared by its address.
type uplink struct {
	term uint64
	// put hands on what is new of a session. It may block while the leader is
	// busy and returns at once when the term is over.
	put func(wire.Relayed)
	// renew carries a renewal.
	renew func(ctx context.Context, s *session, st transport.Stream) error
}

// Manager holds the sessions of one replica. It is safe for concurrent use.
type Manager struct {
	cfg  Config
	mu   sync.Mutex
	up   *uplink // nil while no leader is known
	desk *Desk   // while this replica leads
	lost time.Time
	next uint64
	open map[uint64]*session
	// sending has one for each package on its way.
	sending chan struct{}
}

// New returns a manager without sessions.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, open: map[uint64]*session{}, lost: time.Now(), sending: make(chan struct{}, maxPackages)}
}

// follow makes up the way to the leader and announces every session there.
func (m *Manager) follow(up *uplink) {
	m.mu.Lock()
	m.up = up
	m.mu.Unlock()
	m.rebind()
}

// unfollow ends a way, if no other has taken its place.
func (m *Manager) unfollow(up *uplink) {
	m.mu.Lock()
	if m.up == up {
		m.up, m.lost = nil, time.Now()
	}
	m.mu.Unlock()
	m.rebind()
}

// rebind has every session look where the leader is.
func (m *Manager) rebind() {
	for _, s := range m.sessions() {
		s.bind()
	}
}

func (m *Manager) sessions() []*session {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*session, 0, len(m.open))
	for _, s := range m.open {
		out = append(out, s)
	}
	return out
}

// stranded reports whether this replica has known no leader for so long that
// agents are better off elsewhere.
func (m *Manager) stranded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up == nil && time.Since(m.lost) >= leaderless
}

// Watch sends the agents away when this replica is cut off from the others. It
// returns when ctx ends.
func (m *Manager) Watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !m.stranded() {
			continue
		}
		for _, s := range m.sessions() {
			_ = s.conn.Close(transport.CodeNotLeader, "this replica has lost the others; try another one")
		}
	}
}

// Revoked ends the sessions of a banned agent, whoever leads.
func (m *Manager) Revoked(banned func(pki.Identity) bool) {
	for _, s := range m.sessions() {
		if banned(s.conn.Peer()) {
			_ = s.conn.Close(transport.CodeRevoked, "revoked")
		}
	}
}

// Push sends a newer trust bundle to every agent here that understands it.
func (m *Manager) Push(b wire.Bundle) {
	for _, s := range m.sessions() {
		if s.capability < 3 {
			continue // it has it with its next Welcome
		}
		s.mu.Lock()
		s.bundle = &b
		s.mu.Unlock()
		s.rouse()
	}
}

// Hasten asks those agents here to renew their certificates early that want
// names and that understand it.
func (m *Manager) Hasten(b wire.Bundle, want func(fleet.AgentID) bool) {
	b.Renew = true
	for _, s := range m.sessions() {
		if s.capability < 3 || !want(s.id) {
			continue
		}
		s.mu.Lock()
		s.bundle = &b
		s.mu.Unlock()
		s.rouse()
	}
}

// deliver hands a session what the leader has for it. It never blocks.
func (m *Manager) deliver(item wire.Relayed) {
	m.mu.Lock()
	s := m.open[item.Session]
	m.mu.Unlock()
	if s != nil {
		s.deliver(item)
	}
}

// find returns an open session by its number.
func (m *Manager) find(number uint64) *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open[number]
}

// spread is over how long the agents of this replica spread out if it dies: as
// many handshakes as a replica of two processors can take beside its work.
func (m *Manager) spread() time.Duration {
	return min(10*time.Second, time.Duration(m.cfg.Agents())*time.Millisecond)
}

// ErrNotConnected: the agent has no session with any replica.
var ErrNotConnected = errors.New("the agent is not connected")

// RefusedError is an agent's refusal.
type RefusedError struct{ Refusal wire.Refusal }

func (e *RefusedError) Error() string { return e.Refusal.Text }
