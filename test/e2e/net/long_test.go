package net_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// TestLongFaults are those that last longer than the time-outs which notice
// them. Raft's time-outs are four times the usual, for the replicas that are far
// apart.
func TestLongFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--raft-patience", "4")
	w.play(t, []scenario{
		{"far replicas, a paused agent, and one that was away", together(
			scenario{"9 replicas are 200 ms apart and 5 % is lost: no storm of elections, writes within 2 s", w.replicasFar},
			scenario{"16 an agent is paused for 40 s: it is seen as gone, and is back with its tasks", w.agentPaused},
			scenario{"23 UDP is blocked after an outage of 40 s: over TCP within 20 s", w.outageThenNoUDP},
		)},
		{"a site without a network, and one without UDP", together(
			scenario{"17 a site is cut off for 85 s: its tasks are unreachable, nothing starts elsewhere, it comes back", w.cutOff},
			scenario{"23 UDP is blocked during a session: it goes on over TCP within 20 s, and over QUIC when UDP passes", w.udpBlocked},
		)},
	})
}

// TestTheControlPlaneIsAway is long, too, and leaves nothing that another
// scenario could use meanwhile.
func TestTheControlPlaneIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.play(t, []scenario{
		{"4 all replicas are down for 60 s: tasks go on, everything is told in order, nothing is restarted", w.allDown},
	})
}

func (w *world) replicasFar(t *testing.T) {
	for _, r := range w.Replicas {
		cable, err := w.bed.Cable(t.Context(), r.Node)
		must(t, err)
		defer func() { must(t, cable.Close(t.Context())) }()
		cable.Set(quality{Delay: 50 * time.Millisecond, Loss: 2}) // of two cables each way
	}
	before := w.term(t)
	s := begin(t, w.Client)
	pass(t, 12*time.Second)
	s.moves(t, 5)
	s.end()
	if n := w.term(t) - before; n > 2 {
		t.Errorf("%d terms in 12 s", n)
	}
	if s.longest > 2*time.Second {
		t.Errorf("the slowest write took %v", s.longest)
	}
	w.kept(t, s)
}

func (w *world) agentPaused(t *testing.T) {
	a := w.agents[1]
	id, pid := w.run(t, a)
	a.Process().Pause(t)
	a.Await(t, "it is seen as gone", func(d client.Agent) bool { return d.State == client.AgentDisconnected })
	touch(t, pid)
	pass(t, 5*time.Second)
	if task, err := w.Task(t.Context(), id); err != nil || task.State != "TASK_RUNNING" {
		t.Errorf("%s, error %v", harness.Tell(task), err)
	}
	a.Process().Resume(t)
	w.once(t, a, id)
}

// allDown ends one task well and one badly while nobody listens, and starts
// none.
func (w *world) allDown(t *testing.T) {
	a := w.agents[0]
	good, goodPID := w.run(t, a)
	bad := w.Submit(t, client.Submit{Command: sh("until [ -e /tmp/end ]; do sleep 0.1; done; exit 3"), Agent: a.ID})
	w.Running(t, bad)
	badPID := a.Runtime.PID(t, bad)
	for _, r := range w.Replicas {
		r.Kill(t)
	}
	began := time.Now()
	pass(t, 5*time.Second)
	touch(t, goodPID)
	pass(t, 2*time.Second)
	touch(t, badPID)
	pass(t, 60*time.Second-time.Since(began))
	for i, x := range w.witness {
		if pid := w.agents[i].Runtime.PID(t, x.task); pid != x.pid {
			t.Errorf("the witness was process %d and is %d", x.pid, pid)
		}
	}
	for _, r := range w.Replicas {
		r.Start(t)
	}
	began = time.Now()
	w.once(t, a, good)
	b := w.End(t, bad)
	t.Logf("what had ended meanwhile is known %.1f s after the start of the replicas", time.Since(began).Seconds())
	g, err := w.Task(t.Context(), good)
	must(t, err)
	if b.State != "TASK_FAILED" || b.ExitCode == nil || *b.ExitCode != 3 {
		t.Error(harness.Tell(b))
	}
	if d := last(b).Sub(last(g)); d < time.Second || d > 5*time.Second {
		t.Errorf("one task ended 2 s after the other; it is said to have been %v", d)
	}
	for _, task := range []client.Task{g, b} {
		var states []string
		for _, h := range task.History {
			states = append(states, h.State)
		}
		if got := strings.Join(states, " "); !strings.HasPrefix(got, "TASK_STAGING TASK_STAGING TASK_STARTING TASK_RUNNING TASK_F") || len(states) != 5 {
			t.Errorf("the states of %s were %s", task.ID, got)
		}
	}
	if n := a.Runtime.Starts(bad); n != 1 {
		t.Errorf("its container was started %d times", n)
	}
}

