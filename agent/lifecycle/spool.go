package lifecycle

import "time"

// maxSpool bounds the updates of all tasks on the disk, as they are measured.
// Each queue is short by itself (package reports); the bound is for agents with
// very many tasks.
const maxSpool = 64 << 20

// slowRestart is the least time from a crash to the next start while the spool
// is full.
const slowRestart = 10 * time.Minute

// spool measures the updates that wait.
type spool struct{ size int }

func (a *Agent) full() bool { return a.size > maxSpool }

// measure takes over how much a task's updates are, if they are others.
func (a *Agent) measure(t *task) {
	is := [2]int{len(t.Reports.Pending), int(t.Reports.Seq)} //nolint:gosec // compared only
	if is == t.measured {
		return
	}
	t.measured = is
	n := t.Reports.Size()
	a.size += n - t.size
	t.size = n
}

// bound measures what has changed, and where that is too much drops the news
// that is worth least: results of checks, the oldest first, then restarts
// between the first and the last. States are never dropped: rather nothing is
// started again for a while.
func (a *Agent) bound() {
	for _, t := range a.tasks {
		a.measure(t)
	}
	for _, id := range a.ids() {
		if !a.full() {
			return
		}
		if t := a.tasks[id]; t.Reports.Trim(2) {
			t.dirty = true
			a.measure(t)
		}
	}
}
