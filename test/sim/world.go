package sim

import (
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Options size a run; zero values mean the defaults.
type Options struct {
	Agents int           // 5
	Busy   time.Duration // how long faults and submissions go on: 3 min
	Settle time.Duration // how long the fleet has to come to rest: 30 min
	Trace  io.Writer     // every step, for people
}

// world is the clock, the queue of what is to happen, and the dice.
type world struct {
	opt   Options
	rng   *rand.Rand
	now   time.Time
	queue eventQueue
	seq   uint64
	err   error
	// looked is the second in which it was asked last whether all rests.
	looked int64
	// calm ends all faults: what is left must come to rest.
	calm   bool
	trio   *trio
	agents []*agentSim
	tasks  []fleet.TaskID
	check  checker
	stats  Stats
	keys   *keyring // nil where agents have none
	// outside is a scheduler that is not built in.
	outside *scheduler
}

type event struct {
	at  time.Time
	seq uint64 // equal times keep their order
	do  func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	n := len(*q) - 1
	x := (*q)[n]
	*q = (*q)[:n]
	return x
}

// after schedules something. It is never undone: what is scheduled checks
// whether it still applies.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now.Add(d), w.seq, do})
}

// every repeats something until the end of the run.
func (w *world) every(d time.Duration, do func()) {
	w.after(d, func() {
		do()
		w.every(d, do)
	})
}

func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

// chance is true p times in a thousand, and never once the world is calm.
func (w *world) chance(p int) bool { return !w.calm && w.rng.IntN(1000) < p }

func (w *world) logf(format string, args ...any) {
	if w.opt.Trace != nil {
		fmt.Fprintf(w.opt.Trace, "%9.3fs "+format+"\n", append([]any{w.now.Sub(epoch).Seconds()}, args...)...)
	}
}

func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %v: "+format, append([]any{w.now.Sub(epoch)}, args...)...)
	}
}

// send delivers a message, or not, or twice, late and in any order. The real
// sessions promise more; the cores must not need it. When all is calm, messages
// keep their order.
func (w *world) send(deliver func()) {
	copies := 1
	switch {
	case w.chance(50):
		copies = 0
	case w.chance(50):
		copies = 2
	}
	for range copies {
		late := w.between(time.Millisecond, 80*time.Millisecond)
		if w.calm {
			late = 40 * time.Millisecond
		}
		w.after(late, deliver)
	}
}

// once delivers a message late, or not.
func (w *world) once(deliver func()) {
	late := w.between(time.Millisecond, 80*time.Millisecond)
	if !w.chance(80) {
		w.after(late, deliver)
	}
}

// run takes events until the deadline or until done says so.
func (w *world) run(until time.Time, done func() bool) {
	for len(w.queue) > 0 && w.err == nil && w.queue[0].at.Before(until) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
		if second := w.now.Unix(); done != nil && second > w.looked {
			if w.looked = second; done() {
				return
			}
		}
	}
	if w.err == nil && w.now.Before(until) && done == nil {
		w.now = until
	}
}
