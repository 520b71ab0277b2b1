package executor

import (
	"context"
	"errors"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Errors that the caller acts on; implementations wrap them.
var (
	// ErrNotFound: no container of that task exists. From Wait it means the
	// container disappeared without an exit status: the task is LOST.
	ErrNotFound = errors.New("no such container")
	// ErrUnavailable: the runtime does not answer (containerd is not running).
	// The caller keeps the task as it is and tries again.
	ErrUnavailable = errors.New("container runtime unavailable")
	// ErrNoImage: the image is not on this machine, and where it comes from
	// cannot be reached now. Another try may do.
	ErrNoImage = errors.New("image out of reach")
	// ErrPostponed: the task can start, but not now; the text says why. The
	// caller tries again, and tells.
	ErrPostponed = errors.New("start postponed")
	// ErrInvalid: the task can never start on this machine as it is described
	// (unknown image, image for another architecture, a device that is gone).
	ErrInvalid = errors.New("task cannot start here")
)

// Task is what an Executor starts: the user's specification and the resources
// that the allocator gave it.
type Task struct {
	ID        fleet.TaskID
	Spec      fleet.TaskSpec
	Resources fleet.Resources
	// Devices are the assigned GPUs, in the order of Resources.GPUs.
	Devices []gpu.Device
}

// Exit is how a task ended. Exactly one of the three cases holds: OOM, a
// signal, or an exit code.
type Exit struct {
	// Code is the exit code, -1 in the other two cases.
	Code int
	// Signal is the number of the signal that ended the main process, 0 when
	// it exited by itself.
	Signal int
	// OOM: the kernel killed the task because it exceeded its memory limit.
	OOM  bool
	Time time.Time
}

// Executor runs tasks on one machine. Every method is safe for concurrent use
// and returns ErrUnavailable (wrapped) while the runtime cannot be reached.
type Executor interface {
	// Start creates and starts the task's container and returns once its
	// process runs. Idempotent on the id: a task that runs, or has run and was
	// not removed, is left alone and nil is returned. Pulling an image may take
	// minutes; ctx bounds it. A failed Start leaves nothing behind.
	Start(ctx context.Context, t Task) error
	// Wait blocks until the task has ended and tells how. It answers for tasks
	// started by an earlier process too, and for those that ended meanwhile.
	// Any number of callers may wait; cancelling ctx does not touch the task.
	Wait(ctx context.Context, id fleet.TaskID) (Exit, error)
	// Stop sends TERM, and KILL when the grace period is over; it returns as
	// soon as TERM is delivered. Stopping an ended task is no error. Calling
	// it again shortens the grace period, never lengthens it.
	Stop(ctx context.Context, id fleet.TaskID, grace time.Duration) error
	// Remove deletes container, snapshot and everything else of the task but
	// its logs, killing it if it still runs. Idempotent.
	Remove(ctx context.Context, id fleet.TaskID) error
	// List names the tasks that this executor holds, running or ended and not
	// yet removed, in the order of their ids.
	List(ctx context.Context) ([]fleet.TaskID, error)
}
