package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// wantText checks that a text for people says what it must.
func wantText(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(strings.ToLower(got), strings.ToLower(w)) {
			t.Errorf("%q is missing in: %s", w, strings.TrimSpace(got))
		}
	}
}

// unchanged runs what must not change the control plane's state, and compares
// all of it before and after.
func unchanged(t *testing.T, f *harness.Fleet, do func()) {
	t.Helper()
	before := record(t, f)
	do()
	if diff := cmp.Diff(before, record(t, f)); diff != "" {
		t.Errorf("it changed the control plane (-before +after):\n%s", diff)
	}
}

// record is everything that the control plane tells, without what changes by
// itself.
func record(t *testing.T, f *harness.Fleet) []string {
	t.Helper()
	ctx := t.Context()
	agents, err := f.Agents(ctx)
	for i := range agents {
		a := &agents[i]
		a.LastSeen, a.Readings, a.CertDaysLeft = time.Time{}, nil, nil
		if a.State != client.AgentConnected { // of its last session
			a.Since, a.Remote, a.Link, a.Version = time.Time{}, "", "", ""
		}
	}
	tasks, taskErr := f.Tasks(ctx, client.TaskFilter{All: true})
	tokens, tokenErr := f.Tokens(ctx)
	replicas, replicaErr := f.Client.Replicas(ctx)
	for i := range replicas.Replicas {
		// What moves by itself.
		r := &replicas.Replicas[i]
		r.LastContact, r.HealthySince, r.Lag, r.Disk = time.Time{}, time.Time{}, 0, nil
	}
	for _, err := range []error{err, taskErr, tokenErr, replicaErr} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for _, doc := range []any{agents, tasks, tokens, replicas} {
		text, err := json.MarshalIndent(doc, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(string(text), "\n")...)
	}
	return lines
}
