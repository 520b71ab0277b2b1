package sim_test

import (
	"bytes"
	"flag"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/test/sim"
	"github.com/tenderfleet/tender/transport/fleet"
)

var seeds = flag.Int("seeds", 500, "number of seeds to simulate")

// TestSeeds runs the fleet from many seeds. To replay one that fails:
// go run ./test/sim/cmd -seed N -v
func TestSeeds(t *testing.T) {
	// Each seed is one goroutine's; a processor has one seed at a time.
	runs := make([]sim.Stats, *seeds)
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i := range runs {
		g.Go(func() (err error) {
			if runs[i], err = sim.Run(uint64(i), sim.Options{}); err != nil {
				return fmt.Errorf("seed %d: %w\nreplay: go run ./test/sim/cmd -seed %d -v", i, err, i)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	total := sim.Stats{Ended: map[fleet.TaskState]int{}, Why: map[fleet.Reason]int{}}
	for _, s := range runs {
		total.Tasks += s.Tasks
		total.Terms += s.Terms
		total.Outside += s.Outside
		total.Restarts += s.Restarts
		total.Replaced += s.Replaced
		total.Jumps += s.Jumps
		total.Snapshots += s.Snapshots
		total.Restores += s.Restores
		total.Renewed += s.Renewed
		total.Healed += s.Healed
		total.Copies += s.Copies
		for k, n := range s.Ended {
			total.Ended[k] += n
		}
		for k, n := range s.Why {
			total.Why[k] += n
		}
	}
	t.Logf("%d seeds: %d tasks and %d of an outside framework, %d restarts, %d replaced, %d terms, clocks set %d times, %d replicas restarted, %d restores, ended %v because of %v",
		*seeds, total.Tasks, total.Outside, total.Restarts, total.Replaced, total.Terms, total.Jumps, total.Snapshots, total.Restores, total.Ended, total.Why)
	// A simulation in which nothing goes wrong proves nothing.
	for _, k := range []fleet.TaskState{fleet.TaskFinished, fleet.TaskFailed, fleet.TaskKilled, fleet.TaskLost} {
		if total.Ended[k] == 0 {
			t.Errorf("no task ended %v", k)
		}
	}
	if total.Outside < 10**seeds {
		t.Errorf("only %d tasks of the outside framework", total.Outside)
	}
	for _, k := range []fleet.Reason{fleet.ReasonHealthUpdated, fleet.ReasonMaxCompletion, fleet.ReasonPreempted, fleet.ReasonCutOff, fleet.ReasonReplaced, fleet.ReasonAgentRestarted} {
		if total.Why[k] == 0 {
			t.Errorf("no task ended because of %v", k)
		}
	}
	if total.Restarts < *seeds || total.Replaced == 0 {
		t.Errorf("only %d restarts and %d replaced tasks", total.Restarts, total.Replaced)
	}
	if total.Jumps < *seeds || total.Snapshots < *seeds || total.Restores < *seeds/10 {
		t.Errorf("clocks were set %d times, %d replicas began anew, %d snapshots were restored: too few", total.Jumps, total.Snapshots, total.Restores)
	}
	t.Logf("%d certificates renewed, %d healed, %d disks copied", total.Renewed, total.Healed, total.Copies)
	if total.Renewed < 10**seeds || total.Healed < *seeds/2 || total.Copies < *seeds/4 {
		t.Error("too few certificates change, or too few disks are copied")
	}
	if total.Terms < 2**seeds {
		t.Errorf("only %d terms: leaders hardly ever died", total.Terms)
	}
}

// The same seed gives the same run to the last line.
func TestSeedIsTheWholeStory(t *testing.T) {
	var a, b bytes.Buffer
	sim.Run(42, sim.Options{Trace: &a})
	sim.Run(42, sim.Options{Trace: &b})
	if a.Len() == 0 || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Fatal("two runs of one seed differ")
	}
}
