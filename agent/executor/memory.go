package executor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Run is how a task of Memory goes.
type Run struct {
	// For is how long the task runs; less than 0 means until something ends it.
	For time.Duration
	// Exit is how it then ends. Its Time is filled in.
	Exit Exit
	// OnTerm is how it ends when it is asked to; nil: it ignores TERM.
	OnTerm *Exit
}

// Script decides how a task goes. It is called once per started task, may
// block as pulling an image does, and its error is what Start returns.
type Script func(ctx context.Context, t Task) (Run, error)

// Memory is an Executor without containers, for tests and simulations. Its
// tasks do what its script says and nothing else; time is the only input, so
// in a testing/synctest bubble it is deterministic. Use NewMemory.
type Memory struct {
	script Script

	mu      sync.Mutex
	exec    func(context.Context, Task, Exec) (int, error)
	tasks   map[fleet.TaskID]*memoryTask
	started []fleet.TaskID
	outage  chan struct{} // closed while the runtime is out of reach
}

// memoryTask is guarded by Memory.mu but for its channels.
type memoryTask struct {
	task   Task
	run    Run
	ready  chan struct{} // closed when Start has returned
	err    error         // what Start returned
	done   chan struct{} // closed when the task has ended
	exit   Exit
	lost   bool
	timer  *time.Timer // ends the task by itself
	kill   *time.Timer // ends its grace period
	killAt time.Time
}

var _ Executor = (*Memory)(nil)

// NewMemory returns an Executor whose tasks follow script; nil means Commands.
func NewMemory(script Script) *Memory {
	if script == nil {
		script = Commands
	}
	return &Memory{script: script, tasks: map[fleet.TaskID]*memoryTask{}, outage: make(chan struct{})}
}

// Commands is a Script that reads the task's command:
//
//	exit 3       ends at once with code 3
//	sleep 10s    ends after 10 s with code 0
//	signal 11    ends at once by signal 11
//	oom          ends at once, out of memory
//	polite       runs until TERM, then exits with code 0
//	stubborn     runs until KILL
//
// Every other command runs until TERM ends it as a signal.
func Commands(_ context.Context, t Task) (Run, error) {
	term := Exit{Code: -1, Signal: int(syscall.SIGTERM)}
	run := Run{For: -1, OnTerm: &term}
	cmd := append(slices.Clone(t.Spec.Command), "", "")
	n, _ := strconv.Atoi(cmd[1])
	switch cmd[0] {
	case "exit":
		run.For, run.Exit = 0, Exit{Code: n}
	case "signal":
		run.For, run.Exit = 0, Exit{Code: -1, Signal: n}
	case "oom":
		run.For, run.Exit = 0, Exit{Code: -1, OOM: true}
	case "polite":
		run.OnTerm = &Exit{}
	case "stubborn":
		run.OnTerm = nil
	case "sleep":
		d, err := time.ParseDuration(cmd[1])
		if err != nil {
			return Run{}, fmt.Errorf("%w: %v", ErrInvalid, err)
		}
		run.For = d
	}
	return run, nil
}

