package registrar_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// onDisks is a trio whose logs lie on disks that can be made to fail.
func onDisks(t *testing.T, tune ...func(*registrar.Config)) (*trio, map[fleet.ReplicaID]*registrar.Disk) {
	disks := map[fleet.ReplicaID]*registrar.Disk{}
	c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
		if disks[cfg.ID] == nil {
			disks[cfg.ID] = &registrar.Disk{}
		}
		disks[cfg.ID].Use(cfg)
		for _, f := range tune {
			f(cfg)
		}
	})
	c.start(3)
	c.propose(registrartest.Submit("before"))
	c.agree()
	return c, disks
}

// A leader whose disk is full steps down and says so; what it could not write
// is nowhere; it goes on when there is space, without a restart.
func TestAFullDisk(t *testing.T) {
	c, disks := onDisks(t)
	old := c.leader(c.all...)
	disks[old.cfg.ID].Fail(&fs.PathError{Op: "write", Path: "wal", Err: syscall.ENOSPC})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := old.Propose(ctx, registrartest.Submit("refused"), registrartest.Submit("refused-too")); !errors.Is(err, registrar.ErrDiskFull) || !errors.Is(err, registrar.ErrNotLeader) {
		t.Fatalf("a leader with a full disk: %v", err)
	}
	if h := old.Health(); !strings.Contains(h.Fault, "no space left") || !h.Low {
		t.Errorf("it says of itself: %+v", h)
	}
	lead := c.leader(c.without(old)...)
	for i := range 20 {
		registrartest.Propose(t, lead.Raft, registrartest.Submit(fmt.Sprintf("during-%d", i)))
	}
	if a, err := lead.About(t.Context(), old.cfg.ID); err != nil || !strings.Contains(a.Fault, "no space left") {
		t.Errorf("it says to the leader: %+v, %v", a, err)
	}
	if id, _ := lead.Leader(); string(id) != lead.id {
		t.Errorf("%s leads while one disk is full", id)
	}
	if f := old.Failure(); f != nil {
		t.Errorf("it has given up: %v", f)
	}

	disks[old.cfg.ID].Fail(nil)
	c.agree()
	if h := old.Health(); h.Fault != "" {
		t.Errorf("with space again it says: %s", h.Fault)
	}
	// What it has now outlives it.
	want := hash(lead.Raft)
	c.down(old)
	for i, r := range c.all {
		if r == old {
			c.all[i] = c.up(old.id, old.cfg.Addr, false)
			c.agree()
			if hash(c.all[i].Raft) != want {
				t.Error("it came back with another state")
			}
		}
	}
}

// A follower refuses what it cannot write while more is on the way to it: once
// it can, it is sent everything, by the same leader.
func TestAFollowersDiskIsFullUnderLoad(t *testing.T) {
	// Proposers that take the processors from the heartbeat are no matter here.
	c, disks := onDisks(t, func(cfg *registrar.Config) {
		cfg.Heartbeat, cfg.Election, cfg.Lease = 4*registrar.DefaultHeartbeat, 4*registrar.DefaultElection, 4*registrar.DefaultLease
	})
	lead := c.leader(c.all...)
	follower := c.without(lead)[0]
	ctx, cancel := context.WithCancel(t.Context())
	var proposers sync.WaitGroup
	for i := range 16 {
		proposers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := lead.Propose(ctx, registrartest.Submit(fmt.Sprintf("%d-%d", i, n))); err != nil && ctx.Err() == nil {
					t.Errorf("with one full disk: %v", err)
					return
				}
			}
		})
	}
	for range 8 {
		disks[follower.cfg.ID].Fail(syscall.ENOSPC)
		time.Sleep(50 * time.Millisecond)
		disks[follower.cfg.ID].Fail(nil)
		time.Sleep(350 * time.Millisecond) // until it is looked for space
	}
	cancel()
	proposers.Wait()
	c.agree()
	if id, _ := lead.Leader(); string(id) != lead.id {
		t.Errorf("%s leads", id)
	}
}

