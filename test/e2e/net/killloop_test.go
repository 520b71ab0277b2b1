package net_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport/fleet"
)

// TestTheKillLoop kills a replica and an agent, over and over, while tasks are
// submitted: every task that was accepted runs once and ends once, and the
// agents hold what they should and nothing else. TENDER_KILL_ROUNDS is how many.
func TestTheKillLoop(t *testing.T) {
	t.Parallel()
	rounds := setting(t, "TENDER_KILL_ROUNDS", 25)
	w := newWorld(t)
	var stay []string
	for range 4 { // beside the witnesses, wherever there is room
		stay = append(stay, w.Submit(t, client.Submit{Name: "stays", Command: untilTouched()}))
	}
	for _, id := range stay {
		w.Running(t, id)
	}
	l := &launches{accepted: map[string]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	var submitters sync.WaitGroup
	for i := range 3 {
		api := w.ClientOf(t, w.Replicas...)
		submitters.Go(func() { l.submit(ctx, api, i) })
	}
	began := time.Now()
	for range rounds {
		w.killRound(t, l)
	}
	took := time.Since(began)
	cancel()
	submitters.Wait()
	w.agreed(t)
	for _, a := range w.agents {
		a.Connected(t)
	}
	tasks := w.settled(t, stay)
	w.count(t, l, tasks)
	t.Logf("%d rounds in %.0f s; %d tasks, %d submissions with an unknown outcome, %d refused", rounds, took.Seconds(), len(tasks), l.unknown, l.refused)
	for _, id := range stay {
		task, err := w.Task(t.Context(), id)
		must(t, err)
		a := w.agents[slices.IndexFunc(w.agents, func(a *harness.Agent) bool { return a.ID == task.Agent })]
		end(t, a, id)
		w.once(t, a, id)
	}
	w.play(t, nil)
}

// launches is what has been submitted.
type launches struct {
	mu               sync.Mutex
	accepted         map[string]bool // ids
	unknown, refused int
}

// submit submits tasks until ctx ends.
func (l *launches) submit(ctx context.Context, api *client.Client, number int) {
	for i := 0; ctx.Err() == nil; i++ {
		s := harness.Complete(client.Submit{Name: fmt.Sprintf("l%d-%d", number, i), Command: sh("echo ran; sleep 0." + fmt.Sprint(rand.IntN(5)))})
		callCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		task, err := api.Submit(callCtx, s)
		stop()
		l.mu.Lock()
		switch {
		case err == nil:
			l.accepted[task.ID] = true
		case refused(err):
			l.refused++
		default:
			l.unknown++
		}
		l.mu.Unlock()
		rest(ctx, 150*time.Millisecond+rand.N(200*time.Millisecond))
	}
}

func (l *launches) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// killRound kills a replica and an agent, starts them again, and waits until a
// task is accepted.
func (w *world) killRound(t *testing.T, l *launches) {
	t.Helper()
	before := l.count()
	r, a := w.Replicas[rand.IntN(3)], w.agents[rand.IntN(2)]
	r.Kill(t)
	rest(t.Context(), rand.N(200*time.Millisecond))
	a.Process().Kill(t)
	rest(t.Context(), rand.N(200*time.Millisecond))
	a.Start(t)
	r.Start(t)
	harness.Eventually(t, "a task is accepted", func() bool { return l.count() > before })
	rest(t.Context(), rand.N(300*time.Millisecond))
}

// settled waits until all tasks but those that stay have ended, and the agents
// hold the others and nothing else.
func (w *world) settled(t *testing.T, stay []string) []client.Task {
	t.Helper()
	var list client.TaskList
	harness.Eventually(t, "all tasks have ended", func() bool {
		open, err := w.Tasks(t.Context(), client.TaskFilter{})
		return err == nil && len(open.Tasks) == len(stay)+len(w.witness)
	})
	list, err := w.Tasks(t.Context(), client.TaskFilter{All: true, Limit: 100_000})
	must(t, err)
	var ended []client.Task
	desired := map[string][]string{}
	for _, task := range list.Tasks {
		switch {
		case task.Terminal():
			ended = append(ended, task)
		case task.State == "TASK_RUNNING":
			desired[task.Agent] = append(desired[task.Agent], task.ID)
		default:
			t.Errorf("a task that stays: %s", harness.Tell(task))
		}
	}
	for _, a := range w.agents {
		slices.Sort(desired[a.ID])
		harness.Eventually(t, fmt.Sprintf("%s holds %v", a.ID, desired[a.ID]), func() bool {
			held, err := a.Runtime.Containers(t.Context())
			slices.Sort(held)
			return err == nil && slices.Equal(held, desired[a.ID])
		})
	}
	return ended
}

// count checks that each task ran once and ended once, as its history, its
// agent's containerd and its own output tell.
func (w *world) count(t *testing.T, l *launches, tasks []client.Task) {
	t.Helper()
	there := map[string]bool{}
	names := map[string]int{}
	for _, brief := range tasks {
		there[brief.ID] = true
		names[brief.Name]++
		task, err := w.Task(t.Context(), brief.ID)
		must(t, err)
		ends := 0
		for _, h := range task.History {
			if s, err := fleet.ParseTaskState(h.State); err == nil && s.Terminal() {
				ends++
			}
		}
		starts := 0
		for _, a := range w.agents {
			starts += a.Runtime.Starts(task.ID)
		}
		out, _ := w.Output(t, task.ID)
		if ends != 1 || starts != 1 || out != "ran\n" || task.State != "TASK_FINISHED" {
			t.Errorf("task %s ended %d times, was started %d times and printed %q: %s", task.ID, ends, starts, out, harness.Tell(task))
		}
	}
	for id := range l.accepted {
		if !there[id] {
			t.Errorf("task %s was accepted and is not there", id)
		}
	}
	for name, n := range names {
		if n != 1 {
			t.Errorf("%d tasks are named %s", n, name)
		}
	}
}
