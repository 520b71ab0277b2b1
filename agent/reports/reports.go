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
// is passing news, of which only some are kept until they are sent.
const window = 16

// keepPassing is how much passing news (see fleet.Status.Passing) is kept of
// what was never sent.
const keepPassing = 16

// Queue holds the updates of one task that are not yet acknowledged. The
// exported fields are its durable part; the zero value is an empty queue.
type Queue struct {
	// Seq is the number of the last update added.
	Seq     uint64
	Pending []fleet.StatusUpdate
	// Fresh is how many at the end of Pending were never sent, to no session of
	// any process. They may still change. What a version before this one wrote
	// has none.
	Fresh int

	sent   int // of Pending, how many were sent since the last reset
	resend time.Time
	wait   time.Duration
}

// Add numbers a status and queues it. A result of a check takes the place of
// an older one right before it that was never sent: only the last one matters.
// Of other passing news the first and the last ones stay.
func (q *Queue) Add(st fleet.Status) fleet.StatusUpdate {
	if last := len(q.Pending) - 1; q.Fresh > 0 && st.Checked() && q.Pending[last].Status.Checked() {
		if q.Pending[last].Status.Reason == fleet.ReasonHealthUpdated {
			st.Reason = fleet.ReasonHealthUpdated
		}
		q.Pending = slices.Clone(q.Pending)
		q.Pending[last].Status = st
		return q.Pending[last]
	}
	q.Seq++
	q.Fresh++
	q.Pending = append(q.Pending, fleet.StatusUpdate{ID: updateID(st.Task, q.Seq), Seq: q.Seq, Status: st})
	q.Trim(keepPassing)
	return q.Pending[len(q.Pending)-1]
}

// Trim drops passing news that was never sent, down to so much: results of
// checks first, the oldest before the others, then what came second. The first
// and the last stay, and every state. The updates after what was dropped move
// up, so that numbers stay without gaps. It reports whether anything changed.
func (q *Queue) Trim(keep int) bool {
	changed := false
	for {
		var passing []int // positions
		for i := len(q.Pending) - q.Fresh; i < len(q.Pending); i++ {
			if q.Pending[i].Status.Passing() {
				passing = append(passing, i)
			}
		}
		if len(passing) <= max(keep, 2) {
			return changed
		}
		drop := passing[1]
		for _, i := range passing[:len(passing)-1] {
			if q.Pending[i].Status.Checked() {
				drop = i
				break
			}
		}
		q.drop(drop)
		changed = true
	}
}

// drop takes out one update that was never sent.
func (q *Queue) drop(at int) {
	q.Pending = slices.Delete(slices.Clone(q.Pending), at, at+1)
	for i := at; i < len(q.Pending); i++ {
		u := &q.Pending[i]
		u.Seq--
		u.ID = updateID(u.Status.Task, u.Seq)
	}
	q.Seq--
	q.Fresh--
}

// Size is about how many bytes the updates take on the disk.
func (q *Queue) Size() int {
	n := 0
	for i := range q.Pending {
		n += updateSize + len(q.Pending[i].Status.Message)
	}
	return n
}

// updateSize is an update's encoding without its message: the names of its
// fields are most of it.
const updateSize = 400

// updateID is the same for the same update, also when the agent crashed
// between making and sending it. 16 bytes, a UUID's worth.
func updateID(t fleet.TaskID, seq uint64) fleet.UpdateID {
	sum := sha256.Sum256([]byte(string(t) + "/" + strconv.FormatUint(seq, 10)))
	return fleet.UpdateID(hex.EncodeToString(sum[:16]))
}

// Due returns the updates to send now: those never sent, or all of them when
// the oldest has waited long enough for its acknowledgement. Where Fresh has
// changed by it, that is to be durable before they are sent.
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
	q.Fresh = min(q.Fresh, len(q.Pending)-end)
	return append([]fleet.StatusUpdate(nil), due...)
}

// Reset makes everything due again: a new session has begun.
func (q *Queue) Reset() { q.sent, q.wait = 0, 0 }

// Ack drops an acknowledged update and those before it, and reports whether
// it was pending. Unknown and doubled acknowledgements are ignored.
func (q *Queue) Ack(id fleet.UpdateID) bool {
	for i, u := range q.Pending {
		if u.ID == id {
			q.Pending = append([]fleet.StatusUpdate(nil), q.Pending[i+1:]...)
			q.sent = max(0, q.sent-i-1)
			q.Fresh = min(q.Fresh, len(q.Pending))
			q.wait = 0
			return true
		}
	}
	return false
}

// Empty reports whether everything is acknowledged.
func (q *Queue) Empty() bool { return len(q.Pending) == 0 }
