package apitest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Epoch is the time on a new fleet's clock.
var Epoch = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// TrustDomain is the fleet's.
const TrustDomain = "fleet.example"

// Fleet is an api.Backend. It is safe for concurrent use.
type Fleet struct {
	mu      sync.Mutex
	now     time.Time
	st      *state.State
	index   uint64
	leader  *leader.Leader
	run     *framework.Run
	agents  map[fleet.AgentID]*agent
	output  map[fleet.TaskID]*output
	todo    []func() // what follows from what was done, in order
	changed chan struct{}
	ids     map[string]int
	status  api.Status
	fail    error
	// reserved is what came of the last reservation.
	reserved state.Result
	conns    uint64 // of outside frameworks
	fault    string // of the disk of r2
}

var _ api.Backend = (*Fleet)(nil)

// New returns a fleet without agents, led by replica r1.
func New() *Fleet {
	f := &Fleet{
		now: Epoch, st: state.New(), agents: map[fleet.AgentID]*agent{},
		output: map[fleet.TaskID]*output{}, changed: make(chan struct{}), ids: map[string]int{},
		status: api.Status{ID: "r1", Leader: "r1", LeaderAddr: "r1.fleet.example:7443", Term: 1, Replicas: []registrar.Replica{
			{ID: "r1", Addr: "r1.fleet.example:7443", Voter: true, Leader: true},
			{ID: "r2", Addr: "r2.fleet.example:7443", Voter: true, LastContact: Epoch.Add(-100 * time.Millisecond)},
			{ID: "r3", Addr: "r3.fleet.example:7443", Voter: true, LastContact: Epoch.Add(-5 * time.Minute)},
		}},
	}
	f.st.Apply(0, state.Command{Time: f.now, Bootstrap: &state.Bootstrap{TrustDomain: TrustDomain}})
	f.leader = leader.New(leader.Config{}, f.st.Clone(), 1, f.now)
	f.run = framework.NewRun(f.leader.State(), func(id fleet.TaskID) *state.Task { return f.leader.State().Tasks[id] })
	for _, ev := range f.run.Start() {
		f.step(ev)
	}
	return f
}

// Options are those of a handler with the fleet's clock and with ids that
// count: "train-1", "train-2".
func (f *Fleet) Options() api.Options {
	return api.Options{
		Version: client.Version{Version: "v1.2.3"}, Local: true, Changed: f.Changed, Now: f.Now, Trio: f, CA: f, Upgrades: f,
		NewID: func(prefix string) string {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.ids[prefix]++
			return fmt.Sprintf("%s-%d", prefix, f.ids[prefix])
		},
	}
}

// Now is the fleet's clock.
func (f *Fleet) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Advance moves the clock.
func (f *Fleet) Advance(d time.Duration) {
	f.do(func() {
		f.now = f.now.Add(d)
		f.step(leader.Tick{})
	})
}

// Changed returns a channel that is closed at the next change.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// SetStatus makes the fleet's replica something else, a follower for example.
func (f *Fleet) SetStatus(s api.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = s
}

// Fail makes every call that can fail do so until it is given nil.
func (f *Fleet) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// do runs one thing and all that follows from it.
func (f *Fleet) do(first func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first()
	for len(f.todo) > 0 {
		next := f.todo[0]
		f.todo = f.todo[1:]
		next()
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fleet) check(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case f.fail != nil:
		return f.fail
	case f.status.Leader != f.status.ID:
		return &registrar.NotLeaderError{Leader: f.status.Leader, Addr: f.status.LeaderAddr}
	}
	return nil
}

// Propose commits at once.
func (f *Fleet) Propose(ctx context.Context, cmds ...state.Command) (results []state.Result, err error) {
	if err := f.check(ctx); err != nil {
		return nil, err
	}
	f.do(func() { results = f.commit(cmds...) })
	return results, nil
}

func (f *Fleet) commit(cmds ...state.Command) []state.Result {
	f.index++
	results := make([]state.Result, len(cmds))
	for i, c := range cmds {
		results[i] = f.st.Apply(f.index, c)
	}
	f.step(leader.Committed{Index: f.index, Commands: cmds})
	for _, ev := range f.run.Step(framework.Committed{Commands: cmds}) {
		f.step(ev)
	}
	return results
}

// step gives the leader an event; its actions are performed afterwards.
func (f *Fleet) step(ev leader.Event) {
	for _, act := range f.leader.Step(f.now, ev) {
		f.todo = append(f.todo, func() { f.perform(act) })
	}
}

