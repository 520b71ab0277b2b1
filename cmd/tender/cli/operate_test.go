package cli

import (
	"os"
	"testing"

	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Whoever waits for a drain hears how much is left.
func TestDrainSaysWhatIsLeft(t *testing.T) {
	f, socket := fleetOf(t)
	f.Register(apitest.Info("m", "a"))
	for _, id := range []fleet.TaskID{"t1", "t2"} {
		if err := f.Launch("m", id, "hold"); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, socket, "agent", "drain", "a1", "--wait")
	c.err.await(t, "a1: 2 tasks left\n")
	f.Finish("t1", 0)
	c.err.await(t, "a1: 1 task left, 1 ended task that a framework has not acknowledged\n")
	f.Disconnect("a1")
	f.Acknowledge("m")
	c.err.await(t, "a1: 1 task left, it is disconnected and stops its tasks when it is back\n")
	f.Connect("a1")
	f.Finish("t2", 0)
	c.err.await(t, "a1: 1 ended task that a framework has not acknowledged\n")
	f.Acknowledge("m")
	if code := <-c.code; code != 0 || c.out.String() != "a1 is drained\n" {
		t.Errorf("exit code %d, %q, %q", code, c.out.String(), c.err.String())
	}
}

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
