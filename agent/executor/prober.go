package executor

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// ErrCannotRun: a task's container has no such program, or its user may not
// execute it.
var ErrCannotRun = errors.New("the program cannot be run")

// Exec is a program to run inside a task's container.
type Exec struct {
	// Name is the caller's: an Exec ends another of the same name that still
	// runs, so that what an agent left when it died cannot pile up.
	Name string
	Args []string
	// Env is added to the task's environment.
	Env map[string]string
	// Timeout is how long it may run, from its start: that of a busy runtime
	// is not its fault.
	Timeout time.Duration
}

// Prober asks running tasks how they are. It is what an Executor can do
// besides; every method is safe for concurrent use and returns ErrNotFound
// (wrapped) when the task does not run, ErrUnavailable when the runtime does
// not answer.
type Prober interface {
	// Exec runs a program as the task's user, under its limits, and returns the
	// exit code: 128 and the number for a signal. What it prints is discarded.
	// At its time-out the program and what it has started are killed, and
	// context.DeadlineExceeded is returned; so when ctx ends, with its error.
	// ErrCannotRun says that it was never started.
	Exec(ctx context.Context, id fleet.TaskID, e Exec) (int, error)
	// Dial connects to a TCP port of the loopback address that the task sees.
	// The caller closes the connection. A *net.OpError is the task's own answer.
	Dial(ctx context.Context, id fleet.TaskID, port int) (net.Conn, error)
}
