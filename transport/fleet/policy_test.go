package fleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

func TestPoliciesThatAreRefusedSayWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*fleet.TaskSpec)
		want   string // empty: it is fine
	}{
		{"none", func(*fleet.TaskSpec) {}, ""},
		{"three restarts", func(s *fleet.TaskSpec) { s.Restart.Attempts = 3 }, ""},
		{"a delay of nothing", func(s *fleet.TaskSpec) { s.Restart.Delay = time.Minute }, "give one, such as 3"},
		{"a mode of its own", func(s *fleet.TaskSpec) { s.Restart = fleet.Restart{Attempts: 1, Mode: "often"} }, `use "fail" or "delay"`},
		{"too eager", func(s *fleet.TaskSpec) { s.Restart = fleet.Restart{Attempts: 1, Delay: time.Millisecond} }, "use 1s to"},
		{"stop alone", func(s *fleet.TaskSpec) { s.Disconnect.StopAfter = time.Minute }, ""},
		{"stop at once", func(s *fleet.TaskSpec) { s.Disconnect.StopAfter = time.Second }, "use 30s to"},
		{"replace, but when", func(s *fleet.TaskSpec) { s.Disconnect.Replace = true }, "lost_after is missing"},
		{"lost, but for what", func(s *fleet.TaskSpec) { s.Disconnect.LostAfter = time.Minute }, "ask for replace, or leave it out"},
		{"reconcile what", func(s *fleet.TaskSpec) { s.Disconnect.Reconcile = fleet.ReconcileBest }, "ask for replace"},
		{"a rule of its own", func(s *fleet.TaskSpec) { s.Disconnect.Reconcile = "coin" }, `use "best"`},
		{"exclusive and never moved", func(s *fleet.TaskSpec) { s.Exclusive = true }, ""},
		{"exclusive and never stopped", func(s *fleet.TaskSpec) {
			s.Exclusive, s.Disconnect = true, fleet.Disconnect{Replace: true, LostAfter: time.Hour}
		}, "stop_after is missing"},
		{"exclusive and stopped too late", func(s *fleet.TaskSpec) {
			s.Exclusive, s.Disconnect = true, fleet.Disconnect{Replace: true, StopAfter: 5 * time.Minute, LostAfter: 5 * time.Minute}
		}, "lost_after must be at least 5m35.3s, and is 5m0s; make lost_after longer or stop_after shorter"},
		{"the grace period counts", func(s *fleet.TaskSpec) {
			s.Exclusive, s.KillGrace = true, 3*time.Minute
			s.Disconnect = fleet.Disconnect{Replace: true, StopAfter: 5 * time.Minute, LostAfter: 8 * time.Minute}
		}, "at least 8m30.3s"},
		{"exclusive and stopped in time", func(s *fleet.TaskSpec) {
			s.Exclusive, s.Disconnect = true, fleet.Disconnect{Replace: true, StopAfter: 5 * time.Minute, LostAfter: 6 * time.Minute}
		}, ""},
		{"the same where both may run", func(s *fleet.TaskSpec) {
			s.Disconnect = fleet.Disconnect{Replace: true, StopAfter: 5 * time.Minute, LostAfter: time.Minute}
		}, ""},
	} {
		s := fleet.TaskSpec{Name: "n", Image: "i"}
		tc.change(&s)
		err := fleet.CheckSpec(s)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q in it", tc.name, err, tc.want)
		}
	}
}

// What is wrong with a policy only where the task may run, or how soon it would
// have to be known that its agent is lost.
func TestPoliciesThatCannotBeKept(t *testing.T) {
	for name, tc := range map[string]struct {
		d     fleet.Disconnect
		agent fleet.AgentID
		want  string
	}{
		"none":                          {},
		"replaced when it is known":     {d: fleet.Disconnect{Replace: true, LostAfter: fleet.MinLostAfter}},
		"replaced before it is known":   {d: fleet.Disconnect{Replace: true, LostAfter: fleet.MinLostAfter - 1}, want: "an agent is given up 1m15s after its last word"},
		"and what to do":                {d: fleet.Disconnect{Replace: true, LostAfter: 40 * time.Second}, want: "lost_after must be at least 1m15s, and is 40s"},
		"bound to one agent":            {agent: "a1"},
		"bound, and replaced elsewhere": {d: fleet.Disconnect{Replace: true, LostAfter: time.Hour}, agent: "a1", want: "bound to agent a1"},
	} {
		err := fleet.CheckPolicy(fleet.TaskSpec{Disconnect: tc.d}, fleet.Need{Agent: tc.agent})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q in it", name, err, tc.want)
		}
	}
}

func TestNewsOfATaskThatGoesNowhere(t *testing.T) {
	last := fleet.Status{State: fleet.TaskRunning, Restarts: 2, Message: "m"}
	for name, tc := range map[string]struct {
		s    fleet.Status
		want bool
	}{
		"the same":             {last, false},
		"another restart":      {fleet.Status{State: fleet.TaskRunning, Restarts: 3, Reason: fleet.ReasonRestarted}, true},
		"an older restart":     {fleet.Status{State: fleet.TaskRunning, Restarts: 1, Reason: fleet.ReasonRestarted}, false},
		"put off":              {fleet.Status{State: fleet.TaskRunning, Restarts: 2, Reason: fleet.ReasonPutOff, Message: "no image"}, true},
		"back to its starting": {fleet.Status{State: fleet.TaskStarting, Restarts: 3, Reason: fleet.ReasonRestarted}, false},
	} {
		if got := tc.s.CanFollow(last.State, last); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
