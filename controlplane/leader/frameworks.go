package leader

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// subscriber is what a leader knows of a framework's connection.
type subscriber struct {
	connected bool
	conn      uint64 // of an outside framework
	outside   bool
	since     time.Time // it is connected
	// away is when an outside framework left, or when this leader began.
	away time.Time
	// registering is a Register on its way through the trio.
	registering *Register
	ending      bool // a Teardown is on its way
	standing    map[fleet.Role]bool
	// sent are the updates that wait for an acknowledgement, by task.
	sent map[fleet.TaskID]*delivery
}

// delivery is one update that was sent and not acknowledged.
type delivery struct {
	update fleet.UpdateID
	at     time.Time
	wait   time.Duration
}

// An update that is not acknowledged comes again after 10 s, then after twice
// as long each time, up to 10 min (Mesos's status update manager).
const (
	retryMin = 10 * time.Second
	retryMax = 10 * time.Minute
)

// knowFrameworks is told by the state which outside frameworks there are. None
// of them is connected to a new leader.
func (l *Leader) knowFrameworks(now time.Time) {
	for _, id := range state.SortedKeys(l.st.Frameworks) {
		if f := l.st.Frameworks[id]; f.Ended.IsZero() {
			l.subs[id] = &subscriber{outside: true, away: now, sent: map[fleet.TaskID]*delivery{}}
			l.describe(f)
		}
	}
}

// describe tells the allocator of a framework. What it says was checked before
// it was proposed.
func (l *Leader) describe(f *state.Framework) {
	info := f.Info
	if l.alloc.SetFramework(info) != nil {
		info.Constraints = nil // another version let them pass
		_ = l.alloc.SetFramework(info)
	}
}

func (l *Leader) subscribe(ev Subscribe) {
	l.subs[ev.Framework] = &subscriber{connected: true, since: l.now}
	for _, r := range ev.Standing {
		l.alloc.SetStanding(ev.Framework, r, true)
	}
	l.due = true
}

// called takes the calls of outside frameworks.
func (l *Leader) called(now time.Time, ev Event) {
	switch ev := ev.(type) {
	case Register:
		l.register(now, ev)
	case UpdateFramework:
		if s := l.subs[ev.Info.ID]; s != nil && s.connected && allocator.CheckFramework(ev.Info) == nil {
			l.proposeBy(now, ev.By, state.Command{PutFramework: &state.PutFramework{Info: ev.Info, Suppressed: ev.Suppressed}})
		}
	case Teardown:
		l.proposeBy(now, ev.By, state.Command{Teardown: &state.Teardown{ID: ev.Framework}})
	case Suppress:
		l.standIn(ev.Framework, ev.Roles, false)
	case Revive:
		l.standIn(ev.Framework, ev.Roles, true)
	case Kill:
		l.kill(now, ev)
	case Acknowledge:
		if t := l.st.Tasks[ev.Task]; t != nil && t.Framework == ev.Framework && len(t.Pending) > 0 && t.Pending[0].Update == ev.Update {
			l.propose(now, state.Command{Acknowledge: &state.Acknowledge{Framework: ev.Framework, Task: ev.Task, Update: ev.Update}})
		}
	case AnswerInverse:
		for _, id := range ev.Offers {
			if o, ok := l.inverse[id]; ok && o.Framework == ev.Framework {
				delete(l.inverse, id)
			}
		}
	}
}

func (l *Leader) proposeBy(now time.Time, by string, c state.Command) {
	c.By = by
	l.propose(now, c)
}

func (l *Leader) register(now time.Time, ev Register) {
	if err := allocator.CheckFramework(ev.Info); err != nil {
		l.do(Registered{ev.Info.ID, ev.Conn, err.Error()})
		return
	}
	s := l.subs[ev.Info.ID]
	if s == nil {
		s = &subscriber{outside: true, away: now, sent: map[fleet.TaskID]*delivery{}}
		l.subs[ev.Info.ID] = s
	}
	if old := s.registering; old != nil {
		l.do(Dismiss{ev.Info.ID, old.Conn, "Framework failed over"})
	}
	if s.connected {
		l.do(Dismiss{ev.Info.ID, s.conn, "Framework failed over"})
		l.disconnect(now, ev.Info.ID)
	}
	s.registering = &ev
	l.proposeBy(now, ev.By, state.Command{PutFramework: &state.PutFramework{Info: ev.Info, Suppressed: ev.Suppressed}})
}

