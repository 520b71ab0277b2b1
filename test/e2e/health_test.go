package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// often is a check that shows what it does within a test's time.
func often(c client.Check) *client.Check {
	d := func(d time.Duration) *client.Duration { return new(client.Duration(d)) }
	c.Delay, c.Interval, c.Timeout = d(0), d(100*time.Millisecond), d(5*time.Second)
	return &c
}

func oftenHealthy(c client.Check) *client.Check {
	h := often(c)
	h.Grace = new(client.Duration(0))
	return h
}

func TestTasksAreAskedHowTheyAre(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	healthy := func(t *testing.T, id string) client.Task {
		t.Helper()
		return f.Await(t, id, "it is healthy", func(task client.Task) bool { return task.Health == "healthy" })
	}

	t.Run("one whose check fails three times is killed and says so", func(t *testing.T) {
		id := f.Submit(t, client.Submit{
			Command:     sh("trap 'exit 0' TERM; sleep 1000 & wait"),
			HealthCheck: oftenHealthy(client.Check{Kind: "COMMAND", Command: sh("exit 4")}),
		})
		task := f.End(t, id)
		if task.State != "TASK_KILLED" || task.Health != "unhealthy" || task.Reason != "TASK_HEALTH_CHECK_STATUS_UPDATED" ||
			!strings.Contains(task.Message, "its health check failed 3 times in a row, at last: exit code 4") {
			t.Error(harness.Tell(task))
		}
		var told []string
		for _, h := range task.History[2:] {
			told = append(told, strings.TrimSpace(h.State+" "+h.Health))
		}
		if got := strings.Join(told, ", "); got != "TASK_STARTING, TASK_RUNNING, TASK_RUNNING unhealthy, TASK_KILLING unhealthy, TASK_KILLED unhealthy" {
			t.Error(got)
		}
	})
	t.Run("one that passes is healthy, and no longer when it stops to", func(t *testing.T) {
		c := oftenHealthy(client.Check{Kind: "COMMAND", Command: sh("test -e /tmp/well")})
		c.Failures = new(0)
		id := f.Submit(t, client.Submit{
			Command:     sh("mkdir -p /tmp; touch /tmp/well; sleep 6; rm /tmp/well; sleep 1000"),
			HealthCheck: c,
		})
		healthy(t, id)
		f.Await(t, id, "it is not healthy any more", func(task client.Task) bool { return task.Health == "unhealthy" && task.State == "TASK_RUNNING" })
		kill(t, f, id)
	})
	for _, c := range []struct {
		network, address string
		port             int
	}{{"none", "127.0.0.1:8080", 8080}, {"host", "127.0.0.1:18473", 18473}} {
		server := client.Submit{
			Network: c.network,
			Command: sh("mkdir -p /www; echo hello > /www/index.html; exec httpd -f -h /www -p " + c.address),
		}
		t.Run("by HTTP with network "+c.network, func(t *testing.T) {
			in := server
			in.HealthCheck = oftenHealthy(client.Check{Kind: "HTTP", Port: c.port, Path: "/index.html"})
			in.Check = often(client.Check{Kind: "HTTP", Port: c.port, Path: "/nothing"})
			id := f.Submit(t, in)
			healthy(t, id)
			task := f.Await(t, id, "the other check has an answer", func(task client.Task) bool {
				return task.CheckResult != nil && task.CheckResult.StatusCode != 0
			})
			if task.CheckResult.StatusCode != 404 || task.State != "TASK_RUNNING" {
				t.Errorf("%+v, %s", *task.CheckResult, harness.Tell(task))
			}
			kill(t, f, id)
		})
		t.Run("by TCP with network "+c.network, func(t *testing.T) {
			in := server
			in.HealthCheck = oftenHealthy(client.Check{Kind: "TCP", Port: c.port})
			id := f.Submit(t, in)
			healthy(t, id)
			kill(t, f, id)
		})
	}
	t.Run("a port where nobody listens", func(t *testing.T) {
		id := f.Submit(t, client.Submit{
			Command:     sh("trap 'exit 0' TERM; sleep 1000 & wait"),
			HealthCheck: oftenHealthy(client.Check{Kind: "TCP", Port: 81}),
		})
		task := f.End(t, id)
		if task.State != "TASK_KILLED" || !strings.Contains(task.Message, "connection refused") {
			t.Error(harness.Tell(task))
		}
	})
	t.Run("an agent that is restarted goes on asking", func(t *testing.T) {
		c := oftenHealthy(client.Check{Kind: "COMMAND", Command: sh("test ! -e /tmp/ill")})
		id := f.Submit(t, client.Submit{
			Command:     sh("mkdir -p /tmp; trap 'exit 0' TERM; sleep 8 & wait; touch /tmp/ill; sleep 1000 & wait"),
			HealthCheck: c,
		})
		healthy(t, id)
		a.Process().Kill(t)
		a.Start(t)
		if task := f.End(t, id); task.State != "TASK_KILLED" || task.Health != "unhealthy" {
			t.Error(harness.Tell(task))
		}
	})
}

func TestATaskHasItsTimeAndItsMemory(t *testing.T) {
	t.Parallel()
	f, _ := withAgent(t, 1)
	t.Run("the maximum completion time", func(t *testing.T) {
		began := time.Now()
		id := f.Submit(t, client.Submit{Command: sh("trap 'exit 0' TERM; sleep 1000 & wait"), MaxTime: client.Duration(2 * time.Second)})
		task := f.End(t, id)
		if task.State != "TASK_FAILED" || task.Reason != "MAX_COMPLETION_TIME_REACHED" || time.Since(began) < 2*time.Second {
			t.Errorf("after %v: %s", time.Since(began), harness.Tell(task))
		}
	})
	take := func(mib string) []string {
		return sh("n=$((" + mib + " * 1048576)); head -c $n /dev/zero | tail -c $n > /dev/null")
	}
	for _, c := range []struct {
		name, mib   string
		limit       client.Amount
		state, text string
	}{
		{"more than it asked for", "48", "", "TASK_FAILED", "out of memory: the limit is 32 MiB"},
		{"more than it asked for, under its limit", "48", "96", "TASK_FINISHED", ""},
		{"more than its limit", "128", "96", "TASK_FAILED", "out of memory: the limit is 96 MiB"},
		{"without a limit", "128", client.Unlimited, "TASK_FINISHED", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := f.End(t, f.Submit(t, client.Submit{Mem: "32", MemLimit: c.limit, Command: take(c.mib)}))
			if task.State != c.state || !strings.Contains(task.Message, c.text) {
				t.Error(harness.Tell(task))
			}
		})
	}
}

func kill(t *testing.T, f *harness.Fleet, id string) {
	t.Helper()
	if _, err := f.StopTask(t.Context(), id, client.Stop{Grace: new(client.Duration(0))}); err != nil {
		t.Fatal(err)
	}
	f.End(t, id)
}
