package cluster_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// A replica dies for good. Its replacement gets the log, then a vote, and only
// then the dead one goes, by itself and for good.
func TestADeadReplicaIsReplaced(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		dead := f.Others(f.Leader())[0]
		dead.Stop()
		time.Sleep(3 * time.Minute) // long after it counts as dead
		if v := f.Voters(); len(v) != 3 {
			t.Fatalf("without a replacement the voters are %v", v)
		}
		joined := time.Now()
		fresh := f.Grow("r4")
		f.Await("the newcomer has a vote", time.Minute, func() bool { return slices.Contains(f.Voters(), fresh.ID) })
		within(t, "the newcomer's vote", time.Since(joined), 10*time.Second, 15*time.Second)
		f.Await("the dead one is gone", 2*time.Minute, func() bool { return !slices.Contains(f.Voters(), dead.ID) })
		if v := f.Voters(); len(v) != 3 {
			t.Errorf("the voters are %v", v)
		}
		f.Leader().Stale(func(s *state.State) {
			_, banned := s.Revoked["spiffe://"+cluster.TrustDomain+"/replica/"+string(dead.ID)]
			if s.Replicas[dead.ID] != nil || !banned {
				t.Errorf("the dead one's record is %+v, banned %v", s.Replicas[dead.ID], banned)
			}
		})
		// It comes back and changes nothing.
		f.Forget(dead)
		lead := f.Leader()
		dead.Start()
		time.Sleep(time.Minute)
		if now := f.Leader(); now != lead || len(f.Voters()) != 3 {
			t.Errorf("its return made %s the leader of %v", now.ID, f.Voters())
		}
		f.Submit("t", "exit", "0")
	})
}

func TestReplicasAreRemoved(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		old := f.Leader()
		// The leader goes: it hands over, and says so to whoever asked.
		err := old.RemoveReplica(t.Context(), old.ID, false, "operator/test")
		if !errors.Is(err, registrar.ErrNotLeader) {
			t.Fatalf("the leader removes itself: %v", err)
		}
		f.Await("another one leads", 10*time.Second, func() bool { return slices.ContainsFunc(f.Others(old), (*cluster.Replica).Leading) })
		f.Forget(old)
		lead := f.Leader()
		if err := lead.RemoveReplica(t.Context(), old.ID, false, "operator/test"); err != nil {
			t.Fatal(err)
		}
		if v := f.Voters(); len(v) != 2 {
			t.Errorf("the voters are %v", v)
		}
		// Two are left. One is silent, so the other is not removed.
		other := f.Others(lead)[0]
		for id, want := range map[fleet.ReplicaID]string{"r9": "there is no replica r9"} {
			if err := lead.RemoveReplica(t.Context(), id, false, ""); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("remove %s: %v", id, err)
			}
		}
		if err := lead.RemoveReplica(t.Context(), other.ID, false, "operator/test"); err != nil {
			t.Fatal(err)
		}
		if err := lead.RemoveReplica(t.Context(), lead.ID, true, ""); err == nil || !strings.Contains(err.Error(), "is the last one") {
			t.Errorf("remove the last one: %v", err)
		}
		f.Submit("t", "exit", "0")
	})
}

func TestARemovalThatWouldCostTheMajority(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		lead := f.Leader()
		rest := f.Others(lead)
		n.Cut(rest[0].Addr)
		time.Sleep(5 * time.Second)
		var p *client.Problem
		err := lead.RemoveReplica(t.Context(), rest[1].ID, false, "operator/test")
		if !errors.As(err, &p) || p.Code != client.CodeConflict || !strings.Contains(p.Detail, "1 of 2 voters answer") || !strings.Contains(p.Next, "--force") {
			t.Errorf("remove the last living follower: %v", err)
		}
		// The silent one may go.
		if err := lead.RemoveReplica(t.Context(), rest[0].ID, false, "operator/test"); err != nil {
			t.Error(err)
		}
	})
}

// A leader that is to be removed hands over. The next one has not heard of every
// voter yet when it is asked.
func TestARemovalByANewLeader(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		old := f.Leader()
		var not *registrar.NotLeaderError
		if err := old.RemoveReplica(t.Context(), old.ID, false, "operator/test"); !errors.As(err, &not) {
			t.Fatalf("remove the leader: %v, want it to hand over", err)
		}
		f.Await("another one leads", 10*time.Second, func() bool { return slices.ContainsFunc(f.Others(old), (*cluster.Replica).Leading) })
		lead := f.Leader()
		third := f.Others(lead)[slices.IndexFunc(f.Others(lead), func(r *cluster.Replica) bool { return r != old })]
		n.Part(lead.Addr, third.Addr)
		time.Sleep(2500 * time.Millisecond) // what it has heard until now does not count
		time.AfterFunc(time.Second, func() { n.Join(lead.Addr, third.Addr) })
		if err := lead.RemoveReplica(t.Context(), old.ID, false, "operator/test"); err != nil {
			t.Errorf("remove the leader before: %v", err)
		}
	})
}

