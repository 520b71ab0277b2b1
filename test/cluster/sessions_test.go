package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
	"github.com/tenderfleet/tender/transport/wire"
)

// guest starts an agent that knows one replica and has its session there.
func guest(f *cluster.Fleet, name string, at *cluster.Replica) *cluster.Agent {
	a := f.Joined(name)
	a.Know(at.Addr)
	a.Start()
	f.Await(name+" is connected", time.Minute, a.Connected)
	return a
}

// stays checks that an agent's session is the one it was.
func stays(t *testing.T, a *cluster.Agent, at *cluster.Replica, since time.Time) {
	t.Helper()
	if r, s := a.Session(); r != at || !s.Equal(since) {
		t.Errorf("%s: the session at %s since %v is now at %v since %v", a.ID, at.ID, since, r, s)
	}
}

func TestFollowerCarriesTheSession(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		follower := f.Others(f.Leader())[0]
		began := time.Now()
		a := guest(f, "edge-1", follower)
		// A handshake of one round trip, a hello, and one trip to the leader.
		within(t, "the way over a follower", time.Since(began), 4*latency, time.Second)
		at, since := a.Session()
		if at != follower {
			t.Fatalf("the session is at %v, want %s", at, follower.ID)
		}
		began = time.Now()
		f.Submit("t1", "exit", "3")
		f.Reach("t1", fleet.TaskFailed, time.Minute)
		within(t, "a task over a follower", time.Since(began), 0, 300*time.Millisecond)
		if h := f.Task("t1").History; len(h) != 5 {
			t.Errorf("history %v, want every state", h)
		}

		// Readings travel with other things, and alone after a second.
		time.Sleep(time.Minute)
		if seen := time.Since(a.LastSeen()); seen > 12*time.Second {
			t.Errorf("last seen %v ago, want one beat and a second at most", seen)
		}
		stays(t, a, follower, since)
	})
}

// A leader change ends no session on a living replica, and what is reported in
// between arrives.
func TestSessionsOutliveLeaders(t *testing.T) {
	for _, way := range []string{"planned", "cut off"} {
		t.Run(way, func(t *testing.T) {
			brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
				f.Trio()
				old := f.Leader()
				others := f.Others(old)
				agents := []*cluster.Agent{guest(f, "edge-1", others[0]), guest(f, "edge-2", others[1])}
				sinces := make([]time.Time, len(agents))
				for i, a := range agents {
					_, sinces[i] = a.Session()
					f.Submit(fleet.TaskID(fmt.Sprintf("ends-%d", i)), "sleep", "2s")
					f.Submit(fleet.TaskID(fmt.Sprintf("long-%d", i)), "polite")
				}
				for _, id := range f.Tasks() {
					f.Reach(id, fleet.TaskRunning, time.Minute)
				}
				if way == "planned" {
					old.Stop()
				} else {
					n.Cut(old.Addr)
				}
				f.Await("another replica leads", 10*time.Second, func() bool { return slices.ContainsFunc(others, (*cluster.Replica).Leading) })
				f.Await("the old leader has stepped down", 10*time.Second, func() bool { return !old.Leading() })
				for i, a := range agents {
					f.Await("the new leader knows of the session", 2*time.Second, a.Connected)
					stays(t, a, others[i], sinces[i])
				}
				for i := range agents {
					f.Reach(fleet.TaskID(fmt.Sprintf("ends-%d", i)), fleet.TaskFinished, 10*time.Second)
					if s := f.State(fleet.TaskID(fmt.Sprintf("long-%d", i))); s != fleet.TaskRunning {
						t.Errorf("the task that runs on is %v", s)
					}
				}
				f.Submit("new", "exit", "0")
				f.Reach("new", fleet.TaskFinished, time.Minute)
				for i, a := range agents {
					stays(t, a, others[i], sinces[i])
				}
			})
		})
	}
}

// The agents of a replica that dies spread over the others, and come back when
// it does.
func TestAgentsOfADeadReplicaSpread(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.TuneAgent = func(cfg *agent.Config) { cfg.SeekHome = 20 * time.Second }
		f.Trio()
		var agents []*cluster.Agent
		for i := range 12 {
			agents = append(agents, f.Agent(fmt.Sprintf("edge-%d", i+1)))
		}
		count := func() map[fleet.ReplicaID]int {
			out := map[fleet.ReplicaID]int{}
			for _, a := range agents {
				if at, _ := a.Session(); at != nil {
					out[at.ID]++
				}
			}
			return out
		}
		before := count()
		for _, r := range f.Replicas {
			if before[r.ID] < 1 || before[r.ID] > 8 {
				t.Errorf("sessions %v: want them on all replicas", before)
			}
		}
		lost := f.Others(f.Leader())[0]
		n.Cut(lost.Addr)
		// A beat that comes after 25 s at most has no answer for 5 s; then a dial, and
		// one in vain.
		f.Await("all are with the others", 34*time.Second, func() bool {
			now := count()
			return now[lost.ID] == 0 && now[f.Others(lost)[0].ID]+now[f.Others(lost)[1].ID] == len(agents)
		})
		n.Heal(lost.Addr)
		f.Await("those of the replica that is back are back there", 2*time.Minute, func() bool { return maps.Equal(count(), before) })
	})
}

