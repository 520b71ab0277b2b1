package state_test

import (
	"fmt"
	"reflect"
	"regexp"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func by(who string, c state.Command) state.Command {
	c.By = who
	return c
}

func everything(state.AuditEntry) bool { return true }

func TestAuditSaysWhoAskedForWhat(t *testing.T) {
	s := booted(t)
	must(t, s, by("local/r1", put(principal("m", state.KindFramework, "b", "a"))))
	must(t, s, by("framework/m", state.Command{Submit: &state.Submit{ID: "t1", Framework: "run", Role: "a"}}))
	apply(s, by("framework/m", state.Command{Submit: &state.Submit{ID: "t1", Framework: "run", Role: "a"}}))
	must(t, s, by("framework/m", state.Command{Kill: &state.Kill{ID: "t1"}}))
	must(t, s, by("token/h", state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1", Suffix: "x", KeyHash: "k2"}}))
	must(t, s, by("operator/alice", revoke(state.KindFramework, "m")))
	must(t, s, by("operator/alice", revoke(state.KindFramework, "m")))
	must(t, s, by("operator/alice", state.Command{PutToken: &state.Token{
		Hash: "0123456789abcdef", Kind: state.KindOperator, Uses: 1, Expires: t0.Add(time.Hour),
	}}))
	// What the leader does by itself leaves no entry.
	must(t, s, state.Command{Reach: &state.Reach{Agent: "a1", Reachable: false}})

	got, more := s.Audit.Last(100, everything)
	want := []state.AuditEntry{
		{1, t0, "local/r1", "principal.create", "framework/m", "roles a,b", ""},
		{2, t0, "framework/m", "task.submit", "t1", "role a", ""},
		{3, t0, "framework/m", "task.submit", "t1", "role a", "task t1 exists"},
		{4, t0, "framework/m", "task.stop", "t1", "", ""},
		{5, t0, "token/h", "agent.join", "agent/a1-x", "", ""},
		{6, t0, "operator/alice", "principal.revoke", "framework/m", "", ""},
		{7, t0, "operator/alice", "principal.revoke", "framework/m", "", ""},
		{8, t0, "operator/alice", "token.create", "0123456789ab", "admits operator, all roles", ""},
	}
	if !reflect.DeepEqual(got, want) || more != 0 {
		t.Errorf("got %d more and\n%+v\nwant\n%+v", more, got, want)
	}
	got, more = s.Audit.Last(2, func(e state.AuditEntry) bool { return e.By == "framework/m" })
	if !reflect.DeepEqual(got, want[2:4]) || more != 1 {
		t.Errorf("the last two of m: %d more, %+v", more, got)
	}
}

// Tasks by the thousand do not push out who was let in.
func TestAuditIsBounded(t *testing.T) {
	s := booted(t)
	must(t, s, by("local/r1", put(principal("m", state.KindFramework, "a"))))
	for range state.MaxAudit {
		apply(s, by("framework/m", state.Command{Kill: &state.Kill{ID: "none"}}))
		// Asked again with the same key: it changes nothing.
		must(t, s, by("token/h", state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a1", KeyHash: "k"}}))
	}
	if n, m := len(s.Audit.Routine), len(s.Audit.Admin); n != state.MaxAudit || m != 1 {
		t.Errorf("%d routine, %d others", n, m)
	}
	got, _ := s.Audit.Last(2*state.MaxAudit, everything)
	if len(got) != state.MaxAudit+1 || got[0].Action != "principal.create" || got[1].Seq != state.MaxAudit+2 || got[len(got)-1].Seq != 2*state.MaxAudit+1 {
		t.Errorf("%d entries: %+v ... %+v", len(got), got[:2], got[len(got)-1])
	}
	for i := range state.MaxAudit + 10 {
		must(t, s, by("local/r1", state.Command{SetRole: &state.SetRole{Role: "a", Weight: 1000 + 1000*1}}))
		if i == 0 && len(s.Audit.Admin) != 2 {
			t.Fatal("a change of the fleet is routine")
		}
	}
	if n := len(s.Audit.Admin); n != state.MaxAudit {
		t.Errorf("%d changes of the fleet are kept", n)
	}
}

// A clone shares entries and is changed by nobody; both may go on.
func TestCopiesDoNotShareTheirAudit(t *testing.T) {
	s := booted(t)
	stop := func(s *state.State, who string) {
		apply(s, by(who, state.Command{Kill: &state.Kill{ID: "none"}}))
	}
	for i := range 100 {
		stop(s, "local/before")
		a, b := s.Clone(), s.Clone()
		stop(a, "local/a")
		stop(s, "local/s")
		stop(b, "local/b")
		for name, x := range map[string]*state.State{"local/a": a, "local/b": b, "local/s": s} {
			got, _ := x.Audit.Last(1, everything)
			if got[0].By != name || got[0].Seq != uint64(2*i+2) {
				t.Fatalf("round %d: the last entry of %s is %+v", i, name, got[0])
			}
		}
	}
}

// Every kind of command has words of its own.
func TestEveryCommandHasAnAction(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)*\.[a-z]+(-[a-z]+)*$`)
	seen := map[string]string{}
	kinds := reflect.TypeFor[state.Command]()
	for i := range kinds.NumField() {
		f := kinds.Field(i)
		if f.Type.Kind() != reflect.Pointer {
			continue
		}
		c := state.Command{Time: t0, By: "local/r1"}
		reflect.ValueOf(&c).Elem().Field(i).Set(reflect.New(f.Type.Elem()))
		s := booted(t)
		s.Apply(1, c)
		got, _ := s.Audit.Last(1, everything)
		if len(got) != 1 || !kebab.MatchString(got[0].Action) && got[0].Action != ".join" && got[0].Action != ".revoke" {
			t.Errorf("%s: %+v", f.Name, got)
			continue
		}
		if other := seen[got[0].Action]; other != "" {
			t.Errorf("%s and %s are both %s", f.Name, other, got[0].Action)
		}
		seen[got[0].Action] = f.Name
	}
}

// A text of somebody else's making does not grow the log without bound.
func TestAuditTextsAreBounded(t *testing.T) {
	s := booted(t)
	long := fmt.Sprintf("%0*d", 5000, 0)
	apply(s, by(long, state.Command{DropToken: &state.DropToken{Hash: long}}))
	apply(s, by(long, state.Command{DropReplica: &state.DropReplica{ID: "x"}}))
	got, _ := s.Audit.Last(2, everything)
	for _, e := range got {
		if n := len(e.By) + len(e.Target) + len(e.Refused) + len(e.Detail); n > 1024 {
			t.Errorf("an entry of %d characters", n)
		}
	}
}

// Apply is on the way of every launch and update; those nobody asked for must
// not pay for the log.
func TestWhatNobodyAskedForCostsNothing(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t1", "a1")
	must(t, s, observe("t1", "a1", 1, fleet.TaskRunning))
	resent := observe("t1", "a1", 1, fleet.TaskRunning)
	if n := testing.AllocsPerRun(100, func() { s.Apply(1, resent) }); n != 0 {
		t.Errorf("%v allocations for an update that was applied already", n)
	}
}
