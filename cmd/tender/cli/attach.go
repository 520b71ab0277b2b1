package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

// quiet is how long the output of an ended task may stand still before the
// command returns without the rest.
const quiet = 10 * time.Second

// taskEnded is the end of an attached task: the exit code is the task's, and
// all there is to say has been said.
type taskEnded struct{ code int }

func (e *taskEnded) Error() string { return fmt.Sprintf("the task ended with code %d", e.code) }

// attachment is one attached task. Its loop owns all of it; one goroutine asks
// for changes, one copies output, one stops the task.
type attachment struct {
	*app
	c      *client.Client
	task   client.Task
	said   string // why it waits
	placed bool   // that was said

	tasks    chan client.Task // from watch
	failed   chan error       // watch has given up
	output   chan error       // the copying of output has ended
	progress chan struct{}    // output came
	stopped  chan error       // the answer to a stop
	copied   bool             // copying has begun
	copying  bool             // and goes on
	signals  int
	wg       sync.WaitGroup
}

func (a *app) runAttached(ctx context.Context, in client.Submit) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	at := &attachment{
		app: a, c: c, tasks: make(chan client.Task), failed: make(chan error, 1),
		output: make(chan error, 1), progress: make(chan struct{}, 1), stopped: make(chan error, 1),
	}
	// Until the task is known to exist, a signal gives up.
	err = a.untilSignal(ctx, func(ctx context.Context) (err error) {
		at.task, err = c.Submit(ctx, in)
		return err
	})
	if err != nil {
		return err
	}
	return at.follow(ctx)
}

// follow stays with the task to its end, or until the user lets go of it.
func (at *attachment) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer at.wg.Wait()
	defer cancel()
	first := at.task
	at.wg.Go(func() { at.watch(ctx, first) })
	at.saw(ctx, first)
	var giveUp <-chan time.Time
	for {
		if at.task.Terminal() {
			if !at.copying {
				return at.ended()
			}
			if giveUp == nil {
				giveUp = time.After(quiet)
			}
		}
		select {
		case t := <-at.tasks:
			at.saw(ctx, t)
		case err := <-at.failed:
			return err
		case <-at.progress:
			if giveUp != nil {
				giveUp = time.After(quiet)
			}
		case <-giveUp:
			at.incomplete(errors.New("nothing more came"))
		case err := <-at.output:
			if _, own := errors.AsType[*outputError](err); own {
				return err
			}
			at.incomplete(err)
		case err := <-at.stopped:
			if err != nil {
				at.explain(err)
			}
		case <-at.Signals:
			if err := at.signalled(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watch asks for changes until the task has ended. A control plane that is away
// for a while is no reason to leave the task.
func (at *attachment) watch(ctx context.Context, t client.Task) {
	said := ""
	wait := againMin
	for !t.Terminal() {
		next, err := at.c.WaitTask(ctx, t.ID, t.Revision, pollTime)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !again(err):
			at.failed <- err
			return
		case err != nil:
			if text := err.Error(); text != said {
				fmt.Fprintf(at.Err, "%s; trying again\n", clean(text))
				said = text
			}
			sleep(ctx, wait)
			wait = min(2*wait, againMax)
			continue
		}
		t, said, wait = next, "", againMin
		select {
		case at.tasks <- t:
		case <-ctx.Done():
			return
		}
	}
}

// saw takes over what is known of the task and says what is new.
func (at *attachment) saw(ctx context.Context, t client.Task) {
	was := at.task
	at.task = t
	at.said = at.sayWaiting(t, at.said)
	if t.Agent != "" && !at.placed {
		at.placed = true
		fmt.Fprintf(at.Err, "%s is placed on agent %s\n", clean(t.ID), clean(t.Agent))
	}
	if t.State != was.State && t.State == fleet.TaskUnreachable.String() {
		fmt.Fprintf(at.Err, "%s: agent %s does not answer; waiting for it to come back\n", clean(t.ID), clean(t.Agent))
	}
	if t.Restarts > was.Restarts {
		fmt.Fprintf(at.Err, "%s: %s\n", clean(t.ID), clean(t.Message))
	}
	if t.ReplacedBy != was.ReplacedBy {
		fmt.Fprintf(at.Err, "%s is replaced by %s; follow that with: tender task logs -f %s\n", clean(t.ID), clean(t.ReplacedBy), clean(t.ReplacedBy))
	}
	if at.copied || !hasOutput(t) {
		return
	}
	at.copied, at.copying = true, true
	l := &logReader{
		app: at.app, c: at.c, id: t.ID, progress: at.progress,
		options: client.LogOptions{Follow: true, Tail: -1, Stdout: true, Stderr: true},
	}
	at.wg.Go(func() { at.output <- l.follow(ctx) })
}

// hasOutput reports whether the task has run, so that there is output to copy.
func hasOutput(t client.Task) bool {
	switch t.State {
	case fleet.TaskRunning.String(), fleet.TaskKilling.String(), fleet.TaskFinished.String():
		return true
	case fleet.TaskFailed.String(), fleet.TaskKilled.String():
		return t.ExitCode != nil || t.Signal != 0 || t.OOM
	default:
		return false
	}
}

// incomplete ends the copying; err is nil when all output was copied.
func (at *attachment) incomplete(err error) {
	at.copying = false
	if err != nil {
		fmt.Fprintf(at.Err, "the output is not complete: %s\nread it later with: tender task logs %s\n", clean(err.Error()), clean(at.task.ID))
	}
}

// signalled stops the task the first time and leaves it alone the second.
func (at *attachment) signalled(ctx context.Context) error {
	at.signals++
	if at.signals > 1 {
		fmt.Fprintf(at.Err, "left %s as it is; follow it with: tender task logs -f %s\n", clean(at.task.ID), clean(at.task.ID))
		return &taskEnded{exitInterrupted}
	}
	fmt.Fprintf(at.Err, "stopping %s; Ctrl-C again leaves it and returns\n", clean(at.task.ID))
	id := at.task.ID
	at.wg.Go(func() {
		_, err := at.c.StopTask(ctx, id, client.Stop{})
		if ctx.Err() != nil {
			err = nil
		}
		at.stopped <- err
	})
	return nil
}

// Exit codes that a shell would give.
const (
	signalBase      = 128
	exitInterrupted = signalBase + 2
	exitKilled      = signalBase + 9  // what the kernel does to a task out of memory
	exitTerminated  = signalBase + 15 // a task that was stopped before it ran
)

// ended says how the task ended, unless it is finished, and gives its code.
func (at *attachment) ended() error {
	t := at.task
	if t.State != fleet.TaskFinished.String() {
		fmt.Fprintf(at.Err, "%s: %s: %s\n", clean(t.ID), clean(t.State), clean(t.Message))
	}
	switch {
	case t.OOM:
		return &taskEnded{exitKilled}
	case t.Signal != 0:
		return &taskEnded{signalBase + t.Signal}
	case t.ExitCode != nil:
		return &taskEnded{*t.ExitCode}
	case t.State == fleet.TaskKilled.String():
		return &taskEnded{exitTerminated}
	default:
		return &taskEnded{exitOwn} // it could not run, or nobody knows how it ended
	}
}
