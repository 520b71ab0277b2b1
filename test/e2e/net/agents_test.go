package net_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

func TestAgentsAndTheirNetworkFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.play(t, []scenario{
		{"15 an agent is killed: the next process has its tasks, none is restarted", w.agentKilled},
		{"15 an agent is killed while it starts tasks: each runs once", w.agentKilledStarting},
		{"30 an agent is killed before it hears of a launch: it runs once", w.agentKilledBeforeLaunch},
		{"32 reports come twice, late and out of order: an ended task stays ended", w.lateReport},
		{"20 containerd is restarted: tasks go on, an end that it did not tell is noticed", w.containerd((*harness.Runtime).Stop)},
		{"20 containerd is killed: tasks go on, an end that it did not tell is noticed", w.containerd((*harness.Runtime).Kill)},
		{"22 the router gives other ports: the same session, at once", w.rebound},
		{"22 the router forgets before each beat: the same session", w.expired},
		{"22 the site gets another address: the same session, at once", w.readdressed},
		{"24 a blackout of 4 s: the same session, what ended meanwhile is told once", w.blackout},
		{"24 the cable is out for 3 s: the same session, a task that was to stop is stopped", w.unplugged},
		{"8 the site is heard and does not hear for 4 s: the same session", w.oneWay("", "r1")},
		{"8 the site hears and is not heard for 4 s: the same session", w.oneWay("r1", "")},
		{"9 a fifth of the site's packets is lost: tasks run once", w.lossy},
		{"32 packets come twice and out of order: tasks run once, output is whole", w.disorder},
		{"9 the site is 400 ms away: tasks run once, output is whole", w.far},
		{"24 the cable flaps: nothing is restarted", w.flapping},
		{"23 UDP is blocked when an agent starts: the session is over TCP, tasks run, output is whole", w.noUDP},
		{"23 nothing passes when an agent starts: it says so, is not busy, and comes by itself when it does", w.noReplica},
		{"31 a scheduler comes back to the next leader; one that was removed is refused; who went holds nothing", w.schedulers},
	})
}

func (w *world) agentKilled(t *testing.T) {
	a := w.agents[0]
	id, pid := w.run(t, a)
	a.Process().Kill(t)
	began := time.Now()
	a.Start(t)
	a.Process().Says(t, "msg=connected")
	took := time.Since(began)
	t.Logf("the agent is back after %.1f s", took.Seconds())
	if took > 5*time.Second {
		t.Errorf("the agent took %v", took)
	}
	if now := a.Runtime.PID(t, id); now != pid {
		t.Errorf("the task was process %d and is %d", pid, now)
	}
	end(t, a, id)
	w.once(t, a, id)
}

func (w *world) agentKilledStarting(t *testing.T) {
	a := w.agents[0]
	var ids []string
	for range 6 {
		ids = append(ids, w.Submit(t, client.Submit{Command: sh("echo began; sleep 0.2"), Agent: a.ID}))
	}
	w.Await(t, ids[0], "it is on the agent", func(task client.Task) bool { return task.State != "TASK_STAGING" })
	a.Process().Kill(t)
	a.Start(t)
	for _, id := range ids {
		w.once(t, a, id)
		if out, _ := w.Output(t, id); out != "began\n" {
			t.Errorf("task %s printed %q", id, out)
		}
	}
}

func (w *world) agentKilledBeforeLaunch(t *testing.T) {
	a := w.agents[0]
	a.Process().Pause(t)
	id := w.Submit(t, client.Submit{Command: sh("echo began"), Agent: a.ID})
	w.Await(t, id, "it is assigned", func(task client.Task) bool { return task.Agent == a.ID })
	a.Process().Kill(t)
	a.Start(t)
	w.once(t, a, id)
	if out, _ := w.Output(t, id); out != "began\n" {
		t.Errorf("it printed %q", out)
	}
}

