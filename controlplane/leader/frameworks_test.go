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

func info(roles ...fleet.Role) fleet.FrameworkInfo {
	return fleet.FrameworkInfo{ID: "m", Name: "marathon", Roles: roles, FailoverTimeout: time.Hour}
}

// subscribed is a bench with agent a2 and the outside framework m, which has
// the offer o7-1 of all of it.
func subscribed(t *testing.T) *bench {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Register{Info: info("x"), Conn: 1, By: "framework/marathon"})
	b.expect("propose framework m")
	b.commit()
	b.expect("registered m 1", "offer m o7-1 a2 cpus:2;mem:1024")
	return b
}

func (b *bench) accept(ops ...leader.Operation) {
	b.step(leader.Accept{Framework: "m", Offers: []fleet.OfferID{b.offers[len(b.offers)-1].ID}, Operations: ops, Create: true})
}

func ops(ls ...fleet.Launch) leader.Operation { return leader.Operation{Launch: ls} }

// tick lets time pass, a second at a time.
func (b *bench) tick(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(time.Second)
		b.step(leader.Tick{})
	}
}

// agents expects what is not about offers, nor about a1, which is away.
func (b *bench) agents(events ...string) {
	b.t.Helper()
	var got []string
	for _, l := range b.log {
		if !strings.HasPrefix(l, "offer") && !strings.HasPrefix(l, "rescind m") && l != "propose reach a1 false" {
			got = append(got, l)
		}
	}
	b.log = got
	b.expect(events...)
}

// oneTask is subscribed with task t of two cpus launched.
func oneTask(t *testing.T) *bench {
	b := subscribed(t)
	b.accept(ops(launch("t", 2)))
	b.commit()
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 1})
	b.log = nil
	return b
}

func TestUpdatesComeInOrderUntilAcknowledged(t *testing.T) {
	b := oneTask(t)
	b.report("a2", 1, 1, "t", fleet.TaskRunning)
	b.report("a2", 1, 2, "t", fleet.TaskFinished)
	b.commit()
	b.agents("propose observe t#1 TASK_RUNNING", "propose observe t#2 TASK_FINISHED",
		"ack a2 t u1", "update m t TASK_RUNNING to acknowledge: u1", "ack a2 t u2", "assign a2 1->2 full=false []")
	// What the terminal state frees is free, although RUNNING is not acknowledged.
	free := b.l.Free("a2")
	for _, o := range b.l.Offers() {
		free = free.Add(o.Resources)
	}
	if !free.Equal(a2.Total) {
		t.Fatalf("free or on offer: %v", free)
	}
	b.tick(9 * time.Second)
	b.agents()
	b.tick(time.Second)
	b.agents("update m t TASK_RUNNING to acknowledge: u1") // after 10 s
	b.tick(19 * time.Second)
	b.agents()
	b.tick(time.Second)
	b.agents("update m t TASK_RUNNING to acknowledge: u1") // after 20 more
	for _, id := range []fleet.UpdateID{"u2", "u9"} {      // not its turn; never sent
		b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: id})
	}
	b.step(leader.Acknowledge{Framework: "other", Task: "t", Update: "u1"})
	b.agents()
	b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: "u1"})
	b.commit()
	b.agents("propose acknowledge t u1", "update m t TASK_FINISHED to acknowledge: u2")
	b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: "u1"}) // twice
	b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: "u2"})
	b.commit()
	b.agents("propose acknowledge t u2")
	b.tick(10 * time.Minute)
	b.agents()
}

func TestTheWaitForAnAcknowledgementIsTenMinutesAtMost(t *testing.T) {
	b := oneTask(t)
	b.report("a2", 1, 1, "t", fleet.TaskRunning)
	b.commit()
	var waits []time.Duration
	last := b.now
	for len(waits) < 8 {
		b.log = nil
		b.tick(time.Second)
		if strings.Contains(strings.Join(b.log, "\n"), "to acknowledge") {
			waits, last = append(waits, b.now.Sub(last)), b.now
		}
	}
	const s = time.Second
	if want := fmt.Sprint([]time.Duration{10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 320 * s, 600 * s, 600 * s}); fmt.Sprint(waits) != want {
		t.Errorf("sent again after %v, want %v", waits, want)
	}
}

// succeed makes the leader of the next term from what the trio knows.
func (b *bench) succeed() {
	b.l = leader.New(leader.Config{}, b.l.State().Clone(), 8, b.now)
	b.pending, b.log, b.offers = nil, nil, nil
}

