package cluster_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// latency of every packet, one way.
const latency = 5 * time.Millisecond

// scenario runs one in a bubble. How busy the machine is makes no difference
// there, so all run at once. Raft has four times its time-outs: see brisk.
func scenario(t *testing.T, run func(*testing.T, *cluster.Fleet, *transporttest.Net)) {
	t.Helper()
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Patience = 4
		run(t, f, n)
	})
}

// brisk is a scenario that is about elections, or how soon a replica is missed,
// and has Raft's own time-outs for that. It costs four times as much.
func brisk(t *testing.T, run func(*testing.T, *cluster.Fleet, *transporttest.Net)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, latency)
		run(t, cluster.New(t, n), n)
	})
}

// within checks that something took at least lo and at most hi.
func within(t *testing.T, what string, d, lo, hi time.Duration) {
	t.Helper()
	if d < lo || d > hi {
		t.Errorf("%s took %v, want %v to %v", what, d, lo, hi)
	}
}

func TestTrioElects(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		began := time.Now()
		f.Trio()
		within(t, "bringing up a trio", time.Since(began), 0, 5*time.Second)
		lead := f.Leader()
		if lead.ID != "r1" {
			t.Errorf("%s leads, want the first replica", lead.ID)
		}
		for _, r := range f.Replicas {
			f.Await(string(r.ID)+" knows the leader and all members", time.Second, func() bool {
				s := r.Status()
				return s.Leader == lead.ID && s.LeaderAddr == lead.Addr && len(s.Replicas) == 3
			})
		}

		// A planned stop: the others do not wait for a time-out.
		took := stop(f, lead)
		within(t, "the election after a stop", took, 0, 2*time.Second)
		lead.Start()
		f.Await("r1 follows", 5*time.Second, func() bool { return lead.Status().Leader == f.Leader().ID })
		if term := f.Leader().Status().Term; term < 3 {
			t.Errorf("term %d after an election, want a later one than the first", term)
		}
	})
}

// stop ends a replica in order and returns how long the others had no leader.
func stop(f *cluster.Fleet, r *cluster.Replica) time.Duration {
	r.Stop()
	return f.Await("another replica leads", 30*time.Second, func() bool {
		return slices.ContainsFunc(f.Others(r), (*cluster.Replica).Leading)
	})
}

func TestTaskRuns(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Up(1) // three exchange a hundred packets a second, and much time passes
		gpus := []gpu.Device{
			{UUID: "GPU-00000000-0000-0000-0000-000000000001", Model: "NVIDIA L4", MemoryMB: 23034, Health: gpu.Healthy},
			{UUID: "GPU-00000000-0000-0000-0000-000000000002", Model: "NVIDIA L4", MemoryMB: 23034, Health: gpu.Unhealthy},
		}
		a := f.Agent("gpu-1", gpus...)
		c := cluster.Submission("train", "sleep", "5m")
		c.Submit.Need.GPU = fleet.GPURequest{Count: 1, Model: "l4"}
		began := time.Now()
		f.Propose(c)
		within(t, "from submission to running", time.Since(began)+f.Reach("train", fleet.TaskRunning, time.Minute), 0, 200*time.Millisecond)
		if held, ok := a.Exec.Task("train"); !ok || len(held.Devices) != 1 || held.Devices[0] != gpus[0] {
			t.Errorf("the task has the devices %v, want the healthy one", held.Devices)
		}
		f.Reach("train", fleet.TaskFinished, 10*time.Minute)

		task := f.Task("train")
		var states []fleet.TaskState
		at := map[fleet.TaskState]time.Time{}
		for _, st := range task.History {
			states = append(states, st.State)
			at[st.State] = st.Time
		}
		want := []fleet.TaskState{fleet.TaskStaging, fleet.TaskStaging, fleet.TaskStarting, fleet.TaskRunning, fleet.TaskFinished}
		if !slices.Equal(states, want) {
			t.Errorf("history %v, want %v", states, want)
		}
		if d := at[fleet.TaskFinished].Sub(at[fleet.TaskRunning]); d != 5*time.Minute {
			t.Errorf("it ran for %v, want exactly 5 minutes", d)
		}
		f.Await("the container is gone", time.Minute, func() bool { _, held := a.Exec.Task("train"); return !held })
	})
}

func TestLeaderIsCutOff(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		a := f.Agent("edge-1")
		f.Submit("before", "sleep", "1m")
		f.Submit("long", "polite")
		f.Reach("long", fleet.TaskRunning, time.Minute)

		old := f.Leader()
		n.Cut(old.Addr)
		took := f.Await("another replica leads", 10*time.Second, func() bool { return slices.ContainsFunc(f.Others(old), (*cluster.Replica).Leading) })
		within(t, "the election", took, 0, 2*time.Second)
		f.Await("the old leader has stepped down", 2*time.Second, func() bool { return !old.Leading() })
		// It misses an answer to a beat: 10 s to the beat, 5 s of patience, and
		// one address in vain.
		f.Await("the agent is connected again", 20*time.Second, a.Connected)
		f.Submit("during", "exit", "0")
		f.Reach("during", fleet.TaskFinished, time.Minute)
		if s := f.State("long"); s != fleet.TaskRunning {
			t.Errorf("the task that ran before is %v", s)
		}
		time.Sleep(time.Minute)
		f.Reach("before", fleet.TaskFinished, time.Second)
		if s := a.Exec.Started(); !slices.Equal(s, []fleet.TaskID{"before", "long", "during"}) {
			t.Errorf("started %v: each task once", s)
		}

		lead := f.Leader()
		n.Heal(old.Addr)
		f.Await("the old leader follows", time.Minute, func() bool { return old.Status().Leader == lead.ID })
		if f.Leader() != lead {
			t.Error("the return of a replica ended the leader's term")
		}
		agree(t, f)
		if !a.Connected() {
			t.Error("the return of a replica ended the agent's session")
		}
	})
}

