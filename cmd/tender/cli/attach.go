package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	c    *client.Client
	task client.Task
	said string // why it waits

	tasks    chan client.Task
	failed   chan error // asking for changes has failed for good
	output   chan error // the end of the output
	progress chan struct{}
	stopped  chan error
	copying  bool
	stops    int
	wg       sync.WaitGroup
}

func (a *app) runAttached(ctx context.Context, in client.Submit) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	var t client.Task
	// Until the task is known to exist, a signal gives up.
	err = a.untilSignal(ctx, func(ctx context.Context) (err error) {
		t, err = c.Submit(ctx, in)
		return err
	})
	if err != nil {
		return err
	}
	at := &attachment{
		app: a, c: c, task: t,
		tasks: make(chan client.Task), failed: make(chan error, 1), output: make(chan error, 1),
		progress: make(chan struct{}, 1), stopped: make(chan error, 1),
	}
	return at.run(ctx)
}

// run follows the task to its end, or until the user lets go of it.
func (at *attachment) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer at.wg.Wait()
	defer cancel()
	at.wg.Go(func() { at.watch(ctx, at.task) })
	at.saw(ctx, at.task)
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
		case err := <-at.output:
			at.outputEnded(err)
		case <-at.progress:
			if giveUp != nil {
				giveUp = time.After(quiet)
			}
		case <-giveUp:
			at.outputEnded(errors.New("nothing more came"))
		case err := <-at.stopped:
			if err != nil {
				at.explain(err)
			}
		case s := <-at.Signals:
			if err := at.signalled(ctx, s); err != nil {
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
	old := at.task
	at.task = t
	at.said = at.sayWaiting(t, at.said)
	switch {
	case t.Agent != "" && old.Agent == "" && !t.Terminal():
		fmt.Fprintf(at.Err, "%s is placed on agent %s\n", clean(t.ID), clean(t.Agent))
	case t.State != old.State && t.State == fleet.TaskUnreachable.String():
		fmt.Fprintf(at.Err, "%s: agent %s does not answer; waiting for it to come back\n", clean(t.ID), clean(t.Agent))
	}
	if hasOutput(t) && !at.copying && old.ID != "" && at.output != nil {
		at.copying = true
		at.wg.Go(func() {
			l := &logReader{
				app: at.app, c: at.c, id: t.ID, progress: at.progress,
				options: client.LogOptions{Follow: true, Tail: -1, Stdout: true, Stderr: true},
			}
			at.output <- l.follow(ctx)
		})
	}
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
