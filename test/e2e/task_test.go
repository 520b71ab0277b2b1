package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/image"
)

func sh(script string) []string { return []string{"sh", "-c", script} }

// withAgent is a control plane of n replicas with one agent that runs tasks.
func withAgent(t testing.TB, n int, runArgs ...string) (*harness.Fleet, *harness.Agent) {
	t.Helper()
	f := harness.NewFleet(t, n, runArgs...)
	a := f.Join(t, harness.AgentOptions{Runtime: harness.NewRuntime(t)})
	a.Start(t)
	a.Connected(t)
	return f, a
}

func TestAnAgentJoinsAndItsTasksTellHowTheyEnded(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	const words = "example.org/tests/words:1"
	rt := harness.NewRuntime(t, image.Options{Name: words, Files: map[string]image.File{"/LICENSE": {Data: text}}})
	f := harness.NewFleet(t, 1)
	a := f.Join(t, harness.AgentOptions{Runtime: rt, Site: "lab"})
	a.Start(t)
	if doc := a.Connected(t); doc.Site != "lab" || doc.Link != "quic" || doc.Version == "" {
		t.Errorf("the agent is shown as %+v", doc)
	}

	t.Run("a word count", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Image: words, Command: []string{"wc", "-w", "/LICENSE"}, Site: "lab"})
		task := f.End(t, id)
		if task.State != "TASK_FINISHED" || task.ExitCode == nil || *task.ExitCode != 0 || task.Agent != a.ID {
			t.Errorf("the task ended as %s", harness.Tell(task))
		}
		want := fmt.Sprintf("%d /LICENSE\n", len(strings.Fields(string(text))))
		if stdout, stderr := f.Output(t, id); stdout != want || stderr != "" {
			t.Errorf("it printed %q and %q, want %q", stdout, stderr, want)
		}
		var states []string
		for _, h := range task.History {
			states = append(states, h.State)
		}
		if got := strings.Join(states, " "); got != "TASK_STAGING TASK_STAGING TASK_STARTING TASK_RUNNING TASK_FINISHED" {
			t.Errorf("its states were %s", got)
		}
	})
	t.Run("followed output", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: sh("echo one; echo two >&2; sleep 0.3; echo three")})
		f.Await(t, id, "it is placed", func(task client.Task) bool { return task.Agent != "" && task.State != "TASK_STAGING" })
		var out, errs string
		err := f.Logs(t.Context(), id, client.LogOptions{Follow: true, Tail: -1, Stdout: true, Stderr: true}, func(isErr bool, data []byte) error {
			if isErr {
				errs += string(data)
			} else {
				out += string(data)
			}
			return nil
		})
		if err != nil || out != "one\nthree\n" || errs != "two\n" {
			t.Errorf("followed %q and %q, error %v", out, errs, err)
		}
		f.End(t, id)
	})
	code := func(n int) *int { return &n }
	for _, c := range []struct {
		name, script string
		code         *int
		signal       int
		oom          bool
		reason       string
	}{
		{"an exit code", "exit 7", code(7), 0, false, "COMMAND_EXECUTOR_FAILED"},
		{"a signal", "sh -c 'kill -SEGV $$'; exit $?", nil, 11, false, "COMMAND_EXECUTOR_FAILED"},
		{"out of memory", "exec tail -c 200000000 /dev/zero", nil, 0, true, "CONTAINER_LIMITATION_MEMORY"},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := f.End(t, f.Submit(t, client.Submit{Command: sh(c.script)}))
			same := task.ExitCode == c.code || task.ExitCode != nil && c.code != nil && *task.ExitCode == *c.code
			if task.State != "TASK_FAILED" || !same || task.Signal != c.signal || task.OOM != c.oom || task.Reason != c.reason {
				t.Errorf("code %v, signal %d, out of memory %v: %s", task.ExitCode, task.Signal, task.OOM, harness.Tell(task))
			}
		})
	}
}

func TestStoppingATaskGivesItItsGracePeriod(t *testing.T) {
	t.Parallel()
	f, _ := withAgent(t, 1)
	grace := func(d time.Duration) client.Stop {
		g := client.Duration(d)
		return client.Stop{Grace: &g}
	}
	stop := func(t *testing.T, id string, s client.Stop) client.Task {
		t.Helper()
		if _, err := f.StopTask(t.Context(), id, s); err != nil {
			t.Fatal(err)
		}
		return f.End(t, id)
	}
	printed := func(t *testing.T, id, text string) {
		t.Helper()
		harness.Eventually(t, "the task prints "+text, func() bool {
			out, _ := f.Output(t, id)
			return strings.Contains(out, text)
		})
	}

	t.Run("a task that traps TERM ends by itself", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: sh("trap 'echo bye; exit 3' TERM; echo ready; sleep 1000 & wait")})
		f.Running(t, id)
		printed(t, id, "ready")
		began := time.Now()
		task := stop(t, id, grace(30*time.Second))
		if task.State != "TASK_KILLED" || task.ExitCode == nil || *task.ExitCode != 3 || time.Since(began) > 10*time.Second {
			t.Errorf("after %v: %s", time.Since(began), harness.Tell(task))
		}
		if out, _ := f.Output(t, id); out != "ready\nbye\n" {
			t.Errorf("it printed %q", out)
		}
	})
	t.Run("a task that ignores TERM is killed when the grace period is over", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: sh("trap 'echo no' TERM; echo ready; while :; do sleep 0.1; done")})
		f.Running(t, id)
		printed(t, id, "ready")
		began := time.Now()
		task := stop(t, id, grace(time.Second))
		took := time.Since(began)
		if task.State != "TASK_KILLED" || task.Signal != 9 || took < time.Second || took > 10*time.Second {
			t.Errorf("after %v: %s", took, harness.Tell(task))
		}
		states := harness.Tell(task)
		if !strings.Contains(states, "TASK_KILLING") {
			t.Errorf("nobody was told that it was being killed: %s", states)
		}
		if out, _ := f.Output(t, id); !strings.Contains(out, "no\n") {
			t.Errorf("it was not asked to end: it printed %q", out)
		}
	})
	t.Run("a second stop may shorten the grace period", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: sh("trap '' TERM; echo ready; while :; do sleep 0.1; done")})
		f.Running(t, id)
		printed(t, id, "ready")
		if _, err := f.StopTask(t.Context(), id, grace(time.Hour)); err != nil {
			t.Fatal(err)
		}
		f.Await(t, id, "it is being killed", func(task client.Task) bool { return task.State == "TASK_KILLING" })
		if task := stop(t, id, grace(0)); task.State != "TASK_KILLED" || task.Signal != 9 {
			t.Error(harness.Tell(task))
		}
	})
	t.Run("a waiting task is stopped without an agent", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: []string{"true"}, CPUs: "1000"})
		task := stop(t, id, client.Stop{})
		if task.State != "TASK_KILLED" || task.Agent != "" {
			t.Error(harness.Tell(task))
		}
	})
	t.Run("stopping an ended task changes nothing", func(t *testing.T) {
		id := f.Submit(t, client.Submit{Command: []string{"true"}})
		before := f.End(t, id)
		if after := stop(t, id, client.Stop{}); after.State != "TASK_FINISHED" || after.Revision != before.Revision {
			t.Error(harness.Tell(after))
		}
	})
}
