package net_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport/fleet"
)

// TestASiteIsAway lasts longer than the shortest time after which a task is to
// be stopped for want of contact, or replaced.
func TestASiteIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.play(t, []scenario{
		{"19 an exclusive task that its own agent would stop too late is refused", w.tooExclusive},
		{"18 19 a site is away for longer than lost_after and stop_after: one replacement each, on return one goes on, by two policies; its agent stops a task itself, on time, and says why", w.away},
	})
}

func (w *world) tooExclusive(t *testing.T) {
	policy := client.Disconnect{Replace: true, StopAfter: client.Duration(60 * time.Second), LostAfter: client.Duration(80 * time.Second)}
	_, err := w.Client.Submit(t.Context(), harness.Complete(client.Submit{Command: []string{"true"}, Exclusive: true, Disconnect: &policy}))
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != client.CodeInvalid {
		t.Fatalf("the answer is %v", err)
	}
	for _, want := range []string{"never runs twice at once", "lost_after must be at least", "make lost_after longer or stop_after shorter"} {
		if !strings.Contains(p.Detail, want) {
			t.Errorf("%q does not say %q", p.Detail, want)
		}
	}
}

// obliging is untilTouched for a task that ends at once when it is asked to.
func obliging() []string {
	return sh("trap 'exit 0' TERM; echo began; until [ -e /tmp/end ]; do sleep 0.1; done; echo ended")
}

func (w *world) away(t *testing.T) {
	a, other := w.agents[0], w.agents[1]
	// What may run anywhere goes where there is room.
	full := w.Submit(t, client.Submit{Command: []string{"sleep", "1000"}, Agent: other.ID, CPUs: "99.5"})
	w.Running(t, full)
	ids, pids := map[string]string{}, map[string]uint32{}
	for _, policy := range []string{"keep_original", "keep_replacement"} {
		ids[policy] = w.Submit(t, client.Submit{
			Command: obliging(), CPUs: "1", Disconnect: &client.Disconnect{Replace: true, LostAfter: client.Duration(fleet.MinLostAfter), Reconcile: policy},
		})
	}
	ids["alone"] = w.Submit(t, client.Submit{Command: obliging(), Agent: a.ID, Disconnect: &client.Disconnect{StopAfter: client.Duration(30 * time.Second)}})
	for name, id := range ids {
		if task := w.Running(t, id); task.Agent != a.ID {
			t.Fatal(harness.Tell(task))
		}
		pids[name] = a.Runtime.PID(t, id)
	}
	_, err := w.StopTask(t.Context(), full, client.Stop{Grace: new(client.Duration)})
	must(t, err)

	must(t, w.bed.Cut(t.Context(), "r1"))
	began := time.Now()
	harness.Eventually(t, "the agent stops what must not run alone", func() bool { return !harness.Alive(pids["alone"]) })
	took := time.Since(began)
	t.Logf("stopped %.1f s after the cut", took.Seconds())
	if took < 20*time.Second || took > 35*time.Second { // it asks every 5 s
		t.Errorf("it was stopped after %v, want 30 s after the last contact", took)
	}
	replacement := map[string]string{}
	for _, policy := range []string{"keep_original", "keep_replacement"} {
		task := w.Await(t, ids[policy], "it is replaced", func(task client.Task) bool { return task.ReplacedBy != "" })
		replacement[policy] = task.ReplacedBy
		if next := w.Running(t, task.ReplacedBy); next.Agent != other.ID || next.Replaces != ids[policy] {
			t.Error(harness.Tell(next))
		}
		if !harness.Alive(pids[policy]) {
			t.Errorf("%s: the original does not run on", policy)
		}
	}
	took = time.Since(began)
	t.Logf("replaced %.1f s after the cut", took.Seconds())
	// Its last word was at most one question, which it asks every 5 s, before that.
	if took < fleet.MinLostAfter-10*time.Second || took > fleet.MinLostAfter+10*time.Second {
		t.Errorf("replaced after %v, want %v after the last word", took, fleet.MinLostAfter)
	}
	must(t, w.bed.Restore(t.Context(), "r1"))
	back := time.Now()

	alone := w.End(t, ids["alone"])
	if alone.State != "TASK_KILLED" || alone.Reason != "TASK_STOPPED_WITHOUT_CONTACT" || !strings.Contains(alone.Message, "no contact with the control plane for 30s") {
		t.Error(harness.Tell(alone))
	}
	if d := last(alone).Sub(began); d < 20*time.Second || d > 35*time.Second {
		t.Errorf("it says that it ended %v after the cut", d)
	}
	for _, c := range []struct {
		policy, stays, goes string
		at                  *harness.Agent
	}{
		{"keep_original", ids["keep_original"], replacement["keep_original"], a},
		{"keep_replacement", replacement["keep_replacement"], ids["keep_replacement"], other},
	} {
		if gone := w.End(t, c.goes); gone.State != "TASK_KILLED" || gone.Reason != "TASK_REPLACED" {
			t.Errorf("%s: %s", c.policy, harness.Tell(gone))
		}
		t.Logf("%s: settled %.1f s after the return", c.policy, time.Since(back).Seconds())
		w.Running(t, c.stays)
		if c.at == a && a.Runtime.PID(t, c.stays) != pids[c.policy] {
			t.Errorf("%s: the original was restarted", c.policy)
		}
		end(t, c.at, c.stays)
		w.once(t, c.at, c.stays)
		if n, m := a.Runtime.Starts(ids[c.policy]), other.Runtime.Starts(replacement[c.policy]); n != 1 || m != 1 {
			t.Errorf("%s: the original was started %d times, its replacement %d times", c.policy, n, m)
		}
	}
}

// outageThenNoUDP blocks UDP while the agent waits long between its tries.
func (w *world) outageThenNoUDP(t *testing.T) {
	a := w.agents[0]
	id, pid := w.run(t, a)
	must(t, w.bed.Cut(t.Context(), "r1"))
	pass(t, 40*time.Second)
	must(t, w.bed.Drop(t.Context(), loss{From: "r1", UDP: true}, loss{To: "r1", UDP: true}))
	must(t, w.bed.Restore(t.Context(), "r1"))
	began := time.Now()
	a.Await(t, "it is connected over TCP", func(d client.Agent) bool { return d.State == client.AgentConnected && d.Link == "tcp" })
	took := time.Since(began)
	t.Logf("over TCP after %.1f s", took.Seconds())
	if took > 20*time.Second {
		t.Errorf("over TCP after %v", took)
	}
	touch(t, pid)
	w.once(t, a, id)
}
