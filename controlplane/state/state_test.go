package state_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// booted is a state with a token for two agents and one admitted agent, a1.
func booted(t *testing.T) *state.State {
	t.Helper()
	s := state.New()
	must(t, s, state.Command{Bootstrap: &state.Bootstrap{TrustDomain: "test", Bundle: []byte("roots")}})
	must(t, s, state.Command{PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Site: "s1", Uses: 2, Expires: t0.Add(time.Hour)}})
	must(t, s, state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1", Suffix: "x", KeyHash: "k"}})
	return s
}

func apply(s *state.State, c state.Command) state.Result {
	if c.Time.IsZero() {
		c.Time = t0
	}
	return s.Apply(1, c)
}

func must(t *testing.T, s *state.State, c state.Command) state.Result {
	t.Helper()
	r := apply(s, c)
	if err := r.Err(); err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return r
}

func launchOn(t *testing.T, s *state.State, id fleet.TaskID, agent fleet.AgentID) {
	t.Helper()
	must(t, s, state.Command{Submit: &state.Submit{ID: id, Framework: "run", Role: "*"}})
	must(t, s, state.Command{Launch: &state.Launch{ID: id, Framework: "run", Role: "*", Agent: agent}})
}

func observe(id fleet.TaskID, agent fleet.AgentID, seq uint64, st fleet.TaskState) state.Command {
	return state.Command{Observe: &state.Observe{Agent: agent, Update: fleet.StatusUpdate{
		Seq: seq, Status: fleet.Status{Task: id, State: st, ExitCode: -1},
	}}}
}

func TestTokensAdmit(t *testing.T) {
	admit := func(hash, name, suffix string, kind state.IdentityKind, at time.Time) state.Command {
		return state.Command{Time: at, Admit: &state.Admit{Hash: hash, Kind: kind, Name: name, Suffix: suffix}}
	}
	for _, tc := range []struct {
		name string
		cmd  state.Command
		want state.Kind
		id   string
	}{
		{"a new name is kept", admit("h", "a2", "x", state.KindAgent, t0), state.OK, "a2"},
		{"a taken name gets the suffix", admit("h", "a1", "x", state.KindAgent, t0), state.OK, "a1-x"},
		{"unknown secret", admit("other", "a2", "x", state.KindAgent, t0), state.TokenUnknown, ""},
		{"wrong kind", admit("h", "a2", "x", state.KindReplica, t0), state.TokenKind, ""},
		{"expired", admit("h", "a2", "x", state.KindAgent, t0.Add(time.Hour)), state.TokenExpired, ""},
		{"a name that is no id", admit("h", "A 2", "x", state.KindAgent, t0), state.Invalid, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := booted(t)
			before := s.Clone()
			r := apply(s, tc.cmd)
			if r.Kind != tc.want || r.ID != tc.id {
				t.Fatalf("got %+v, want kind %q id %q", r, tc.want, tc.id)
			}
			if tc.want != state.OK && !reflect.DeepEqual(before, s) {
				t.Fatal("a refused command changed the state")
			}
		})
	}
	s := booted(t)
	must(t, s, admit("h", "a2", "x", state.KindAgent, t0))
	if r := apply(s, admit("h", "a3", "x", state.KindAgent, t0)); r.Kind != state.TokenUsed {
		t.Fatalf("the third use of a token for two: %+v", r)
	}
}

// A machine whose answer was lost asks again with the same key: it gets the
// same id, and the token is used once.
func TestAdmitIsIdempotentByKey(t *testing.T) {
	s := booted(t)
	c := state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a2", KeyHash: "k2"}}
	must(t, s, c)
	if r := must(t, s, c); r.ID != "a2" || !r.Duplicate || s.Tokens["h"].Uses != 0 {
		t.Fatalf("asked again: %+v, %d uses left", r, s.Tokens["h"].Uses)
	}
	must(t, s, state.Command{Revoke: &state.Revoke{URI: "spiffe://test/agent/a2", Kind: state.KindAgent, ID: "a2"}})
	if r := apply(s, c); r.Kind != state.RevokedID {
		t.Fatalf("asked again after the revocation: %+v", r)
	}
}

func TestRevokedIDIsNeverGivenOutAgain(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, state.Command{Revoke: &state.Revoke{URI: "spiffe://test/agent/a1", Kind: state.KindAgent, ID: "a1"}})
	if got := s.Tasks["t1"].State; got != fleet.TaskGoneByOperator {
		t.Errorf("the revoked agent's task is %v", got)
	}
	r := must(t, s, state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1", Suffix: "x"}})
	if r.ID != "a1-x" {
		t.Errorf("the newcomer got the id %q", r.ID)
	}
}

func TestSubmittedTaskIsLaunchedOnce(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	again := state.Command{Launch: &state.Launch{ID: "t1", Framework: "run", Role: "*", Agent: "a1"}}
	if r := apply(s, again); r.Kind != state.Conflict {
		t.Fatalf("second launch: %+v", r)
	}
	must(t, s, observe("t1", "a1", 1, fleet.TaskFinished))
	if r := apply(s, again); r.Kind != state.Conflict {
		t.Fatalf("launch after the end: %+v", r)
	}
}