func TestUpdatesSurviveTheLeader(t *testing.T) {
	b := oneTask(t)
	b.report("a2", 1, 1, "t", fleet.TaskRunning)
	b.commit()
	b.succeed()
	b.up("a2", a2, 1, 1)
	b.expect() // nobody is connected
	b.step(leader.Register{Info: info("x"), Conn: 7})
	b.commit()
	b.agents("propose framework m", "registered m 7", "update m t TASK_RUNNING to acknowledge: u1")
}

func TestANewerConnectionTakesOver(t *testing.T) {
	b := subscribed(t)
	b.step(leader.Register{Info: info("x"), Conn: 2})
	b.expect("dismiss m 1: Framework failed over", "propose framework m")
	b.step(leader.Unsubscribe{Framework: "m", Conn: 1}) // too late to matter
	b.commit()
	b.expect("registered m 2", "offer m o7-2 a2 cpus:2;mem:1024")
	b.step(leader.Unsubscribe{Framework: "m", Conn: 1})
	if len(b.l.Offers()) != 1 {
		t.Error("the old connection's end took the new one's offers")
	}
}

func TestAFrameworkLivesOnForItsFailoverTimeout(t *testing.T) {
	b := oneTask(t)
	b.step(leader.Unsubscribe{Framework: "m", Conn: 1})
	b.tick(time.Hour - time.Second)
	b.agents()
	if !b.l.Free("a2").Equal(a2.Total.Sub(fleet.Resources{CPUs: fleet.Whole(2)})) {
		t.Errorf("free: %v", b.l.Free("a2"))
	}
	b.tick(time.Second)
	b.expect("propose teardown m")
	b.tick(time.Second) // not a second time
	b.commit()
	b.expect("assign a2 1->2 full=false [t(kill)]")
	b.step(leader.Register{Info: info("x"), Conn: 3})
	b.commit()
	b.expect("propose framework m", "registered m 3 framework m has been torn down; subscribe without an id")
}

func TestSuppressAndRevive(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Register{Info: info("x", "y"), Suppressed: []fleet.Role{"x"}, Conn: 1})
	b.commit()
	offered := func(want ...string) {
		t.Helper()
		var got []string
		for _, o := range b.l.Offers() {
			got = append(got, string(o.Role))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("offers in %v, want %v", got, want)
		}
	}
	decline := func() {
		for _, o := range b.l.Offers() {
			b.step(leader.Decline{Framework: "m", Offers: []fleet.OfferID{o.ID}, Filters: &fleet.Filters{Refuse: time.Hour}})
		}
	}
	offered("y")
	decline()
	offered()
	b.step(leader.Revive{Framework: "m", Roles: []fleet.Role{"x"}})
	offered("x") // y is still filtered
	b.step(leader.Suppress{Framework: "m"})
	decline()
	b.step(leader.Revive{Framework: "m"})
	offered("x") // filters are gone, and both have had one turn
}

func TestWhatReconciliationSays(t *testing.T) {
	b := oneTask(t)
	b.report("a2", 1, 1, "t", fleet.TaskRunning)
	b.report("a2", 1, 2, "t", fleet.TaskFinished)
	b.commit()
	b.log = nil
	ask := func(id fleet.TaskID, agent fleet.AgentID) {
		b.step(leader.Reconcile{Framework: "m", Tasks: []leader.Known{{Task: id, Agent: agent}}})
	}
	ask("t", "a2")
	b.agents("update m t TASK_RUNNING RECONCILIATION") // what was sent last
	b.step(leader.Reconcile{Framework: "m"})
	b.agents("update m t TASK_RUNNING RECONCILIATION")
	ask("x", "a2") // its agent is here and does not have it
	b.agents("update m x TASK_GONE RECONCILIATION")
	ask("x", "") // nothing is known
	b.agents("update m x TASK_UNKNOWN RECONCILIATION")
	ask("x", "a9")
	b.agents("update m x TASK_UNKNOWN RECONCILIATION")
	ask("x", "a1") // its agent has not come back to this leader: it may know
	b.agents()
	b.commit(state.Command{Reach: &state.Reach{Agent: "a1"}})
	b.agents("failure m a1")
	ask("x", "a1")
	b.agents("update m x TASK_UNREACHABLE RECONCILIATION")
	b.commit(state.Command{MarkGone: &state.MarkGone{Agent: "a1"}})
	ask("x", "a1")
	b.agents("failure m a1", "update m x TASK_GONE_BY_OPERATOR RECONCILIATION")
	b.step(leader.Kill{Framework: "m", Task: "x", Agent: "a2"}) // as Mesos answers
	b.agents("update m x TASK_GONE RECONCILIATION")
	for _, u := range []fleet.UpdateID{"u1", "u2"} {
		b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: u})
		b.commit()
	}
	b.log = nil
	b.step(leader.Reconcile{Framework: "m"}) // ended and acknowledged
	b.agents()
}

