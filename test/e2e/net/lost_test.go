package net_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/tenderfleet/tender/controlplane/client"
)

// answerLost breaks the connection once the answer has been sent: who cannot
// know whether it was carried out must say so, and must not send it again.
func (w *world) answerLost(t *testing.T) {
	var armed atomic.Bool
	dial := w.Dial()
	c, err := client.New(client.Config{
		Servers: []string{w.Leader(t).Addr}, Credential: w.Operator,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &breaking{conn, &armed}, err
		},
	})
	must(t, err)
	defer c.Close()
	s := &stream{acked: map[string]string{}, failed: map[string]error{}, stop: func() {}, done: make(chan struct{})}
	close(s.done)
	s.call(t.Context(), c, "heard")
	if len(s.acked) != 1 {
		t.Fatal(s.failed)
	}
	armed.Store(true)
	s.call(t.Context(), c, "lost")
	armed.Store(false)
	var u *client.UnreachableError
	if err := s.failed["lost"]; !errors.As(err, &u) || !u.Unknown || u.Next() == "" {
		t.Errorf("the error is %v", err)
	}
	if n := len(w.tasksNamed(t, "lost")); n != 1 {
		t.Errorf("the task is there %d times", n)
	}
	w.kept(t, s)
}

// breaking is a connection that breaks when something comes while it is armed.
type breaking struct {
	net.Conn
	armed *atomic.Bool
}

func (b *breaking) Read(data []byte) (int, error) {
	n, err := b.Conn.Read(data)
	if err == nil && b.armed.Load() {
		return 0, errors.Join(io.ErrUnexpectedEOF, b.Close())
	}
	return n, err
}
