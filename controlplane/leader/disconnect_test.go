package leader_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// cut is a bench on which task t of the built-in kind runs on a1, whose link is
// then lost. Its replacement would have to go to a2.
func cut(t *testing.T, spec fleet.TaskSpec, connected bool) *bench {
	b := newBench(t)
	b.up("a1", a1, 1, 0)
	b.up("a2", a2, 1, 0)
	spec.Name, spec.Image = "n", "i"
	b.commit(
		state.Command{Submit: &state.Submit{ID: "t", Framework: "run", Role: "*", Spec: spec}},
		state.Command{Launch: &state.Launch{ID: "t", Framework: "run", Role: "*", Agent: "a1", Resources: fleet.Resources{CPUs: 1000}}},
	)
	b.report("a1", 1, 1, "t", fleet.TaskRunning)
	b.commit()
	b.log = nil
	if !connected {
		b.step(leader.AgentDown{Agent: "a1", Session: 1})
	}
	b.log = nil
	return b
}

// wait lets time pass, tick by tick, committing what is proposed, and keeps
// what was proposed.
func (b *bench) wait(d time.Duration) {
	for range d / time.Second {
		b.now = b.now.Add(time.Second)
		b.step(leader.Tick{})
		if len(b.pending) > 0 {
			b.commit()
		}
	}
	b.proposed()
}

func (b *bench) proposed() {
	var kept []string
	for _, l := range b.log {
		if strings.HasPrefix(l, "propose") {
			kept = append(kept, l)
		}
	}
	b.log = kept
}

// back connects a1 again; it has told all there is.
func (b *bench) back() {
	b.step(leader.AgentUp{Agent: "a1", Session: 2, Capacity: a1})
	b.commit()
	b.step(leader.Pull{Agent: "a1", Session: 2, Generation: 1, CaughtUp: true})
	b.log = nil
}

// place puts the replacement on a2, where it runs.
func (b *bench) place(id fleet.TaskID) {
	b.commit(state.Command{Launch: &state.Launch{ID: id, Framework: "run", Role: "*", Agent: "a2", Resources: fleet.Resources{CPUs: 1000}}})
	b.report("a2", 1, 1, id, fleet.TaskRunning)
	b.commit()
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 1, CaughtUp: true})
	b.log = nil
}

var replaced = fleet.TaskSpec{Disconnect: fleet.Disconnect{Replace: true, LostAfter: 10 * time.Minute}}

func TestATaskStaysWhereItIsUnlessItsPolicyAsks(t *testing.T) {
	b := cut(t, fleet.TaskSpec{}, false)
	b.wait(48 * time.Hour)
	b.expect("propose reach a1 false")
	if st := b.l.State().Tasks["t"]; st.State != fleet.TaskUnreachable {
		t.Errorf("it is %v", st.State)
	}
	b.back()
	b.wait(time.Minute)
	b.expect()
	if st := b.l.State().Tasks["t"]; st.State != fleet.TaskRunning || st.Kill {
		t.Errorf("it is %v, to be killed: %v", st.State, st.Kill)
	}
}

func TestATaskIsReplacedWhenItsAgentIsLostForItsTime(t *testing.T) {
	b := cut(t, replaced, false)
	b.wait(599 * time.Second)
	b.expect("propose reach a1 false")
	b.wait(2 * time.Second)
	b.expect("propose Replace{Task:t}")
	b.wait(time.Hour)
	b.expect() // once
	st := b.l.State()
	if n := st.Tasks["t.2"]; n == nil || !n.Waiting() || n.Replaces != "t" || st.Tasks["t"].ReplacedBy != "t.2" {
		t.Fatalf("the replacement is %+v", n)
	}
}

// The shortest time that may be asked for is kept to the second.
func TestATaskIsReplacedAsSoonAsItsAgentIsGivenUp(t *testing.T) {
	soon := replaced
	soon.Disconnect.LostAfter = fleet.MinLostAfter
	b := cut(t, soon, false)
	b.wait(fleet.MinLostAfter - time.Second)
	b.expect()
	b.wait(2 * time.Second)
	b.expect("propose reach a1 false", "propose Replace{Task:t}")
}

