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

// launchError gives the errors of runc that the task's description causes the
// right kind; runc has only texts.
func launchError(err error) error {
	text := err.Error()
	for _, cause := range []struct{ mark, hint string }{
		{"executable file not found", "the image has no such program; check the command"},
		{"no such file or directory: unknown", "the image has no such program or directory; check the command and the working directory"},
		{"permission denied: unknown", "the program cannot be executed by the task's user; check the command, its mode and the user"},
		{"exec format error", "the program is not for this machine's architecture, or a script without its first line"},
		{"memory limit too low", "give the task more memory"},
		{"container init was OOM-killed", "give the task more memory"},
	} {
		if strings.Contains(text, cause.mark) {
			return fmt.Errorf("%w: %s: %w", executor.ErrInvalid, cause.hint, err)
		}
	}
	return err
}
