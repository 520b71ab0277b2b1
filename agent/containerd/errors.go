package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/tenderfleet/tender/agent/executor"
)

// wrap names the operation and gives err the kind that callers act on.
func (x *Executor) wrap(ctx context.Context, op string, err error) error {
	over := ended(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, executor.ErrInvalid):
		return fmt.Errorf("%s: %w", op, err)
	case over != nil:
		return fmt.Errorf("%s: %w (%v)", op, over, err)
	case errdefs.IsUnavailable(err):
		return fmt.Errorf("%s: %w: containerd at %s does not answer: %v; start it with: systemctl start containerd",
			op, executor.ErrUnavailable, x.cfg.Address, err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w", op, executor.ErrNotFound)
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
}

// ended is why the caller's context is over. The daemon is told the deadline
// and may give up a moment earlier, with an error of no particular kind.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d, ok := ctx.Deadline(); ok && time.Until(d) < 20*time.Millisecond {
		return context.DeadlineExceeded
	}
	return nil
}

// native gives the error of a bare gRPC call containerd's kinds. Only calls of
// the task service need it; applied twice it would lose the kind.
func native(err error) error { return errgrpc.ToNative(err) }

// invalid is an error that no further attempt on this machine will cure.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", executor.ErrInvalid, fmt.Errorf(format, args...))
}

var errRemains = errors.New("containerd holds the remains of an earlier start that was cut short")

// errNotCreated marks the failure of a step that comes before the task's own
// process: it has not run. It has no text of its own.
var errNotCreated = silent{}

type silent struct{}

func (silent) Error() string { return "" }

// launchError gives the errors of runc that the task's description causes the
// right kind and a hint; runc has only texts.
func launchError(err error) error {
	if strings.Contains(err.Error(), "file exists") && strings.Contains(err.Error(), "failed to start shim") {
		return fmt.Errorf("%w; restart containerd, or use another task id: %w", errRemains, err)
	}
	_, text, ok := strings.Cut(err.Error(), "unable to start container process: ")
	if !ok {
		return err
	}
	text = strings.TrimSuffix(text, ": unknown")
	for _, cause := range []struct{ begins, contains, hint string }{
		{"exec: ", "not found", "the image has no such program; check the command"},
		{"exec: ", "no such file", "the image has no such program; check the command"},
		{"exec: ", "permission denied", "the task's user may not execute it; check the command, its mode and the user"},
		{"exec: ", "", "check the command"},
		{"error during container init: mkdir", "", "check the working directory"},
		{"", "unable to set memory limit", "give the task more memory"},
		{"", "OOM-killed", "give the task more memory"},
	} {
		if strings.HasPrefix(text, cause.begins) && strings.Contains(text, cause.contains) {
			return invalid("%s: %s", text, cause.hint)
		}
	}
	return err
}