// lateReport says what an agent might say that was away for long.
func (w *world) lateReport(t *testing.T) {
	a := w.agents[0]
	id := w.Submit(t, client.Submit{Command: []string{"true"}, Agent: a.ID})
	before := w.End(t, id)
	a.Process().Kill(t)
	cred, err := pki.LoadDir(a.State + "/pki")
	must(t, err)
	conn, err := w.udp(a.Node)
	must(t, err)
	dialer, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(cred), Conn: conn})
	must(t, err)
	defer dialer.Close() //nolint:errcheck // the process that it stands for is dead
	session, err := dialer.Dial(t.Context(), w.Leader(t).Addr, transport.ALPNAgent, nil)
	must(t, err)
	st, err := session.Open(t.Context(), transport.StreamControl)
	must(t, err)
	_ = st.SetDeadline(time.Now().Add(20 * time.Second))
	c := wire.NewConn(st, wire.MaxControl)
	must(t, c.Send(wire.Hello{Capability: wire.Capability, Agent: fleet.AgentID(a.ID), Hostname: a.ID}))
	msg, err := c.Recv()
	must(t, err)
	if _, ok := msg.(wire.Welcome); !ok {
		t.Fatalf("the answer is %+v", msg)
	}
	update := func(seq uint64, s fleet.TaskState) fleet.StatusUpdate {
		return fleet.StatusUpdate{ID: fleet.UpdateID(fmt.Sprintf("late-%d", seq)), Seq: seq, Status: fleet.Status{Task: fleet.TaskID(id), State: s, Time: time.Now(), ExitCode: -1}}
	}
	running, failed := update(9, fleet.TaskRunning), update(8, fleet.TaskFailed)
	must(t, c.Send(wire.Report{Updates: []fleet.StatusUpdate{running, failed, running}}))
	must(t, c.Send(wire.Report{Updates: []fleet.StatusUpdate{running}}))
	must(t, c.Send(wire.Pull{Full: true}))
	// What it says is dealt with in order: the pull is answered after the others.
	for {
		msg, err := c.Recv()
		must(t, err)
		if _, ok := msg.(wire.DesiredSet); ok {
			break
		}
	}
	after, err := w.Task(t.Context(), id)
	must(t, err)
	if after.State != "TASK_FINISHED" || after.Revision != before.Revision {
		t.Errorf("it was %s\nand is %s", harness.Tell(before), harness.Tell(after))
	}
	_ = session.Close(transport.CodeOK, "")
}

// containerd is taken away from an agent and given back. While it is away a
// task ends, which it never tells anybody.
func (w *world) containerd(away func(*harness.Runtime)) func(*testing.T) {
	return func(t *testing.T) {
		a := w.agents[0]
		stays, pid := w.run(t, a)
		ends, last := w.run(t, a)
		away(a.Runtime)
		touch(t, last)
		harness.Eventually(t, "a task ends", func() bool { return !harness.Alive(last) })
		must(t, a.Runtime.Run())
		harness.Eventually(t, "the test's own connection is back", func() bool {
			_, err := a.Runtime.Containers(t.Context())
			return err == nil
		})
		w.once(t, a, ends)
		if now := a.Runtime.PID(t, stays); now != pid {
			t.Errorf("the task was process %d and is %d", pid, now)
		}
		end(t, a, stays)
		w.once(t, a, stays)
	}
}

// same checks that what a fault disturbs is the agent's session of before, and
// that an end which follows the fault is known at once if it must be.
func (w *world) same(t *testing.T, a *harness.Agent, within time.Duration, fault func()) {
	t.Helper()
	before := a.Connected(t)
	id, pid := w.run(t, a)
	fault()
	began := time.Now()
	touch(t, pid)
	w.once(t, a, id)
	took := time.Since(began)
	t.Logf("the end of a task is known after %.2f s", took.Seconds())
	if took > within {
		t.Errorf("the end of a task is known after %v, want it within %v", took, within)
	}
	if out, _ := w.Output(t, id); out != "began\nended\n" {
		t.Errorf("it printed %q", out)
	}
	if after := a.Connected(t); !after.Since.Equal(before.Since) {
		t.Errorf("the session began %v after the one before", after.Since.Sub(before.Since))
	}
}

func (w *world) rebound(t *testing.T) {
	w.same(t, w.agents[0], 2*time.Second, func() { must(t, w.bed.Rebind(t.Context(), "r1")) })
}

func (w *world) expired(t *testing.T) {
	must(t, w.bed.Expire("r1", 2*time.Second))
	w.same(t, w.agents[0], 2*time.Second, func() { pass(t, 5*time.Second) })
	w.same(t, w.agents[0], 2*time.Second, func() { pass(t, 3*time.Second) })
	must(t, w.bed.Expire("r1", 2*time.Minute))
}

func (w *world) readdressed(t *testing.T) {
	to := netip.MustParseAddr("203.0.113.151")
	w.same(t, w.agents[0], 2*time.Second, func() { must(t, w.bed.Readdress(t.Context(), "r1", to)) })
}

// blackout is shorter than what an agent waits after a beat.
func (w *world) blackout(t *testing.T) {
	a := w.agents[0]
	cable, err := w.bed.Cable(t.Context(), "r1")
	must(t, err)
	defer func() { must(t, cable.Close(t.Context())) }()
	w.same(t, a, 8*time.Second, func() {
		cable.Set(quality{Down: true})
		pass(t, 4*time.Second)
		cable.Set(quality{})
	})
	ends, pid := w.run(t, a)
	began := time.Now()
	cable.Set(quality{Down: true})
	touch(t, pid)
	pass(t, 2*time.Second)
	cable.Set(quality{})
	w.once(t, a, ends)
	task, err := w.Task(t.Context(), ends)
	must(t, err)
	if d := last(task).Sub(began); d < 0 || d > 1500*time.Millisecond {
		t.Errorf("the task ended at once; it is said to have ended %v later", d)
	}
}

