package sim

import (
	"testing"
	"time"
)

// The clock of a machine steps, and what a process measures does not.
func TestTwoClocks(t *testing.T) {
	w := &world{now: epoch}
	var c clock
	before := c.now(w)
	w.now, c.off = w.now.Add(time.Minute), -5*365*24*time.Hour
	after := c.now(w)
	if d := after.Sub(before); d != time.Minute {
		t.Errorf("a process measures %v of a minute", d)
	}
	if d := after.Round(0).Sub(before.Round(0)); d != time.Minute+c.off {
		t.Errorf("the clock was set by %v and shows %v", c.off, d)
	}
	if got, want := after.Round(0), w.now.Add(c.off); !got.Equal(want) || !before.Round(0).Equal(epoch) {
		t.Errorf("the clock shows %v instead of %v", got, want)
	}
}
