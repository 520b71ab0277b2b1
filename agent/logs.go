package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// serve answers the streams that the replica opens: requests for logs.
func (a *Agent) serve(ctx context.Context, l *link, g *errgroup.Group) error {
	for {
		st, err := l.conn.Accept(ctx)
		if err != nil {
			return err
		}
		if st.Kind() != transport.StreamLogs {
			st.Reset()
			continue
		}
		g.Go(func() error {
			defer st.Reset()
			defer context.AfterFunc(ctx, st.Reset)()
			if err := a.logs(ctx, st); err != nil && ctx.Err() == nil {
				a.log.Debug("log stream ended", "error", err)
			}
			return nil
		})
	}
}

func (a *Agent) logs(ctx context.Context, st transport.Stream) error {
	conn := wire.NewConn(st, wire.MaxControl)
	_ = st.SetDeadline(time.Now().Add(welcomeTime))
	msg, err := conn.Recv()
	if err != nil {
		return err
	}
	_ = st.SetDeadline(time.Time{})
	req, ok := msg.(wire.LogsRequest)
	if !ok {
		return fmt.Errorf("%T on a log stream", msg)
	}
	a.mu.Lock()
	ended := a.ended[req.Task]
	a.mu.Unlock()
	if ended == nil { // not held any more: what there is, is all
		ended = make(chan struct{})
		close(ended)
	}
	// A follower that goes away is noticed even while nothing is printed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, st.Reset)
	go func() {
		defer cancel()
		_, _ = conn.Recv()
	}()
	tail := req.Tail // -1 is all on the wire, 0 is all in the log
	if tail <= 0 {
		tail = -tail - 1
	}
	opts := tasklog.Options{Follow: req.Follow, Tail: tail, Stdout: req.Stdout, Stderr: req.Stderr, Ended: ended}
	err = a.cfg.Logs.Read(ctx, req.Task, opts, func(stderr bool, data []byte) error {
		for chunk := range slices.Chunk(data, wire.MaxLogChunk) {
			if err := conn.Send(wire.LogChunk{Stderr: stderr, Data: chunk}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, conn.Send(wire.Refusal{Code: wire.RefusedNotFound, Text: err.Error()}))
	}
	if err := conn.Send(wire.LogEnd{}); err != nil {
		return err
	}
	if err := st.Close(); err != nil {
		return err
	}
	<-ctx.Done() // until the reader has it all
	return nil
}
