package lifecycle

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Contact is what is durable of the last contact with the control plane. It is
// written with every few stamps that are echoed, and once a minute while there
// are none, so that what is read after a crash is never later than the truth.
type Contact struct {
	// At is when the question was asked that a leader has answered, by the
	// machine's clock; Boot is the life of the machine in which that was.
	At   time.Time
	Boot string
	// Away is how long ago that was when this was written, at Saved.
	Away  time.Duration
	Saved time.Time
}

// contact is how long the agent has been alone. It matters to tasks that are
// stopped when that is too long, and is kept for them only.
type contact struct {
	known Contact // as it was read
	plain bool    // the session itself is contact
	// met is the last contact, or the beginning of the process; before it the
	// agent had been alone for floor already.
	met   time.Time
	floor time.Duration
	boot  string // in which the last contact was
	// unsure: the clock went back while no process looked, so that floor may be
	// too short.
	unsure bool
	stamps []time.Time // asked and not yet answered, oldest first
	saved  time.Time
	kept   time.Time // the contact that was written then
}

const (
	// askLeast is the shortest time between two stamps. There are to be a few in
	// the shortest time after which a task is stopped.
	askLeast = 5 * time.Second
	// maxStamps bounds the stamps that nobody answers.
	maxStamps = 16
	// saveEvery is how often it is written that there is no contact.
	saveEvery = time.Minute
)

// shortest is the shortest time without contact that a task allows; 0 when all
// go on for ever.
func (a *Agent) shortest() time.Duration {
	var least time.Duration
	for _, t := range a.tasks {
		if d := t.Assignment.Spec.Disconnect.StopAfter; d > 0 && t.Phase != Ended && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// asks is the time between two pulls of a connected agent.
func (a *Agent) asks() time.Duration {
	if d := a.shortest(); d > 0 && !a.plain {
		return min(max(d/6, askLeast), pullEvery)
	}
	return pullEvery
}

// stamp makes the stamp of a pull: its time, which is another one after a
// restart of the process.
func (a *Agent) stamp(now time.Time) uint64 {
	if a.plain || a.shortest() == 0 {
		return 0
	}
	if len(a.stamps) >= maxStamps {
		a.stamps = a.stamps[1:]
	}
	a.stamps = append(a.stamps, now)
	return nanos(now)
}

func nanos(t time.Time) uint64 { return uint64(t.UnixNano()) } //nolint:gosec // compared, never calculated with

// echoed: a leader has seen a stamp, so it heard this agent no earlier than when
// the stamp was made. That is the contact, not when the answer came.
func (a *Agent) echoed(now time.Time, echo uint64) {
	if echo == 0 {
		return
	}
	i := slices.IndexFunc(a.stamps, func(t time.Time) bool { return nanos(t) == echo })
	if i < 0 {
		return
	}
	at := a.stamps[i]
	a.stamps = slices.Delete(a.stamps, 0, i+1)
	a.meet(at)
	if a.met.Sub(a.kept) >= a.asks() {
		a.saveContact(now)
	}
}

func (a *Agent) meet(at time.Time) {
	if at.Before(a.met) {
		return
	}
	a.met, a.floor, a.unsure, a.contact.boot = at, 0, false, a.boot
}

// heard counts a session with a control plane that answers no stamps.
func (a *Agent) heard(now time.Time) {
	if a.connected && a.plain {
		a.meet(now)
	}
}

// recall begins to count in a new process. Time in which no process ran is read
// off the machine's clock; where that went back, it is not known.
func (a *Agent) recall(now time.Time) {
	c := a.known
	a.met, a.floor, a.contact.boot = now, c.Away, c.Boot
	if c.At.IsZero() {
		return
	}
	a.unsure = now.Before(c.Saved)
	a.floor = max(c.Away, now.Sub(c.At))
	a.saveContact(now)
}

// away is how long the agent has been alone. For exclusive tasks it is the
// longer of what the steady clock and the machine's say: while a machine sleeps,
// the first one stands still.
func (a *Agent) away(now time.Time, exclusive bool) time.Duration {
	d := now.Sub(a.met)
	if exclusive {
		d = max(d, now.Round(0).Sub(a.met.Round(0)))
	}
	return a.floor + max(d, 0)
}

// cutOff reports whether a task is to be stopped for want of contact. What is
// not certain is decided against an exclusive task: it may run elsewhere.
func (a *Agent) cutOff(now time.Time, s *fleet.TaskSpec) bool {
	d := s.Disconnect.StopAfter
	return d > 0 && (s.Exclusive && a.unsure || a.away(now, s.Exclusive) >= d)
}

// holdsBack reports whether a task waits for the first contact in this life of
// the machine: how long it was down, a clock that may have none to set it by
// cannot tell, and an exclusive task may have been replaced.
func (a *Agent) holdsBack(t *task) bool {
	s := &t.Assignment.Spec
	return s.Exclusive && s.Disconnect.Replace && t.Boot != a.boot && a.contact.boot != a.boot
}

func (a *Agent) saveHead(now time.Time) {
	away := a.away(now, true)
	h := Head{Term: a.term, Generation: a.generation}
	if a.shortest() > 0 {
		h.Contact = Contact{At: now.Round(0).Add(-away), Boot: a.contact.boot, Away: away, Saved: now.Round(0)}
	}
	a.saved, a.kept = now, now.Add(-away)
	a.do(SaveHead{h})
}

// saveContact writes the contact where a task depends on it.
func (a *Agent) saveContact(now time.Time) {
	if a.shortest() > 0 {
		a.saveHead(now)
	}
}
