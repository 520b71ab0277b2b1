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

// heldBack: what was asked for must not travel now.
type heldBack struct{ why string }

func (e *heldBack) Error() string { return e.why }

func (a *Agent) logs(ctx context.Context, st transport.Stream) error {
	conn := wire.NewConn(&counted{Stream: st, a: a.cfg.Account, out: forLogs, in: forLogs}, wire.MaxControl)
	_ = st.SetDeadline(time.Now().Add(answerTime))
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
	refuse := func(code wire.RefusalCode, why string) error {
		err := errors.Join(conn.Send(wire.Refusal{Code: code, Text: why}), st.Close())
		if err == nil {
			<-ctx.Done() // until the reader has it
		}
		return err
	}
	if why := a.cfg.Account.refuses(); why != "" {
		return refuse(wire.RefusedBudget, why)
	}
	tail := req.Tail // -1 is all on the wire, 0 is all in the log
	if tail <= 0 {
		tail = -tail - 1
	}
	opts := tasklog.Options{Follow: req.Follow, Tail: tail, Stdout: req.Stdout, Stderr: req.Stderr, Ended: ended}
	err = a.cfg.Logs.Read(ctx, req.Task, opts, func(stderr bool, data []byte) error {
		if why := a.cfg.Account.refuses(); why != "" { // a follower, for hours
			return &heldBack{why}
		}
		for chunk := range slices.Chunk(data, wire.MaxLogChunk) {
			if err := conn.Send(wire.LogChunk{Stderr: stderr, Data: chunk}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		code := wire.RefusedNotFound
		if _, held := errors.AsType[*heldBack](err); held {
			code = wire.RefusedBudget
		}
		return errors.Join(err, refuse(code, err.Error()))
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