func (w *world) unplugged(t *testing.T) {
	a := w.agents[0]
	id, pid := w.run(t, a)
	w.same(t, a, 8*time.Second, func() {
		must(t, w.bed.Cut(t.Context(), "r1"))
		grace := client.Duration(0)
		_, err := w.StopTask(t.Context(), id, client.Stop{Grace: &grace})
		must(t, err)
		pass(t, 3*time.Second)
		if !harness.Alive(pid) {
			t.Error("the task was stopped by who could not be told")
		}
		must(t, w.bed.Restore(t.Context(), "r1"))
	})
	if task := w.End(t, id); task.State != "TASK_KILLED" {
		t.Error(harness.Tell(task))
	}
}

func (w *world) oneWay(from, to string) func(*testing.T) {
	return func(t *testing.T) {
		w.same(t, w.agents[0], 8*time.Second, func() {
			must(t, w.bed.Drop(t.Context(), loss{From: from, To: to}))
			pass(t, 4*time.Second)
			must(t, w.bed.Heal(t.Context()))
		})
	}
}

// short runs tasks that print much on an agent, and checks that each did so
// once.
func (w *world) short(t *testing.T, a *harness.Agent, n int) {
	t.Helper()
	var ids []string
	for range n {
		ids = append(ids, w.Submit(t, client.Submit{Command: sh("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"), Agent: a.ID}))
	}
	for _, id := range ids {
		w.once(t, a, id)
		out, _ := w.Output(t, id)
		want := 2000*len("line \n") + 10 + 90*2 + 900*3 + 1000*4
		if len(out) != want || out[len(out)-10:] != "line 1999\n" {
			t.Errorf("task %s printed %d bytes, want %d", id, len(out), want)
		}
	}
}

func (w *world) lossy(t *testing.T) {
	must(t, w.bed.Drop(t.Context(), loss{From: "r1", Percent: 20}, loss{To: "r1", Percent: 20}))
	since := w.agents[0].Connected(t).Since
	w.short(t, w.agents[0], 3)
	if now := w.agents[0].Connected(t).Since; !now.Equal(since) {
		t.Error("the session was lost")
	}
}

func (w *world) through(t *testing.T, q quality) {
	t.Helper()
	cable, err := w.bed.Cable(t.Context(), "r1")
	must(t, err)
	since := w.agents[0].Connected(t).Since
	cable.Set(q)
	w.short(t, w.agents[0], 3)
	if now := w.agents[0].Connected(t).Since; !now.Equal(since) {
		t.Error("the session was lost")
	}
	must(t, cable.Close(t.Context()))
}

func (w *world) disorder(t *testing.T) {
	w.through(t, quality{Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond, Duplicate: 20, Reorder: 20, Loss: 2})
}

func (w *world) far(t *testing.T) {
	w.through(t, quality{Delay: 180 * time.Millisecond, Jitter: 40 * time.Millisecond, Loss: 2})
}

func (w *world) flapping(t *testing.T) {
	a := w.agents[0]
	id, pid := w.run(t, a)
	for range 6 {
		must(t, w.bed.Cut(t.Context(), "r1"))
		pass(t, 400*time.Millisecond)
		must(t, w.bed.Restore(t.Context(), "r1"))
		pass(t, 400*time.Millisecond)
	}
	if now := a.Runtime.PID(t, id); now != pid {
		t.Errorf("the task was process %d and is %d", pid, now)
	}
	end(t, a, id)
	w.once(t, a, id)
}

func (w *world) noUDP(t *testing.T) {
	a := w.agents[1]
	a.Process().Kill(t)
	must(t, w.bed.Drop(t.Context(), loss{From: "r2", UDP: true}, loss{To: "r2", UDP: true}))
	a.Start(t)
	a.Process().Says(t, "msg=connected")
	doc := a.Connected(t)
	if doc.Link != "tcp" {
		t.Errorf("the session is over %q", doc.Link)
	}
	w.short(t, a, 2)
	// Over QUIC again, without the wait for it.
	must(t, w.bed.Heal(t.Context()))
	a.Process().Kill(t)
	a.Start(t)
	a.Await(t, "it is connected over QUIC", func(d client.Agent) bool { return d.State == client.AgentConnected && d.Link == "quic" })
}

// noReplica blocks everything: an agent that reaches nobody says so and waits.
func (w *world) noReplica(t *testing.T) {
	a := w.agents[1]
	a.Process().Kill(t)
	must(t, w.bed.Drop(t.Context(), loss{From: "r2"}, loss{To: "r2"}))
	a.Start(t)
	a.Process().Says(t, `msg="no session"`)
	before := cpu(t, a.Process().PID())
	pass(t, 5*time.Second)
	used := cpu(t, a.Process().PID()) - before
	t.Logf("it used %v of processor time in 5 s", used)
	if used > 500*time.Millisecond {
		t.Error("an agent that waits is busy")
	}
	if x := w.witness[1]; !harness.Alive(x.pid) {
		t.Error("its task has ended")
	}
}