// Start begins the task as the script says.
func (m *Memory) Start(ctx context.Context, t Task) error {
	if err := fleet.CheckID("task id", string(t.ID)); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	m.mu.Lock()
	if m.down() {
		m.mu.Unlock()
		return fmt.Errorf("start %s: %w", t.ID, ErrUnavailable)
	}
	if mt := m.tasks[t.ID]; mt != nil {
		m.mu.Unlock()
		select {
		case <-mt.ready:
			return mt.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	mt := &memoryTask{task: t, ready: make(chan struct{}), done: make(chan struct{})}
	m.tasks[t.ID] = mt
	m.mu.Unlock()

	run, err := m.script(ctx, t)
	if err == nil {
		err = ctx.Err()
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	defer close(mt.ready)
	if mt.err = err; err != nil {
		if m.tasks[t.ID] == mt {
			delete(m.tasks, t.ID)
		}
		return fmt.Errorf("start %s: %w", t.ID, err)
	}
	m.started = append(m.started, t.ID)
	mt.run = run
	switch {
	case run.For == 0:
		m.end(mt, run.Exit)
	case run.For > 0:
		mt.timer = time.AfterFunc(run.For, func() { m.endLater(mt, run.Exit) })
	}
	return nil
}

// Wait blocks until the task has ended.
func (m *Memory) Wait(ctx context.Context, id fleet.TaskID) (Exit, error) {
	mt, outage, err := m.find(id)
	if err != nil {
		return Exit{}, fmt.Errorf("wait for %s: %w", id, err)
	}
	select {
	case <-mt.done:
	case <-outage:
		return Exit{}, fmt.Errorf("wait for %s: %w", id, ErrUnavailable)
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if mt.lost {
		return Exit{}, fmt.Errorf("wait for %s: %w", id, ErrNotFound)
	}
	return mt.exit, nil
}

// Stop sends TERM and begins the grace period.
func (m *Memory) Stop(_ context.Context, id fleet.TaskID, grace time.Duration) error {
	mt, _, err := m.find(id)
	if err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if mt.run.OnTerm != nil {
		m.end(mt, *mt.run.OnTerm)
	}
	at := time.Now().Add(grace)
	if mt.ended() || mt.kill != nil && !at.Before(mt.killAt) {
		return nil
	}
	if mt.kill != nil {
		mt.kill.Stop()
	}
	mt.killAt = at
	mt.kill = time.AfterFunc(grace, func() { m.endLater(mt, killed) })
	return nil
}

var killed = Exit{Code: -1, Signal: int(syscall.SIGKILL)}

// Remove forgets the task, killing it if it runs.
func (m *Memory) Remove(_ context.Context, id fleet.TaskID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down() {
		return fmt.Errorf("remove %s: %w", id, ErrUnavailable)
	}
	if mt := m.tasks[id]; mt != nil {
		m.end(mt, killed)
		delete(m.tasks, id)
	}
	return nil
}

// List names the tasks that were started and not removed.
func (m *Memory) List(context.Context) ([]fleet.TaskID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down() {
		return nil, fmt.Errorf("list tasks: %w", ErrUnavailable)
	}
	var ids []fleet.TaskID
	for id, mt := range m.tasks {
		if mt.isReady() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Finish ends a running task; an ended or unknown one is left alone.
func (m *Memory) Finish(id fleet.TaskID, e Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mt := m.tasks[id]; mt != nil {
		m.end(mt, e)
	}
}

// Lose makes a task disappear without an exit status, as when its shim dies.
func (m *Memory) Lose(id fleet.TaskID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mt := m.tasks[id]; mt != nil {
		mt.lost = true
		m.end(mt, Exit{})
	}
}

// SetUnavailable takes the runtime out of reach, or back. Tasks run on.
func (m *Memory) SetUnavailable(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case down && !m.down():
		close(m.outage)
	case !down && m.down():
		m.outage = make(chan struct{})
	}
}

// Started names every task that was truly started, in order, those removed
// since included.
func (m *Memory) Started() []fleet.TaskID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.started)
}

// Task returns what a held task was started with.
func (m *Memory) Task(id fleet.TaskID) (Task, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mt := m.tasks[id]; mt != nil {
		return mt.task, true
	}
	return Task{}, false
}

// find returns a started task, and the channel that an outage closes.
func (m *Memory) find(id fleet.TaskID) (*memoryTask, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down() {
		return nil, nil, ErrUnavailable
	}
	mt := m.tasks[id]
	if mt == nil || !mt.isReady() {
		return nil, nil, ErrNotFound
	}
	return mt, m.outage, nil
}

func (m *Memory) down() bool {
	select {
	case <-m.outage:
		return true
	default:
		return false
	}
}

func (m *Memory) endLater(mt *memoryTask, e Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end(mt, e)
}

// end is called with m.mu held; the first end counts.
func (m *Memory) end(mt *memoryTask, e Exit) {
	if mt.ended() {
		return
	}
	for _, t := range []*time.Timer{mt.timer, mt.kill} {
		if t != nil {
			t.Stop()
		}
	}
	e.Time = time.Now()
	mt.exit = e
	close(mt.done)
}

func (t *memoryTask) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func (t *memoryTask) isReady() bool {
	select {
	case <-t.ready:
		return true
	default:
		return false
	}
}
