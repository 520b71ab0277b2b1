package leader_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// restored is a bench that begins with what running had, restored from a snapshot.
func restored(t *testing.T) (*bench, *state.State) {
	b := running(t)
	st := b.l.State().Clone()
	st.Restore(t0, nil, "operator/alice")
	return &bench{t: t, now: t0, l: leader.New(leader.Config{}, st, st.Fence(1), t0)}, st
}

// After a restore an agent keeps what it runs, hears what the state wants, and
// gets no offers; it is asked for nothing that is not known.
func TestARestoredLeaderKillsNothing(t *testing.T) {
	b, st := restored(t)
	base := st.Fence(0)
	b.up("a2", a2, 1, 8) // of the lost history
	b.expect("assign a2 8->" + number(base) + " full=false [t]")
	b.step(leader.Pull{Agent: "a2", Session: 1, Generation: base})
	b.step(leader.Subscribe{Framework: "f"})
	b.step(demand(fleet.Need{CPUs: fleet.Whole(1)}, 1))
	b.expect()

	// Its update of a task that nobody knows is not acknowledged, and told.
	b.report("a2", 1, 3, "later", fleet.TaskRunning)
	b.report("a2", 1, 3, "later", fleet.TaskRunning) // again
	b.expect()
	if o := b.l.Orphans("a2"); len(o) != 1 || o[0].Task != "later" || o[0].State != fleet.TaskRunning {
		t.Errorf("orphans: %+v", o)
	}
	// That of a known one counts, whatever was acknowledged in between.
	b.report("a2", 1, 7, "t", fleet.TaskFinished)
	b.expect("propose observe t#7 TASK_FINISHED")
	b.commit()
	b.log = nil

	b.commit(state.Command{Settle: &state.Settle{Agent: "a2"}})
	b.expect("ack a2 later u3", "offer f o"+number(st.Fence(1))+"-1 a2 cpus:1")
	if o := b.l.Orphans("a2"); len(o) != 0 {
		t.Errorf("orphans: %+v", o)
	}
}

// What waited when the snapshot was made is lost here, and may run on an agent:
// that one may forget what it has told of it, once it is settled.
func TestATaskThatWaitedAndRunsIsForgotten(t *testing.T) {
	b := running(t)
	st := b.l.State().Clone()
	st.Apply(99, state.Command{Time: t0, Submit: &state.Submit{ID: "waits", Framework: "f", Need: fleet.Need{CPUs: fleet.Whole(1)}}})
	st.Restore(t0, nil, "operator/alice")
	b = &bench{t: t, now: t0, l: leader.New(leader.Config{}, st, st.Fence(1), t0)}
	b.up("a2", a2, 1, st.Fence(0))
	b.report("a2", 1, 3, "waits", fleet.TaskKilled)
	b.expect()
	b.commit(state.Command{Settle: &state.Settle{Agent: "a2"}})
	b.expect("ack a2 waits u3", "assign a2 "+number(st.Fence(0))+"->"+number(st.Fence(1<<29))+" full=true [t]")
	b.report("a2", 1, 4, "waits", fleet.TaskKilled)
	b.expect("ack a2 waits u4")
}

// An exclusive task may have been replaced in the history that is lost.
func TestAnExclusiveTaskIsNotReplacedBeforeAllIsSettled(t *testing.T) {
	b := running(t)
	st := b.l.State().Clone()
	task := *st.Tasks["t"]
	task.Spec.Exclusive = true
	task.Spec.Disconnect = fleet.Disconnect{StopAfter: 30 * time.Second, Replace: true, LostAfter: 2 * time.Minute}
	st.Tasks["t"] = &task
	st.Restore(t0, nil, "operator/alice")
	b = &bench{t: t, now: t0, l: leader.New(leader.Config{}, st, st.Fence(1), t0)}
	wait := func(d time.Duration, want ...string) {
		t.Helper()
		b.now = b.now.Add(d)
		b.step(leader.Tick{})
		b.commit()
		b.expect(want...)
	}
	b.commit(state.Command{Time: b.now, Reach: &state.Reach{Agent: "a1"}}, state.Command{Time: b.now, Reach: &state.Reach{Agent: "a2"}})
	b.log = nil
	wait(time.Hour)
	b.commit(state.Command{Settle: &state.Settle{Agent: "a1"}})
	b.log = nil
	wait(time.Hour)
	b.commit(state.Command{Settle: &state.Settle{Agent: "a2"}})
	b.log = nil
	wait(2*time.Minute - 1)
	wait(1, "propose Replace{Task:t}")
}

// Once settled an agent gets the whole set, even if it was away meanwhile.
func TestASettledAgentGetsTheWholeSet(t *testing.T) {
	for name, held := range map[string]func(*state.State) uint64{
		"from the lost history": func(*state.State) uint64 { return 8 },
		"unsettled":             func(s *state.State) uint64 { return s.Fence(0) + 3 },
	} {
		t.Run(name, func(t *testing.T) {
			b, st := restored(t)
			b.commit(state.Command{Settle: &state.Settle{Agent: "a2"}})
			b.log = nil
			at := held(st)
			b.up("a2", a2, 1, at)
			gen := st.Fence(1 << 29)
			b.expect("assign a2 " + number(at) + "->" + number(gen) + " full=true [t]")
			b.step(leader.Pull{Agent: "a2", Session: 1, Generation: gen})
			b.expect()
		})
	}
}

// The clock of who proposed an agent's admission does not count: it may be
// another machine's, or have been set since.
func TestAdmissionsUnderAnotherClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"an hour ahead": time.Hour, "an hour behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.commit(state.Command{Time: t0.Add(-time.Minute), PutToken: &state.Token{Hash: "h2", Kind: state.KindAgent, Uses: 1, Expires: t0.Add(9 * time.Hour)}},
				state.Command{Time: t0.Add(skew), Admit: &state.Admit{Hash: "h2", Kind: state.KindAgent, Name: "a3"}})
			b.now = b.now.Add(75*time.Second - 1)
			b.step(leader.Tick{})
			b.expect()
			b.now = b.now.Add(1)
			b.step(leader.Tick{})
			b.expect("propose reach a1 false", "propose reach a2 false", "propose reach a3 false")
		})
	}
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
