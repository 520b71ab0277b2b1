package fleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

func TestChecksAreRefusedWithAReason(t *testing.T) {
	command := func(change func(*fleet.Check)) *fleet.Check {
		c := fleet.NewHealthCheck(fleet.CheckCommand)
		c.Command = []string{"true"}
		change(&c)
		return &c
	}
	http := func(change func(*fleet.Check)) *fleet.Check {
		c := fleet.NewHealthCheck(fleet.CheckHTTP)
		c.Port = 8080
		change(&c)
		return &c
	}
	for _, good := range []*fleet.Check{
		command(func(c *fleet.Check) { c.Env = map[string]string{"A": "b"} }),
		http(func(c *fleet.Check) { c.Scheme, c.Path, c.Statuses = "https", "/a?b=%20", []int{200, 418} }),
		{Kind: fleet.CheckTCP, Port: 65535},
	} {
		s := fleet.TaskSpec{Name: "n", Image: "i", Health: good}
		if err := fleet.CheckSpec(s); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, tc := range []struct {
		c    *fleet.Check
		want string
	}{
		{&fleet.Check{}, `kind "": use COMMAND, HTTP or TCP`},
		{&fleet.Check{Kind: fleet.CheckCommand}, "names no command"},
		{command(func(c *fleet.Check) { c.Port = 1 }), "no port"},
		{command(func(c *fleet.Check) { c.Command = make([]string, 1025); c.Command[0] = "x" }), "1025 arguments"},
		{command(func(c *fleet.Check) { c.Command = []string{"a\x00"} }), "NUL byte"},
		{command(func(c *fleet.Check) { c.Env = map[string]string{"=": ""} }), "not a name"},
		{command(func(c *fleet.Check) { c.Delay = -1 }), "delay -1ns: use 0 to 24h"},
		{command(func(c *fleet.Check) { c.Timeout = 25 * time.Hour }), "timeout 25h"},
		{command(func(c *fleet.Check) { c.ConsecutiveFailures = -1 }), "-1 consecutive failures"},
		{http(func(c *fleet.Check) { c.Port = 0 }), "port 0: use 1 to 65535"},
		{http(func(c *fleet.Check) { c.Command = []string{"x"} }), "no use for"},
		{http(func(c *fleet.Check) { c.Scheme = "ftp" }), "use http or https"},
		{http(func(c *fleet.Check) { c.Path = "health" }), "begins with /"},
		{http(func(c *fleet.Check) { c.Path = "/a\r\nX: y" }), "begins with /"},
		{http(func(c *fleet.Check) { c.Path = "/100%" }), "begins with /"},
		{http(func(c *fleet.Check) { c.Path = "/%2x%g0" }), "begins with /"},
		{http(func(c *fleet.Check) { c.Statuses = []int{99} }), "status 99"},
		{&fleet.Check{Kind: fleet.CheckTCP, Port: 1, Path: "/"}, "no use for"},
	} {
		s := fleet.TaskSpec{Name: "n", Image: "i", Health: tc.c}
		err := fleet.CheckSpec(s)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "health check: ") {
			t.Errorf("got %v, want %q", err, tc.want)
		}
	}
	s := fleet.TaskSpec{Name: "n", Image: "i", Check: http(func(*fleet.Check) {})}
	if err := fleet.CheckSpec(s); err == nil || !strings.Contains(err.Error(), "only reports") {
		t.Errorf("a check with a grace period: %v", err)
	}
	plain := fleet.NewCheck(fleet.CheckCommand)
	plain.Command = []string{strings.Repeat("x", 32<<10), strings.Repeat("x", 32<<10)}
	s.Check = &plain
	if err := fleet.CheckSpec(s); err == nil || !strings.Contains(err.Error(), "bytes together") {
		t.Errorf("a check larger than a specification may be: %v", err)
	}
}

