package net_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// stream is a client that submits one task after another, each of its own name.
// They wait for an agent that nobody has.
type stream struct {
	stop    context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	acked   map[string]string // name: id
	failed  map[string]error
	longest time.Duration // that a call took which was granted
}

var streams struct {
	sync.Mutex
	n int
}

// begin starts a stream of calls by c.
func begin(t *testing.T, c *client.Client) *stream {
	t.Helper()
	streams.Lock()
	streams.n++
	prefix := fmt.Sprintf("s%d", streams.n)
	streams.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{stop: cancel, done: make(chan struct{}), acked: map[string]string{}, failed: map[string]error{}}
	go func() {
		defer close(s.done)
		for i := 0; ctx.Err() == nil; i++ {
			s.call(ctx, c, fmt.Sprintf("%s-%d", prefix, i))
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return s
}

func waits(name string) client.Submit {
	return harness.Complete(client.Submit{Name: name, Command: []string{"true"}, Labels: map[string]string{"never": "there"}})
}

func (s *stream) call(ctx context.Context, c *client.Client, name string) {
	began := time.Now()
	// What is under way when the stream ends is waited for.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	task, err := c.Submit(ctx, waits(name))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed[name] = err
		return
	}
	s.acked[name] = task.ID
	s.longest = max(s.longest, time.Since(began))
}

// end ends the stream.
func (s *stream) end() {
	s.stop()
	<-s.done
}

// moves waits until the stream has been granted n more calls.
func (s *stream) moves(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.acked)
	}
	from := count()
	harness.Eventually(t, fmt.Sprintf("%d more submissions are granted", n), func() bool { return count() >= from+n })
}

// refused reports whether nothing can have come of a call.
func refused(err error) bool {
	var p *client.Problem
	return errors.As(err, &p) && p.Code == client.CodeNoLeader
}

// kept checks that every task which was granted is there, once; that of those
// refused none is, and of those whose outcome is unknown none twice. It ends
// them all.
func (w *world) kept(t *testing.T, streams ...*stream) {
	t.Helper()
	list, err := w.Tasks(t.Context(), client.TaskFilter{All: true, Limit: 100_000})
	must(t, err)
	there := map[string][]client.Task{}
	for _, task := range list.Tasks {
		there[task.Name] = append(there[task.Name], task)
	}
	for _, s := range streams {
		s.end()
		unknown := 0
		for name, id := range s.acked {
			if got := there[name]; len(got) != 1 || got[0].ID != id {
				t.Errorf("task %s was granted as %s; there are %d of that name", name, id, len(got))
			}
		}
		for name, err := range s.failed {
			switch n := len(there[name]); {
			case refused(err) && n > 0:
				t.Errorf("task %s was refused (%v), and is there", name, err)
			case n > 1:
				t.Errorf("task %s is there %d times after %v", name, n, err)
			case !refused(err):
				unknown++
			}
		}
		t.Logf("%d submissions granted, the slowest in %.1f s; %d failed, %d of these with an unknown outcome",
			len(s.acked), s.longest.Seconds(), len(s.failed), unknown)
		if len(s.acked) == 0 && len(s.failed) == 0 {
			t.Error("the stream did nothing")
		}
	}
	for _, s := range streams {
		for _, id := range s.acked {
			_, err := w.StopTask(t.Context(), id, client.Stop{})
			must(t, err)
		}
		for name := range s.failed {
			for _, task := range there[name] {
				_, err := w.StopTask(t.Context(), task.ID, client.Stop{})
				must(t, err)
			}
		}
	}
}