// A replica that lost its disk, and has its identity still.
func TestAReplicaWithAnEmptyDisk(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		r := f.Others(f.Leader())[0]
		r.Stop()
		f.Forget(r)
		if err := os.RemoveAll(filepath.Join(r.Dir(), "raft")); err != nil {
			t.Fatal(err)
		}
		_, err := controlplane.Open(controlplane.Config{DataDir: r.Dir(), Conn: n.Conn(r.Addr)})
		if !errors.Is(err, registrar.ErrForgotten) || !strings.Contains(err.Error(), "tender replica remove "+string(r.ID)) {
			t.Fatalf("opened: %v", err)
		}
		if err := f.Leader().RemoveReplica(t.Context(), r.ID, false, "operator/test"); err != nil {
			t.Fatal(err)
		}
		// The same name joins again, and is called otherwise.
		fresh := f.Grow(r.ID)
		if fresh.ID == r.ID {
			t.Errorf("the banned id %s was given out again", r.ID)
		}
		f.Await("it has a vote", time.Minute, func() bool { return slices.Contains(f.Voters(), fresh.ID) })
	})
}

// A trio is upgraded one replica after the other. As long as one runs the older
// version, what that could not apply is refused with a reason, and all else
// goes on; after the last one everything is there.
func TestVersionsAreMixed(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		old := map[fleet.ReplicaID]bool{"r1": true, "r2": true, "r3": true}
		f.Tune = func(id fleet.ReplicaID, cfg *controlplane.Config) {
			cfg.Version = "v2"
			if old[id] {
				cfg.Version, cfg.Capability = "v1", 1
			}
		}
		f.Trio()
		f.Agent("edge-1")
		f.Submit("before", "exit", "0")
		f.Reach("before", fleet.TaskFinished, time.Minute)
		upgrade := func(r *cluster.Replica) {
			r.Stop()
			old[r.ID] = false
			r.Start()
			f.Await(string(r.ID)+" follows", time.Minute, func() bool { return r.Status().Leader == f.Leader().ID })
		}
		upgrade(f.Replicas[1])
		upgrade(f.Replicas[0])
		time.Sleep(10 * time.Second)
		if lead := f.Leader(); lead.ID == "r3" {
			stop(f, lead)
			lead.Start()
			time.Sleep(10 * time.Second)
		}
		f.Submit("between", "exit", "0")
		f.Reach("between", fleet.TaskFinished, time.Minute)
		h, body := f.Save()
		if h.Capability != 1 {
			t.Errorf("with an old voter the state needs capability %d", h.Capability)
		}
		m := f.Leader().Members()
		if m["r1"].Capability != state.Capability || m["r3"].Capability != 1 || m["r3"].Version != "v1" {
			t.Errorf("the leader knows %+v", m)
		}
		var p *client.Problem
		if _, err := f.Leader().Import(t.Context(), h, body, "operator/test"); !errors.As(err, &p) || !strings.Contains(p.Next, "upgrade") {
			t.Errorf("a restore with an old voter: %v", err)
		}
		upgrade(f.Replicas[2])
		f.Await("what all run is recorded", time.Minute, func() (all bool) {
			f.Leader().Stale(func(s *state.State) {
				all = len(s.Replicas) == 3
				for _, r := range s.Replicas {
					all = all && r.Version == "v2" && r.Capability == state.Capability
				}
			})
			return all
		})
		f.Submit("after", "exit", "0")
		f.Reach("after", fleet.TaskFinished, time.Minute)
	})
}

