package checkpoint_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tenderfleet/tender/agent/checkpoint"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/agent/reports"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func record(id fleet.TaskID) lifecycle.Record {
	r := lifecycle.Record{
		Assignment: fleet.Assignment{
			Task: id, Spec: fleet.TaskSpec{Name: "n", Image: "i", Command: []string{"a", "b"}, Env: map[string]string{"K": "v"}, KillGrace: time.Second},
			Resources: fleet.Resources{CPUs: 500, GPUs: []gpu.UUID{"GPU-1"}}, Seq: 2, Kill: true, KillGrace: 3 * time.Second,
		},
		Phase: lifecycle.Ended, Freed: true, Acked: 9,
		Running: time.Date(2026, 5, 6, 7, 0, 0, 1, time.UTC), Health: fleet.TaskUnhealthy,
		Checked: fleet.CheckResult{Kind: fleet.CheckHTTP, Known: true, StatusCode: 503},
		Verdict: lifecycle.Verdict{State: fleet.TaskFailed, Reason: fleet.ReasonMaxCompletion, Text: "too long"},
	}
	health := fleet.NewHealthCheck(fleet.CheckTCP)
	r.Assignment.Spec.Health, r.Assignment.Spec.MaxCompletion = &health, time.Hour
	r.Assignment.Spec.Limits.Mem = fleet.Unlimited
	r.Reports.Add(fleet.Status{Task: id, State: fleet.TaskFailed, Time: time.Date(2026, 5, 6, 7, 8, 9, 123456789, time.UTC), ExitCode: 7})
	return r
}

func open(t *testing.T, path string) *checkpoint.File {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWhatIsWrittenIsLoadedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "agent.db")
	f := open(t, path)
	if err := f.Write(checkpoint.Changes{
		Save: []lifecycle.Record{record("t1"), record("t2"), record("t3")},
		Head: &lifecycle.SaveHead{Term: 3, Generation: 8},
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(checkpoint.Changes{Forget: []fleet.TaskID{"t2", "none"}}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	term, gen, got, err := open(t, path).Load()
	if err != nil || term != 3 || gen != 8 {
		t.Fatalf("term %d generation %d: %v", term, gen, err)
	}
	want := []lifecycle.Record{record("t1"), record("t3")}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(reports.Queue{})); d != "" {
		t.Fatal(d)
	}
}

func TestTwoAgentsOnOneDirectoryAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	open(t, path)
	if _, err := checkpoint.Open(path); !errors.Is(err, checkpoint.ErrInUse) {
		t.Fatalf("got %v", err)
	}
}

func TestUnwritableDirectory(t *testing.T) {
	// /proc takes no files, from root neither.
	if _, err := checkpoint.Open("/proc/tender/agent.db"); err == nil {
		t.Fatal("no error")
	}
}