func TestAReplacementForWhatItsAgentStoppedOrAnOperatorGaveUp(t *testing.T) {
	for name, ends := range map[string]func(*bench){
		"stopped by its agent": func(b *bench) {
			b.step(leader.AgentUp{Agent: "a1", Session: 2, Capacity: a1})
			b.step(leader.Report{Agent: "a1", Session: 2, Updates: []fleet.StatusUpdate{{
				ID: "u2", Seq: 2, Status: fleet.Status{Task: "t", State: fleet.TaskKilled, Reason: fleet.ReasonCutOff},
			}}})
			b.commit()
		},
		"its agent is gone": func(b *bench) { b.commit(state.Command{MarkGone: &state.MarkGone{Agent: "a1"}}) },
	} {
		b := cut(t, replaced, false)
		b.wait(80 * time.Second)
		ends(b)
		b.log = nil
		b.wait(time.Second)
		b.proposed()
		if len(b.log) != 1 || b.log[0] != "propose Replace{Task:t}" {
			t.Errorf("%s: %q", name, b.log)
		}
	}
}

func TestATaskThatIsToEndIsNotReplaced(t *testing.T) {
	b := cut(t, replaced, false)
	b.commit(state.Command{Kill: &state.Kill{ID: "t"}})
	b.wait(time.Hour)
	b.expect("propose reach a1 false")
}

// A new leader has no other replica's clock to go by when it must be certain.
func TestANewLeaderCountsAnewForExclusiveTasksOnly(t *testing.T) {
	exclusive := replaced
	exclusive.Exclusive, exclusive.Disconnect.StopAfter = true, 5*time.Minute
	for spec, want := range map[*fleet.TaskSpec]time.Duration{&replaced: 5 * time.Minute, &exclusive: 10 * time.Minute} {
		b := cut(t, *spec, false)
		b.wait(375 * time.Second) // 300 s since it was noted
		b.l = leader.New(leader.Config{}, b.l.State().Clone(), 8, b.now)
		b.up("a2", a2, 2, 0)
		b.log = nil
		b.wait(want - time.Second)
		b.expect()
		b.wait(2 * time.Second)
		b.expect("propose Replace{Task:t}")
	}
}

// An agent that comes back while the replacement of an exclusive task is on its
// way hears nothing until it is decided, and then that the task is over.
func TestAnExclusiveTaskIsNotStartedWhileItIsBeingReplaced(t *testing.T) {
	exclusive := replaced
	exclusive.Exclusive, exclusive.Disconnect.StopAfter = true, 5*time.Minute
	b := cut(t, exclusive, false)
	b.wait(599 * time.Second)
	for len(b.pending) == 0 {
		b.now = b.now.Add(time.Second)
		b.step(leader.Tick{})
	}
	b.log = nil
	b.step(leader.AgentUp{Agent: "a1", Session: 2, Capacity: a1})
	b.step(leader.Pull{Agent: "a1", Session: 2, Generation: 0, Full: true, Stamp: 5})
	b.expect("propose reach a1 true")
	b.commit()
	if len(b.log) == 0 || b.log[len(b.log)-1] != "assign a1 0->2 full=true [t(kill)]" && !strings.Contains(strings.Join(b.log, "\n"), "[t(kill)]") {
		t.Fatalf("did %q", b.log)
	}
}