func TestKillOverridesTheGracePeriod(t *testing.T) {
	b := oneTask(t)
	grace := 42 * time.Second
	b.step(leader.Kill{Framework: "m", Task: "t", Grace: &grace})
	b.agents("propose kill t 42s")
}

func TestADuplicateTaskIDIsAnError(t *testing.T) {
	b := subscribed(t)
	b.accept(ops(launch("t", 1)), ops(launch("t", 1)))
	b.agents("propose launch t on a2", "update m t TASK_ERROR TASK_INVALID")
	b.commit()
	b.log = nil
	b.accept(ops(launch("t", 1)))
	b.agents("update m t TASK_ERROR TASK_INVALID")
}

// What a framework launches, kills and reserves is in the audit log; what it
// merely hears is not.
func TestWhoAskedIsKept(t *testing.T) {
	b := subscribed(t)
	b.step(leader.Accept{
		Framework: "m", Offers: []fleet.OfferID{"o7-1"}, Create: true, By: "framework/marathon",
		Operations: []leader.Operation{
			{Convert: &leader.Conversion{From: fleet.Resources{CPUs: fleet.Whole(1)}, To: reserved("x", 1)}},
			ops(launch("t", 1)),
		},
	})
	b.commit()
	b.step(leader.Kill{Framework: "m", Task: "t", By: "framework/marathon"})
	b.commit()
	b.step(leader.Teardown{Framework: "m", By: "framework/marathon"})
	b.commit()
	entries, _ := b.l.State().Audit.Last(9, func(state.AuditEntry) bool { return true })
	var got []string
	for _, e := range entries {
		got = append(got, e.By+" "+e.Action)
	}
	want := "[framework/marathon framework.subscribe framework/marathon agent.reserve framework/marathon task.launch " +
		"framework/marathon task.stop framework/marathon framework.teardown]"
	if fmt.Sprint(got) != want {
		t.Errorf("audit log %v, want %s", got, want)
	}
}

func TestWhatItsReaderFoundWrongIsAnError(t *testing.T) {
	b := subscribed(t)
	la := launch("t", 1)
	la.Invalid = fleet.GPUFractionText
	b.accept(ops(la))
	b.expect("update m t TASK_ERROR TASK_INVALID")
	b.tick(time.Second) // not in the same instant, or the two would go on for ever
	b.expect("offer m o7-2 a2 cpus:2;mem:1024")
}

func TestADeclineWithoutFiltersIsNoLoop(t *testing.T) {
	b := subscribed(t)
	b.step(leader.Decline{Framework: "m", Offers: []fleet.OfferID{"o7-1"}})
	b.expect()
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"y"}}) // others need not wait
	b.expect("offer f o7-2 a2 cpus:2;mem:1024")
	b.step(leader.Decline{Framework: "f", Offers: []fleet.OfferID{"o7-2"}, Filters: &fleet.Filters{Refuse: time.Hour}})
	b.tick(time.Second)
	b.expect("offer m o7-3 a2 cpus:2;mem:1024")
}

func TestATaskGroupIsAllOrNothing(t *testing.T) {
	b := subscribed(t)
	b.accept(leader.Operation{Group: "g", Launch: []fleet.Launch{launch("t1", 1), launch("t2", 2)}})
	b.agents("update m t1 TASK_ERROR TASK_GROUP_INVALID", "update m t2 TASK_ERROR TASK_GROUP_INVALID")
	b.tick(time.Second)
	b.accept(leader.Operation{Group: "g", Launch: []fleet.Launch{launch("t1", 1), launch("t2", 1)}})
	b.commit()
	b.agents("propose launch group of 2", "update m t1 TASK_STAGING", "update m t2 TASK_STAGING", "assign a2 0->2 full=false [t1 t2]")
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 2})
	b.report("a2", 1, 1, "t1", fleet.TaskFailed) // one fails, all end
	b.commit()
	b.agents("propose observe t1#1 TASK_FAILED", "ack a2 t1 u1", "update m t1 TASK_FAILED to acknowledge: u1",
		"assign a2 2->4 full=false [t2(kill)]")
}

