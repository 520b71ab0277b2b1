package gate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/gate"
)

// A step is a time after the start and what happens then; from one step to the
// next the loop turns each second.
type step struct {
	at time.Duration
	ev gate.Event
}

var (
	well     = gate.Runtime{}
	away     = gate.Runtime{Away: true}
	broken   = gate.Runtime{Err: "unknown method"}
	up       = gate.Session{}
	nobody   = gate.NoSession{}
	alert    = gate.NoSession{Err: "bad certificate"}
	minute   = time.Minute
	second   = time.Second
	longtime = 30 * time.Minute
)

// judge returns when there was a verdict, and which, within half an hour.
func judge(l gate.Limits, steps []step) string {
	began := time.Date(2026, 5, 6, 7, 0, 0, 0, time.UTC)
	g := gate.New(began, l)
	for at := time.Duration(0); at <= longtime; at += second {
		for len(steps) > 0 && steps[0].at <= at {
			if v := g.Step(began.Add(at), steps[0].ev); v != (gate.Verdict{}) {
				return "decided before the loop has turned"
			}
			steps = steps[1:]
		}
		switch v := g.Step(began.Add(at), gate.Turned{}); {
		case v.Passed:
			return fmt.Sprintf("passed after %v", at)
		case v.Failed != "":
			return fmt.Sprintf("failed after %v: %s", at, v.Failed)
		}
	}
	return "waits"
}

// each repeats an event.
func each(d, from, to time.Duration, ev gate.Event) (steps []step) {
	for at := from; at < to; at += d {
		steps = append(steps, step{at, ev})
	}
	return steps
}

func TestVerdicts(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"a session for a minute", []step{{0, well}, {3 * second, up}}, "passed after 1m3s"},
		{"the site has no uplink", append([]step{{0, well}}, each(20*second, 5*second, longtime, nobody)...), "passed after 1m5s"},
		{"the uplink comes and goes", []step{{0, well}, {second, nobody}, {20 * second, up}, {40 * second, nobody}, {50 * second, up}}, "passed after 1m1s"},
		{"nothing happens at all", nil, "failed after 5m0s: in 5m0s it has not tried to reach a replica"},
		{"no replica is tried", []step{{0, well}}, "failed after 5m0s: in 5m0s it has not tried to reach a replica"},
		{"no container runtime", append(each(5*second, 0, longtime, away), step{longtime, up}), "failed after 5m0s: in 5m0s it has not tried to reach a replica"},
		{"a session, and no container runtime", []step{{0, away}, {second, up}}, "waits"},
		{"the container runtime comes late", []step{{0, away}, {second, up}, {7 * minute, well}}, "passed after 8m0s"},
		{"the container runtime restarts", []step{{0, well}, {second, up}, {50 * second, away}, {55 * second, well}}, "passed after 1m55s"},
		{"the runtime answers with errors", []step{{second, up}, {2 * second, broken}, {time.Minute, broken}}, "failed after 5m2s: the container runtime has answered with errors for 5m0s: unknown method"},
		{"the runtime errs, then does not", []step{{second, up}, {2 * second, broken}, {2 * minute, well}}, "passed after 3m0s"},
		{"the runtime errs, and is gone", []step{{second, up}, {2 * second, broken}, {2 * minute, away}}, "waits"},
		{"replicas answer, no session", append([]step{{0, well}}, each(20*second, second, longtime, alert)...), "failed after 5m1s: replicas answer, and in 5m0s no session came of it: bad certificate"},
		{"one replica refuses, another welcomes", []step{{0, well}, {second, alert}, {2 * second, up}}, "passed after 1m2s"},
		{"a certificate is mended", []step{{0, well}, {2 * minute, alert}, {2*minute + second, up}}, "passed after 3m1s"},
		{
			"sessions that end right after the welcome",
			append([]step{{0, well}}, flap(10*second, 2*second, longtime)...),
			"failed after 5m2s: replicas answer, and in 5m0s no session came of it: bad certificate",
		},
		{"a refusal, then no uplink", append([]step{{0, well}, {second, alert}}, each(20*second, 2*second, longtime, nobody)...), "failed after 5m1s: replicas answer, and in 5m0s no session came of it: bad certificate"},
		{"a session that lasted, then no uplink", []step{{0, well}, {second, alert}, {2 * second, up}, {30 * second, nobody}}, "passed after 1m2s"},
		{"a session that lasted, then refusals", append([]step{{0, well}, {second, up}}, each(20*second, 30*second, longtime, alert)...), "failed after 5m30s: replicas answer, and in 5m0s no session came of it: bad certificate"},
	} {
		if got := judge(gate.Limits{}, tc.steps); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// flap is a session that ends for a reason of ours, each time after a moment.
func flap(each, lasts, to time.Duration) (steps []step) {
	for at := time.Duration(0); at < to; at += each {
		steps = append(steps, step{at, up}, step{at + lasts, alert})
	}
	return steps
}

func TestLimitsAreThoseThatWereGiven(t *testing.T) {
	l := gate.Limits{Steady: 3 * second, Patience: 10 * second}
	if got := judge(l, []step{{0, well}, {0, up}}); got != "passed after 3s" {
		t.Error(got)
	}
	if got := judge(l, []step{{0, well}, {0, alert}}); !strings.HasPrefix(got, "failed after 10s: ") {
		t.Error(got)
	}
}