func TestLimitsNeverLessThanTheRequest(t *testing.T) {
	for _, tc := range []struct {
		l         fleet.Limits
		cpus, mem fleet.Scalar
		want      string
	}{
		{fleet.Limits{}, 1000, 0, ""},
		{fleet.Limits{CPUs: 1000, Mem: 2000}, 1000, 1000, ""},
		{fleet.Limits{CPUs: fleet.Unlimited, Mem: fleet.Unlimited}, 1, 1, ""},
		{fleet.Limits{CPUs: 999}, 1000, 0, "cpu limit 0.999 is less than the 1"},
		{fleet.Limits{Mem: 999}, 0, 1000, "memory limit 0.999 is less than the 1"},
		{fleet.Limits{Mem: 999}, 1000, 0, "memory limit is given, but"},
		{fleet.Limits{Mem: fleet.Unlimited}, 1000, 0, "memory limit is given, but"},
		{fleet.Limits{CPUs: -2}, 1000, 0, "out of range"},
	} {
		err := fleet.CheckTaskLimits(tc.l, tc.cpus, tc.mem)
		if tc.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: got %v, want %q", tc.l, err, tc.want)
		}
	}
	for want, s := range map[string]fleet.TaskSpec{
		"memory limit -0.002 is out of range": {Name: "n", Image: "i", Limits: fleet.Limits{Mem: -2}},
		"maximum completion time -1ns":        {Name: "n", Image: "i", MaxCompletion: -1},
	} {
		if err := fleet.CheckSpec(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWhatPasses(t *testing.T) {
	command, tcp := fleet.Check{Kind: fleet.CheckCommand}, fleet.Check{Kind: fleet.CheckTCP}
	http, teapot := fleet.Check{Kind: fleet.CheckHTTP}, fleet.Check{Kind: fleet.CheckHTTP, Statuses: []int{418}}
	for _, tc := range []struct {
		c    fleet.Check
		r    fleet.CheckResult
		want bool
	}{
		{command, fleet.CheckResult{Known: true}, true},
		{command, fleet.CheckResult{}, false}, // no answer in time
		{command, fleet.CheckResult{Known: true, ExitCode: 1}, false},
		{http, fleet.CheckResult{Known: true, StatusCode: 199}, false},
		{http, fleet.CheckResult{Known: true, StatusCode: 200}, true},
		{http, fleet.CheckResult{Known: true, StatusCode: 399}, true},
		{http, fleet.CheckResult{Known: true, StatusCode: 400}, false},
		{http, fleet.CheckResult{Known: true}, false}, // nobody listens
		{teapot, fleet.CheckResult{Known: true, StatusCode: 200}, false},
		{teapot, fleet.CheckResult{Known: true, StatusCode: 418}, true},
		{tcp, fleet.CheckResult{Known: true}, false},
		{tcp, fleet.CheckResult{Known: true, Connected: true}, true},
	} {
		if got := tc.c.Passed(tc.r); got != tc.want {
			t.Errorf("%+v, %+v: %v", tc.c, tc.r, got)
		}
	}
}

func TestNewsOfARunningTaskIsAnotherResult(t *testing.T) {
	running := fleet.Status{State: fleet.TaskRunning}
	well, checked := running, running
	well.Health = fleet.TaskHealthy
	checked.Check = fleet.CheckResult{Kind: fleet.CheckTCP, Known: true}
	killing := fleet.Status{State: fleet.TaskKilling, Health: fleet.TaskUnhealthy}
	for _, tc := range []struct {
		name  string
		s     fleet.Status
		state fleet.TaskState
		last  fleet.Status
		want  bool
	}{
		{"the same", running, fleet.TaskRunning, running, false},
		{"healthy", well, fleet.TaskRunning, running, true},
		{"healthy still", well, fleet.TaskRunning, well, false},
		{"checked", checked, fleet.TaskRunning, well, true},
		{"healthy, while it is being killed", well, fleet.TaskKilling, killing, false},
		{"killed twice", killing, fleet.TaskKilling, running, false},
		{"back again", well, fleet.TaskUnreachable, well, true},
		{"too late", well, fleet.TaskFailed, running, false},
	} {
		if got := tc.s.CanFollow(tc.state, tc.last); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
