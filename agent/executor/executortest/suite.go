// Package executortest holds the suite that every executor.Executor passes.
//
//	func TestSuite(t *testing.T) {
//		executortest.Run(t, func(t *testing.T) (executor.Executor, executortest.Fixture) { ... })
//	}
package executortest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Fixture is what the suite must know about the world of one executor.
type Fixture struct {
	Image   string // runs here
	Unknown string // no store or registry has it
	Foreign string // made for another architecture
	// Mem is enough for every command but Hog, in MiB.
	Mem int64

	Exit     func(code int) []string // ends at once with code
	Signal   func(sig int) []string  // ends at once by a signal
	Hog      []string                // exceeds Mem
	Polite   []string                // runs until TERM, then exits with code 0
	Stubborn []string                // runs until KILL
	Missing  []string                // the image has no such program

	// Programs to run inside a running task.
	ExecExit func(code int) []string // ends at once with code
	ExecEnv  []string                // ends at once with the code in variable CODE
	ExecLoud []string                // prints more than any pipe holds, then ends with code 0
	ExecLong []string                // runs, with a child, for far longer than the suite
	Serve    func(port int) []string // a task that listens on the port

	// Ready waits until a polite or stubborn task is what it will be: before
	// its program has begun, any task ends on TERM. May be nil.
	Ready func(t *testing.T, id fleet.TaskID)
	// Reopen returns a second executor over the same world, as an agent has
	// after its restart.
	Reopen func(t *testing.T) executor.Executor
	// Outage takes the runtime out of reach until restore is called.
	Outage func(t *testing.T) (restore func())
	// Lose makes a running task disappear without an exit status.
	Lose func(t *testing.T, id fleet.TaskID)
	// Alone fails the test when processes run in a polite task's container that
	// are not its own. May be nil.
	Alone func(t *testing.T, id fleet.TaskID)
	// CheckClean fails the test when tasks that were removed left something.
	CheckClean func(t *testing.T)
}

// patience bounds every wait of the suite; nothing takes nearly as long.
const patience = 60 * time.Second

// Run runs the suite. newExecutor is called for every scenario and may return
// executors that share one world; the suite removes what it starts.
func Run(t *testing.T, newExecutor func(t *testing.T) (executor.Executor, Fixture)) {
	scenarios := []struct {
		name string
		run  func(s *scenario)
	}{
		{"exit code, signal and out of memory are told apart", endings},
		{"starting again changes nothing", startAgain},
		{"concurrent starts make one task", startConcurrently},
		{"any number may wait, and cancelling touches nothing", waiters},
		{"unknown tasks are not found", unknown},
		{"a polite task ends on TERM", stopPolite},
		{"a stubborn task is killed after its grace period", stopStubborn},
		{"stopping again only shortens the grace period", stopAgain},
		{"stopping an ended task is no error", stopEnded},
		{"removing kills and forgets", remove},
		{"a removed task can be started again", startAfterRemove},
		{"tasks outlive the executor", reattach},
		{"a task lost by the runtime is not found", lose},
		{"what can never start is invalid and leaves nothing", invalid},
		{"a cancelled start leaves nothing", cancelledStart},
		{"an outage is reported and survived", outage},
		{"list is in the order of ids", listInOrder},
		{"programs run inside running tasks only", execs},
		{"a program that takes too long is killed", execTooLong},
		{"a task's ports are dialled", dial},
	}
	for _, sc := range scenarios {
		t.Run(strings.ReplaceAll(sc.name, " ", "_"), func(t *testing.T) {
			x, f := newExecutor(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			sc.run(&scenario{t: t, x: x, f: f, ctx: ctx})
			if f.CheckClean != nil && !t.Failed() {
				f.CheckClean(t)
			}
		})
	}
}

// scenario is one test with its executor at hand.
type scenario struct {
	t   *testing.T
	x   executor.Executor
	f   Fixture
	ctx context.Context
}

func (s *scenario) task(id string, command []string) executor.Task {
	return executor.Task{
		ID:        fleet.TaskID(id),
		Spec:      fleet.TaskSpec{Name: id, Image: s.f.Image, Command: command},
		Resources: fleet.Resources{CPUs: fleet.Whole(1), Mem: fleet.Whole(s.f.Mem)},
	}
}

// start starts a task, which the scenario removes.
func (s *scenario) start(id string, command []string) fleet.TaskID {
	s.t.Helper()
	t := s.task(id, command)
	if err := s.x.Start(s.ctx, t); err != nil {
		s.t.Fatalf("start %s: %v", id, err)
	}
	return t.ID
}

// startReady returns when the task would treat TERM as its command says.
func (s *scenario) startReady(id string, command []string) fleet.TaskID {
	s.t.Helper()
	task := s.start(id, command)
	if s.f.Ready != nil {
		s.f.Ready(s.t, task)
	}
	return task
}

func (s *scenario) wait(id fleet.TaskID) executor.Exit {
	s.t.Helper()
	e, err := s.x.Wait(s.ctx, id)
	if err != nil {
		s.t.Fatalf("wait for %s: %v", id, err)
	}
	return e
}

func (s *scenario) remove(ids ...fleet.TaskID) {
	s.t.Helper()
	for _, id := range ids {
		if err := s.x.Remove(s.ctx, id); err != nil {
			s.t.Fatalf("remove %s: %v", id, err)
		}
	}
}

func (s *scenario) wantExit(id fleet.TaskID, want executor.Exit) {
	s.t.Helper()
	got := s.wait(id)
	if got.Time.IsZero() {
		s.t.Errorf("%s: the exit has no time", id)
	}
	got.Time = time.Time{}
	if got != want {
		s.t.Errorf("%s %v, want: %v", id, got, want)
	}
}

func (s *scenario) wantList(x executor.Executor, want ...fleet.TaskID) {
	s.t.Helper()
	got, err := x.List(s.ctx)
	if err != nil {
		s.t.Fatalf("list: %v", err)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("list is %v, want %v", got, want)
	}
}

func (s *scenario) wantErr(what string, err, want error) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Errorf("%s: error %v, want one of kind %q", what, err, want)
	}
}

