package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	wireAgents = 100
	realAgents = 16
	submitters = 4
	batch      = 256
)

// trio is three replicas that say nothing.
func trio(b *testing.B, tune func(fleet.ReplicaID, *controlplane.Config)) *cluster.Fleet {
	f := cluster.New(b, nil)
	f.Level, f.Tune = slog.LevelError+1, tune
	f.Trio()
	return f
}

// open lets anybody join at any rate.
func open(_ fleet.ReplicaID, cfg *controlplane.Config) { cfg.EnrolRate = 1e6 }

// BenchmarkLaunches submits tasks in batches and measures how many a second
// were launched (the Launch is committed by the trio) and came to the state
// named.
func BenchmarkLaunches(b *testing.B) {
	for _, c := range []struct {
		name   string
		states []fleet.TaskState
	}{
		{"running", []fleet.TaskState{fleet.TaskRunning}},
		{"finished", []fleet.TaskState{fleet.TaskStarting, fleet.TaskRunning, fleet.TaskFinished}},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := trio(b, open)
			ctx, cancel := context.WithCancelCause(b.Context())
			for i := range wireAgents {
				ended := startWireAgent(ctx, b, f.Joined(fmt.Sprintf("a%d", i)), f.Leader().Addr, cancel, c.states...)
				defer func() { <-ended }()
			}
			defer cancel(nil)
			measure(ctx, b, f, c.states[len(c.states)-1], 1)
		})
	}
}

// BenchmarkAgents is BenchmarkLaunches with real agents: every step is in a
// checkpoint on disk before it is taken, and each holds 40 tasks at most. Only
// the containers are missing.
func BenchmarkAgents(b *testing.B) {
	f := trio(b, open)
	for i := range realAgents {
		f.Agent(fmt.Sprintf("a%d", i))
	}
	measure(b.Context(), b, f, fleet.TaskFinished, fleet.Whole(4)/40)
}

// measure submits b.N tasks of so many processors and waits until all have been
// in the state.
func measure(ctx context.Context, b *testing.B, f *cluster.Fleet, until fleet.TaskState, cpus fleet.Scalar) {
	b.Helper()
	lead := f.Leader()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_, entries, err := lead.Follow(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	cpu := cpuTime(b)
	began := time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range submitters {
		wg.Go(func() {
			for n := i * batch; n < b.N; n += submitters * batch {
				cmds := make([]state.Command, 0, batch)
				for k := n; k < min(n+batch, b.N); k++ {
					c := cluster.Submission(fleet.TaskID(fmt.Sprintf("t%d", k)), "exit", "0")
					c.Submit.Need.CPUs, c.Submit.Need.Mem = cpus, 1
					cmds = append(cmds, c)
				}
				if _, err := lead.Propose(ctx, cmds...); err != nil {
					cancel(fmt.Errorf("submit: %w", err))
					return
				}
			}
		})
	}
	launched, reached, count := 0, 0, 0
	var launchTime time.Duration
	for reached < b.N {
		e, ok := <-entries
		if !ok {
			b.Fatalf("after %d launches, %d %v: %v", launched, reached, until, context.Cause(ctx))
		}
		count++
		for i, c := range e.Commands {
			switch r := e.Results[i]; {
			case r.Kind != state.OK || r.Duplicate:
			case c.Launch != nil:
				if launched++; launched == b.N {
					launchTime = time.Since(began)
				}
			case c.Observe != nil && c.Observe.Update.Status.State == until:
				reached++
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/launchTime.Seconds(), "launches/s")
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "tasks/s")
	b.ReportMetric(cpu()/float64(b.N), "cpu-µs/task")
	b.ReportMetric(float64(b.N)/float64(count), "tasks/entry")
}
