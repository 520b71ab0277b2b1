package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
)

const (
	againMin = 200 * time.Millisecond
	againMax = 5 * time.Second
)

// logReader prints a task's output, and goes on where it was when the stream
// breaks off.
type logReader struct {
	app     *app
	c       *client.Client
	id      string
	options client.LogOptions
	// progress, when set, is told of output as it comes.
	progress chan<- struct{}
	seen     [2]int64 // bytes printed of stdout and stderr
}

// outputError says that our own stream failed: nothing can be retried.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// once prints what there is.
func (l *logReader) once(ctx context.Context) error {
	skip := l.seen
	return l.c.Logs(ctx, l.id, l.options, func(stderr bool, data []byte) error {
		n, w := 0, l.app.Out
		if stderr {
			n, w = 1, l.app.Err
		}
		if cut := min(skip[n], int64(len(data))); cut > 0 {
			skip[n] -= cut
			data = data[cut:]
		}
		if len(data) == 0 {
			return nil
		}
		written, err := w.Write(data)
		l.seen[n] += int64(written)
		if err != nil {
			return &outputError{err}
		}
		select {
		case l.progress <- struct{}{}:
		default:
		}
		return nil
	})
}

// follow prints until the output is complete, through broken connections.
func (l *logReader) follow(ctx context.Context) error {
	said := ""
	for wait := againMin; ; wait = min(2*wait, againMax) {
		before := l.seen
		err := l.once(ctx)
		if err == nil || ctx.Err() != nil || !again(err) {
			return err
		}
		if text := err.Error(); text != said {
			fmt.Fprintf(l.app.Err, "the output broke off (%s); trying again\n", clean(text))
			said = text
		}
		if l.seen != before {
			wait, said = againMin, ""
		}
		if l.options.Tail >= 0 && l.seen != [2]int64{} {
			// Where the last lines began is not known, so there is no way to
			// find the place again: go on with what comes next.
			l.options.Tail, l.seen = 0, [2]int64{}
		}
		if !sleep(ctx, wait) {
			return err
		}
	}
}

// again reports whether a request may succeed later: the way there is broken,
// not the request wrong.
func again(err error) bool {
	var out *outputError
	var p *client.Problem
	if errors.As(err, &out) || errors.Is(err, context.Canceled) {
		return false
	}
	if !errors.As(err, &p) {
		return true
	}
	switch p.Code {
	case client.CodeNoLeader, client.CodeBusy, client.CodeUnavailable, client.CodeTimeout, client.CodeUnknown, client.CodeInternal, client.CodeNotStarted:
		return true
	default:
		return false
	}
}

// sleep waits and reports whether ctx still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
