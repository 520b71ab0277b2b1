package reports_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/reports"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func seqs(us []fleet.StatusUpdate) []uint64 {
	var out []uint64
	for _, u := range us {
		out = append(out, u.Seq)
	}
	return out
}

func expect(t *testing.T, got []fleet.StatusUpdate, want ...uint64) {
	t.Helper()
	g := seqs(got)
	if len(g) != len(want) {
		t.Fatalf("due %v, want %v", g, want)
	}
	for i := range g {
		if g[i] != want[i] {
			t.Fatalf("due %v, want %v", g, want)
		}
	}
}

func TestUpdatesAreSentOnceInOrderAndResentUntilAcknowledged(t *testing.T) {
	var q reports.Queue
	first := q.Add(fleet.Status{Task: "t", State: fleet.TaskStarting})
	expect(t, q.Due(t0), 1)
	second := q.Add(fleet.Status{Task: "t", State: fleet.TaskRunning})
	expect(t, q.Due(t0), 2)
	expect(t, q.Due(t0.Add(10*time.Second-1)))
	expect(t, q.Due(t0.Add(10*time.Second)), 1, 2)
	expect(t, q.Due(t0.Add(30*time.Second-1)))
	expect(t, q.Due(t0.Add(30*time.Second)), 1, 2) // doubled
	if !q.Ack(first.ID) || q.Ack(first.ID) || q.Ack("nonsense") {
		t.Fatal("acknowledged once, and only what is pending")
	}
	q.Reset()
	expect(t, q.Due(t0.Add(31*time.Second)), 2) // a new session
	if !q.Ack(second.ID) || !q.Empty() {
		t.Fatal("nothing is pending any more")
	}
}

func TestWaitsEndAtTenMinutes(t *testing.T) {
	var q reports.Queue
	q.Add(fleet.Status{Task: "t"})
	now := t0
	expect(t, q.Due(now), 1)
	for _, wait := range []int{10, 20, 40, 80, 160, 320, 600, 600} {
		now = now.Add(time.Duration(wait)*time.Second - 1)
		expect(t, q.Due(now))
		now = now.Add(1)
		expect(t, q.Due(now), 1)
	}
}

// An acknowledgement of a later update covers the earlier ones: the trio
// commits them in order.
func TestAckCoversWhatCameBefore(t *testing.T) {
	var q reports.Queue
	q.Add(fleet.Status{Task: "t"})
	u := q.Add(fleet.Status{Task: "t"})
	q.Add(fleet.Status{Task: "t"})
	q.Due(t0)
	q.Ack(u.ID)
	if len(q.Pending) != 1 || q.Pending[0].Seq != 3 {
		t.Fatalf("%+v", q.Pending)
	}
	expect(t, q.Due(t0.Add(time.Second))) // sent already
}

// An agent that crashed between making and sending an update makes the same.
func TestIDsAreReproducible(t *testing.T) {
	var a, b reports.Queue
	st := fleet.Status{Task: "t", State: fleet.TaskRunning}
	if x, y := a.Add(st), b.Add(st); x.ID != y.ID || len(x.ID) != 32 {
		t.Fatalf("%q %q", x.ID, y.ID)
	}
}

func checked(h fleet.TaskHealth, r fleet.Reason) fleet.Status {
	return fleet.Status{Task: "t", State: fleet.TaskRunning, Health: h, Reason: r}
}

// An agent that is alone for a week keeps the last result, not each.
func TestResultsOfChecksThatWereNeverSentBecomeOne(t *testing.T) {
	var q reports.Queue
	q.Add(fleet.Status{Task: "t", State: fleet.TaskRunning})
	expect(t, q.Due(t0), 1)
	sent := q.Add(checked(fleet.TaskHealthy, fleet.ReasonHealthUpdated))
	expect(t, q.Due(t0), 2)
	for range 50 {
		q.Add(checked(fleet.TaskUnhealthy, fleet.ReasonHealthUpdated))
		q.Add(checked(fleet.TaskHealthy, fleet.ReasonCheckUpdated))
	}
	due := q.Due(t0)
	expect(t, due, 3)
	if st := due[0].Status; st.Health != fleet.TaskHealthy || st.Reason != fleet.ReasonHealthUpdated {
		t.Errorf("the last result, as news of the task's health, became %+v", st)
	}
	if sent.Status != q.Pending[1].Status {
		t.Error("an update changed after it was sent")
	}
	q.Add(checked(fleet.TaskUnhealthy, fleet.ReasonHealthUpdated))
	q.Add(fleet.Status{Task: "t", State: fleet.TaskKilled})
	expect(t, q.Due(t0), 4, 5)
}

