package sessions

import (
	"fmt"
	"sync"
	"time"

	"github.com/tenderfleet/tender/transport"
)

const (
	// silentAfter is when an agent that says nothing is given up: one that
	// knows no beats sends readings every Heartbeat.
	silentAfter = 30 * time.Second
	// grace is what a beat may be late for packets that are lost and sent again.
	grace = 5 * time.Second
	// maxBeat bounds what an agent may choose.
	maxBeat = time.Minute
	// lastLook is how long before the end it is looked whether something comes
	// at least: a long message over a slow link is no silence.
	lastLook = 10 * time.Second
)

// silence gives a session up when nothing was heard of its agent for too long.
type silence struct {
	conn transport.Session

	mu    sync.Mutex
	limit time.Duration
	at    time.Time // when something was heard
	timer *time.Timer
	last  bool   // the last look is next
	count uint64 // received at the look before
}

func newSilence(conn transport.Session, beat time.Duration) *silence {
	w := &silence{conn: conn, at: time.Now()}
	w.set(beat)
	w.timer = time.AfterFunc(w.limit-lastLook, w.look)
	return w
}

// set changes how often the agent means to say something; zero is unknown.
func (w *silence) set(beat time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = silentAfter
	if beat > 0 {
		w.limit = max(silentAfter, min(beat, maxBeat)+grace)
	}
}

// heard begins anew.
func (w *silence) heard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.at = false, time.Now()
	w.timer.Reset(w.limit - lastLook)
}

func (w *silence) stop() { w.timer.Stop() }

func (w *silence) look() {
	now := transport.Received(w.conn)
	w.mu.Lock()
	over, limit, quiet := w.last && now == w.count, w.limit, time.Since(w.at)
	switch {
	case over:
	case quiet < limit-lastLook: // something was heard while the timer fired
		w.timer.Reset(limit - lastLook - quiet)
	default:
		w.last, w.count = true, now
		w.timer.Reset(lastLook)
	}
	w.mu.Unlock()
	if over { // an agent that hears of it all the same connects again
		_ = w.conn.Close(transport.CodeOK, fmt.Sprintf("nothing was heard of the agent for %v", limit))
	}
}