func (f *Fleet) perform(act leader.Action) {
	var answers []leader.Event
	switch act := act.(type) {
	case leader.Propose:
		f.commit(act.Command)
	case leader.Offer:
		if act.Framework == framework.RunID {
			answers = f.run.Step(framework.Offers{Offers: act.Offers})
		}
	case leader.Update:
		if act.Framework == framework.RunID {
			answers = f.run.Step(framework.Updated{Status: act.Status})
		}
	case leader.Assign:
		f.assign(act)
	case leader.Reserved:
		f.reserved = act.Result
	}
	for _, ev := range answers {
		f.step(ev)
	}
}

// Read calls fn with the state.
func (f *Fleet) Read(ctx context.Context, fn func(*state.State)) error {
	if err := f.check(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f.st)
	return nil
}

// Stale calls fn with the state, as a follower would too.
func (f *Fleet) Stale(fn func(*state.State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f.st)
}

// Soft tells of offers and agents.
func (f *Fleet) Soft(ctx context.Context) (api.Soft, error) {
	if err := f.check(ctx); err != nil {
		return api.Soft{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := api.Soft{Offers: f.leader.Offers(), Agents: map[fleet.AgentID]api.AgentSoft{}}
	for id, a := range f.agents {
		soft := a.soft
		soft.Free = f.leader.Free(id)
		s.Agents[id] = soft
	}
	return s, nil
}

// Ask calls look with the leader.
func (f *Fleet) Ask(ctx context.Context, look func(*leader.Leader)) error {
	if err := f.check(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	look(f.leader)
	return nil
}

// Reserve commits at once.
func (f *Fleet) Reserve(ctx context.Context, ev leader.Reserve) (res state.Result, err error) {
	if err := f.check(ctx); err != nil {
		return res, err
	}
	ev.Seq = 1 // one at a time
	f.do(func() { f.step(ev) })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reserved, f.reserved.Err()
}

// Status is what SetStatus said.
func (f *Fleet) Status() api.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Join is a line to two replicas.
func (f *Fleet) Join(kind pki.Kind) pki.JoinLine {
	return pki.JoinLine{
		Kind: kind, TrustDomain: TrustDomain, Addrs: []string{"r1.fleet.example:7443", "r2.fleet.example:7443"},
		Pin: "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
	}
}

// Subscribe adds a framework that wants anything and never answers, so that
// its offers stay out.
func (f *Fleet) Subscribe(id fleet.FrameworkID) {
	f.do(func() { f.step(leader.Subscribe{Framework: id, Standing: []fleet.Role{fleet.DefaultRole}}) })
}

// State returns a task's state, 0 when there is no such task.
func (f *Fleet) State(id fleet.TaskID) fleet.TaskState {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.st.Tasks[id]; t != nil {
		return t.State
	}
	return 0
}

// Tasks counts the tasks that the fleet knows.
func (f *Fleet) Tasks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.st.Tasks)
}

// Await returns once a task is in a state, or with the error of ctx.
func (f *Fleet) Await(ctx context.Context, id fleet.TaskID, s fleet.TaskState) error {
	for {
		changed := f.Changed()
		if f.State(id) == s {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("task %s is %v, not %v: %w", id, f.State(id), s, ctx.Err())
		}
	}
}

// AwaitAgent returns once an agent is as it should be, or with the error of ctx.
func (f *Fleet) AwaitAgent(ctx context.Context, id fleet.AgentID, is func(*fleet.Agent) bool) error {
	for {
		changed, ok := f.Changed(), false
		f.Stale(func(st *state.State) { ok = st.Agents[id] != nil && is(st.Agents[id]) })
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("agent %s: %w", id, ctx.Err())
		}
	}
}

// Capacity makes a capacity of processors, MiB of memory and devices.
func Capacity(cpus, mem int64, devices ...gpu.Device) fleet.Capacity {
	c := fleet.Capacity{Total: fleet.Resources{CPUs: fleet.Whole(cpus), Mem: fleet.Whole(mem), Disk: fleet.Whole(100_000)}, Devices: devices}
	for _, d := range devices {
		if d.Health == gpu.Healthy {
			c.Total.GPUs = append(c.Total.GPUs, d.UUID)
		}
	}
	fleet.SortGPUs(c.Total.GPUs)
	return c
}

// labels copies, so that a test may go on with its own map.
func labels(m map[string]string) map[string]string { return maps.Clone(m) }
