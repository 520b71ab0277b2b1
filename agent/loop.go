package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/checkpoint"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// maxBatch bounds how many events share one write of the checkpoint.
const maxBatch = 64

// stampsSince is the capability from which on a control plane answers stamps.
const stampsSince = 3

// startTime bounds one start, the download of its image included.
const startTime = time.Hour

// loop owns the core. Events that have queued up share one synced write.
func (a *Agent) loop(ctx context.Context, g *errgroup.Group) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	a.turn()
	for {
		var acts []lifecycle.Action
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			acts = a.core.Step(a.machineTime(), lifecycle.Tick{})
		case ev := <-a.events:
			acts = a.core.Step(a.machineTime(), ev)
		}
		for range maxBatch {
			select {
			case ev := <-a.events:
				acts = append(acts, a.core.Step(a.machineTime(), ev)...)
				continue
			default:
			}
			break
		}
		if err := a.perform(ctx, g, acts); err != nil {
			return err
		}
	}
}

// perform makes durable what must be, then does the rest in order.
func (a *Agent) perform(ctx context.Context, g *errgroup.Group, acts []lifecycle.Action) error {
	var c checkpoint.Changes
	for _, act := range acts {
		switch act := act.(type) {
		case lifecycle.Save:
			c.Save = append(c.Save, act.Record)
			c.Forget = without(c.Forget, act.Record.Assignment.Task)
		case lifecycle.Forget:
			c.Forget = append(c.Forget, act.Task)
		case lifecycle.SaveHead:
			c.Head = &act
		}
	}
	if err := a.write(ctx, c); err != nil {
		return err
	}
	for _, r := range c.Save {
		if r.Phase == lifecycle.Ended {
			a.outputComplete(r.Assignment.Task)
		}
	}
	for _, act := range acts {
		a.do(ctx, g, act)
	}
	a.turn()
	return nil
}

// turn notes how the agent fares, for its readings and for who supervises it.
func (a *Agent) turn() {
	running, spooled := a.core.Counts()
	a.mu.Lock()
	a.running, a.spooled = running, spooled
	s := Sign{Connected: a.link != nil, Tasks: running, Spooled: spooled, Runtime: a.runtime}
	a.mu.Unlock()
	if a.cfg.Turn != nil {
		a.cfg.Turn(s)
	}
	a.tell(gate.Turned{})
}

func without(ids []fleet.TaskID, id fleet.TaskID) []fleet.TaskID {
	for i, x := range ids {
		if x == id {
			return append(ids[:i], ids[i+1:]...)
		}
	}
	return ids
}

// write does not give up: an agent that acted on what it could not record
// would forget it. A full disk stops it here until there is space.
func (a *Agent) write(ctx context.Context, c checkpoint.Changes) error {
	for {
		err := a.file.Write(c)
		if err == nil {
			return nil
		}
		a.log.Error("checkpoint not written; nothing new is started until it is", "error", err)
		a.turn() // a full disk is no hang, and a restart would not free it
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
}

func (a *Agent) do(ctx context.Context, g *errgroup.Group, act lifecycle.Action) {
	switch act := act.(type) {
	case lifecycle.Start:
		startCtx, cancel := context.WithTimeout(ctx, startTime)
		a.mu.Lock()
		a.starting[act.Assignment.Task] = cancel
		if a.ended[act.Assignment.Task] == nil {
			a.ended[act.Assignment.Task] = make(chan struct{})
		}
		a.mu.Unlock()
		g.Go(func() error {
			defer cancel()
			a.start(ctx, startCtx, act.Assignment)
			return nil
		})
	case lifecycle.Wait:
		g.Go(func() error { a.wait(ctx, act.Task); return nil })
	case lifecycle.Stop:
		a.mu.Lock()
		if cancel := a.starting[act.Task]; cancel != nil {
			cancel()
		}
		a.mu.Unlock()
		g.Go(func() error {
			if err := a.cfg.Executor.Stop(ctx, act.Task, act.Grace); err != nil && !errors.Is(err, executor.ErrNotFound) {
				a.log.Warn("stop failed; it is tried again", "task", act.Task, "error", err)
			}
			return nil
		})
	case lifecycle.Probe:
		g.Go(func() error { a.probe(ctx, act); return nil })
	case lifecycle.Remove:
		g.Go(func() error { a.remove(ctx, act.Task); return nil })
	case lifecycle.Forget:
		a.forget(act.Task)
	case lifecycle.Pull, lifecycle.Report:
		a.mu.Lock()
		l := a.link
		a.mu.Unlock()
		if l != nil {
			l.queue(a.inFleetTime(act))
		}
	case lifecycle.Save, lifecycle.SaveHead:
	}
}

func (a *Agent) start(ctx, startCtx context.Context, as fleet.Assignment) {
	ev := lifecycle.Started{Task: as.Task}
	task, err := a.task(startCtx, as)
	if err == nil {
		err = a.cfg.Executor.Start(startCtx, task)
	}
	a.mu.Lock()
	delete(a.starting, as.Task)
	a.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return // the process ends; the next one goes on
	case err == nil:
		a.log.Info("task started", "task", as.Task, "image", as.Spec.Image)
	case errors.Is(err, executor.ErrPostponed):
		ev.Err, ev.Text = lifecycle.Postponed, err.Error()
	case errors.Is(err, executor.ErrUnavailable), errors.Is(err, executor.ErrNoImage):
		ev.Err, ev.Text = lifecycle.Unavailable, err.Error()
		if errors.Is(err, executor.ErrNoImage) {
			ev.Err = lifecycle.NoImage
		}
		a.log.Warn("start put off", "task", as.Task, "error", err)
	case errors.Is(err, executor.ErrInvalid):
		ev.Err, ev.Text = lifecycle.Invalid, err.Error()
		a.log.Warn("task cannot start here", "task", as.Task, "error", err)
	case errors.Is(startCtx.Err(), context.DeadlineExceeded):
		ev.Err, ev.Text = lifecycle.Failed, fmt.Sprintf("not started within %v: %v", startTime, err)
	default:
		ev.Err, ev.Text = lifecycle.Failed, err.Error()
		a.log.Warn("start failed", "task", as.Task, "error", err)
	}
	a.emit(ctx, ev)
}

