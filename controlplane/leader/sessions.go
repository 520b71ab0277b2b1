package leader

import (
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// answerTime is how long an agent has to answer Ask. It is more than a slow
// link needs for one message, and no longer than a machine that has just been
// restarted can wait for its old session to be given up.
const answerTime = 5 * time.Second

// contest is a second session of an agent that comes from another boot of a
// machine: either the machine was restarted, and the old session is a memory,
// or its disk was copied, and two machines go by one name. The old session is
// asked: a machine that was restarted cannot answer.
type contest struct {
	up AgentUp // of the newer session; its Session is 0 while there is none
	by time.Time
}

func (l *Leader) agentUp(now time.Time, ev AgentUp) {
	rec, a := l.st.Agents[ev.Agent], l.agents[ev.Agent]
	switch {
	case rec == nil:
		l.do(Disconnect{ev.Agent, ev.Session, CauseUnknown})
		return
	case rec.Revoked:
		l.do(Disconnect{ev.Agent, ev.Session, CauseRevoked})
		return
	case a.session == ev.Session:
		return
	case l.foreign(ev):
		l.hold(now, ev)
		return
	case l.leftBehind(ev):
		l.cloned(now, ev.Agent, "", a.remote, "it was connected with a key that the agent has left behind")
		l.do(Disconnect{ev.Agent, a.session, CauseCloned})
	case a.session != 0 && a.boot != "" && ev.Boot != "" && a.boot != ev.Boot:
		if c := a.contest.up.Session; c != 0 {
			l.do(Disconnect{ev.Agent, c, CauseReplaced})
		}
		a.contest = contest{ev, now.Add(answerTime)}
		l.do(Ask{ev.Agent, a.session})
		return
	case a.session != 0 && ev.Epoch != 0 && ev.Epoch < a.epoch:
		// Replicas tell a new leader of their sessions in any order.
		l.do(Disconnect{ev.Agent, ev.Session, CauseReplaced})
		return
	case a.session != 0:
		l.do(Disconnect{ev.Agent, a.session, CauseReplaced})
	}
	l.seat(now, ev)
}

// seat makes a session the agent's.
func (l *Leader) seat(now time.Time, ev AgentUp) {
	rec, a := l.st.Agents[ev.Agent], l.agents[ev.Agent]
	a.session, a.boot, a.epoch, a.pull = ev.Session, ev.Boot, ev.Epoch, nil
	a.since, a.caughtUp = now, false
	a.key, a.remote = ev.Key, ev.Remote
	if ev.Key != "" && ev.Key == rec.NextKey {
		l.propose(now, state.Command{Confirm: &state.Confirm{Agent: ev.Agent, Key: ev.Key}})
	}
	if !rec.Capacity.Equal(ev.Capacity) || rec.Hostname != ev.Hostname {
		l.proposeCapacity(now, ev.Agent, ev.Hostname, ev.Capacity)
	}
	if !rec.Unreachable.IsZero() {
		l.propose(now, state.Command{Reach: &state.Reach{Agent: ev.Agent, Reachable: true}})
	}
	l.refreshAgent(ev.Agent)
}

// answered decides a contest for the older session: it lives, so the newer one
// is another machine's.
func (l *Leader) answered(ev Answered) {
	a := l.current(ev.Agent, ev.Session)
	if a == nil || a.contest.up.Session == 0 {
		return
	}
	l.cloned(l.now, ev.Agent, "", a.contest.up.Remote, "it came from another boot while the agent was connected and answered")
	l.do(Disconnect{ev.Agent, a.contest.up.Session, CauseCloned})
	a.contest = contest{}
}

// decide ends a contest in favour of the newer session once the older one has not
// answered in time, or has ended. What the newer one said meanwhile was not
// listened to, so it is to say it again.
func (l *Leader) decide(now time.Time, id fleet.AgentID) {
	a := l.agents[id]
	up := a.contest.up
	if up.Session == 0 || a.session != 0 && now.Before(a.contest.by) {
		return
	}
	if a.session != 0 {
		l.do(Disconnect{id, a.session, CauseReplaced})
	}
	a.contest = contest{}
	l.seat(now, up)
	l.do(Resync{id, up.Session})
}

// current returns the agent if the session is its newest.
func (l *Leader) current(id fleet.AgentID, session uint64) *agentState {
	if a := l.agents[id]; a != nil && a.session == session && session != 0 {
		return a
	}
	return nil
}

func (l *Leader) agentDown(now time.Time, ev AgentDown) {
	if a := l.agents[ev.Agent]; a != nil && a.contest.up.Session == ev.Session {
		a.contest = contest{}
		return
	}
	if a := l.agents[ev.Agent]; a != nil && a.held.Session == ev.Session {
		a.held = AgentUp{}
		return
	}
	a := l.current(ev.Agent, ev.Session)
	if a == nil {
		return
	}
	a.session, a.pull, a.away = 0, nil, now
	if !ev.Seen.IsZero() && ev.Seen.Before(now) {
		a.away = ev.Seen
	}
	if a.contest.up.Session != 0 {
		l.decide(now, ev.Agent)
		return
	}
	l.refreshAgent(ev.Agent)
	l.rescindAgent(ev.Agent)
}