// registered follows a committed description of a framework.
func (l *Leader) registered(c *state.PutFramework, r state.Result) {
	id := c.Info.ID
	s := l.subs[id]
	if r.Kind == state.OK && s == nil { // proposed by the leader before
		s = &subscriber{outside: true, away: l.now, sent: map[fleet.TaskID]*delivery{}}
		l.subs[id] = s
	}
	if s == nil {
		return
	}
	reg := s.registering
	s.registering = nil
	if r.Kind != state.OK {
		if reg != nil {
			l.do(Registered{id, reg.Conn, r.Text})
		}
		if l.st.Frameworks[id] == nil || !l.st.External(id) {
			delete(l.subs, id)
		}
		return
	}
	l.describe(l.st.Frameworks[id])
	if reg != nil {
		s.connected, s.conn, s.ending, s.since = true, reg.Conn, false, l.now
		l.do(Registered{id, reg.Conn, ""})
		l.alloc.AskAgain(id)
	}
	if !s.connected {
		return
	}
	for _, r := range state.SortedKeys(s.standing) {
		if !slices.Contains(c.Info.Roles, r) {
			l.stand(id, s, r, false)
		}
	}
	for _, r := range c.Info.Roles {
		// What stands already keeps its filters.
		if on := !slices.Contains(c.Suppressed, r); on != s.standing[r] {
			l.stand(id, s, r, on)
		}
	}
	if reg != nil {
		clear(s.sent)
		for _, t := range state.SortedKeys(l.st.Tasks) {
			if task := l.st.Tasks[t]; task.Framework == id {
				l.deliver(task)
			}
		}
	}
}

// stand starts or ends the standing demand in a role.
func (l *Leader) stand(id fleet.FrameworkID, s *subscriber, r fleet.Role, on bool) {
	if s.standing == nil {
		s.standing = map[fleet.Role]bool{}
	}
	s.standing[r] = on
	l.alloc.SetStanding(id, r, on)
	l.due = l.due || on
}

// standIn does so in some of a framework's roles, or all when none are named.
func (l *Leader) standIn(id fleet.FrameworkID, roles []fleet.Role, on bool) {
	s, f := l.subs[id], l.st.Frameworks[id]
	if s == nil || f == nil || !s.connected {
		return
	}
	for _, r := range f.Info.Roles {
		if len(roles) == 0 || slices.Contains(roles, r) {
			l.stand(id, s, r, on)
		}
	}
}

func (l *Leader) unsubscribe(now time.Time, ev Unsubscribe) {
	s := l.subs[ev.Framework]
	switch {
	case s == nil:
	case !s.outside:
		l.endOffers(ev.Framework)
		l.alloc.RemoveFramework(ev.Framework)
		delete(l.subs, ev.Framework)
	case s.registering != nil && s.registering.Conn == ev.Conn:
		s.registering = nil
	case s.connected && s.conn == ev.Conn:
		l.disconnect(now, ev.Framework)
	}
}

// disconnect takes a framework's offers back. Its tasks live on.
func (l *Leader) disconnect(now time.Time, id fleet.FrameworkID) {
	s := l.subs[id]
	s.connected, s.away = false, now
	clear(s.sent)
	l.endOffers(id)
	for _, o := range state.SortedKeys(l.inverse) {
		if l.inverse[o].Framework == id {
			delete(l.inverse, o)
		}
	}
	for _, r := range state.SortedKeys(s.standing) {
		l.alloc.SetStanding(id, r, false)
	}
	clear(s.standing)
}

func (l *Leader) endOffers(f fleet.FrameworkID) {
	for _, id := range state.SortedKeys(l.offers) {
		if l.offers[id].offer.Framework == f {
			l.endOffer(id)
		}
	}
}

// tornDown follows a committed Teardown.
func (l *Leader) tornDown(id fleet.FrameworkID) {
	s := l.subs[id]
	if s == nil {
		return
	}
	if s.connected {
		l.disconnect(l.now, id)
		l.do(Dismiss{id, s.conn, "Framework has been removed"})
	}
	l.alloc.RemoveFramework(id)
	delete(l.subs, id)
}

// tickFramework sends again what is not acknowledged and ends a framework that
// has been away for its failover time-out.
func (l *Leader) tickFramework(now time.Time, id fleet.FrameworkID) {
	s := l.subs[id]
	if !s.outside {
		return
	}
	f := l.st.Frameworks[id]
	if !s.connected {
		if f != nil && !s.ending && s.registering == nil && now.Sub(s.away) >= f.Info.FailoverTimeout {
			s.ending = true
			l.propose(now, state.Command{Teardown: &state.Teardown{ID: id}})
		}
		return
	}
	for _, t := range state.SortedKeys(s.sent) {
		d := s.sent[t]
		task := l.st.Tasks[t]
		if task == nil || len(task.Pending) == 0 {
			delete(s.sent, t)
			continue
		}
		if now.Sub(d.at) >= d.wait {
			d.at, d.wait = now, min(2*d.wait, retryMax)
			l.send(task)
		}
	}
}

// deliver sends a task's oldest unacknowledged update, one at a time.
func (l *Leader) deliver(t *state.Task) {
	s := l.subs[t.Framework]
	if s == nil || !s.connected || len(t.Pending) == 0 {
		return
	}
	if d := s.sent[t.ID]; d != nil && d.update == t.Pending[0].Update {
		return
	}
	s.sent[t.ID] = &delivery{t.Pending[0].Update, l.now, retryMin}
	l.send(t)
}