func (s *scenario) wantRunning(id fleet.TaskID) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
	defer cancel()
	if e, err := s.x.Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		s.t.Fatalf("%s does not run: %v, error %v", id, e, err)
	}
}

func endings(s *scenario) {
	for id, c := range map[string]struct {
		command []string
		want    executor.Exit
	}{
		"exit-0":   {s.f.Exit(0), executor.Exit{Code: 0}},
		"exit-3":   {s.f.Exit(3), executor.Exit{Code: 3}},
		"signal-9": {s.f.Signal(9), executor.Exit{Code: -1, Signal: 9}},
		"oom":      {s.f.Hog, executor.Exit{Code: -1, OOM: true}},
	} {
		task := s.start(id, c.command)
		s.wantExit(task, c.want)
		s.wantExit(task, c.want) // it stays known until it is removed
		s.remove(task)
	}
	s.wantList(s.x)
}

func startAgain(s *scenario) {
	id := s.startReady("twice", s.f.Polite)
	s.startReady("twice", s.f.Polite)
	s.wantList(s.x, id)
	s.wantRunning(id)
	if err := s.x.Stop(s.ctx, id, patience); err != nil {
		s.t.Fatal(err)
	}
	first := s.wait(id)
	s.start("twice", s.f.Polite) // ended, not removed: left alone
	if again := s.wait(id); !again.Time.Equal(first.Time) {
		s.t.Errorf("the ended task was started again: it ended at %v, then at %v", first.Time, again.Time)
	}
	s.remove(id)
}

func startConcurrently(s *scenario) {
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := s.x.Start(s.ctx, s.task("once", s.f.Polite)); err != nil {
				s.t.Errorf("start: %v", err)
			}
		})
	}
	wg.Wait()
	s.wantList(s.x, "once")
	s.wantRunning("once")
	s.remove("once")
}

func waiters(s *scenario) {
	id := s.startReady("awaited", s.f.Polite)
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.x.Wait(cancelled, id)
	s.wantErr("wait with a cancelled context", err, context.Canceled)
	s.wantRunning(id)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { s.wantExit(id, executor.Exit{}) })
	}
	if err := s.x.Stop(s.ctx, id, patience); err != nil {
		s.t.Error(err)
	}
	wg.Wait()
	s.remove(id)
}

