package e2e

import (
	"testing"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

func TestATrioFormsByInitAndTwoJoinLines(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 3)
	// Each replica answers on its own socket, wherever the leader is.
	for _, r := range f.Replicas {
		c := r.Client(t)
		doc, err := c.Replicas(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if doc.Self != r.ID || doc.Leader == "" || len(doc.Replicas) != 3 {
			t.Errorf("%s sees %+v", r.ID, doc)
		}
		if _, err := c.CreateToken(t.Context(), client.CreateToken{Kind: "operator"}); err != nil {
			t.Errorf("a command through the socket of %s: %v", r.ID, err)
		}
	}
	tokens, err := f.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(tokens) != 5 { // two for replicas, three of above
		t.Errorf("%d tokens are known, want 5: %+v", len(tokens), tokens)
	}
}

func TestOneReplicaAloneWorks(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 1)
	id := f.Submit(t, client.Submit{Command: []string{"true"}})
	f.Await(t, id, "it waits for an agent", func(task client.Task) bool {
		return task.Waiting != nil && task.Waiting.Reason == "no agent has joined the fleet yet"
	})
	// What it knows outlives it.
	f.Replicas[0].Kill(t)
	f.Replicas[0].Start(t)
	f.Leader(t)
	if task, err := f.Task(t.Context(), id); err != nil || task.State != "TASK_STAGING" {
		t.Errorf("after a restart the task is %s, error %v", task.State, err)
	}
}
