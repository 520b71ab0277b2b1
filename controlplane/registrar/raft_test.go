package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestOneReplica(t *testing.T) {
	registrartest.Run(t, func(t *testing.T) registrartest.Registrar {
		c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
			// No peers: nothing is lost by hurrying the election.
			cfg.Heartbeat, cfg.Election, cfg.Lease = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
		})
		c.start(1)
		return c.all[0].Raft
	})
}

func TestTrio(t *testing.T) {
	registrartest.Run(t, func(t *testing.T) registrartest.Registrar {
		c := newTrio(t, "", nil)
		c.start(3)
		return c.all[0].Raft
	})
}

func TestFollowersSendToTheLeader(t *testing.T) {
	c := newTrio(t, "", nil)
	c.start(3)
	follower := c.all[1]
	want := &registrar.NotLeaderError{Leader: "r1", Addr: c.all[0].cfg.Addr}
	_, err := follower.Propose(t.Context(), registrartest.Submit("t1"))
	for _, err := range []error{
		err,
		follower.Read(t.Context(), func(*state.State) {}),
		follower.AddVoter(t.Context(), "r9", "127.0.0.1:9"),
		follower.Transfer(t.Context()),
	} {
		var got *registrar.NotLeaderError
		if !errors.As(err, &got) || *got != *want || !errors.Is(err, registrar.ErrNotLeader) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	for _, r := range c.all {
		members := r.Replicas()
		for i, m := range members {
			if m.ID != c.all[i].cfg.ID || m.Addr != c.all[i].cfg.Addr || !m.Voter || m.Leader != (i == 0) {
				t.Errorf("%s sees %+v", r.id, m)
			}
		}
		if members[0].LastContact.IsZero() {
			t.Errorf("%s has not heard from the leader", r.id)
		}
	}
}

// history proposes tasks at whichever replica leads, and keeps what was said
// to be committed.
type history struct {
	c    *trio
	mu   sync.Mutex
	done map[fleet.TaskID]bool
}

// run proposes until ctx ends.
func (h *history) run(ctx context.Context, name string) {
	for n := 0; ctx.Err() == nil; n++ {
		r := h.c.all[n%len(h.c.all)]
		id := fmt.Sprintf("%s-%d", name, n)
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		res, err := r.Propose(try, registrartest.Submit(id))
		cancel()
		switch {
		case err == nil && res[0].Kind == state.OK:
			h.mu.Lock()
			h.done[fleet.TaskID(id)] = true
			h.mu.Unlock()
		case err == nil:
			h.c.tb.Errorf("%s: %+v", id, res[0])
		}
	}
}

func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.done)
}

func TestTheLeaderDies(t *testing.T) {
	c := newTrio(t, t.TempDir(), nil)
	c.start(3)
	h := &history{c: c, done: map[fleet.TaskID]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { h.run(ctx, fmt.Sprintf("p%d", i)) })
	}
	defer func() { stop(); wg.Wait() }()
	c.await("commands are committed", func() bool { return h.count() > 200 })

	old := c.all[0]
	old.socket.off.Store(true)
	c.leader(c.without(old)...)
	before := h.count()
	c.await("commands are committed without it", func() bool { return h.count() > before+200 })
	stop()
	wg.Wait()
	if _, err := old.Propose(t.Context(), registrartest.Submit("late")); err == nil {
		t.Error("a leader without a majority commits")
	}

	// It comes back with its disk, at its address.
	c.down(old)
	c.all[0] = c.up(old.id, old.cfg.Addr, true)
	c.agree()
	c.all[0].Stale(func(s *state.State) {
		for id := range h.done {
			if s.Tasks[id] == nil {
				t.Errorf("%s was committed and is lost", id)
			}
		}
	})
}

func TestLaggingReplicaTakesASnapshot(t *testing.T) {
	c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
		cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 20, 5, 20*time.Millisecond
		registrar.SmallSegments(cfg)
	})
	c.start(3)
	registrartest.Propose(t, c.all[0], registrartest.Submit("early"))
	c.agree()
	lagging := c.all[2]
	lagging.socket.off.Store(true)
	_, entries, err := lagging.Follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		registrartest.Propose(t, c.all[0], registrartest.Submit(fmt.Sprintf("t%d", i)))
	}
	c.await("the leader's log begins later", func() bool { return c.all[0].FirstLog() > 100 })
	c.await("the leader misses the lagging one", func() bool {
		return time.Since(c.all[0].Replicas()[2].LastContact) > 100*time.Millisecond
	})
	lagging.socket.off.Store(false)
	c.agree()
	n := 0
	for range entries { // closed: no entries lead to a snapshot
		n++
	}
	if n > 100 {
		t.Errorf("%d entries were replayed, a snapshot was expected", n)
	}
	c.await("the leader hears the lagging one", func() bool {
		return time.Since(c.all[0].Replicas()[2].LastContact) < 100*time.Millisecond
	})
}

