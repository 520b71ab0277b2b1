package cli

import (
	"os"
	"testing"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Ctrl-C ends the waiting, not the drain; one may wait for it again.
func TestInterruptLeavesTheDrain(t *testing.T) {
	f, socket := fleetOf(t)
	if code := <-start(t, socket, "run", image, "hold").code; code != 0 {
		t.Fatalf("run: %d", code)
	}
	c := start(t, socket, "agent", "drain", "a1", "--wait")
	c.err.await(t, "a1: 1 task left\n")
	c.signals <- os.Interrupt
	if code := <-c.code; code != exitError {
		t.Errorf("exit code %d", code)
	}
	c.err.await(t, "error: wait for a1 to drain: ")
	c.err.await(t, "ended by a signal (interrupt)\nnext:  the drain goes on; look at it with: tender agent show a1\n")
	again := start(t, socket, "agent", "drain", "a1", "--wait")
	again.err.await(t, "a1: 1 task left\n")
	f.Finish(fleet.TaskID("busybox-1"), 0)
	if code := <-again.code; code != 0 || again.out.String() != "a1 is drained\n" {
		t.Errorf("exit code %d, %q", code, again.out.String())
	}
}
