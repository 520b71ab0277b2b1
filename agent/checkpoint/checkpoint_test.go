package checkpoint_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

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
		Boot:    "b", Restarts: 3, Tried: 2, Window: time.Date(2026, 5, 6, 7, 1, 0, 0, time.UTC), Next: time.Date(2026, 5, 6, 7, 2, 0, 0, time.UTC),
		Since: time.Date(2026, 5, 6, 7, 0, 30, 0, time.UTC), Ailing: "its health check failed",
		Verdict: lifecycle.Verdict{State: fleet.TaskFailed, Reason: fleet.ReasonMaxCompletion, Text: "too long"},
	}
	health := fleet.NewHealthCheck(fleet.CheckTCP)
	r.Assignment.Spec.Health, r.Assignment.Spec.MaxCompletion = &health, time.Hour
	r.Assignment.Spec.Limits.Mem = fleet.Unlimited
	r.Assignment.Spec.Restart = fleet.Restart{Attempts: 3, Interval: time.Hour, Delay: time.Second, Mode: fleet.RestartDelay}
	r.Assignment.Spec.Disconnect = fleet.Disconnect{StopAfter: time.Minute, LostAfter: time.Hour, Replace: true, Reconcile: fleet.ReconcileLongest}
	r.Assignment.Spec.Exclusive = true
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
	head := lifecycle.Head{Term: 3, Generation: 8, Contact: lifecycle.Contact{
		At: time.Date(2026, 5, 6, 7, 8, 9, 1, time.UTC), Boot: "b", Away: time.Minute, Saved: time.Date(2026, 5, 6, 7, 9, 9, 1, time.UTC),
	}}
	path := filepath.Join(t.TempDir(), "state", "agent.db")
	f := open(t, path)
	if err := f.Write(checkpoint.Changes{
		Save: []lifecycle.Record{record("t1"), record("t2"), record("t3")},
		Head: &lifecycle.SaveHead{Head: head},
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(checkpoint.Changes{Forget: []fleet.TaskID{"t2", "none"}}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	read, got, err := open(t, path).Load()
	if d := cmp.Diff(head, read); err != nil || d != "" {
		t.Fatal(d, err)
	}
	want := []lifecycle.Record{record("t1"), record("t3")}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(reports.Queue{})); d != "" {
		t.Fatal(d)
	}
}

// After a downgrade the file may be newer than the program: that says so, and
// the program that wrote it finds everything as it was.
func TestNewerFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	f := open(t, path)
	if err := f.Write(checkpoint.Changes{Save: []lifecycle.Record{record("t1")}}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	format := func(v byte) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("head")).Put([]byte("version"), []byte{v}) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	format(2)
	_, err := checkpoint.Open(path)
	want := "open checkpoint " + path + ": it was written by a newer version of tender-agent (format [2], this one reads 1); install that version again"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	format(1)
	if _, records, err := open(t, path).Load(); err != nil || len(records) != 1 {
		t.Errorf("%d records, %v", len(records), err)
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