func TestAQueueIsSentNoFurtherThanItsWindow(t *testing.T) {
	var q reports.Queue
	for range 100 {
		q.Add(checked(fleet.TaskHealthy, fleet.ReasonHealthUpdated))
		q.Due(t0)
	}
	if n := len(q.Pending); n != 17 {
		t.Fatalf("%d results wait for an acknowledgement, want the window of 16 and the last one", n)
	}
	q.Ack(q.Pending[0].ID)
	expect(t, q.Due(t0), 17)
}

func TestAnAcknowledgementOfWhatWasNeverSent(t *testing.T) {
	var q reports.Queue
	u := q.Add(checked(fleet.TaskHealthy, fleet.ReasonHealthUpdated))
	q.Ack(u.ID)
	q.Add(checked(fleet.TaskUnhealthy, fleet.ReasonHealthUpdated))
	expect(t, q.Due(t0), 2)
}

// A queue from the disk knows what was sent by the process before.
func TestResultsFromBeforeARestartAreNotChanged(t *testing.T) {
	var q reports.Queue
	q.Add(checked(fleet.TaskHealthy, fleet.ReasonHealthUpdated))
	q.Due(t0)
	sent := reports.Queue{Seq: q.Seq, Pending: q.Pending, Fresh: q.Fresh}
	sent.Add(checked(fleet.TaskUnhealthy, fleet.ReasonHealthUpdated))
	expect(t, sent.Due(t0), 1, 2)

	var never reports.Queue
	never.Add(checked(fleet.TaskHealthy, fleet.ReasonHealthUpdated))
	again := reports.Queue{Seq: never.Seq, Pending: never.Pending, Fresh: never.Fresh}
	again.Add(checked(fleet.TaskUnhealthy, fleet.ReasonHealthUpdated))
	expect(t, again.Due(t0), 1)
}

func restarted(n int) fleet.Status {
	return fleet.Status{Task: "t", State: fleet.TaskRunning, Reason: fleet.ReasonRestarted, Restarts: n}
}

// A task that crashes for weeks, and is checked in between, while its agent is
// alone and is itself restarted now and then.
func TestAQueueOfAnAgentThatIsAloneStaysShort(t *testing.T) {
	var q reports.Queue
	q.Add(fleet.Status{Task: "t", State: fleet.TaskStarting})
	q.Add(fleet.Status{Task: "t", State: fleet.TaskRunning})
	for n := 1; n <= 1000; n++ {
		q.Add(restarted(n))
		q.Add(checked(fleet.TaskHealthy, fleet.ReasonHealthUpdated))
		if n%50 == 0 {
			q = reports.Queue{Seq: q.Seq, Pending: q.Pending, Fresh: q.Fresh}
		}
	}
	q.Add(fleet.Status{Task: "t", State: fleet.TaskFailed, Restarts: 1000})
	if n := len(q.Pending); n != 3+16 {
		t.Fatalf("%d updates are kept", n)
	}
	var first, last int
	for i, u := range q.Pending {
		if u.Seq != uint64(i+1) || i > 0 && u.ID == q.Pending[i-1].ID {
			t.Fatalf("update %d has the number %d and the id %s", i, u.Seq, u.ID)
		}
		if r := u.Status.Restarts; r > 0 && u.Status.State == fleet.TaskRunning {
			if first == 0 {
				first = r
			}
			if r <= last {
				t.Fatalf("restart %d comes after %d", r, last)
			}
			last = r
		}
	}
	if first != 1 || last != 1000 {
		t.Errorf("the first restart that is told is %d, the last %d", first, last)
	}
	if s := q.Pending; s[0].Status.State != fleet.TaskStarting || s[1].Status.State != fleet.TaskRunning || s[len(s)-1].Status.State != fleet.TaskFailed {
		t.Errorf("a state was lost: %+v", s)
	}
	if q.Trim(2); len(q.Pending) != 5 || q.Pending[2].Status.Restarts != 1 {
		t.Errorf("where space is short %d updates are kept: %+v", len(q.Pending), q.Pending)
	}
}

// What was sent may be committed already: it keeps its number.
func TestWhatWasSentIsNeverDropped(t *testing.T) {
	var q reports.Queue
	for n := 1; n <= 10; n++ {
		q.Add(restarted(n))
	}
	expect(t, q.Due(t0), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	for n := 11; n <= 100; n++ {
		q.Add(restarted(n))
	}
	for i, u := range q.Pending[:10] {
		if u.Status.Restarts != i+1 {
			t.Fatalf("update %d became %+v", i+1, u)
		}
	}
	if n := len(q.Pending); n != 26 || q.Seq != 26 {
		t.Errorf("%d updates, the last number is %d", n, q.Seq)
	}
}