func unknown(s *scenario) {
	_, err := s.x.Wait(s.ctx, "nobody")
	s.wantErr("wait", err, executor.ErrNotFound)
	s.wantErr("stop", s.x.Stop(s.ctx, "nobody", time.Second), executor.ErrNotFound)
	s.remove("nobody")
	s.wantList(s.x)
}

func stopPolite(s *scenario) {
	id := s.startReady("polite", s.f.Polite)
	if err := s.x.Stop(s.ctx, id, 10*patience); err != nil {
		s.t.Fatal(err)
	}
	s.wantExit(id, executor.Exit{})
	s.remove(id)
}

func stopStubborn(s *scenario) {
	id := s.startReady("stubborn", s.f.Stubborn)
	began := time.Now()
	const grace = 300 * time.Millisecond
	if err := s.x.Stop(s.ctx, id, grace); err != nil {
		s.t.Fatal(err)
	}
	s.wantExit(id, executor.Exit{Code: -1, Signal: 9})
	if took := time.Since(began); took < grace {
		s.t.Errorf("killed after %v, before the grace period of %v was over", took, grace)
	}
	s.remove(id)

	id = s.startReady("no-grace", s.f.Stubborn)
	if err := s.x.Stop(s.ctx, id, 0); err != nil {
		s.t.Fatal(err)
	}
	s.wantExit(id, executor.Exit{Code: -1, Signal: 9})
	s.remove(id)
}

func stopAgain(s *scenario) {
	for name, graces := range map[string][2]time.Duration{
		"shorter": {10 * patience, 50 * time.Millisecond},
		"longer":  {50 * time.Millisecond, 10 * patience},
	} {
		id := s.startReady(name, s.f.Stubborn)
		for _, grace := range graces {
			if err := s.x.Stop(s.ctx, id, grace); err != nil {
				s.t.Fatal(err)
			}
		}
		s.wantExit(id, executor.Exit{Code: -1, Signal: 9})
		s.remove(id)
	}
}

func stopEnded(s *scenario) {
	id := s.start("ended", s.f.Exit(1))
	s.wantExit(id, executor.Exit{Code: 1})
	if err := s.x.Stop(s.ctx, id, 0); err != nil {
		s.t.Errorf("stop: %v", err)
	}
	s.wantExit(id, executor.Exit{Code: 1})
	s.remove(id)
}

func remove(s *scenario) {
	id := s.startReady("removed", s.f.Stubborn)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// It may see the kill or the absence, depending on who is faster.
		if e, err := s.x.Wait(s.ctx, id); !errors.Is(err, executor.ErrNotFound) && (err != nil || e.Signal != 9) {
			s.t.Errorf("a waiter of the removed task got %v, error %v", e, err)
		}
	}()
	s.wantRunning(id)
	s.remove(id, id)
	<-ended
	s.wantList(s.x)
	_, err := s.x.Wait(s.ctx, id)
	s.wantErr("wait for a removed task", err, executor.ErrNotFound)
}

func startAfterRemove(s *scenario) {
	for code := range 2 {
		id := s.start("again", s.f.Exit(code))
		s.wantExit(id, executor.Exit{Code: code})
		s.remove(id)
	}
	// A KILL that was due for the first must not reach the second.
	id := s.startReady("again", s.f.Stubborn)
	if err := s.x.Stop(s.ctx, id, 150*time.Millisecond); err != nil {
		s.t.Fatal(err)
	}
	s.remove(id)
	s.startReady("again", s.f.Stubborn)
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	if e, err := s.x.Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		s.t.Errorf("the second task ended: %v, error %v", e, err)
	}
	s.remove(id)
}

