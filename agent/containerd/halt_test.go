package containerd

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/ctrd"
)

// At a shutdown a task has its grace period, and one that ignores TERM does not
// hold the others or the machine.
func TestHalt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	heeds := task("heeds", sh("trap 'exit 3' TERM; while :; do sleep 0.05; done"))
	ignores := task("ignores", sh("trap '' TERM; while :; do sleep 0.05; done"))
	ignores.Spec.KillGrace = time.Hour
	for _, o := range []executor.Task{heeds, ignores} {
		if err := x.Start(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	n, err := x.Halt(t.Context(), time.Second)
	if took := time.Since(began); n != 2 || err != nil || took < time.Second || took > 20*time.Second {
		t.Errorf("%d tasks ended in %v: %v", n, took, err)
	}
	if n, err := x.Halt(t.Context(), time.Second); n != 0 || err != nil {
		t.Errorf("the second time: %d tasks, %v", n, err)
	}
	e, err := x.Wait(t.Context(), heeds.ID)
	if err != nil || e.Code != 3 {
		t.Errorf("the task that heeds TERM: %+v, %v", e, err)
	}
	e, err = x.Wait(t.Context(), ignores.ID)
	if err != nil || e.Signal != 9 {
		t.Errorf("the task that ignores TERM: %+v, %v", e, err)
	}
	for _, o := range []executor.Task{heeds, ignores} {
		if err := x.Remove(t.Context(), o.ID); err != nil {
			t.Error(err)
		}
	}
}
