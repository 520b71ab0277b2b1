package sim

import (
	"time"
	"unsafe"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/fleet"
)

// clock is a machine's: it may be wrong from the beginning, and steps now and
// then, as when somebody sets it. A process does not see a step in what it
// measures with time.Now alone; it sees one in what it reads from a disk, the
// log or another machine.
type clock struct {
	off     time.Duration // from the world's time
	stepped time.Time     // when it did last, in the world's time
}

// stepApart is the least time between two steps of a clock, and leastStep the
// least one: more than an agent is ever down here. What was set back by less
// than the time in which nobody looked cannot be noticed by anybody.
const (
	stepApart = 4 * time.Minute
	leastStep = 3 * time.Minute
)

// jump sets a clock forwards or back, by minutes or by years.
func (c *clock) jump(w *world, what any) {
	if !c.stepped.IsZero() && w.now.Sub(c.stepped) < stepApart {
		return
	}
	most := []time.Duration{time.Hour, 30 * 24 * time.Hour, 10 * 365 * 24 * time.Hour}[w.rng.IntN(3)]
	to := w.between(leastStep, most)
	if w.rng.IntN(2) == 0 {
		to = -to
	}
	if now := c.off + to; now > 20*365*24*time.Hour || now < -20*365*24*time.Hour {
		to = -to
	}
	c.off, c.stepped = c.off+to, w.now
	w.stats.Jumps++
	w.logf("the clock of %v is set by %v", what, to)
}

// since reports whether the clock has been set since then.
func (c *clock) since(t time.Time) bool { return !c.stepped.IsZero() && !c.stepped.Before(t) }

// now is what time.Now says in a process of the machine: two readings in one
// value, the second of which does not step. No call makes such a value, so it is
// put together as package time lays it out; TestTwoClocks holds it to that.
func (c *clock) now(w *world) time.Time {
	const (
		two    = 1 << 63
		nanos  = 30
		origin = -2682288000 // 1885, in seconds since 1970
	)
	wall := w.now.Add(c.off)
	v := struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{wall: two | uint64(wall.Unix()-origin)<<nanos | uint64(wall.Nanosecond()), ext: int64(w.now.Sub(epoch)) + 1}
	return *(*time.Time)(unsafe.Pointer(&v))
}

// plain leaves the reading that can be written down and sent.
func plain(t *time.Time) {
	if *t = t.Round(0); t.IsZero() {
		*t = time.Time{}
	}
}

// written is a record as it comes back from the disk.
func written(r lifecycle.Record) lifecycle.Record {
	r.Reports.Pending = sent(r.Reports.Pending)
	r.Reports.Reset()
	for _, t := range []*time.Time{&r.Running, &r.Since, &r.Window, &r.Next} {
		plain(t)
	}
	return r
}

// sent are updates as they arrive.
func sent(us []fleet.StatusUpdate) []fleet.StatusUpdate {
	out := append([]fleet.StatusUpdate(nil), us...)
	for i := range out {
		plain(&out[i].Status.Time)
	}
	return out
}