func TestOneOfAGroupThatFinishesLeavesTheOthers(t *testing.T) {
	b := subscribed(t)
	b.accept(leader.Operation{Group: "g", Launch: []fleet.Launch{launch("t1", 1), launch("t2", 1)}})
	b.commit()
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 2})
	b.report("a2", 1, 1, "t1", fleet.TaskFinished)
	b.log = nil
	b.commit()
	b.agents("ack a2 t1 u1", "update m t1 TASK_FINISHED to acknowledge: u1", "assign a2 2->3 full=false []")
}

func reserved(role fleet.Role, cpus int64) fleet.Resources {
	return fleet.Resources{CPUs: fleet.Whole(cpus)}.In(fleet.Class{
		Reserved: []fleet.Reservation{{Role: role, Dynamic: true, Principal: "marathon"}},
	})
}

func TestReserveAndLaunchInOneAccept(t *testing.T) {
	b := subscribed(t)
	on := launch("t", 0)
	on.Resources = reserved("x", 1)
	b.accept(
		leader.Operation{Convert: &leader.Conversion{From: fleet.Resources{CPUs: fleet.Whole(2)}, To: reserved("x", 2)}},
		ops(on),
		leader.Operation{Convert: &leader.Conversion{From: reserved("other", 1), To: fleet.Resources{CPUs: fleet.Whole(1)}}}, // not there
	)
	b.expect("propose convert a2: cpus:2 to cpus(x):2", "propose launch t on a2", "offer m o7-2 a2 mem:1024;cpus(x):1")
	b.commit()
	b.expect("update m t TASK_STAGING", "assign a2 0->1 full=false [t]")
	// Another role does not see what is reserved.
	b.step(leader.Decline{Framework: "m", Offers: []fleet.OfferID{"o7-2"}, Filters: &fleet.Filters{Refuse: time.Hour}})
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"y"}})
	b.expect("offer f o7-3 a2 mem:1024")
	// And it stays reserved after a change of leader.
	b.succeed()
	b.up("a2", a2, 1, 1)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"y"}})
	b.expect("offer f o8-1 a2 mem:1024")
}

func TestAReservationForAnotherRoleIsNotMade(t *testing.T) {
	b := subscribed(t)
	b.accept(leader.Operation{Convert: &leader.Conversion{From: fleet.Resources{CPUs: fleet.Whole(1)}, To: reserved("y", 1)}})
	b.expect()
	b.tick(time.Second)
	b.expect("offer m o7-2 a2 cpus:2;mem:1024")
}

func TestANewLimitTakesOffersBack(t *testing.T) {
	b := subscribed(t)
	b.commit(state.Command{SetQuota: &state.SetQuota{Quotas: []state.RoleQuota{{Role: "x", Quota: fleet.Quota{
		Limit: fleet.Quantities{{Name: "cpus", Amount: fleet.Whole(1)}},
	}}}}})
	b.expect("rescind m o7-1", "offer m o7-2 a2 cpus:1;mem:1024")
}

func TestDrain(t *testing.T) {
	b := oneTask(t)
	b.commit(state.Command{DrainAgent: &state.DrainAgent{Agent: "a2", MaxGrace: time.Second, MarkGone: true}})
	b.expect("rescind m o7-2", "assign a2 1->2 full=false [t(kill)]")
	if r := b.l.State().Clone().Apply(1, state.Command{SetActive: &state.SetActive{Agent: "a2", Active: true}}); r.Kind != state.Conflict {
		t.Errorf("reactivated while draining: %+v", r)
	}
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 2})
	b.report("a2", 1, 1, "t", fleet.TaskKilled)
	b.commit()
	b.expect("propose observe t#1 TASK_KILLED", "ack a2 t u1", "update m t TASK_KILLED to acknowledge: u1", "assign a2 2->3 full=false []")
	if d := b.l.State().Agents["a2"].Drain; !d.Done.IsZero() {
		t.Fatal("drained before the last update was acknowledged")
	}
	b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: "u1"})
	b.commit()
	b.expect("propose acknowledge t u1", "failure m a2", "disconnect a2 1 revoked")
	if a := b.l.State().Agents["a2"]; a.Drain.Done.IsZero() || a.Gone.IsZero() {
		t.Errorf("agent %+v, want it drained and gone", a)
	}
}

