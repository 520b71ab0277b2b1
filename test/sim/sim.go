package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Stats tells how much happened in a run, so that a test can see that it did.
type Stats struct {
	Tasks, Terms, Entries int
	// Outside counts tasks of the outside framework.
	Outside int
	Ended   map[fleet.TaskState]int
	// Why is how many tasks ended for a reason.
	Why map[fleet.Reason]int
	// Restarts counts starts after a crash or a reboot, Replaced tasks that were
	// replaced.
	Restarts, Replaced int
	// Snapshots counts replicas that began anew from what they had, Restores
	// operators that put an old state in the place of a newer one.
	Snapshots, Restores int
	// Renewed and Healed count certificates, Copies disks that were copied.
	Renewed, Healed, Copies int
	// Jumps counts steps of clocks.
	Jumps int
}

// Run simulates one fleet. The error says what was violated and when.
func Run(seed uint64, opt Options) (Stats, error) {
	w := newWorld(seed, opt)
	w.admit()
	for _, a := range w.agents {
		a.boot()
	}
	w.trio.elect()
	w.every(time.Second, func() { w.trio.step(leader.Tick{}) })
	w.outside.start()
	w.faults()
	w.clocks()
	w.replicas()
	w.operator()
	w.workload()
	w.run(epoch.Add(w.opt.Busy), nil)
	w.settleDown()
	if w.trio.leading < 0 {
		w.trio.elect()
	}
	w.run(w.now.Add(w.opt.Settle), w.resting)
	stats := w.sum()
	if w.err == nil && !w.resting() {
		w.failf("the fleet does not come to rest: %s", w.unrest())
	}
	w.trio.agree()
	w.check.delivered(w)
	if w.err != nil {
		return stats, w.err
	}
	k, err := runKeys(seed, opt)
	stats.Renewed, stats.Healed, stats.Copies = k.Renewed, k.Healed, k.Copies
	return stats, err
}

// settleDown ends all faults. Half of the agents begin with a new session: the
// others find what they have missed by themselves.
func (w *world) settleDown() {
	w.calm = true
	for _, a := range w.agents {
		if a.lossy = a.sessions; w.rng.IntN(2) == 0 {
			a.lost(a.session)
		}
	}
}

func newWorld(seed uint64, opt Options) *world {
	if opt.Agents == 0 {
		opt.Agents = 5
	}
	if opt.Busy == 0 {
		opt.Busy = 3 * time.Minute
	}
	if opt.Settle == 0 {
		opt.Settle = 30 * time.Minute
	}
	w := &world{opt: opt, rng: rand.New(rand.NewPCG(seed, 0x7e4de4)), now: epoch}
	w.check = newChecker()
	w.trio = newTrio(w)
	w.outside = newScheduler(w)
	for i := range opt.Agents {
		a := &agentSim{
			w: w, id: fleet.AgentID(fmt.Sprintf("a%d", i)),
			records: map[fleet.TaskID]lifecycle.Record{}, containers: map[fleet.TaskID]*container{},
		}
		a.capacity.Total = fleet.Resources{CPUs: fleet.Whole(int64(1 + w.rng.IntN(4))), Mem: fleet.Whole(4096)}
		for g := range w.rng.IntN(4) {
			id := gpu.UUID(fmt.Sprintf("GPU-%d-%d", i, g))
			a.capacity.Total.GPUs = append(a.capacity.Total.GPUs, id)
			a.capacity.Devices = append(a.capacity.Devices, gpu.Device{UUID: id, Model: "sim", MemoryMB: 24000, Health: gpu.Healthy})
		}
		w.agents = append(w.agents, a)
	}
	return w
}

func (w *world) admit() {
	cmds := []state.Command{
		{Bootstrap: &state.Bootstrap{TrustDomain: "sim"}},
		{PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: len(w.agents), Expires: epoch.Add(time.Hour)}},
	}
	for _, a := range w.agents {
		cmds = append(cmds, state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: string(a.id)}})
	}
	for i := range cmds {
		cmds[i].Time = w.now
	}
	w.trio.commit(cmds)
}