func (l *Leader) send(t *state.Task) {
	p := t.Pending[0]
	l.do(Update{Framework: t.Framework, Status: p.Status, Foreign: t.Foreign, Agent: t.Agent, ID: p.Update})
}

// tell tells a framework of a task's state in words that need no
// acknowledgement.
func (l *Leader) tell(t *state.Task, st fleet.Status) {
	u := Update{Framework: t.Framework, Status: st, Foreign: t.Foreign, Agent: t.Agent}
	if a := l.st.Agents[t.Agent]; a != nil && st.State == fleet.TaskUnreachable {
		u.Unreachable = a.Unreachable
	}
	l.do(u)
}

// kill: to a framework that asks to kill what nobody knows, the answer is that
// of a reconciliation, as in Mesos.
func (l *Leader) kill(now time.Time, ev Kill) {
	var grace time.Duration
	if t := l.st.Tasks[ev.Task]; t != nil && t.Framework == ev.Framework {
		grace = t.Spec.Grace()
	} else if n, ok := l.launching[ev.Task]; ok && n.framework == ev.Framework {
		grace = n.grace // its launch is committed before this
	} else {
		l.reconcile(now, Reconcile{ev.Framework, []Known{{ev.Task, ev.Foreign, ev.Agent}}})
		return
	}
	if ev.Grace != nil {
		grace = *ev.Grace
	}
	l.proposeBy(now, ev.By, state.Command{Kill: &state.Kill{ID: ev.Task, Grace: grace}})
}

// reconcile answers with what was sent last. Of a task that it does not know it says what is certain, and nothing
// where its agent may come back and know better.
func (l *Leader) reconcile(now time.Time, ev Reconcile) {
	tasks := ev.Tasks
	if len(tasks) == 0 {
		for _, id := range state.SortedKeys(l.st.Tasks) {
			if t := l.st.Tasks[id]; t.Framework == ev.Framework && (!t.State.Terminal() || len(t.Pending) > 0) {
				tasks = append(tasks, Known{Task: id})
			}
		}
	}
	for _, k := range tasks {
		if n, ok := l.launching[k.Task]; ok && n.framework == ev.Framework {
			continue // what becomes of it, it is told in a moment
		}
		if t := l.st.Tasks[k.Task]; t != nil && t.Framework == ev.Framework {
			st := lastSent(t)
			st.Reason = fleet.ReasonReconciliation
			l.tell(t, st)
			continue
		}
		u := Update{Framework: ev.Framework, Foreign: k.Foreign, Agent: k.Agent, Status: fleet.Status{
			Task: k.Task, Time: now, ExitCode: -1, Reason: fleet.ReasonReconciliation,
		}}
		if la, ok := l.launching[k.Task]; ok && la.framework == ev.Framework {
			u.Agent, u.Status.State = la.agent, fleet.TaskStaging // on its way through the trio
			l.do(u)
			continue
		}
		if u.Status.State, u.Status.Message = l.fate(k.Agent); u.Status.State == 0 {
			continue
		}
		if u.Status.State == fleet.TaskUnreachable {
			u.Unreachable = l.st.Agents[k.Agent].Unreachable
		}
		l.do(u)
	}
}

// lastSent is what the task's framework has heard last, or hears next: what
// waits behind it comes in its turn.
func lastSent(t *state.Task) fleet.Status {
	if len(t.Pending) > 0 {
		return t.Pending[0].Status
	}
	st := t.Status
	st.State = t.State
	return st
}

// fate is what must have become of an unknown task on an agent; 0 when that is
// not certain.
func (l *Leader) fate(id fleet.AgentID) (fleet.TaskState, string) {
	rec, a := l.st.Agents[id], l.agents[id]
	switch {
	case rec == nil || a == nil:
		return fleet.TaskUnknown, "the control plane does not know this task"
	case rec.Revoked:
		return fleet.TaskGoneByOperator, "the task's agent was removed by an operator"
	case !rec.Unreachable.IsZero():
		return fleet.TaskUnreachable, "the task's agent does not answer"
	case a.session != 0:
		return fleet.TaskGone, "the task's agent does not have this task"
	default:
		return 0, ""
	}
}

// askBack makes inverse offers of what is held on agents that will be down.
func (l *Leader) askBack() {
	for _, r := range l.alloc.Requests() {
		if s := l.subs[r.Framework]; s == nil || !s.outside || !s.connected {
			continue
		}
		l.offerSeq++
		o := InverseOffer{r.Framework, fleet.OfferID(fmt.Sprintf("i%d-%d", l.term, l.offerSeq)), r}
		l.inverse[o.Offer] = o
		l.do(o)
	}
}

// broadcast tells the outside frameworks that an agent was lost.
func (l *Leader) broadcast(id fleet.AgentID) {
	for _, f := range state.SortedKeys(l.subs) {
		if s := l.subs[f]; s.outside && s.connected {
			l.do(Failure{f, id})
		}
	}
}
