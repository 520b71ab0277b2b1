package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// Backend is the replica behind the API. Calls may block up to the end of ctx
// and are made concurrently. On a follower those with an error return a
// *registrar.NotLeaderError. A *client.Problem reaches the caller as it is.
//
// It has more methods than is good for an interface: each is one thing that a
// replica can be asked, and splitting them would make two names for one value.
type Backend interface {
	// Propose commits commands; the results are in their order.
	Propose(ctx context.Context, cmds ...state.Command) ([]state.Result, error)
	// Read calls fn with the newest state. fn must not keep or change it.
	Read(ctx context.Context, fn func(*state.State)) error
	// Stale calls fn with this replica's own copy of the state, at once. fn must
	// not keep or change it.
	Stale(fn func(*state.State))
	// Soft is the leader's knowledge that is not replicated.
	Soft(ctx context.Context) (Soft, error)
	// Ask calls look in the leader's loop, between two steps: look must not
	// change anything, nor take long.
	Ask(ctx context.Context, look func(*leader.Leader)) error
	// Reserve has the leader make or end reservations of an agent, and waits for
	// the outcome; Seq is the replica's to set.
	Reserve(ctx context.Context, ev leader.Reserve) (state.Result, error)
	// Logs reads a task's output through its agent's session and hands it to
	// emit until it is complete, emit fails or ctx ends. emit must not keep the
	// data.
	Logs(ctx context.Context, id fleet.TaskID, o wire.LogsRequest, emit func(stderr bool, data []byte) error) error
	// Status is this replica's view of the control plane. It never blocks.
	Status() Status
	// Join is a join line without its secret and expiry.
	Join(kind pki.Kind) pki.JoinLine
}

// Status is how a replica sees the control plane.
type Status struct {
	ID         fleet.ReplicaID
	Leader     fleet.ReplicaID // empty when none is known
	LeaderAddr string          // HOST:PORT
	Term       uint64
	Replicas   []registrar.Replica
}

// Soft is what a leader knows and does not replicate.
type Soft struct {
	Offers []fleet.Offer
	Agents map[fleet.AgentID]AgentSoft
}

// AgentSoft is one agent's connection, or what is remembered of it.
type AgentSoft struct {
	Connected             bool
	Since, LastSeen       time.Time
	Link, Remote, Version string
	// Replica is the one that holds the agent's session.
	Replica  fleet.ReplicaID
	Readings fleet.Readings
	// Free is what is neither used nor on offer.
	Free fleet.Resources
	// Orphans are tasks that a restored state does not know.
	Orphans []fleet.Status
}

// Options of a Handler. The zero value serves principals over TLS.
type Options struct {
	Log     *slog.Logger
	Version client.Version
	// NewID draws an id that begins with prefix.
	NewID func(prefix string) string
	Now   func() time.Time
	// Local: requests come over the replica's unix socket, which only those
	// can open who may do everything. Without it every request must show a
	// certificate or a token, and is judged by the state as it is then: a
	// connection may outlive a revocation.
	Local bool
	// Bundle is what certificates must lead to, then too; nil is what they led to
	// in the handshake.
	Bundle func() *pki.Bundle
	// Forward, when not nil, carries a follower's requests to the leader
	// instead of a redirection, over TLS with the replica's own certificate.
	// Who asked goes along.
	Forward http.RoundTripper
	// Changed returns a channel that is closed at the next change of the
	// state. Without it, waiting requests look again every 250 ms.
	Changed func() <-chan struct{}
	// Trio, when not nil, is what the control plane itself can be asked.
	Trio Trio
	// CA, when not nil, rotates the fleet's authorities.
	CA CA
	// Upgrades, when not nil, keeps packages of tender-agent.
	Upgrades Upgrades
}

// Limits of the API.
const (
	maxBody    = 1 << 20
	bodyTime   = 15 * time.Second
	callTime   = 15 * time.Second
	writeTime  = 30 * time.Second
	maxWait    = time.Minute
	maxWaiting = 1024
	maxStreams = 256
)

// NewServer returns a server for h with the limits that h cannot set itself.
// There is no limit on writing a whole answer, since logs are followed; every
// handler sets its own.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