func reattach(s *scenario) {
	s.start("ended-before", s.f.Exit(5))
	s.wantExit("ended-before", executor.Exit{Code: 5})
	s.startReady("runs-on", s.f.Polite)
	x := s.f.Reopen(s.t)
	s.x = x
	s.wantList(x, "ended-before", "runs-on")
	s.wantExit("ended-before", executor.Exit{Code: 5})
	s.wantRunning("runs-on")
	s.startReady("runs-on", s.f.Polite)
	if err := x.Stop(s.ctx, "runs-on", patience); err != nil {
		s.t.Fatal(err)
	}
	s.wantExit("runs-on", executor.Exit{})
	s.remove("ended-before", "runs-on")
	s.wantList(x)
}

func lose(s *scenario) {
	id := s.startReady("lost", s.f.Stubborn)
	waiter := make(chan error, 1)
	go func() {
		_, err := s.x.Wait(s.ctx, id)
		waiter <- err
	}()
	s.wantRunning(id)
	s.f.Lose(s.t, id)
	s.wantErr("a waiter", <-waiter, executor.ErrNotFound)
	_, err := s.x.Wait(s.ctx, id)
	s.wantErr("wait afterwards", err, executor.ErrNotFound)
	if err := s.x.Stop(s.ctx, id, 0); err != nil {
		s.t.Errorf("stop: %v", err)
	}
	s.wantList(s.x, id)
	s.remove(id)
	s.wantList(s.x)
}

func invalid(s *scenario) {
	for name, change := range map[string]func(*executor.Task){
		"unknown image":   func(t *executor.Task) { t.Spec.Image = s.f.Unknown },
		"foreign image":   func(t *executor.Task) { t.Spec.Image = s.f.Foreign },
		"missing program": func(t *executor.Task) { t.Spec.Command = s.f.Missing },
		"bad id":          func(t *executor.Task) { t.ID = "../evil" },
	} {
		task := s.task("invalid", s.f.Exit(0))
		change(&task)
		err := s.x.Start(s.ctx, task)
		s.wantErr(name, err, executor.ErrInvalid)
		s.t.Logf("%s: %v", name, err)
		s.wantList(s.x)
	}
}

func cancelledStart(s *scenario) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	err := s.x.Start(ctx, s.task("cancelled", s.f.Polite))
	s.wantErr("start with a cancelled context", err, context.Canceled)
	s.wantList(s.x)
}

func outage(s *scenario) {
	id := s.startReady("survivor", s.f.Polite)
	waiter := make(chan error, 1)
	go func() {
		_, err := s.x.Wait(s.ctx, id)
		waiter <- err
	}()
	s.wantRunning(id)
	restore := s.f.Outage(s.t)
	s.wantErr("a waiter", <-waiter, executor.ErrUnavailable)
	_, waitErr := s.x.Wait(s.ctx, id)
	_, listErr := s.x.List(s.ctx)
	_, execErr := s.exec(id, s.f.ExecExit(0))
	_, dialErr := s.prober().Dial(s.ctx, id, 8080)
	for what, err := range map[string]error{
		"start":  s.x.Start(s.ctx, s.task("meanwhile", s.f.Polite)),
		"wait":   waitErr,
		"stop":   s.x.Stop(s.ctx, id, time.Second),
		"remove": s.x.Remove(s.ctx, id),
		"list":   listErr,
		"exec":   execErr,
		"dial":   dialErr,
	} {
		s.wantErr(what, err, executor.ErrUnavailable)
	}
	restore()
	// It reconnects by itself, a moment later.
	for {
		_, err := s.x.List(s.ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, executor.ErrUnavailable) || s.ctx.Err() != nil {
			s.t.Fatalf("list after the outage: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.wantList(s.x, id)
	s.wantRunning(id)
	if err := s.x.Stop(s.ctx, id, patience); err != nil {
		s.t.Fatal(err)
	}
	s.wantExit(id, executor.Exit{})
	s.remove(id)
}

func listInOrder(s *scenario) {
	var want []fleet.TaskID
	// Ids that are not valid names of containers, too.
	for _, id := range []string{"b", "a--b", "a", "c.", "0_.x"} {
		want = append(want, s.start(id, s.f.Exit(0)))
	}
	slices.Sort(want)
	s.wantList(s.x, want...)
	for i, id := range want {
		s.wantExit(id, executor.Exit{})
		s.remove(id)
		s.wantList(s.x, want[i+1:]...)
	}
}