func TestAStampIsAnsweredAtOnceAndCountsForTheLeader(t *testing.T) {
	exclusive := replaced
	exclusive.Exclusive, exclusive.Disconnect.StopAfter = true, 5*time.Minute
	b := cut(t, exclusive, true)
	b.now = b.now.Add(time.Hour)
	acts := b.l.Step(b.now, leader.Pull{Agent: "a1", Session: 1, Generation: 1, Stamp: 77})
	if a, ok := acts[0].(leader.Assign); !ok || a.Desired.Echo != 77 || len(a.Desired.Assignments) > 0 || a.Desired.Generation != 1 {
		t.Fatalf("%+v", acts)
	}
	// The link was lost before, says the replica that had the session.
	b.step(leader.AgentDown{Agent: "a1", Session: 1, Seen: b.now.Add(-20 * time.Minute)})
	b.log = nil
	b.wait(595 * time.Second)
	b.expect("propose reach a1 false")
	b.wait(10 * time.Second)
	b.expect("propose Replace{Task:t}")
}

func TestOneOfTheTwoGoesOn(t *testing.T) {
	for _, how := range []fleet.Reconcile{fleet.ReconcileOriginal, fleet.ReconcileReplacement, fleet.ReconcileLongest, fleet.ReconcileBest, ""} {
		for _, tc := range []struct {
			name string
			sick bool            // the original's health check fails
			ends fleet.TaskState // how the original ended while it was away
			want map[fleet.Reconcile]string
		}{
			{"both run", false, 0, map[fleet.Reconcile]string{fleet.ReconcileReplacement: "t", "else": "t.2"}},
			{"the original is not healthy", true, 0, map[fleet.Reconcile]string{
				fleet.ReconcileOriginal: "t.2", fleet.ReconcileLongest: "t.2", "else": "t",
			}},
			{"the original has finished", false, fleet.TaskFinished, map[fleet.Reconcile]string{
				fleet.ReconcileReplacement: "", "else": "t.2",
			}},
			{"the original has failed", false, fleet.TaskFailed, map[fleet.Reconcile]string{"else": ""}},
		} {
			t.Run(fmt.Sprintf("%s %s", how, tc.name), func(t *testing.T) {
				spec := replaced
				spec.Disconnect.Reconcile = how
				b := cut(t, spec, false)
				b.wait(601 * time.Second)
				b.place("t.2")
				b.step(leader.AgentUp{Agent: "a1", Session: 2, Capacity: a1})
				b.commit()
				b.log = nil
				b.wait(10 * time.Second)
				b.expect() // it has not told yet what happened
				if tc.sick {
					b.step(leader.Report{Agent: "a1", Session: 2, Updates: []fleet.StatusUpdate{{ID: "u2", Seq: 2, Status: fleet.Status{
						Task: "t", State: fleet.TaskRunning, Health: fleet.TaskUnhealthy, Reason: fleet.ReasonHealthUpdated,
					}}}})
				}
				if tc.ends != 0 {
					b.report("a1", 2, 2, "t", tc.ends)
				}
				b.commit()
				b.step(leader.Pull{Agent: "a1", Session: 2, Generation: 1, CaughtUp: true})
				b.log = nil
				b.wait(time.Minute)
				loser, ok := tc.want[how]
				if !ok {
					loser = tc.want["else"]
				}
				if loser == "" {
					b.expect()
					return
				}
				killed := "propose kill " + loser + " 5s"
				if len(b.log) == 0 || b.log[0] != killed {
					t.Fatalf("did %q, want %q", b.log, killed)
				}
				if k := b.l.State().Tasks[fleet.TaskID(loser)]; k.Superseded == "" || !k.Kill {
					t.Errorf("%+v", k)
				}
			})
		}
	}
}

// A replacement that has no place yet is not worth a running task.
func TestAReplacementThatWaitsIsNotKept(t *testing.T) {
	spec := replaced
	spec.Disconnect.Reconcile = fleet.ReconcileReplacement
	b := cut(t, spec, false)
	b.wait(601 * time.Second)
	b.back()
	b.wait(2 * time.Second)
	b.expect("propose kill t.2 5s")
	if n := b.l.State().Tasks["t.2"]; n.State != fleet.TaskKilled || n.Status.Reason != fleet.ReasonReplaced {
		t.Errorf("%+v", n.Status)
	}
}