// All disks are full, and then not: nothing but a pause.
func TestAllDisksAreFull(t *testing.T) {
	c, disks := onDisks(t)
	for _, d := range disks {
		d.Fail(syscall.ENOSPC)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.leader(c.all...).Propose(ctx, registrartest.Submit("refused")); err == nil {
		t.Fatal("committed on full disks")
	}
	time.Sleep(2 * time.Second) // elections that cannot be won
	for _, d := range disks {
		d.Fail(nil)
	}
	c.propose(registrartest.Submit("after"))
	c.agree()
	for _, r := range c.all {
		if f := r.Failure(); f != nil {
			t.Errorf("%s has given up: %v", r.id, f)
		}
	}
}

// What a failed write left on the disk nobody knows: the replica ends.
func TestAFailingDiskEndsTheReplica(t *testing.T) {
	c, disks := onDisks(t)
	old := c.leader(c.all...)
	disks[old.cfg.ID].Fail(&fs.PathError{Op: "sync", Path: "wal", Err: syscall.EIO})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := old.Propose(ctx, registrartest.Submit("refused")); err == nil {
		t.Fatal("committed on a failing disk")
	}
	select {
	case <-old.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	if text := old.Failure().Error(); !strings.Contains(text, "input/output error") || !strings.Contains(text, "dmesg") {
		t.Errorf("it says: %s", text)
	}
	lead := c.leader(c.without(old)...)
	registrartest.Propose(t, lead.Raft, registrartest.Submit("after"))
	disks[old.cfg.ID].Fail(nil)
	c.down(old)
	for i, r := range c.all {
		if r == old {
			c.all[i] = c.up(old.id, old.cfg.Addr, false)
		}
	}
	c.agree()
}

// A disk that takes longer than the leader's lease makes writes slow, not wrong.
func TestASlowDisk(t *testing.T) {
	c, disks := onDisks(t)
	old := c.leader(c.all...)
	disks[old.cfg.ID].Slow(2 * registrar.DefaultLease)
	began := time.Now()
	c.propose(registrartest.Submit("slow"))
	t.Logf("a write took %v", time.Since(began).Round(time.Millisecond))
	c.agree()
	disks[old.cfg.ID].Slow(0)
	c.propose(registrartest.Submit("after"))
	c.agree()
}

// flip changes one byte of what files hold, where mark begins.
func flip(t *testing.T, glob string, mark []byte) {
	t.Helper()
	files, err := filepath.Glob(glob)
	if err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(data, mark); i >= 0 {
			data[i] ^= 1
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
			flipped++
		}
	}
	if flipped == 0 {
		t.Fatalf("%q is in none of %v", mark, files)
	}
}

// One flipped bit in the log or in a snapshot: the replica does not start.
func TestADamagedStoreIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		glob      string
		threshold uint64
		mark      string
	}{
		"log":      {"wal/*.wal", 0, "task-7"},
		"snapshot": {"snapshots/*/state.bin", 10, "task-1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
				registrar.SmallSegments(cfg)
				if tc.threshold > 0 {
					cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = tc.threshold, 5, 20*time.Millisecond
				}
			})
			c.start(1)
			for i := range 60 {
				c.propose(registrartest.Submit(fmt.Sprintf("task-%d", i)))
			}
			if tc.threshold > 0 {
				c.await("a snapshot", func() bool {
					found, _ := filepath.Glob(filepath.Join(c.dir, "r1", tc.glob))
					return len(found) > 0
				})
			}
			c.down(c.all[0])
			flip(t, filepath.Join(c.dir, "r1", tc.glob), []byte(tc.mark))
			cfg := c.all[0].cfg
			r, err := registrar.Open(cfg)
			if err == nil {
				r.Close()
				t.Fatal("opened")
			}
			for _, w := range []string{"damaged", filepath.Join(c.dir, "r1"), "remove this replica", "join again"} {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

// A replica whose log is gone has forgotten its vote.
func TestAnEmptyDisk(t *testing.T) {
	dir := t.TempDir()
	born := 0
	c := newTrio(t, dir, func(cfg *registrar.Config) { cfg.Born = func() error { born++; return nil } })
	c.start(1)
	c.propose(registrartest.Submit("t1"))
	if born != 1 {
		t.Errorf("born %d times", born)
	}
	c.down(c.all[0])
	cfg := c.all[0].cfg
	cfg.Member = true
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	r, err := registrar.Open(cfg)
	if !errors.Is(err, registrar.ErrForgotten) {
		r.Close()
		t.Fatalf("opened: %v", err)
	}
	for _, w := range []string{"tender replica remove r1", "tenderd join"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// A trio of two versions: what the older one could not apply is not proposed,
// and where it is all the same the older one stops, with nothing lost.
func TestTwoVersions(t *testing.T) {
	old := map[fleet.ReplicaID]bool{"r3": true}
	c := newTrio(t, t.TempDir(), func(cfg *registrar.Config) {
		if old[cfg.ID] {
			cfg.Capability = 1
		}
		cfg.Version = "v2"
	})
	c.start(3)
	note := func(id fleet.ReplicaID, n uint64) state.Command {
		return state.Command{NoteReplica: &state.NoteReplica{ID: id, Version: "v2", Capability: n}}
	}
	for _, r := range c.all {
		c.propose(state.Command{PutReplica: &state.Replica{ID: r.cfg.ID, Addr: r.cfg.Addr}})
	}
	lead := c.leader(c.all[0], c.all[1])
	if a, err := lead.About(t.Context(), "r3"); err != nil || a.Capability != 1 || a.Version != "v2" {
		t.Errorf("r3 says of itself: %+v, %v", a, err)
	}
	if _, err := lead.Propose(t.Context(), note("r1", 2)); !errors.Is(err, registrar.ErrTooNew) || !strings.Contains(err.Error(), "tender replica ls") {
		t.Errorf("proposed with an old voter: %v", err)
	}
	c.propose(registrartest.Submit("old words are understood"))
	c.agree()

	lead.SetCapability(2) // a leader that is wrong
	if _, err := lead.Propose(t.Context(), note("r1", 2)); err != nil {
		t.Fatal(err)
	}
	r3 := c.all[2]
	select {
	case <-r3.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("the old version goes on")
	}
	if text := r3.Failure().Error(); !strings.Contains(text, "format version 2, this version knows 1") || !strings.Contains(text, "Upgrade this replica; nothing is lost") {
		t.Errorf("it says: %s", text)
	}
	registrartest.Propose(t, lead.Raft, registrartest.Submit("the others go on"))
	c.down(r3)
	old["r3"] = false
	c.all[2] = c.up("r3", r3.cfg.Addr, false)
	c.agree()
	c.atLeader(func(lead *replica) error {
		for _, r := range c.all {
			a, err := lead.About(t.Context(), r.cfg.ID)
			if err != nil || a.Capability != state.Capability {
				t.Errorf("%s: %+v, %v", r.id, a, err)
			}
		}
		return nil
	})
}

// A restored state is everybody's, and those who follow the log begin anew.
func TestImport(t *testing.T) {
	c := newTrio(t, t.TempDir(), nil)
	c.start(3)
	for _, r := range c.all {
		c.propose(state.Command{PutReplica: &state.Replica{ID: r.cfg.ID, Addr: r.cfg.Addr}})
	}
	c.propose(registrartest.Submit("kept"))
	lead := c.leader(c.all...)
	st, index, term, err := lead.Export(t.Context())
	if err != nil || st.Tasks["kept"] == nil || index == 0 || term == 0 {
		t.Fatalf("exported entry %d of term %d: %v", index, term, err)
	}
	c.propose(registrartest.Submit("lost"))
	_, entries, err := lead.Follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := lead.Import(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	for range entries { // closed: see Follow
	}
	if err := lead.Read(t.Context(), func(s *state.State) {
		if s.Tasks["kept"] == nil || s.Tasks["lost"] != nil {
			t.Errorf("after the restore there are %d tasks", len(s.Tasks))
		}
	}); err != nil {
		t.Fatal(err)
	}
	c.agree()
	registrartest.Propose(t, lead.Raft, registrartest.Submit("after"))
	c.agree()
	for i, r := range c.all {
		c.down(r)
		c.all[i] = c.up(r.id, r.cfg.Addr, false)
	}
	c.agree()
}

func TestSeed(t *testing.T) {
	c := newTrio(t, t.TempDir(), nil)
	cfg := registrar.Config{ID: "r1", Addr: "127.0.0.1:7443", Dir: filepath.Join(c.dir, "r1")}
	st := state.New()
	st.Apply(1, registrartest.Submit("kept"))
	want := registrar.Hash(st)
	if err := registrar.Seed(cfg, st); err != nil {
		t.Fatal(err)
	}
	if err := registrar.Seed(cfg, st); err == nil || !strings.Contains(err.Error(), "already holds") {
		t.Errorf("seeded twice: %v", err)
	}
	c.tune = func(cfg *registrar.Config) { cfg.Addr = "127.0.0.1:7443" }
	c.all = append(c.all, c.up("r1", "127.0.0.1:0", true))
	registrartest.AwaitLeading(t, c.all[0].Raft)
	if hash(c.all[0].Raft) != want {
		t.Error("it began with another state")
	}
	c.propose(registrartest.Submit("after"))
}