// A follower that is cut off from the others sends its agents to them.
func TestStrandedFollower(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		lost := f.Others(f.Leader())[0]
		a := guest(f, "edge-1", lost)
		f.Submit("long", "polite")
		f.Reach("long", fleet.TaskRunning, time.Minute)
		for _, r := range f.Others(lost) {
			n.Part(lost.Addr, r.Addr)
		}
		began := time.Now()
		f.Await("the leader misses it", time.Minute, func() bool { return !a.Connected() })
		within(t, "until the link is given up", time.Since(began), 0, 30*time.Second)
		f.Await("it is with another replica", time.Minute, a.Connected)
		within(t, "until the agent is back", time.Since(began), 0, 50*time.Second)
		for _, s := range f.Task("long").History {
			if s.State == fleet.TaskUnreachable {
				t.Errorf("the task was %v: an agent that is back in time is not", s.State)
			}
		}
		if at, _ := a.Session(); at == lost {
			t.Error("the session is still at the replica that is cut off")
		}
	})
}

// Everything of one agent's goes through a follower: output, renewal.
func TestStreamsThroughAFollower(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		follower := f.Others(f.Leader())[0]
		a := guest(f, "edge-1", follower)
		f.Submit("t1", "exit", "0")
		f.Reach("t1", fleet.TaskFinished, time.Minute)
		a.Print("t1", "hello")
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := f.Leader().Logs(ctx, "t1", wire.LogsRequest{Tail: -1, Stdout: true, Stderr: true}, func(_ bool, data []byte) error {
			_, err := out.Write(data)
			return err
		})
		if err != nil || out.String() != "hello\n" {
			t.Errorf("output %q, %v", out.String(), err)
		}
	})
}

func TestRevokedAtAFollower(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		follower := f.Others(f.Leader())[0]
		a := guest(f, "edge-1", follower)
		f.Submit("t1", "polite")
		f.Reach("t1", fleet.TaskRunning, time.Minute)
		id := a.Credential().Identity
		began := time.Now()
		f.Propose(state.Command{Revoke: &state.Revoke{URI: id.String(), Kind: state.KindAgent, ID: id.ID}})
		f.Await("its task has been told to end", time.Minute, func() bool { _, held := a.Exec.Task("t1"); return !held })
		within(t, "closing the session", time.Since(began), 0, time.Second)
	})
}

// A machine that comes back from a restart while its old session still counts
// is itself; a second machine with a copy of its disk is not.
func TestRestartedOrCloned(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		others := f.Others(f.Leader())
		a := guest(f, "edge-1", others[0])

		// The power goes: nothing is said. The machine is back in no time, at
		// another replica.
		n.Cut(a.Addr)
		a.Stop()
		n.Heal(a.Addr)
		a.Know(others[1].Addr)
		a.Boot = "boot-2"
		a.Start()
		began := time.Now()
		f.Await("it is connected where it is now", 20*time.Second, func() bool { at, _ := a.Session(); return at == others[1] })
		within(t, "until the old session is given up", time.Since(began), 4*time.Second, 8*time.Second)
		f.Submit("t1", "exit", "0")
		f.Reach("t1", fleet.TaskFinished, time.Minute)

		at, since := a.Session()
		b := a.Clone("copy")
		b.Know(others[0].Addr)
		b.Start()
		for range 60 {
			time.Sleep(time.Second)
			stays(t, a, at, since)
			if t.Failed() {
				return
			}
		}
		b.Stop()
		f.Submit("t2", "exit", "0")
		f.Reach("t2", fleet.TaskFinished, time.Minute)
		if s := b.Exec.Started(); len(s) > 0 {
			t.Errorf("the copy has started %v", s)
		}
	})
}

func TestResetKeyIsShared(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		f.Await("all replicas keep one key", 10*time.Second, func() bool {
			keys := map[string]bool{}
			for _, r := range f.Replicas {
				data, err := os.ReadFile(filepath.Join(r.Dir(), "reset.key"))
				if err != nil {
					t.Fatal(err)
				}
				keys[string(data)] = true
			}
			return len(keys) == 1
		})
	})
}

// An agent that has lost its disk gets its whole set again, also one that is
// too long for a message, over a follower. What runs, runs on.
func TestLongSetOverAFollower(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		follower := f.Others(f.Leader())[0]
		a := guest(f, "edge-1", follower)
		const n = 200
		var cmds []state.Command
		for i := range n {
			c := cluster.Submission(fleet.TaskID(fmt.Sprintf("t%03d", i)), "polite")
			c.Submit.Need = fleet.Need{CPUs: 10, Mem: fleet.Whole(1)}
			c.Submit.Spec.Env = map[string]string{"TEXT": strings.Repeat("x", 10<<10)}
			cmds = append(cmds, c)
		}
		for chunk := range slices.Chunk(cmds, 50) {
			f.Propose(chunk...)
		}
		running := func() (count int) {
			f.Leader().Stale(func(s *state.State) {
				for _, task := range s.Tasks {
					if task.State == fleet.TaskRunning {
						count++
					}
				}
			})
			return count
		}
		f.Await("all run", time.Minute, func() bool { return running() == n })

		a.Stop()
		if err := os.Remove(a.Dir("agent.db")); err != nil {
			t.Fatal(err)
		}
		a.Start()
		f.Submit("new", "exit", "0")
		f.Reach("new", fleet.TaskFinished, time.Minute)
		if got := running(); got != n {
			t.Errorf("%d of %d tasks run on", got, n)
		}
		if s := a.Exec.Started(); len(s) != n+1 {
			t.Errorf("%d starts, want each task once", len(s))
		}
	})
}
