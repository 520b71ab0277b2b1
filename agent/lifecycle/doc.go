// Package lifecycle decides what an agent does: which tasks it starts, stops,
// waits for and forgets, and what it reports of them. It takes events and the
// time and returns actions; it does no I/O.
//
// The shell's loop:
//
//	a := lifecycle.New(records, generation)   // from the checkpoint
//	acts := a.Step(now, lifecycle.Recovered{Running: ids})
//	for {
//	    perform(acts)      // all Save and Forget durably first, then the rest
//	    acts = a.Step(now, <-events)
//	}
//
// What is saved is saved before anything that depends on it is done: an
// assignment before its container starts, a status before it is sent.
// A record outlives its task until the last update is acknowledged and the
// agent holds a generation in which the task has ended, so that no late or
// doubled message can run it a second time.
//
// While a task runs, its checks are asked for with Probe and answered by
// Probed: the core decides when, what a failure counts for, and what is told,
// the shell only asks. A task whose health check fails too often, or that runs
// for longer than it may, is stopped by the agent itself.
//
// States move one way. The control plane alone says what is desired, the agent
// alone says what is observed.
package lifecycle
