package sim

import (
	"time"

	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// trio stands for Raft: one log, three copies of the state that apply it each
// in its own time, and a leader that dies now and then. What a dying leader
// had proposed is committed up to a random point and lost beyond it.
type trio struct {
	w        *world
	log      []entry
	replicas [3]*replica
	leading  int // -1 while nobody leads
	term     uint64
	leader   *leader.Leader
	run      *framework.Run
	inFlight []state.Command // proposed, not yet committed
	began    time.Time       // the term of the leader
	head     *state.State    // after the whole log, for the checker
	flushing bool
	asks     map[any]func(state.Result) // who waits, by the command that it is for
}

// unreachableAfter is short, so that much of it happens.
const unreachableAfter = 20 * time.Second

// entry is commands, or a state in the place of all that came before.
type entry struct {
	commands []state.Command
	restored []byte
}

type replica struct {
	st      *state.State
	applied int
	clock   clock
	snaps   []snapshot
}

func newTrio(w *world) *trio {
	t := &trio{w: w, leading: -1, head: state.New(), asks: map[any]func(state.Result){}}
	for i := range t.replicas {
		t.replicas[i] = &replica{st: state.New()}
	}
	return t
}

// apply brings one replica up to the end of the log.
func (t *trio) apply(i int) {
	r := t.replicas[i]
	for ; r.applied < len(t.log); r.applied++ {
		if data := t.log[r.applied].restored; data != nil {
			r.st = t.w.decoded(data)
		}
		for _, c := range t.log[r.applied].commands {
			r.st.Apply(uint64(r.applied+1), c)
		}
	}
}

// now is the time of the replica that leads.
func (t *trio) now() time.Time { return t.replicas[max(t.leading, 0)].clock.now(t.w) }

func (t *trio) elect() {
	if t.leading >= 0 {
		return
	}
	t.leading = t.w.rng.IntN(3)
	t.term++
	t.apply(t.leading)
	st := t.replicas[t.leading].st.Clone()
	t.leader = leader.New(leader.Config{UnreachableAfter: unreachableAfter}, st, st.Fence(t.term), t.now())
	t.began = t.w.now
	t.run = framework.NewRun(t.leader.State(), func(id fleet.TaskID) *state.Task { return t.leader.State().Tasks[id] })
	t.w.logf("replica %d leads term %d", t.leading, t.term)
	for _, ev := range t.run.Start() {
		t.step(ev)
	}
}

// fail kills the leader.
func (t *trio) fail() {
	if t.leading < 0 {
		return
	}
	if n := len(t.inFlight); n > 0 {
		t.commit(t.inFlight[:t.w.rng.IntN(n+1)])
	}
	t.w.logf("leader %d dies", t.leading)
	t.leading, t.leader, t.run, t.inFlight = -1, nil, nil, nil
	t.w.outside.connected = false
	for _, a := range t.w.agents {
		a.lost(a.session)
	}
	if t.w.keys != nil {
		t.w.keys.drop()
	}
	t.w.after(t.w.between(500*time.Millisecond, 3*time.Second), t.elect)
}

func (t *trio) commit(cmds []state.Command) {
	if len(cmds) == 0 {
		return
	}
	t.log = append(t.log, entry{commands: append([]state.Command(nil), cmds...)})
	for _, c := range cmds {
		t.w.check.before(t.head, c)
		r := t.head.Apply(uint64(len(t.log)), c)
		t.w.check.after(t.w, t.head, c, r)
		if done := t.asks[question(c)]; done != nil {
			delete(t.asks, question(c))
			done(r)
		}
	}
	for i := range t.replicas {
		t.w.after(t.w.between(time.Millisecond, 200*time.Millisecond), func() { t.apply(i) })
	}
}

// ask proposes a command of an agent's keys and tells what came of it.
func (t *trio) ask(c state.Command, done func(state.Result)) {
	t.asks[question(c)] = done
	t.propose(c)
}

// question tells the commands of ask apart.
func question(c state.Command) any {
	switch {
	case c.Rekey != nil:
		return c.Rekey
	case c.Confirm != nil:
		return c.Confirm
	case c.Certified != nil:
		return c.Certified
	default:
		return c.Cloned
	}
}

// propose batches like the shell: one entry in flight, the rest waits.
func (t *trio) propose(c state.Command) {
	plain(&c.Time)
	t.inFlight = append(t.inFlight, c)
	t.flush()
}

func (t *trio) flush() {
	if t.flushing || len(t.inFlight) == 0 {
		return
	}
	t.flushing = true
	term := t.term
	t.w.after(t.w.between(2*time.Millisecond, 20*time.Millisecond), func() {
		t.flushing = false
		if t.leading < 0 || t.term != term {
			t.flush()
			return
		}
		batch := t.inFlight
		t.inFlight = nil
		t.commit(batch)
		t.step(leader.Committed{Index: uint64(len(t.log)), Commands: batch})
		if t.run != nil {
			t.feed(t.run.Step(framework.Committed{Commands: batch}))
		}
		t.flush()
	})
}

func (t *trio) feed(calls []leader.Event) {
	for _, c := range calls {
		t.step(c)
	}
}

// step gives the leader one event and performs its actions.
func (t *trio) step(ev leader.Event) {
	if t.leader == nil {
		return
	}
	acts := t.leader.Step(t.now(), ev)
	if t.w.opt.Trace != nil && len(acts) > 0 {
		t.w.logf("leader %T", ev)
		for _, act := range acts {
			t.w.logf("leader   -> %T%+v", act, act)
		}
	}
	for _, act := range acts {
		t.perform(act)
	}
}

func (t *trio) perform(act leader.Action) {
	if t.w.keys != nil {
		t.w.keys.told(act)
	}
	switch act := act.(type) {
	case leader.Propose:
		t.w.check.proposed(t.w, act.Command)
		t.propose(act.Command)
	case leader.Registered:
		t.w.outside.registered(act)
	case leader.Dismiss:
		if act.Conn == t.w.outside.conn {
			t.w.outside.connected = false
		}
	case leader.InverseOffer, leader.RescindInverse, leader.Failure:
	case leader.Offer:
		if act.Framework == outsideID {
			t.w.outside.offered(act.Offers)
			return
		}
		// A framework may be slow or deaf: offers then expire.
		if !t.w.chance(20) {
			t.feed(t.run.Step(framework.Offers{Offers: act.Offers}))
		}
	case leader.Update:
		if act.Framework == outsideID {
			t.w.outside.updated(act)
			return
		}
		t.feed(t.run.Step(framework.Updated{Status: act.Status}))
	case leader.Assign:
		t.toAgent(act.Agent, act.Session, func(a *agentSim) { a.desired(act.Desired) })
	case leader.Ack:
		t.toAgent(act.Agent, act.Session, func(a *agentSim) { a.acked(act.Task, act.Update, act.Generation) })
	case leader.Disconnect:
		t.toAgent(act.Agent, act.Session, func(a *agentSim) { a.lost(act.Session) })
	case leader.Rescind:
	}
}

func (t *trio) toAgent(id fleet.AgentID, session uint64, do func(*agentSim)) {
	for _, a := range t.w.agents {
		if a.id == id {
			// Messages of an old session may still arrive in a newer one: the
			// worst that a proxy or a retransmission could do.
			t.w.send(func() {
				if a.core != nil {
					do(a)
				}
			})
		}
	}
	_ = session
}
