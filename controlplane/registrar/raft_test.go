package registrar_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/controlplane/state"
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
		default: // the next replica, but not so fast that elections starve
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
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
	c.await("commands are committed", func() bool { return h.count() > 100 })

	old := c.leader(c.all...)
	old.socket.off.Store(true)
	c.leader(c.without(old)...)
	before := h.count()
	c.await("commands are committed without it", func() bool { return h.count() > before+100 })
	stop()
	wg.Wait()
	if _, err := old.Propose(t.Context(), registrartest.Submit("late")); err == nil {
		t.Error("a leader without a majority commits")
	}

	// It comes back with its disk, at its address.
	c.down(old)
	back := c.up(old.id, old.cfg.Addr, true)
	c.all[slices.Index(c.all, old)] = back
	c.agree()
	back.Stale(func(s *state.State) {
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
	c.propose(registrartest.Submit("early"))
	c.agree()
	lagging := c.without(c.leader(c.all...))[0]
	lagging.socket.off.Store(true)
	_, entries, err := lagging.Follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		c.propose(registrartest.Submit(fmt.Sprintf("t%d", i)))
	}
	c.await("the others' logs begin later", func() bool {
		rest := c.without(lagging)
		return rest[0].FirstLog() > 100 && rest[1].FirstLog() > 100
	})
	c.await("the leader misses the lagging one", func() bool { return silence(c, lagging) > 100*time.Millisecond })
	lagging.socket.off.Store(false)
	c.agree()
	n := 0
	for range entries { // closed: no entries lead to a snapshot
		n++
	}
	if n > 100 {
		t.Errorf("%d entries were replayed, a snapshot was expected", n)
	}
	c.await("the leader hears the lagging one", func() bool { return silence(c, lagging) < 200*time.Millisecond })
}

// silence is how long the leader has not heard from r.
func silence(c *trio, r *replica) time.Duration {
	for _, m := range c.leader(c.all...).Replicas() {
		if m.ID == r.cfg.ID {
			return time.Since(m.LastContact)
		}
	}
	return 0
}

func TestAllRestart(t *testing.T) {
	c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
		cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 20, 5, 20*time.Millisecond
		registrar.SmallSegments(cfg)
	})
	c.start(3)
	for i := range 100 {
		c.propose(registrartest.Submit(fmt.Sprintf("t%d", i)))
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
	c.propose(registrartest.Submit("after"))
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
