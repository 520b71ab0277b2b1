package leader_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// bench drives one leader. Proposals are committed when commit is called, or
// lost when the test drops them.
type bench struct {
	t       *testing.T
	now     time.Time
	l       *leader.Leader
	pending []state.Command
	offers  []fleet.Offer
	log     []string
}

// newBench is a leader of agents a1 (4 cpus, 1 GiB, one GPU) and a2 (2 cpus,
// 1 GiB), both admitted, none connected.
func newBench(t *testing.T) *bench {
	st := state.New()
	for _, c := range []state.Command{
		{Bootstrap: &state.Bootstrap{TrustDomain: "test"}},
		{PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: 2, Expires: t0.Add(time.Hour)}},
		{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1"}},
		{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a2"}},
		{SetCapacity: &state.SetCapacity{Agent: "a1", Capacity: a1}},
		{SetCapacity: &state.SetCapacity{Agent: "a2", Capacity: a2}},
	} {
		c.Time = t0
		if err := st.Apply(1, c).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return &bench{t: t, now: t0, l: leader.New(leader.Config{}, st, 7, t0)}
}

var (
	a1 = fleet.Capacity{
		Total:   fleet.Resources{CPUs: fleet.Whole(4), Mem: fleet.Whole(1024), GPUs: []gpu.UUID{"GPU-1"}},
		Devices: []gpu.Device{{UUID: "GPU-1", Model: "A6000", MemoryMB: 49140, Health: gpu.Healthy}},
	}
	a2 = fleet.Capacity{Total: fleet.Resources{CPUs: fleet.Whole(2), Mem: fleet.Whole(1024)}}
)

func (b *bench) step(ev leader.Event) {
	for _, act := range b.l.Step(b.now, ev) {
		switch act := act.(type) {
		case leader.Propose:
			b.pending = append(b.pending, act.Command)
			b.logf("propose %s", kind(act.Command))
		case leader.Offer:
			for _, o := range act.Offers {
				b.offers = append(b.offers, o)
				b.logf("offer %s %s %s %v", act.Framework, o.ID, o.Agent, o.Resources)
			}
		case leader.Rescind:
			b.logf("rescind %s %s", act.Framework, act.Offer)
		case leader.Assign:
			var ids []string
			for _, a := range act.Desired.Assignments {
				id := string(a.Task)
				if a.Kill {
					id += "(kill)"
				}
				ids = append(ids, id)
			}
			b.logf("assign %s %d->%d full=%v %v", act.Agent, act.Desired.Base, act.Desired.Generation, act.Desired.Full, ids)
		case leader.Ack:
			b.logf("ack %s %s %s", act.Agent, act.Task, act.Update)
		case leader.Update:
			b.logf("update %s %s %v %s", act.Framework, act.Status.Task, act.Status.State, act.Status.Reason)
			if act.ID != "" {
				b.log[len(b.log)-1] += " to acknowledge: " + string(act.ID)
			}
		case leader.Registered:
			b.logf("registered %s %d %s", act.Framework, act.Conn, act.Refused)
		case leader.Dismiss:
			b.logf("dismiss %s %d: %s", act.Framework, act.Conn, act.Text)
		case leader.InverseOffer:
			b.logf("inverse offer %s %s %s %v", act.Framework, act.Offer, act.Request.Agent, act.Request.Held)
		case leader.RescindInverse:
			b.logf("rescind inverse %s %s", act.Framework, act.Offer)
		case leader.Failure:
			b.logf("failure %s %s", act.Framework, act.Agent)
		case leader.Reserved:
			b.logf("reserved %d %s%s", act.Seq, act.Result.Kind, act.Result.Text)
		case leader.Ask:
			b.logf("ask %s %d", act.Agent, act.Session)
		case leader.Resync:
			b.logf("resync %s %d", act.Agent, act.Session)
		case leader.Disconnect:
			b.logf("disconnect %s %d %s", act.Agent, act.Session, act.Cause)
		}
	}
}

func kind(c state.Command) string {
	switch {
	case c.Launch != nil:
		return "launch " + string(c.Launch.ID) + " on " + string(c.Launch.Agent)
	case c.Observe != nil:
		return fmt.Sprintf("observe %s#%d %v", c.Observe.Update.Status.Task, c.Observe.Update.Seq, c.Observe.Update.Status.State)
	case c.Reach != nil:
		return fmt.Sprintf("reach %s %v", c.Reach.Agent, c.Reach.Reachable)
	case c.PutFramework != nil:
		return "framework " + string(c.PutFramework.Info.ID)
	case c.Teardown != nil:
		return "teardown " + string(c.Teardown.ID)
	case c.Acknowledge != nil:
		return fmt.Sprintf("acknowledge %s %s", c.Acknowledge.Task, c.Acknowledge.Update)
	case c.LaunchGroup != nil:
		return fmt.Sprintf("launch group of %d", len(c.LaunchGroup.Tasks))
	case c.Kill != nil:
		return strings.TrimSpace(fmt.Sprintf("kill %s %v %s", c.Kill.ID, c.Kill.Grace, c.Kill.For))
	case c.Convert != nil:
		return fmt.Sprintf("convert %s: %v to %v", c.Convert.Agent, c.Convert.From, c.Convert.To)
	case c.Cloned != nil:
		return strings.TrimSpace(fmt.Sprintf("cloned %s %s", c.Cloned.Agent, c.Cloned.Key))
	case c.Confirm != nil:
		return fmt.Sprintf("confirm %s %s", c.Confirm.Agent, c.Confirm.Key)
	case c.SetCapacity != nil:
		return "capacity " + string(c.SetCapacity.Agent)
	default:
		return c.String()
	}
}

func (b *bench) logf(f string, args ...any) {
	b.log = append(b.log, strings.TrimSpace(fmt.Sprintf(f, args...)))
}

func (b *bench) expect(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.log, want) {
		b.t.Fatalf("did:\n  %s\nwant:\n  %s", strings.Join(b.log, "\n  "), strings.Join(want, "\n  "))
	}
	b.log = nil
}

// commit lets the trio agree on what was proposed, and on more.
func (b *bench) commit(more ...state.Command) {
	cmds := append(b.pending, more...)
	b.pending = nil
	for i := range cmds {
		if cmds[i].Time.IsZero() {
			cmds[i].Time = b.now
		}
	}
	b.step(leader.Committed{Index: 2, Commands: cmds})
}

// up connects an agent that pulls from the generation it holds.
func (b *bench) up(id fleet.AgentID, c fleet.Capacity, session, gen uint64) {
	b.step(leader.AgentUp{Agent: id, Session: session, Capacity: c})
	b.step(leader.Pull{Agent: id, Session: session, Generation: gen})
}

func (b *bench) report(id fleet.AgentID, session, seq uint64, task fleet.TaskID, s fleet.TaskState) {
	b.step(leader.Report{Agent: id, Session: session, Updates: []fleet.StatusUpdate{{
		ID: fleet.UpdateID(fmt.Sprintf("u%d", seq)), Seq: seq, Status: fleet.Status{Task: task, State: s},
	}}})
}

func demand(n fleet.Need, count int) leader.Demands {
	return leader.Demands{Framework: "f", Role: "*", Demands: []fleet.Demand{{Name: "d", Role: "*", Need: n, Count: count}}}
}

func launch(id fleet.TaskID, cpus int64) fleet.Launch {
	return fleet.Launch{Task: id, Spec: fleet.TaskSpec{Name: "n", Image: "i"}, Resources: fleet.Resources{CPUs: fleet.Whole(cpus)}}
}

// running is a bench on which task t of framework f runs on a2.
func running(t *testing.T) *bench {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1)}, 1))
	b.step(demand(fleet.Need{}, 0))
	b.step(leader.Accept{Framework: "f", Offers: []fleet.OfferID{b.offers[0].ID}, Operations: []leader.Operation{{Launch: []fleet.Launch{launch("t", 1)}}}, Create: true})
	b.commit()
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 1})
	b.report("a2", 1, 1, "t", fleet.TaskRunning)
	b.commit()
	b.log = nil
	return b
}

