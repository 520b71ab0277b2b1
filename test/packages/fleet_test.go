package packages

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport/fleet"
)

// trio is a control plane of three on a bed's wide-area network, of the programs
// of the packages.
type trio struct {
	*client.Client
	bed *bed.Bed
}

// newTrio starts a trio from bin, the directory of its programs.
func newTrio(t *testing.T, b *bed.Bed, bin string) *trio {
	t.Helper()
	f := &trio{bed: b}
	// Sockets have paths of at most 107 bytes, which t.TempDir exceeds.
	dir := shortDir(t)
	for i, n := range b.Nodes(bed.Replica) {
		data, addr := filepath.Join(dir, n.Name), n.Addr.String()+":7443"
		socket := filepath.Join(dir, n.Name+".sock")
		args := []string{"init", "--data", data, "--addr", addr, "--id", n.Name, "--trust-domain", "packages.test"}
		stdin := ""
		if i > 0 {
			args = []string{"join", "--data", data, "--addr", addr, "--id", n.Name, "-"}
			stdin = f.line(t, client.CreateToken{Kind: "replica"})
		}
		if _, err := b.Run(t.Context(), n.Name, stdin, filepath.Join(bin, "tenderd"), args...); err != nil {
			t.Fatal(err)
		}
		argv := b.Argv(n.Name, filepath.Join(bin, "tenderd"), "run", "--data", data, "--socket", socket, "--raft-patience", "3")
		harness.Spawn(t, n.Name, argv[0], argv[1:]...)
		if i == 0 {
			c, err := client.New(client.Config{Socket: socket, Version: "packages"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			f.Client = c
		}
		harness.Eventually(t, fmt.Sprintf("%d replicas vote", i+1), func() bool {
			doc, err := f.Replicas(t.Context())
			votes := 0
			for _, r := range doc.Replicas {
				if r.Voter {
					votes++
				}
			}
			return err == nil && doc.Leader != "" && votes == i+1
		})
	}
	return f
}

// line makes a join line.
func (f *trio) line(t *testing.T, c client.CreateToken) string {
	t.Helper()
	var line string
	harness.Eventually(t, "a join line is made", func() bool {
		tok, err := f.CreateToken(t.Context(), c)
		line = tok.Line
		return err == nil
	})
	return line
}

// agent waits until an agent is as wanted.
func (f *trio) agent(t *testing.T, id, what string, ok func(client.Agent) bool) client.Agent {
	t.Helper()
	var doc client.Agent
	harness.Eventually(t, "agent "+id+" "+what, func() bool {
		var err error
		doc, err = f.Agent(t.Context(), id)
		return err == nil && ok(doc)
	})
	return doc
}

// task waits until a task is in a state.
func (f *trio) task(t *testing.T, id, state string) client.Task {
	t.Helper()
	var task client.Task
	defer func() {
		if t.Failed() {
			t.Logf("task %s: %s", id, harness.Tell(task))
		}
	}()
	harness.Eventually(t, "task "+id+" is "+state, func() bool {
		var err error
		task, err = f.Task(t.Context(), id)
		return err == nil && task.State == state
	})
	return task
}

// run starts a task and waits until it is in a state.
func (f *trio) run(t *testing.T, script, state string) string {
	t.Helper()
	return f.submit(t, client.Submit{Command: []string{"sh", "-c", script}}, state)
}

// submit is run for a task that asks for more.
func (f *trio) submit(t *testing.T, s client.Submit, state string) string {
	t.Helper()
	s.Image = imageName
	task, err := f.Submit(t.Context(), harness.Complete(s))
	if err != nil {
		t.Fatal(err)
	}
	f.task(t, task.ID, state)
	return task.ID
}

// restarted waits until a task is known to run again, and to have been started
// once by its agent, after one time and before another.
func (f *trio) restarted(t *testing.T, id string, after, before time.Time) {
	t.Helper()
	var task client.Task
	harness.Eventually(t, "task "+id+" is known to run again", func() bool {
		var err error
		task, err = f.Task(t.Context(), id)
		return err == nil && task.State == "TASK_RUNNING" && task.Restarts == 1
	})
	var told, ran bool
	for _, st := range task.History {
		if st.Restarts != 1 || st.Time.Before(after) || st.Time.After(before) {
			continue
		}
		told = told || st.Reason == string(fleet.ReasonRestarted) && strings.HasPrefix(st.Message, "the machine restarted")
		ran = ran || told && st.State == "TASK_RUNNING"
	}
	if !told || !ran {
		t.Errorf("the history does not show a restart by the machine between %v and %v:\n%s", after, before, harness.Tell(task))
	}
}

func onlyID(t *testing.T, out string) string {
	t.Helper()
	for line := range strings.Lines(out) {
		if _, id, ok := strings.Cut(strings.TrimSpace(line), " as agent "); ok {
			return id
		}
	}
	t.Fatalf("join names no agent: %s", out)
	return ""
}
