// Package lifecycle decides what an agent does: which tasks it starts, stops,
// waits for and forgets, and what it reports of them. It takes events and the
// time and returns actions; it does no I/O.
//
// The shell's loop:
//
//	a := lifecycle.New(records, head, bootID)   // from the checkpoint
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
// A task that crashes is started again as its restart policy says, here and
// without asking anybody: its record says so before its container is removed,
// and the start is one like the first. To the control plane it stays RUNNING,
// and every restart is an update of its own (TASK_RESTARTED). Tasks with a
// policy are also started again after a restart of the machine.
//
// How long the agent has been without contact is counted for tasks that it has
// to stop then. Contact is not a session but a leader's word: a Pull carries a
// stamp, a Desired echoes it, and the contact is the moment at which the stamp
// was made, which is never later than what the leader knows. The count goes on
// over restarts of the process and of the machine, by the machine's clock, and
// errs to the side of stopping too early where a task is exclusive: the longer
// of two clocks counts; a clock that went back ends the task; and after a
// restart of the machine an exclusive task that may have been replaced is not
// started before the first contact. What no agent can do is stop a task while
// its runtime does not answer.
//
// What waits for the control plane is bounded: a queue drops passing news that
// was never sent (package reports), all queues together are kept below 64 MiB
// by dropping more of it, and when that is not enough, crashed tasks wait ten
// minutes for their next start. A state is never dropped.
//
// States move one way. The control plane alone says what is desired, the agent
// alone says what is observed.
package lifecycle