func TestFromDemandToFinish(t *testing.T) {
	b := newBench(t)
	b.up("a1", a1, 1, 0)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f"})
	b.expect()
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1)}, 1))
	b.expect("offer f o7-1 a2 cpus:1") // a1 has a GPU: spared
	b.step(demand(fleet.Need{}, 0))
	b.step(leader.Accept{Framework: "f", Offers: []fleet.OfferID{"o7-1"}, Operations: []leader.Operation{{Launch: []fleet.Launch{launch("t", 1)}}}, Create: true})
	b.expect("propose launch t on a2")
	b.commit()
	b.expect("update f t TASK_STAGING", "assign a2 0->1 full=false [t]")
	b.report("a2", 1, 1, "t", fleet.TaskRunning)
	b.expect("propose observe t#1 TASK_RUNNING") // not acknowledged before the commit
	b.commit()
	b.expect("ack a2 t u1", "update f t TASK_RUNNING")
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 1})
	b.report("a2", 1, 2, "t", fleet.TaskFinished)
	b.commit()
	b.expect("propose observe t#2 TASK_FINISHED", "ack a2 t u2", "update f t TASK_FINISHED", "assign a2 1->2 full=false []")
	if !b.l.Free("a2").Equal(a2.Total) {
		t.Fatalf("free: %v", b.l.Free("a2"))
	}
}

