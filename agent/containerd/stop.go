package containerd

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"github.com/tenderfleet/tender/transport/fleet"
)

// killTimeout bounds one attempt to kill when a grace period is over, and
// killAgain is the pause before the next.
const (
	killTimeout = 10 * time.Second
	killAgain   = time.Second
)

// Stop sends TERM, and KILL when the grace period is over.
func (x *Executor) Stop(ctx context.Context, id fleet.TaskID, grace time.Duration) error {
	op := "stop task " + string(id)
	name := x.name(id)
	err := x.kill(ctx, name, syscall.SIGTERM)
	if errdefs.IsNotFound(err) {
		// It has ended, or was never here.
		_, err := x.client.ContainerService().Get(ctx, name)
		return x.wrap(ctx, op, err)
	}
	if err != nil {
		return x.wrap(ctx, op, err)
	}
	if grace <= 0 {
		x.stops.markKilled(name)
		if err := x.kill(ctx, name, syscall.SIGKILL); !errdefs.IsNotFound(err) {
			return x.wrap(ctx, op, err)
		}
		return nil
	}
	x.stops.schedule(x, name, time.Now().Add(grace))
	return nil
}

func (x *Executor) kill(ctx context.Context, name string, sig syscall.Signal) error {
	return settled(ctx, func() error {
		_, err := x.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: name, Signal: uint32(sig)})
		return native(err)
	})
}

// stops holds the grace periods that run: at most one goroutine per container,
// which ends with the period, with the container's removal, or with Close.
type stops struct {
	mu      sync.Mutex
	pending map[string]*grace
}

type grace struct {
	deadline time.Time
	cancel   context.CancelFunc
	killed   bool // KILL was sent, so the end is not the kernel's doing
}

// schedule ends the container at the deadline, unless that is due earlier
// already.
func (s *stops) schedule(x *Executor, name string, deadline time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.pending[name]; g != nil {
		if g.killed || !deadline.Before(g.deadline) {
			return
		}
		g.cancel()
	}
	if s.pending == nil {
		s.pending = map[string]*grace{}
	}
	ctx, cancel := context.WithCancel(x.ctx)
	g := &grace{deadline: deadline, cancel: cancel}
	s.pending[name] = g
	x.wg.Go(func() {
		defer cancel()
		x.killAt(ctx, name, g)
	})
}

// killAt sleeps, then kills; while containerd is away it goes on trying.
func (x *Executor) killAt(ctx context.Context, name string, g *grace) {
	for wait := time.Until(g.deadline); ; wait = killAgain {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		x.stops.markKilled(name)
		attempt, cancel := context.WithTimeout(ctx, killTimeout)
		err := x.kill(attempt, name, syscall.SIGKILL)
		cancel()
		if err == nil || errdefs.IsNotFound(err) || ctx.Err() != nil {
			return
		}
		x.log.WarnContext(ctx, "cannot kill a task whose grace period is over; trying again", "container", name, "error", err)
	}
}

func (s *stops) markKilled(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = map[string]*grace{}
	}
	if g := s.pending[name]; g != nil {
		g.killed = true
		return
	}
	s.pending[name] = &grace{killed: true, cancel: func() {}}
}

func (s *stops) killed(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.pending[name]
	return g != nil && g.killed
}

func (s *stops) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.pending[name]; g != nil {
		g.cancel()
		delete(s.pending, name)
	}
}

// Remove deletes everything of the task but its logs.
func (x *Executor) Remove(ctx context.Context, id fleet.TaskID) error {
	op := "remove task " + string(id)
	unlock, err := x.starting.lock(ctx, containerName(id))
	if err != nil {
		return err
	}
	defer unlock()
	err = x.remove(ctx, x.name(id))
	if x.name(id) != containerName(id) && err == nil {
		x.seconds.set(id, false)
		err = x.remove(ctx, containerName(id)) // the record, should it be left
	}
	return x.wrap(ctx, op, err)
}

// remove takes away task, snapshot and container, in this order: as long as
// the container is there, List finds what could not be removed.
func (x *Executor) remove(ctx context.Context, name string) error {
	x.stops.forget(name)
	x.ooms.forget(name)
	if err := x.deleteTask(ctx, name); err != nil {
		return err
	}
	if err := x.snaps.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := x.client.ContainerService().Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// deleteTask deletes the task with its shim, killing it if it runs.
func (x *Executor) deleteTask(ctx context.Context, name string) error {
	for {
		err := settled(ctx, func() error {
			_, err := x.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: name})
			return native(err)
		})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		if ctx.Err() != nil || errdefs.IsUnavailable(err) {
			return err
		}
		// Daemons differ in what they call the refusal to delete a process that
		// runs, so ask. One that has ended and cannot be deleted is an error.
		r, getErr := x.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: name})
		if getErr != nil || r.Process.Status == tasktypes.Status_STOPPED {
			return err
		}
		if err := x.kill(ctx, name, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := x.wait(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
}

func (x *Executor) wait(ctx context.Context, name string) error {
	_, err := x.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: name})
	return native(err)
}

// settled repeats a call that hits a shim which has just died: containerd is
// about to notice, and then answers that the task is not found.
func settled(ctx context.Context, call func() error) error {
	for {
		err := call()
		if err == nil || !strings.Contains(err.Error(), "ttrpc: closed") {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
