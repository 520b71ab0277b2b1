// Package executor defines what starts a task on an agent, a suite that every
// implementation passes (package executortest), and an in-memory twin, Memory.
//
// The agent's shell uses it like this:
//
//	err := x.Start(ctx, task)      // STARTING before, RUNNING after
//	exit, err := x.Wait(ctx, id)   // FINISHED, FAILED, KILLED or LOST
//	err = x.Remove(ctx, id)        // once the final state is acknowledged
//
// and after its own restart:
//
//	ids, err := x.List(ctx)        // what truly runs; then Wait for each
//
// While a task runs, a Prober, which executors are too, asks it how it is.
//
// A task that is started again is removed and started; its log goes on where it
// was.
//
// Errors decide what comes next: ErrUnavailable is tried again, ErrNoImage too,
// while there may be no network; ErrInvalid ends the task as TASK_FAILED for
// good, ErrNotFound from Wait as TASK_LOST, and any other error of Start is a
// crash to its restart policy. Exit.String is the status message.
package executor