func TestDeactivateAndReactivate(t *testing.T) {
	b := subscribed(t)
	b.commit(state.Command{SetActive: &state.SetActive{Agent: "a2"}})
	b.expect("rescind m o7-1")
	b.commit(state.Command{SetActive: &state.SetActive{Agent: "a2", Active: true}})
	b.expect("offer m o7-2 a2 cpus:2;mem:1024")
}

func TestInverseOffers(t *testing.T) {
	b := oneTask(t)
	window := &fleet.Unavailability{Start: b.now.Add(time.Hour)}
	announce := func(w *fleet.Unavailability) {
		b.commit(state.Command{SetMaintenance: &state.SetMaintenance{Agents: []fleet.AgentID{"a2"}, Window: w}})
	}
	announce(window)
	b.expect("inverse offer m i7-3 a2 cpus:2;mem:1024") // its task, and its offer
	b.step(leader.AnswerInverse{Framework: "m", Offers: []fleet.OfferID{"i7-3"}, Accept: true})
	b.tick(time.Minute)
	b.agents() // asked once
	announce(&fleet.Unavailability{Start: b.now.Add(2 * time.Hour)})
	b.agents("inverse offer m i7-6 a2 cpus:2;mem:1024")
	announce(nil)
	b.agents("rescind inverse m i7-6")
}

func TestPreemptionForAHigherPriority(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(2)}, 1))
	b.step(demand(fleet.Need{}, 0))
	low := launch("low", 2)
	low.Standing = fleet.Standing{Revocable: true}
	low.Spec.KillGrace = 7 * time.Second
	b.step(leader.Accept{Framework: "f", Offers: []fleet.OfferID{"o7-1"}, Operations: []leader.Operation{ops(low)}, Create: true})
	b.commit()
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 1})
	b.step(leader.Demands{Framework: "f", Role: "*", Demands: []fleet.Demand{{Name: "d", Role: "*", Need: fleet.Need{CPUs: fleet.Whole(1)}, Count: 1, Priority: 3}}})
	b.log = nil
	b.tick(5 * time.Second)
	b.expect()
	b.tick(time.Second)
	b.expect("propose kill low 7s work of role * with priority 3")
	b.tick(3 * time.Second) // once
	b.expect()
	b.commit()
	b.expect("assign a2 1->2 full=false [low(kill)]")
	b.report("a2", 1, 1, "low", fleet.TaskKilled)
	b.commit()
	b.expect("propose observe low#1 TASK_KILLED", "ack a2 low u1", "update f low TASK_KILLED CONTAINER_PREEMPTED", "offer f o7-2 a2 cpus:1")
	if got := b.l.State().Tasks["low"].Status.Message; got != "preempted for work of role * with priority 3" {
		t.Errorf("the victim hears %q", got)
	}
}

func TestAMachineLeaves(t *testing.T) {
	b := oneTask(t)
	leave := leader.Leave{Agent: "a2", Session: 1, Grace: time.Second}
	b.step(leader.Leave{Agent: "a2", Session: 9})
	b.expect() // of a session that is no more
	b.step(leave)
	b.commit()
	b.expect("propose DrainAgent{Agent:a2 MaxGrace:1s MarkGone:true}", "rescind m o7-2", "assign a2 1->2 full=false [t(kill)]")
	b.step(leave) // said again
	b.expect()
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 2})
	b.report("a2", 1, 1, "t", fleet.TaskKilled)
	b.commit()
	b.step(leader.Acknowledge{Framework: "m", Task: "t", Update: "u1"})
	b.log = nil
	b.commit()
	b.expect("failure m a2", "disconnect a2 1 revoked")
	if a := b.l.State().Agents["a2"]; a.Gone.IsZero() {
		t.Errorf("agent %+v, want it gone", a)
	}
}

// An operator had the machine drained already, to keep it.
func TestADrainedMachineLeaves(t *testing.T) {
	b := subscribed(t)
	b.commit(state.Command{DrainAgent: &state.DrainAgent{Agent: "a2"}})
	b.log = nil
	b.step(leader.Leave{Agent: "a2", Session: 1})
	b.commit()
	b.expect("propose MarkGone{Agent:a2}", "failure m a2", "disconnect a2 1 revoked")
}