func TestUpdatesAreAppliedInOrderOnce(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	gen := s.Agents["a1"].Generation
	if r := apply(s, observe("t1", "a1", 2, fleet.TaskRunning)); r.Kind != state.OutOfOrder {
		t.Fatalf("update 2 before 1: %+v", r)
	}
	must(t, s, observe("t1", "a1", 1, fleet.TaskStarting))
	must(t, s, observe("t1", "a1", 2, fleet.TaskRunning))
	if r := must(t, s, observe("t1", "a1", 1, fleet.TaskStarting)); !r.Duplicate {
		t.Fatalf("a resent update: %+v", r)
	}
	if r := apply(s, observe("t1", "a2", 3, fleet.TaskFailed)); r.Kind != state.Conflict {
		t.Fatalf("another agent's update: %+v", r)
	}
	must(t, s, observe("t1", "a1", 2, fleet.TaskKilling)) // another text under a number that is taken
	if got := s.Tasks["t1"].State; got != fleet.TaskRunning {
		t.Fatalf("a second update 2 made it %v", got)
	}
	must(t, s, observe("t1", "a1", 3, fleet.TaskFinished))
	must(t, s, observe("t1", "a1", 4, fleet.TaskFailed))
	if got := s.Tasks["t1"]; got.State != fleet.TaskFinished || got.Seq != 4 || len(got.History) != 5 {
		t.Fatalf("after all: state %v seq %d history %d", got.State, got.Seq, len(got.History))
	}
	if s.Agents["a1"].Generation != gen+1 {
		t.Fatalf("the end of a task must move the generation by one")
	}
}

func TestUnreachableAndBack(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, observe("t1", "a1", 1, fleet.TaskRunning))
	must(t, s, state.Command{Reach: &state.Reach{Agent: "a1", Reachable: false}})
	if got := s.Tasks["t1"].State; got != fleet.TaskUnreachable {
		t.Fatalf("cut off: %v", got)
	}
	must(t, s, state.Command{Reach: &state.Reach{Agent: "a1", Reachable: true}})
	if got := s.Tasks["t1"].State; got != fleet.TaskRunning {
		t.Fatalf("back: %v", got)
	}
}

func TestKill(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{Submit: &state.Submit{ID: "w", Framework: "run", Role: "*"}})
	must(t, s, state.Command{Kill: &state.Kill{ID: "w"}})
	if got := s.Tasks["w"].State; got != fleet.TaskKilled {
		t.Errorf("a waiting task, killed, is %v", got)
	}
	launchOn(t, s, "t", "a1")
	must(t, s, state.Command{Kill: &state.Kill{ID: "t", Grace: 5 * time.Second}})
	gen := s.Agents["a1"].Generation
	if r := must(t, s, state.Command{Kill: &state.Kill{ID: "t", Grace: time.Minute}}); !r.Duplicate || s.Agents["a1"].Generation != gen {
		t.Errorf("a longer grace period afterwards: %+v", r)
	}
	must(t, s, state.Command{Kill: &state.Kill{ID: "t", Grace: time.Second}})
	if got := s.Tasks["t"]; got.KillGrace != time.Second || s.Agents["a1"].Generation != gen+1 {
		t.Errorf("a shorter one: %v", got.KillGrace)
	}
	if r := apply(s, state.Command{Kill: &state.Kill{ID: "none"}}); r.Kind != state.NotFound {
		t.Errorf("no such task: %+v", r)
	}
}

func TestEndedTasksAreBounded(t *testing.T) {
	s := booted(t)
	for i := range state.MaxEnded + 10 {
		id := fleet.TaskID(fmt.Sprintf("t%d", i))
		must(t, s, state.Command{Submit: &state.Submit{ID: id, Framework: "run", Role: "*"}})
		must(t, s, state.Command{Kill: &state.Kill{ID: id}})
	}
	if len(s.Ended) != state.MaxEnded || len(s.Tasks) != state.MaxEnded {
		t.Fatalf("%d ended, %d tasks", len(s.Ended), len(s.Tasks))
	}
}

// A clone is a snapshot: what happens later must not show in it.
func TestCloneIsUnaffected(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, observe("t1", "a1", 1, fleet.TaskRunning))
	c := s.Clone()
	want := *c.Tasks["t1"]
	wantAgent := *c.Agents["a1"]
	must(t, s, observe("t1", "a1", 2, fleet.TaskFinished))
	must(t, s, state.Command{SetCapacity: &state.SetCapacity{Agent: "a1", Hostname: "new"}})
	if !reflect.DeepEqual(*c.Tasks["t1"], want) || !reflect.DeepEqual(*c.Agents["a1"], wantAgent) || len(c.Ended) != 0 {
		t.Fatal("the clone changed")
	}
}

// Two copies that go on differently must not write into each other's history.
func TestCopiesDoNotShareAHistory(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, observe("t1", "a1", 1, fleet.TaskStarting))
	c := s.Clone()
	must(t, s, observe("t1", "a1", 2, fleet.TaskRunning))
	must(t, c, observe("t1", "a1", 2, fleet.TaskFailed))
	for name, x := range map[string]struct {
		st   *state.State
		want fleet.TaskState
	}{"original": {s, fleet.TaskRunning}, "copy": {c, fleet.TaskFailed}} {
		h := x.st.Tasks["t1"].History
		if got := h[len(h)-1].State; got != x.want {
			t.Errorf("%s: the last status is %v, want %v", name, got, x.want)
		}
	}
}