func TestAllRestart(t *testing.T) {
	c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
		cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 20, 5, 20*time.Millisecond
		registrar.SmallSegments(cfg)
	})
	c.start(3)
	for i := range 100 {
		registrartest.Propose(t, c.all[0], registrartest.Submit(fmt.Sprintf("t%d", i)))
	}
	c.agree()
	want := hash(c.all[0].Raft)
	for _, r := range c.all {
		c.down(r)
	}
	for i, r := range c.all {
		c.all[i] = c.up(r.id, r.cfg.Addr, i == 0)
	}
	c.agree()
	if hash(c.all[0].Raft) != want {
		t.Error("the state changed over a restart")
	}
	registrartest.Propose(t, c.leader(c.all...).Raft, registrartest.Submit("after"))
	c.agree()
}

func TestTransferAndRemove(t *testing.T) {
	c := newTrio(t, "", nil)
	c.start(3)
	if err := c.all[0].Transfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	lead := c.leader(c.without(c.all[0])...)
	gone := c.without(lead)[0]
	if err := lead.Remove(t.Context(), gone.cfg.ID); err != nil {
		t.Fatal(err)
	}
	if n := len(lead.Replicas()); n != 2 {
		t.Errorf("%d replicas after one of three was removed", n)
	}
	registrartest.Propose(t, lead.Raft, registrartest.Submit("t1"))
	// It may come back, with what it had.
	if err := lead.AddVoter(t.Context(), gone.cfg.ID, gone.cfg.Addr); err != nil {
		t.Fatal(err)
	}
	c.agree()
}

func TestTheLastReplicaStays(t *testing.T) {
	c := newTrio(t, "", nil)
	c.start(1)
	if err := c.all[0].Remove(t.Context(), "r1"); err == nil || !strings.Contains(err.Error(), "last one") {
		t.Errorf("Remove of the last replica: %v", err)
	}
	if err := c.all[0].AddVoter(t.Context(), "r2", c.all[0].cfg.Addr); err == nil {
		t.Error("AddVoter took an address twice")
	}
	if err := c.all[0].AddVoter(t.Context(), "../r2", "127.0.0.1:9"); err == nil {
		t.Error("AddVoter took a bad id")
	}
}

// The certificate, not the message, says which replica speaks.
func TestSessionsOfStrangers(t *testing.T) {
	c := newTrio(t, "", nil)
	c.start(3)
	stranger, err := transport.Listen(transport.Config{
		Addr: "127.0.0.1:0", Holder: pki.NewHolder(c.ca.Credential(t, pki.KindReplica, "r9")),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	s, err := stranger.Dial(t.Context(), c.all[1].cfg.Addr, transport.ALPNRaft, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Context().Done()
	var closed *transport.CloseError
	if err := context.Cause(s.Context()); !errors.As(err, &closed) || !strings.Contains(closed.Reason, "not a member") {
		t.Errorf("a stranger's session ended with %v", err)
	}

	// r4 is to be at an address where r9 answers: nobody is taken for another.
	if err := c.all[0].AddVoter(t.Context(), "r4", stranger.Addr().String()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if s, err := stranger.Accept(ctx, transport.ALPNRaft); err == nil {
		t.Errorf("%s opened a session to the wrong replica", s.Peer())
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newTrio(t, dir, nil)
	c.start(1)
	cfg := c.all[0].cfg
	for name, tc := range map[string]struct {
		change func(*registrar.Config)
		want   []string
	}{
		"no id":              {func(c *registrar.Config) { c.ID = "" }, []string{"replica is empty"}},
		"no address":         {func(c *registrar.Config) { c.Addr = "" }, []string{"address"}},
		"no endpoint":        {func(c *registrar.Config) { c.Endpoint = nil }, []string{"endpoint"}},
		"below a file":       {func(c *registrar.Config) { c.Dir = filepath.Join(file, "raft") }, []string{file, "not a directory", "another data directory"}},
		"in use":             {func(*registrar.Config) {}, []string{"in use by another tenderd", "stop it first"}},
		"lease too long":     {func(c *registrar.Config) { c.Dir, c.Lease = "", time.Minute }, []string{"LeaderLeaseTimeout"}},
		"a directory locked": {func(c *registrar.Config) { c.Dir = "/proc/nowhere" }, []string{"/proc/nowhere", "another data directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			bad := cfg
			tc.change(&bad)
			r, err := registrar.Open(bad)
			if err == nil {
				r.Close()
				t.Fatal("opened")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}