// agree waits until all replicas hold the same state.
func agree(t *testing.T, f *cluster.Fleet) {
	t.Helper()
	f.Await("all replicas hold the same state", 30*time.Second, func() bool {
		hashes := map[[32]byte]bool{}
		for _, r := range f.Replicas {
			r.Stale(func(s *state.State) { hashes[registrar.Hash(s)] = true })
		}
		return len(hashes) == 1
	})
}

func TestAgentIsAway(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Up(1) // three exchange a hundred packets a second, and much time passes
		a := f.Agent("edge-1")
		f.Submit("long", "polite")
		f.Submit("ends", "sleep", "100s")
		f.Reach("ends", fleet.TaskRunning, time.Minute)
		began := f.Task("ends").Status.Time
		time.Sleep(42 * time.Second)

		seen := a.LastSeen()
		n.Cut(a.Addr)
		f.Reach("long", fleet.TaskUnreachable, 5*time.Minute)
		history := f.Task("long").History
		within(t, "until the agent is given up", history[len(history)-1].Time.Sub(seen), 75*time.Second, 76*time.Second)
		if s := f.State("ends"); s != fleet.TaskUnreachable {
			t.Errorf("the other task is %v", s)
		}
		time.Sleep(time.Minute)

		n.Heal(a.Addr)
		f.Await("it is back", 35*time.Second, a.Connected) // its backoff is 30 s at most, and a dial
		f.Reach("long", fleet.TaskRunning, time.Second)
		f.Reach("ends", fleet.TaskFinished, time.Second)
		if d := f.Task("ends").Status.Time.Sub(began); d != 100*time.Second {
			t.Errorf("the task that ended meanwhile ran for %v, want exactly 100 s", d)
		}
	})
}

func TestRevoke(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Up(1) // three exchange a hundred packets a second, and much time passes
		a := f.Agent("edge-1")
		f.Submit("t1", "polite")
		f.Reach("t1", fleet.TaskRunning, time.Minute)
		id := a.Credential().Identity
		began := time.Now()
		f.Propose(state.Command{Revoke: &state.Revoke{URI: id.String(), Kind: state.KindAgent, ID: id.ID}})
		f.Await("the session is closed", time.Minute, func() bool { return !a.Connected() })
		within(t, "closing the session", time.Since(began), 0, 10*latency)
		if s := f.State("t1"); s != fleet.TaskGoneByOperator {
			t.Errorf("its task is %v", s)
		}
		for end := time.Now().Add(6 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if a.Connected() {
				t.Fatal("it is connected again")
			}
		}
	})
}

// Everything stops; what was agreed on and what ran is there afterwards.
func TestPowerCut(t *testing.T) {
	brisk(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		a := f.Agent("edge-1")
		f.Submit("ends", "sleep", "5m")
		f.Submit("long", "polite")
		f.Reach("long", fleet.TaskRunning, time.Minute)
		f.Reach("ends", fleet.TaskRunning, time.Minute)
		a.Stop()
		for _, r := range f.Replicas {
			r.Stop()
		}
		time.Sleep(time.Hour)

		for _, r := range f.Replicas {
			r.Start()
		}
		f.Leader()
		a.Start()
		f.Await("the agent is connected", 10*time.Second, a.Connected)
		f.Reach("ends", fleet.TaskFinished, 10*time.Second)
		if s := f.State("long"); s != fleet.TaskRunning {
			t.Errorf("the task that runs on is %v", s)
		}
		if s := a.Exec.Started(); !slices.Equal(s, []fleet.TaskID{"ends", "long"}) {
			t.Errorf("started %v: each task once", s)
		}
		agree(t, f)
	})
}

// Certificates are renewed after 50 to 80 % of their life, here of half a day.
// One replica, since three exchange a hundred packets a second; and the hours in
// which nothing would happen are spent switched off, as on a bench.
func TestCertificatesAreRenewed(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		const certLife = 12 * time.Hour
		f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) { cfg.AgentCertLife = certLife }
		f.Up(1)
		a := f.Agent("edge-1")
		f.Submit("long", "polite")
		began := time.Now()
		f.Reach("long", fleet.TaskRunning, time.Minute)
		sleepUntil := func(at time.Time) {
			a.Stop()
			f.Replicas[0].Stop()
			time.Sleep(time.Until(at))
			f.Replicas[0].Start()
			a.Start()
			f.Await("it is connected", 35*time.Second, a.Connected)
		}
		for range 2 {
			old := a.Credential().Leaf()
			life := old.NotAfter.Sub(old.NotBefore)
			sleepUntil(old.NotBefore.Add(life/2 - 10*time.Minute))
			f.Await("the certificate is renewed", life/2, func() bool { return a.Credential().Leaf().NotAfter.After(old.NotAfter) })
			at := a.Credential().Leaf().NotBefore.Sub(old.NotBefore)
			within(t, "until the renewal", at, life/2-pki.Backdate, life*8/10+time.Second)
		}
		sleepUntil(a.Credential().Leaf().NotAfter.Add(-time.Minute))
		if took := time.Since(began); took < 2*certLife-time.Hour {
			t.Errorf("only %v have passed", took)
		}
		if s := f.State("long"); s != fleet.TaskRunning {
			t.Errorf("the task is %v", s)
		}
	})
}