func TestAnOfferNobodyAnswersExpires(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	b.expect("offer f o7-1 a2 cpus:2;mem:1024")
	b.now = b.now.Add(30*time.Second - 1)
	b.step(leader.Tick{})
	b.expect()
	b.now = b.now.Add(1)
	b.step(leader.Tick{})
	b.expect("rescind f o7-1", "offer f o7-2 a2 cpus:2;mem:1024")
}

func TestInvalidAcceptsDropTheTasksAndGiveAllBack(t *testing.T) {
	for name, ids := range map[string][]fleet.OfferID{
		"no offer":       {},
		"unknown":        {"o7-9"},
		"the same twice": {"o7-1", "o7-1"},
		"of two agents":  {"o7-1", "o7-2"},
		"good and gone":  {"o7-1", "o7-9"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
			b.up("a2", a2, 1, 0)
			b.up("a1", a1, 1, 0)
			b.log = nil
			b.step(leader.Accept{Framework: "f", Offers: ids, Operations: []leader.Operation{{Launch: []fleet.Launch{launch("t", 1)}}}, Create: true})
			if b.log[0] != "update f t TASK_DROPPED INVALID_OFFERS" || len(b.pending) != 0 {
				t.Fatalf("did %q", b.log)
			}
		})
	}
}

func TestALaunchBeyondItsOfferIsAnError(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1)}, 1))
	b.log = nil
	b.step(leader.Accept{Framework: "f", Offers: []fleet.OfferID{"o7-1"}, Operations: []leader.Operation{{Launch: []fleet.Launch{launch("t", 2)}}}, Create: true})
	b.expect("update f t TASK_ERROR TASK_INVALID", "offer f o7-2 a2 cpus:1")
}

func TestTwoLaunchesShareWhatWasOffered(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	b.log = nil
	b.step(leader.Accept{
		Framework: "f", Offers: []fleet.OfferID{"o7-1"}, Create: true,
		Operations: []leader.Operation{{Launch: []fleet.Launch{launch("t1", 1), launch("t2", 2)}}},
	})
	b.expect("propose launch t1 on a2", "update f t2 TASK_ERROR TASK_INVALID", "offer f o7-2 a2 cpus:1;mem:1024")
}