// A snapshot is restored while agents run what it knows, what it does not know,
// and what has ended since. Nothing runs twice, nothing is killed unasked.
func TestRestore(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		a := f.Agent("edge-1")
		f.Submit("stays", "sleep", "2h")
		f.Submit("ends", "sleep", "1m")
		f.Reach("stays", fleet.TaskRunning, time.Minute)
		f.Reach("ends", fleet.TaskRunning, time.Minute)
		big := cluster.Submission("waits", "exit", "0")
		big.Submit.Need.CPUs = fleet.Whole(3)
		f.Propose(big)
		h, body := f.Save()
		f.Reach("ends", fleet.TaskFinished, 5*time.Minute)
		f.Reach("waits", fleet.TaskFinished, 5*time.Minute)
		f.Submit("later", "sleep", "2h")
		f.Reach("later", fleet.TaskRunning, time.Minute)
		started := len(a.Exec.Started())

		done := f.Restore(h, body)
		if done.Unsettled != 1 || done.Lost != 1 {
			t.Errorf("restored: %+v", done)
		}
		f.Await("the agent is back", time.Minute, a.Connected)
		f.Reach("ends", fleet.TaskLost, time.Minute)
		f.Submit("held-back", "exit", "0")
		time.Sleep(10 * time.Minute)
		for id, want := range map[fleet.TaskID]fleet.TaskState{
			"stays": fleet.TaskRunning, "waits": fleet.TaskLost, "later": 0, "held-back": fleet.TaskStaging,
		} {
			if got := f.State(id); got != want {
				t.Errorf("%s is %v, want %v", id, got, want)
			}
		}
		if got := a.Exec.Started(); len(got) != started {
			t.Errorf("started after the restore: %v", got[started:])
		}
		running, _ := a.Exec.List(t.Context())
		if !slices.Contains(running, "later") || !slices.Contains(running, "stays") {
			t.Errorf("there run %v", running)
		}

		f.Propose(state.Command{Settle: &state.Settle{Agent: a.ID}})
		f.Reach("held-back", fleet.TaskFinished, time.Minute)
		f.Await("what nobody knows has ended", 2*time.Minute, func() bool {
			running, _ := a.Exec.List(t.Context())
			return !slices.Contains(running, "later") && slices.Contains(running, "stays")
		})
		if got := f.State("stays"); got != fleet.TaskRunning {
			t.Errorf("stays is %v", got)
		}
		// Another leader goes on with the same history.
		stop(f, f.Leader())
		f.Await("the agent is back", time.Minute, a.Connected)
		f.Submit("after", "exit", "0")
		f.Reach("after", fleet.TaskFinished, time.Minute)
	})
}

// All replicas are lost. A new control plane is made of a snapshot and the root
// key, where the old leader was; the agents come back to it.
func TestRestoreOnAFreshMachine(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		first := f.Replicas[0]
		a := f.Agent("edge-1")
		f.Submit("stays", "sleep", "2h")
		f.Reach("stays", fleet.TaskRunning, time.Minute)
		h, body := f.Save()
		f.Submit("later", "sleep", "2h")
		f.Reach("later", fleet.TaskRunning, time.Minute)
		var file bytes.Buffer
		if err := client.WriteSnapshot(&file, h, body); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(first.Dir(), "root")
		for _, r := range f.Replicas {
			r.Stop()
		}
		o := controlplane.RestoreOptions{
			InitOptions: controlplane.InitOptions{DataDir: filepath.Join(t.TempDir(), "new"), ID: "n1", Addr: first.Addr},
			Snapshot:    bytes.NewReader(file.Bytes()), RootKeyFile: filepath.Join(root, "root.key"), PassphraseFile: filepath.Join(root, "passphrase"),
		}
		wrong := o
		wrong.RootKeyFile = filepath.Join(root, "passphrase")
		if _, _, err := controlplane.Restore(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "root key") {
			t.Errorf("with another key: %v", err)
		}
		o.Snapshot = bytes.NewReader(file.Bytes())
		if _, _, err := controlplane.Restore(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		f.Replicas = nil
		f.Adopt("n1", o.Addr, o.DataDir)
		f.Await("the agent is back", 5*time.Minute, a.Connected)
		f.Await("its task is known", time.Minute, func() bool { return f.State("stays") == fleet.TaskRunning })
		f.Propose(state.Command{Settle: &state.Settle{Agent: a.ID}})
		f.Submit("after", "exit", "0")
		f.Reach("after", fleet.TaskFinished, time.Minute)
		f.Grow("n2")
		f.Grow("n3")
		f.Await("a trio again", time.Minute, func() bool { return len(f.Voters()) == 3 })
	})
}

// A replica that stops does not wait for peers that are dead.
func TestStopWithoutPeers(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		lead := f.Leader()
		f.Agent("edge-1")
		for _, r := range f.Others(lead) {
			n.Cut(r.Addr)
		}
		began := time.Now()
		lead.Stop()
		within(t, "the leader's stop", time.Since(began), 0, 2500*time.Millisecond)
		began = time.Now()
		for _, r := range f.Others(lead) {
			r.Stop()
		}
		within(t, "the others' stop", time.Since(began), 0, time.Second)
	})
}
