package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// maxFrame bounds the output in one frame.
	maxFrame = 32 << 10
	// stalled is how long a reader may stop reading, a pager for example,
	// before its place is given to others.
	stalled = 10 * time.Minute
)

func (h *handler) logs(w http.ResponseWriter, r *http.Request) error {
	p := readParams(r, "follow", "tail", "stdout", "stderr")
	o := wire.LogsRequest{
		Follow: p.boolean("follow", false), Tail: p.number("tail", -1, -1, math.MaxInt32),
		Stdout: p.boolean("stdout", true), Stderr: p.boolean("stderr", true),
	}
	if p.err != nil {
		return p.err
	}
	x, err := h.explain(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if x.task.Agent == "" {
		return notStarted(x.task.State, string(x.task.ID))
	}
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		return client.NewProblem(client.CodeBusy, "try again shortly", "%d log streams are open already", maxStreams)
	}
	o.Task = x.task.ID
	out := &frames{w: w, rc: http.NewResponseController(w)}
	if o.Follow {
		// A quiet task must not look like a replica that does not answer.
		if err := out.begin(); err != nil {
			return nil
		}
	}
	err = h.b.Logs(r.Context(), o.Task, o, out.emit)
	switch {
	case err == nil:
		_ = out.send(client.LogFrame{End: true})
		return nil
	case !out.begun:
		return err
	case isRefused(r.Context()):
		_ = out.send(client.LogFrame{Error: problemOf(context.Cause(r.Context()))})
	case r.Context().Err() == nil:
		_ = out.send(client.LogFrame{Error: problemOf(err)}) // the answer has begun, so it ends with the error
	}
	return nil
}

// isRefused reports whether the asker lost the right while it read.
func isRefused(ctx context.Context) bool {
	_, refused := errors.AsType[*access.Refusal](context.Cause(ctx))
	return refused
}

func notStarted(s fleet.TaskState, id string) error {
	if s.Terminal() {
		return client.NewProblem(client.CodeNotFound, "", "task %s ended before it was placed, so it has no output", id)
	}
	return client.NewProblem(client.CodeNotStarted, "see what it waits for with: tender why "+id,
		"task %s waits to be placed, so it has no output yet", id)
}

// frames writes a log stream.
type frames struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

// begin answers that there will be output; from here on, errors are frames.
func (f *frames) begin() error {
	f.begun = true
	f.w.Header().Set("Content-Type", "application/x-ndjson")
	f.w.WriteHeader(http.StatusOK)
	return f.rc.Flush()
}

func (f *frames) emit(stderr bool, data []byte) error {
	stream := "stdout"
	if stderr {
		stream = "stderr"
	}
	for len(data) > 0 {
		n := min(len(data), maxFrame)
		if err := f.send(client.LogFrame{Stream: stream, Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (f *frames) send(frame client.LogFrame) error {
	if !f.begun {
		if err := f.begin(); err != nil {
			return err
		}
	}
	_ = f.rc.SetWriteDeadline(time.Now().Add(stalled)) // unsupported only in tests
	if err := json.NewEncoder(f.w).Encode(frame); err != nil {
		return err
	}
	return f.rc.Flush()
}
