package e2e

import (
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/image"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestATaskThatCannotBeIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	for _, c := range []struct {
		name string
		in   client.Submit
		want []string
	}{
		{"a bad name", client.Submit{Name: "No Spaces"}, []string{"name", "No Spaces"}},
		{"a negative number", client.Submit{CPUs: "-1"}, []string{"cpus", "-1"}},
		{"a number that is none", client.Submit{Mem: "much"}, []string{"mem", "much", "512"}},
		{"more than there can be", client.Submit{CPUs: "99999999999999"}, []string{"cpus"}},
		{"a network that is none", client.Submit{Network: "bridge"}, []string{"network", "bridge", "host"}},
		{"a directory that is none", client.Submit{WorkDir: "here"}, []string{"here", "absolute"}},
		{"a bad variable", client.Submit{Env: map[string]string{"A=B": "c"}}, []string{"A=B"}},
		{"a bad role", client.Submit{Role: "../up"}, []string{"role", "lower-case letters"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			unchanged(t, f, func() {
				_, err := f.Client.Submit(t.Context(), harness.Complete(c.in))
				var p *client.Problem
				if !errors.As(err, &p) || p.Code != client.CodeInvalid || p.State != "TASK_ERROR" || p.Reason != "TASK_INVALID" {
					t.Fatalf("got %#v", err)
				}
				wantText(t, p.Detail+" "+p.Next, c.want...)
			})
		})
	}
	t.Run("no image", func(t *testing.T) {
		unchanged(t, f, func() {
			_, err := f.Client.Submit(t.Context(), client.Submit{CPUs: "1"})
			var p *client.Problem
			if !errors.As(err, &p) || p.Code != client.CodeInvalid {
				t.Fatalf("got %#v", err)
			}
			wantText(t, p.Detail, "image")
		})
	})
	t.Run("a part of a GPU", func(t *testing.T) {
		unchanged(t, f, func() {
			_, err := f.Client.Submit(t.Context(), harness.Complete(client.Submit{GPUs: "0.5"}))
			var p *client.Problem
			if !errors.As(err, &p) || p.State != "TASK_ERROR" || p.Reason != "TASK_INVALID" || p.Status() != 422 {
				t.Fatalf("got %#v", err)
			}
			const mesos = "Task uses invalid resources: Invalid 'gpus' resource: The 'gpus' resource must be an unsigned integer"
			if p.Detail != mesos || fleet.GPUFractionText != mesos {
				t.Errorf("got %q, want Mesos's own words", p.Detail)
			}
		})
	})
	t.Run("an agent's certificate opens no API", func(t *testing.T) {
		cred, err := pki.LoadDir(a.State + "/pki")
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(client.Config{Servers: []string{f.Replicas[0].Addr}, Credential: cred})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		unchanged(t, f, func() {
			if _, err := c.Submit(t.Context(), harness.Complete(client.Submit{})); err == nil {
				t.Error("an agent submitted a task")
			} else {
				wantText(t, err.Error(), "certificate", "not for the API")
			}
		})
	})
	for _, id := range []string{"nobody", "../x", strings.Repeat("a", 300)} {
		if _, err := f.Task(t.Context(), id); err == nil || !strings.Contains(err.Error(), "no task") {
			t.Errorf("task %.20q: %v", id, err)
		}
	}
}

func TestATaskThatCannotRunHereSaysWhy(t *testing.T) {
	t.Parallel()
	empty := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer empty.Close()
	host := strings.TrimPrefix(empty.URL, "http://")
	const foreign = "example.org/tests/foreign:1"
	arch := "arm64"
	f := harness.NewFleet(t, 1)
	a := f.Join(t, harness.AgentOptions{
		Runtime: harness.NewRuntime(t, image.Options{Name: foreign, Arch: arch}),
		Site:    "lab", Args: []string{"--plain-http-registry", host},
	})
	a.Start(t)
	a.Connected(t)

	for _, c := range []struct {
		name string
		in   client.Submit
		want []string
	}{
		{"an image that its registry does not have", client.Submit{Image: host + "/unknown:1"}, []string{host + "/unknown:1", "no such image", "check the name"}},
		{"a registry that is not there", client.Submit{Image: "127.0.0.1:1/unknown:1"}, []string{"127.0.0.1:1/unknown:1", "registry cannot be reached"}},
		{"an image for another architecture", client.Submit{Image: foreign}, []string{foreign, "is for linux/arm64"}},
		{"a program that the image lacks", client.Submit{Command: []string{"no-such-program"}}, []string{"no-such-program", "check the command"}},
		{"a user that the image lacks", client.Submit{User: "nobody-knows", Command: []string{"true"}}, []string{"nobody-knows", "not in the image"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := f.Submit(t, c.in)
			task := f.End(t, id)
			if task.State != "TASK_FAILED" || task.Reason != "CONTAINER_LAUNCH_FAILED" || task.ExitCode != nil {
				t.Error(harness.Tell(task))
			}
			wantText(t, task.Message, c.want...)
			if n := a.Runtime.Starts(id); n != 0 {
				t.Errorf("it was started %d times", n)
			}
			harness.Eventually(t, "nothing is left of it", func() bool {
				ids, err := a.Runtime.Containers(t.Context())
				return err == nil && len(ids) == 0
			})
		})
	}
	for _, c := range []struct {
		name   string
		in     client.Submit
		reason string
	}{
		{"too many processors", client.Submit{CPUs: "1000"}, "1 agent: not enough cpus: needs 1000, has"},
		{"too much memory", client.Submit{Mem: "100T"}, "1 agent: not enough memory: needs 104857600 MiB, has"},
		{"a GPU where there is none", client.Submit{GPUs: "1"}, "1 agent: not enough GPUs: needs 1, has 0"},
		{"a site where nobody stands", client.Submit{Site: "moon"}, `1 agent: stands at site "lab", not "moon"`},
		{"an agent that is not there", client.Submit{Agent: "a77"}, "1 agent: only agent a77 was asked for"},
		{"a label that nobody has", client.Submit{Labels: map[string]string{"rack": "9"}}, "1 agent: has no label rack=9"},
	} {
		t.Run(c.name, func(t *testing.T) { waits(t, f, c.in, c.reason) })
	}
}

// waits checks that a task stays where it is, for a reason that no end of
// another task will cure, and can be stopped.
func waits(t *testing.T, f *harness.Fleet, in client.Submit, reason string) {
	t.Helper()
	id := f.Submit(t, in)
	task := f.Await(t, id, "it waits for good, because "+reason, func(task client.Task) bool {
		return task.Waiting != nil && task.Waiting.Never && strings.Contains(task.Waiting.Reason, reason)
	})
	if task.State != "TASK_STAGING" || task.Agent != "" {
		t.Error(harness.Tell(task))
	}
	why, err := f.Why(t.Context(), id)
	if err != nil || len(why.Agents) != 1 {
		t.Errorf("why: %+v, error %v", why, err)
	}
	if _, err := f.StopTask(t.Context(), id, client.Stop{}); err != nil {
		t.Error(err)
	}
	if task := f.End(t, id); task.State != "TASK_KILLED" {
		t.Error(harness.Tell(task))
	}
}