func (w *world) cutOff(t *testing.T) {
	a, other := w.agents[0], w.agents[1]
	id, pid := w.run(t, a)
	must(t, w.bed.Cut(t.Context(), "r1"))
	began := time.Now()
	a.Await(t, "it is seen as gone", func(d client.Agent) bool { return d.State == client.AgentDisconnected })
	if task, err := w.Task(t.Context(), id); err != nil || task.State != "TASK_RUNNING" {
		t.Errorf("its task is %s, error %v", harness.Tell(task), err)
	}
	// A task for that agent waits, and does not go elsewhere.
	queued := w.Submit(t, client.Submit{Command: []string{"true"}, Agent: a.ID})
	pass(t, 70*time.Second-time.Since(began))
	w.Await(t, id, "it is unreachable", func(task client.Task) bool { return task.State == "TASK_UNREACHABLE" })
	t.Logf("its task is unreachable after %.1f s", time.Since(began).Seconds())
	if doc, err := w.Agent(t.Context(), a.ID); err != nil || doc.State != client.AgentUnreachable {
		t.Errorf("the agent is %s, error %v", doc.State, err)
	}
	pass(t, 85*time.Second-time.Since(began))
	if n := other.Runtime.Starts(id) + other.Runtime.Starts(queued); n != 0 {
		t.Errorf("%d containers were started elsewhere", n)
	}
	must(t, w.bed.Restore(t.Context(), "r1"))
	began = time.Now()
	w.Running(t, id)
	t.Logf("it is known to run %.1f s after the return", time.Since(began).Seconds())
	if now := a.Runtime.PID(t, id); now != pid {
		t.Errorf("the task was process %d and is %d", pid, now)
	}
	w.once(t, a, queued)
	end(t, a, id)
	w.once(t, a, id)
}

func (w *world) udpBlocked(t *testing.T) {
	a := w.agents[1]
	link := func(d client.Agent) string { return d.State + " " + d.Link }
	if doc := a.Connected(t); doc.Link != "quic" {
		t.Fatalf("the session is over %s", doc.Link)
	}
	id, pid := w.run(t, a)
	must(t, w.bed.Drop(t.Context(), loss{From: "r2", UDP: true}, loss{To: "r2", UDP: true}))
	began := time.Now()
	a.Await(t, "it is connected over TCP", func(d client.Agent) bool { return link(d) == "connected tcp" })
	took := time.Since(began)
	t.Logf("over TCP after %.1f s", took.Seconds())
	if took > 20*time.Second {
		t.Errorf("over TCP after %v", took)
	}
	a.Process().Says(t, "the replica was silent for")
	touch(t, pid)
	w.once(t, a, id)
	if out, _ := w.Output(t, id); out != "began\nended\n" {
		t.Errorf("it printed %q", out)
	}
	stays, pid := w.run(t, a)
	must(t, w.bed.Heal(t.Context()))
	began = time.Now()
	pass(t, 30*time.Second)
	a.Await(t, "it is connected over QUIC", func(d client.Agent) bool { return link(d) == "connected quic" })
	t.Logf("over QUIC %.1f s after UDP passes", time.Since(began).Seconds())
	if now := a.Runtime.PID(t, stays); now != pid {
		t.Errorf("the task was process %d and is %d", pid, now)
	}
	touch(t, pid)
	w.once(t, a, stays)
}
