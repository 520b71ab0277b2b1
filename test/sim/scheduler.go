package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	outsideID   fleet.FrameworkID = "outside"
	outsideRole fleet.Role        = "visitors/outside"
	// outsideMost is how many tasks the scheduler launches in a run.
	outsideMost = 60
)

// scheduler is an outside framework: it subscribes, launches on what it is
// offered, acknowledges what it hears, loses its connection and its memory of
// what is in flight, and asks after its tasks until it knows their end.
type scheduler struct {
	w         *world
	conn      uint64
	connected bool
	// tasks are what it launched, by what it knows of them.
	tasks map[fleet.TaskID]*launched
	n     int // ids it has given
}

type launched struct {
	agent fleet.AgentID
	state fleet.TaskState
}

func newScheduler(w *world) *scheduler {
	return &scheduler{w: w, tasks: map[fleet.TaskID]*launched{}}
}

func (s *scheduler) start() {
	s.w.every(2*time.Second, s.tick)
}

func (s *scheduler) tick() {
	l := s.w.trio.leader
	if l == nil {
		s.connected = false
		return
	}
	switch {
	case s.connected && s.w.chance(30):
		s.connected = false
		s.w.trio.step(leader.Unsubscribe{Framework: outsideID, Conn: s.conn})
	case !s.connected:
		s.conn++
		info := fleet.FrameworkInfo{
			ID: outsideID, Name: "outside", Roles: []fleet.Role{outsideRole}, FailoverTimeout: time.Hour,
			Capabilities: []fleet.Capability{fleet.CapPartitionAware, fleet.CapGPU},
		}
		s.w.trio.step(leader.Register{Info: info, Conn: s.conn})
	default:
		if s.w.calm || s.w.rng.IntN(5) == 0 {
			s.reconcile()
		}
		if s.done() {
			s.w.trio.step(leader.Suppress{Framework: outsideID})
		}
	}
}

// done: it wants nothing more.
func (s *scheduler) done() bool { return s.w.calm || s.n >= outsideMost }

// reconcile asks after the tasks whose end it does not know.
func (s *scheduler) reconcile() {
	ev := leader.Reconcile{Framework: outsideID}
	for _, id := range slices.Sorted(maps.Keys(s.tasks)) {
		if t := s.tasks[id]; !t.state.Terminal() {
			ev.Tasks = append(ev.Tasks, leader.Known{Task: id, Agent: t.agent})
		}
	}
	if len(ev.Tasks) > 0 {
		s.w.trio.step(ev)
	}
}

func (s *scheduler) registered(a leader.Registered) {
	if a.Conn == s.conn {
		s.connected = a.Refused == ""
	}
}

func (s *scheduler) offered(offers []fleet.Offer) {
	for _, o := range offers {
		if s.w.chance(50) {
			continue // it does not answer: the offer expires
		}
		s.w.after(s.w.between(time.Millisecond, 3*time.Second), func() { s.answer(o) })
	}
}

func (s *scheduler) answer(o fleet.Offer) {
	filters := &fleet.Filters{Refuse: s.w.between(time.Second, 20*time.Second)}
	if s.done() || s.w.chance(400) {
		s.w.trio.step(leader.Decline{Framework: outsideID, Offers: []fleet.OfferID{o.ID}, Filters: filters})
		return
	}
	accept := leader.Accept{Framework: outsideID, Offers: []fleet.OfferID{o.ID}, Create: true, Filters: filters}
	var op leader.Operation
	for range 1 + s.w.rng.IntN(2) {
		s.n++
		id := fleet.TaskID(fmt.Sprintf("o%d", s.n))
		s.tasks[id] = &launched{o.Agent, fleet.TaskStaging}
		res := fleet.Resources{CPUs: min(o.Resources.CPUs, fleet.Scalar(100*(1+s.w.rng.IntN(5))))}
		if len(op.Launch) == 0 && len(o.Resources.GPUs) > 0 && s.w.rng.IntN(2) == 0 {
			res.GPUs = o.Resources.GPUs[:1]
		}
		op.Launch = append(op.Launch, fleet.Launch{
			Task: id, Spec: fleet.TaskSpec{Name: string(id), Image: "sim"}, Resources: res,
			Standing: fleet.Standing{Revocable: s.w.rng.IntN(3) == 0},
		})
	}
	if s.w.rng.IntN(3) == 0 {
		op.Group = "group-" + string(op.Launch[0].Task)
	}
	accept.Operations = []leader.Operation{op}
	s.w.trio.step(accept)
}

// updated: what it must acknowledge comes in order, again and again until it
// does.
func (s *scheduler) updated(u leader.Update) {
	t := s.tasks[u.Status.Task]
	if t == nil {
		s.w.failf("the outside framework hears of task %s, which it did not launch", u.Status.Task)
		return
	}
	if s.w.chance(100) {
		return // lost with a connection
	}
	if u.ID != "" && u.Status.State != t.state && !u.Status.State.CanFollow(t.state) && t.state != fleet.TaskUnreachable {
		s.w.failf("the outside framework hears that task %s is %v after %v", u.Status.Task, u.Status.State, t.state)
	}
	if !t.state.Terminal() {
		t.state = u.Status.State
	}
	if u.ID != "" {
		s.w.after(s.w.between(time.Millisecond, time.Second), func() {
			if !s.w.chance(100) {
				s.w.trio.step(leader.Acknowledge{Framework: outsideID, Task: u.Status.Task, Update: u.ID})
			}
		})
	}
}

// told has it forget what it knows of a history that is lost, and hear what there
// is now.
func (s *scheduler) told(st *state.State) {
	s.connected = false
	clear(s.tasks)
	for id, t := range st.Tasks {
		if t.Framework == outsideID {
			s.tasks[id] = &launched{t.Agent, fleet.TaskStaging}
		}
	}
}

// unrest says what keeps the framework from resting, "" when nothing does.
func (s *scheduler) unrest(st *state.State) string {
	for _, id := range slices.Sorted(maps.Keys(s.tasks)) {
		switch t := st.Tasks[id]; {
		case !s.tasks[id].state.Terminal():
			return "the outside framework does not hear of the end of task " + string(id)
		case t != nil && len(t.Pending) > 0:
			return fmt.Sprintf("%d updates of task %s are not acknowledged", len(t.Pending), id)
		case t != nil && !t.State.Terminal():
			return fmt.Sprintf("the outside framework was told that task %s ended, and it is %v", id, t.State)
		}
	}
	return ""
}