// faults lets leaders die, sessions break, agents crash, machines reboot.
func (w *world) faults() {
	w.every(time.Second, func() {
		if w.chance(30) {
			w.trio.fail()
		}
		for _, a := range w.agents {
			switch {
			case w.chance(20):
				a.lost(a.session)
			case w.chance(6):
				a.cut = w.now.Add(w.between(5*time.Second, 150*time.Second))
				a.lost(a.session)
			case w.chance(8):
				a.crash(w.rng.IntN(4) == 0)
			}
		}
	})
}

// workload submits tasks and stops some of them.
func (w *world) workload() {
	n := 0
	w.every(700*time.Millisecond, func() {
		if w.calm || w.trio.leader == nil {
			return
		}
		n++
		id := fleet.TaskID(fmt.Sprintf("t%d", n))
		need := fleet.Need{CPUs: fleet.Scalar(100 * (1 + w.rng.IntN(10))), Mem: fleet.Whole(64)}
		if a := w.agents[w.rng.IntN(len(w.agents))]; len(a.capacity.Devices) > 0 && w.rng.IntN(2) == 0 {
			need.GPU.Count = 1 + w.rng.IntN(len(a.capacity.Devices))
		}
		role := fleet.DefaultRole
		if w.rng.IntN(3) == 0 {
			role = "research"
		}
		w.tasks = append(w.tasks, id)
		submit := state.Command{Time: w.trio.now(), Submit: &state.Submit{
			ID: id, Framework: framework.RunID, Role: role, Need: need,
			Spec:     w.spec(id),
			Standing: fleet.Standing{Priority: w.rng.IntN(3), Revocable: w.rng.IntN(2) == 0},
		}}
		w.ensure(submit, func(st *state.State) bool { return st.Tasks[id] != nil })
		if w.rng.IntN(5) == 0 {
			w.after(w.between(0, 20*time.Second), func() {
				kill := state.Command{Time: w.trio.now(), Kill: &state.Kill{ID: id, Grace: w.between(0, 3*time.Second)}}
				w.ensure(kill, func(st *state.State) bool {
					t := st.Tasks[id]
					return t != nil && (t.Kill || t.State.Terminal())
				})
			})
		}
	})
}

// spec gives some tasks checks, and some a maximum completion time.
func (w *world) spec(id fleet.TaskID) fleet.TaskSpec {
	s := fleet.TaskSpec{Name: string(id), Image: "sim"}
	check := func(c fleet.Check) *fleet.Check {
		c.Port, c.Delay, c.Interval = 80, w.between(0, 4*time.Second), w.between(0, 4*time.Second)
		return &c
	}
	if w.rng.IntN(3) == 0 {
		s.Health = check(fleet.NewHealthCheck(fleet.CheckTCP))
		s.Health.ConsecutiveFailures, s.Health.Grace = w.rng.IntN(4), w.between(0, 8*time.Second)
	}
	if w.rng.IntN(5) == 0 {
		s.Check = check(fleet.NewCheck(fleet.CheckHTTP))
	}
	if w.rng.IntN(6) == 0 {
		s.MaxCompletion = w.between(time.Second, 25*time.Second)
	}
	w.policies(&s)
	return s
}

// ensure is a client that repeats a call until it sees its effect, as people
// and the API's clients do after an error.
func (w *world) ensure(c state.Command, done func(*state.State) bool) {
	w.ensureIn(w.check.history.number, c, done)
}

// ensureIn gives up when a snapshot has been restored: whether the call had its
// effect in the history that is lost, nobody knows.
func (w *world) ensureIn(history int, c state.Command, done func(*state.State) bool) {
	if w.check.history.number != history {
		return
	}
	if w.trio.leader != nil {
		if done(w.trio.leader.State()) {
			return
		}
		w.trio.propose(c)
	}
	w.after(2*time.Second, func() { w.ensureIn(history, c, done) })
}

func (w *world) sum() Stats {
	s := w.stats
	s.Tasks, s.Terms, s.Entries = len(w.tasks), int(w.trio.term), len(w.trio.log)
	s.Ended, s.Why = map[fleet.TaskState]int{}, map[fleet.Reason]int{}
	for _, t := range w.trio.head.Tasks {
		s.Restarts += t.Status.Restarts
		if t.ReplacedBy != "" {
			s.Replaced++
		}
		if t.State.Terminal() {
			s.Ended[t.State]++
			s.Why[t.Status.Reason]++
		}
		if t.Framework == outsideID {
			s.Outside++
		}
	}
	return s
}
