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
// Errors decide what comes next: ErrUnavailable is tried again, ErrInvalid
// ends the task as TASK_ERROR, ErrNotFound from Wait as TASK_LOST, any other
// error of Start as TASK_FAILED. Exit.String is the status message.
package executor