// driverTime is how long after the agent's start a GPU may still be missing: at
// boot its driver may come up later than the agent.
const driverTime = 2 * time.Minute

// task completes an assignment with the devices it names. They must still be
// on this machine. What a task may use is all the same, whoever it is reserved
// for.
func (a *Agent) task(ctx context.Context, as fleet.Assignment) (executor.Task, error) {
	t := executor.Task{ID: as.Task, Spec: as.Spec, Resources: as.Resources.Total()}
	if len(t.Resources.GPUs) > 0 {
		select {
		case <-a.looked:
		case <-time.After(lookEvery):
			return t, fmt.Errorf("%w: the GPUs could not be read yet", executor.ErrUnavailable)
		case <-ctx.Done():
			return t, ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	byID := make(map[gpu.UUID]gpu.Device, len(a.devices))
	for _, d := range a.devices {
		byID[d.UUID] = d
	}
	for _, id := range t.Resources.GPUs {
		d, ok := byID[id]
		if (!ok || d.Health == gpu.Lost) && time.Since(a.began) < driverTime {
			return t, fmt.Errorf("%w: GPU %s is not there yet", executor.ErrUnavailable, id)
		}
		if !ok || d.Health == gpu.Lost {
			return t, fmt.Errorf("%w: GPU %s is not on this machine any more", executor.ErrInvalid, id)
		}
		t.Devices = append(t.Devices, d)
	}
	return t, nil
}

func (a *Agent) wait(ctx context.Context, id fleet.TaskID) {
	for {
		exit, err := a.cfg.Executor.Wait(ctx, id)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			a.log.Info("task ended", "task", id, "code", exit.Code, "signal", exit.Signal, "oom", exit.OOM)
			a.emit(ctx, lifecycle.Exited{Task: id, Time: exit.Time, ExitCode: exit.Code, Signal: exit.Signal, OOM: exit.OOM})
			return
		case errors.Is(err, executor.ErrNotFound):
			a.log.Warn("task lost", "task", id, "error", err)
			a.emit(ctx, lifecycle.Exited{Task: id, Time: a.machineTime(), Lost: true})
			return
		}
		a.log.Debug("waiting failed; it is tried again", "task", id, "error", err)
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

func (a *Agent) remove(ctx context.Context, id fleet.TaskID) {
	if err := a.cfg.Executor.Remove(ctx, id); err != nil {
		if ctx.Err() == nil {
			a.log.Warn("container not removed; it is tried again", "task", id, "error", err)
		}
		a.emit(ctx, lifecycle.Removed{Task: id, Failed: true})
		return
	}
	a.emit(ctx, lifecycle.Removed{Task: id})
}

// outputComplete lets those who follow a task's output come to its end.
func (a *Agent) outputComplete(id fleet.TaskID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ch := a.ended[id]; ch != nil {
		select {
		case <-ch:
		default:
			close(ch)
		}
	}
}

// forget keeps the logs: they are asked for after the end. Old ones go by age.
func (a *Agent) forget(id fleet.TaskID) {
	a.mu.Lock()
	delete(a.ended, id)
	a.mu.Unlock()
}
