package reports

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Mesos's retry interval of status updates and its bound.
const (
	retryMin = 10 * time.Second
	retryMax = 10 * time.Minute
)

// window is how many updates of one task may wait for their acknowledgement
// after having been sent. A task has five states to go through; what is more
// are results of its checks, of which those not sent yet become one.
const window = 16

// Queue holds the updates of one task that are not yet acknowledged. The
// exported fields are its durable part; the zero value is an empty queue.
type Queue struct {
	// Seq is the number of the last update added.
	Seq     uint64
	Pending []fleet.StatusUpdate

	sent   int // of Pending, how many were sent since the last reset
	fresh  int // of Pending, how many at its end were never sent
	resend time.Time
	wait   time.Duration
}

// Add numbers a status and queues it. A result of a check takes the place of
// an older one that was never sent: only the last one matters.
func (q *Queue) Add(st fleet.Status) fleet.StatusUpdate {
	if last := len(q.Pending) - 1; q.fresh > 0 && st.Checked() && q.Pending[last].Status.Checked() {
		if q.Pending[last].Status.Reason == fleet.ReasonHealthUpdated {
			st.Reason = fleet.ReasonHealthUpdated
		}
		q.Pending = slices.Clone(q.Pending)
		q.Pending[last].Status = st
		return q.Pending[last]
	}
	q.Seq++
	q.fresh++
	u := fleet.StatusUpdate{ID: updateID(st.Task, q.Seq), Seq: q.Seq, Status: st}
	q.Pending = append(q.Pending, u)
	return u
}

// updateID is the same for the same update, also when the agent crashed
// between making and sending it. 16 bytes, a UUID's worth.
func updateID(t fleet.TaskID, seq uint64) fleet.UpdateID {
	sum := sha256.Sum256([]byte(string(t) + "/" + strconv.FormatUint(seq, 10)))
	return fleet.UpdateID(hex.EncodeToString(sum[:16]))
}

// Due returns the updates to send now: those never sent, or all of them when
// the oldest has waited long enough for its acknowledgement.
func (q *Queue) Due(now time.Time) []fleet.StatusUpdate {
	if q.sent > 0 && !now.Before(q.resend) {
		q.sent = 0
		q.wait = min(q.wait*2, retryMax)
		q.resend = now.Add(q.wait)
	}
	end := min(len(q.Pending), window)
	if q.sent >= end {
		return nil
	}
	due := q.Pending[q.sent:end]
	if q.sent == 0 && q.wait == 0 {
		q.wait = retryMin
		q.resend = now.Add(q.wait)
	}
	q.sent = end
	q.fresh = min(q.fresh, len(q.Pending)-end)
	return append([]fleet.StatusUpdate(nil), due...)
}

// Reset makes everything due again: a new session has begun.
func (q *Queue) Reset() { q.sent, q.wait, q.fresh = 0, 0, 0 }

// Ack drops an acknowledged update and those before it, and reports whether
// it was pending. Unknown and doubled acknowledgements are ignored.
func (q *Queue) Ack(id fleet.UpdateID) bool {
	for i, u := range q.Pending {
		if u.ID == id {
			q.Pending = append([]fleet.StatusUpdate(nil), q.Pending[i+1:]...)
			q.sent = max(0, q.sent-i-1)
			q.fresh = min(q.fresh, len(q.Pending))
			q.wait = 0
			return true
		}
	}
	return false
}

// Empty reports whether everything is acknowledged.
func (q *Queue) Empty() bool { return len(q.Pending) == 0 }
