package registrar

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Transport is what Raft needs of one, with what it takes only when offered.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// tracker notes what the other replicas answer to heartbeats and entries: Raft
// itself does not tell how far they are.
type tracker struct {
	Transport
	received chan raft.RPC // what Raft gets: see Raft.receive

	mu    sync.Mutex
	peers map[raft.ServerID]progress
}

// progress is a replica's last answer.
type progress struct {
	at      time.Time
	lastLog uint64
}

func newTracker(t Transport) *tracker {
	return &tracker{Transport: t, received: make(chan raft.RPC), peers: map[raft.ServerID]progress{}}
}

// Consumer implements raft.Transport.
func (t *tracker) Consumer() <-chan raft.RPC { return t.received }

// AppendEntries implements raft.Transport. Heartbeats come this way, ten or
// more in every time-out.
func (t *tracker) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.Transport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.mu.Lock()
		t.peers[id] = progress{at: time.Now(), lastLog: resp.LastLog}
		t.mu.Unlock()
	}
	return err
}

func (t *tracker) progress(id raft.ServerID) progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[id]
}