// What does not fit one message follows with the next pull, oldest first.
func TestALargeSetComesInParts(t *testing.T) {
	b := newBench(t)
	b.up("a1", a1, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	long := strings.Repeat("x", 30<<10)
	var ls []fleet.Launch
	for i := range 12 {
		la := fleet.Launch{Task: fleet.TaskID(fmt.Sprintf("t%02d", 11-i)), Resources: fleet.Resources{CPUs: 100}}
		la.Spec = fleet.TaskSpec{Name: "n", Image: "i", Command: []string{long, long}}
		ls = append(ls, la)
	}
	b.step(leader.Accept{Framework: "f", Offers: []fleet.OfferID{b.offers[0].ID}, Operations: []leader.Operation{{Launch: ls}}, Create: true})
	b.log = nil
	b.commit()
	b.log = b.log[len(ls):] // the updates
	b.step(leader.Pull{Agent: "a1", Session: 1, Generation: 8})
	b.expect("assign a1 0->8 full=false [t11 t10 t09 t08 t07 t06 t05 t04]", "assign a1 8->12 full=false [t03 t02 t01 t00]")
}

func TestDeclineWithAFilterWaits(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	b.step(leader.Decline{Framework: "f", Offers: []fleet.OfferID{"o7-1"}, Filters: &fleet.Filters{Refuse: 5 * time.Second}})
	b.log = nil
	b.now = b.now.Add(4 * time.Second)
	b.step(leader.Tick{})
	b.expect()
	b.now = b.now.Add(time.Second)
	b.step(leader.Tick{})
	b.expect("offer f o7-2 a2 cpus:2;mem:1024")
}

func TestAnAgentThatLeavesTakesItsOffersAlong(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	b.log = nil
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	b.expect("rescind f o7-1")
}

func TestUnreachableAfter75SecondsAndBack(t *testing.T) {
	b := running(t)
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	b.now = b.now.Add(75*time.Second - 1)
	b.step(leader.Tick{})
	b.expect()
	b.now = b.now.Add(1)
	b.step(leader.Tick{})
	b.expect("propose reach a1 false", "propose reach a2 false") // a1 never came
	b.commit()
	b.expect("update f t TASK_UNREACHABLE AGENT_DISCONNECTED")
	b.up("a2", a2, 2, 1)
	b.expect("propose reach a2 true")
	b.commit()
	b.expect("update f t TASK_RUNNING")
}

// The end of a session comes late when the link was cut.
func TestUnreachableCountsFromTheLastMessage(t *testing.T) {
	b := running(t)
	seen := b.now
	b.now = seen.Add(time.Minute)
	b.step(leader.AgentDown{Agent: "a2", Session: 1, Seen: seen})
	b.now = seen.Add(75 * time.Second)
	b.step(leader.Tick{})
	b.expect("propose reach a1 false", "propose reach a2 false")
}

func TestANewerSessionReplacesTheOlder(t *testing.T) {
	b := running(t)
	b.step(leader.AgentUp{Agent: "a2", Session: 2, Capacity: a2})
	b.expect("disconnect a2 1 replaced")
	b.step(leader.AgentDown{Agent: "a2", Session: 1}) // late
	if !b.l.Connected("a2") {
		t.Fatal("the old session's end disconnected the new one")
	}
	b.report("a2", 1, 2, "t", fleet.TaskFinished) // from the old one
	b.expect()
}

func TestStrangersAndTheRevokedAreSentAway(t *testing.T) {
	b := running(t)
	b.step(leader.AgentUp{Agent: "zz", Session: 1})
	b.expect("disconnect zz 1 unknown_agent")
	b.commit(state.Command{Revoke: &state.Revoke{URI: "spiffe://test/agent/a2", Kind: state.KindAgent, ID: "a2"}})
	b.expect("update f t TASK_GONE_BY_OPERATOR AGENT_REMOVED", "disconnect a2 1 revoked")
	b.step(leader.AgentUp{Agent: "a2", Session: 2, Capacity: a2})
	b.expect("disconnect a2 2 revoked")
}

func TestReportsAreAcknowledgedOnlyWhenCommittedOrKnown(t *testing.T) {
	b := running(t)
	b.report("a2", 1, 1, "t", fleet.TaskRunning) // resent
	b.expect("ack a2 t u1")
	b.report("a2", 1, 1, "never-heard-of", fleet.TaskRunning)
	b.expect("ack a2 never-heard-of u1")
	b.up("a1", a1, 1, 0)
	b.log = nil
	b.report("a1", 1, 2, "t", fleet.TaskFailed) // another agent's task
	b.expect()
	b.report("a2", 1, 3, "t", fleet.TaskFinished) // 2 was lost on the way
	b.commit()
	b.expect("propose observe t#3 TASK_FINISHED")
}

func TestAPullFromTheFutureIsAnsweredInFull(t *testing.T) {
	b := running(t)
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: 99})
	b.expect("assign a2 99->1 full=true [t]")
}

func TestANewLeaderChargesWhatRuns(t *testing.T) {
	b := running(t)
	l := leader.New(leader.Config{}, b.l.State().Clone(), 8, b.now)
	if got := l.Free("a2"); got.CPUs != fleet.Whole(1) {
		t.Fatalf("free: %v", got)
	}
}

func TestReconcile(t *testing.T) {
	b := running(t)
	b.step(leader.Reconcile{Framework: "f"})
	b.expect("update f t TASK_RUNNING RECONCILIATION")
	b.step(leader.Reconcile{Framework: "f", Tasks: []leader.Known{{Task: "t"}, {Task: "x"}}})
	b.expect("update f t TASK_RUNNING RECONCILIATION", "update f x TASK_UNKNOWN RECONCILIATION")
	b.step(leader.Reconcile{Framework: "other", Tasks: []leader.Known{{Task: "t"}}})
	b.expect("update other t TASK_UNKNOWN RECONCILIATION")
}

func TestKillReachesTheAgent(t *testing.T) {
	b := running(t)
	b.commit(state.Command{Kill: &state.Kill{ID: "t", Grace: time.Second}})
	b.expect("assign a2 1->2 full=false [t(kill)]")
}

func TestASmallerAgentTakesItsOffersBack(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	b.log = nil
	b.step(leader.CapacityChanged{Agent: "a2", Session: 1}) // its runtime is gone
	b.expect("propose capacity a2")
	b.commit()
	b.expect("rescind f o7-1")
}
