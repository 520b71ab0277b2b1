package leader

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// foreign reports whether a session has shown a key that is neither the agent's
// own nor its next one, as far as this leader's copy knows.
func (l *Leader) foreign(ev AgentUp) bool {
	rec := l.st.Agents[ev.Agent]
	return ev.Key != "" && rec.KeyHash != "" && ev.Key != rec.KeyHash && ev.Key != rec.NextKey
}

// hold keeps a session apart until the trio has said whether its key is a
// copy's: this copy of the state may be a commit behind.
func (l *Leader) hold(now time.Time, ev AgentUp) {
	a := l.agents[ev.Agent]
	if a.held.Session != 0 {
		l.do(Disconnect{ev.Agent, a.held.Session, CauseReplaced})
	}
	a.held = ev
	l.cloned(now, ev.Agent, ev.Key, ev.Remote, "its certificate is for a key that the agent has left behind")
}

// cloned proposes to record a copy; without a key there is no doubt of it.
func (l *Leader) cloned(now time.Time, id fleet.AgentID, key, remote, text string) {
	l.proposeBy(now, "leader", state.Command{Cloned: &state.Cloned{Agent: id, Key: key, Addr: remote, Text: text}})
}

// judged goes on with a held session: away with it, or, if the trio knew the
// key, as if it had just come. What it said meanwhile was not listened to.
func (l *Leader) judged(c *state.Cloned, r state.Result) {
	a := l.agents[c.Agent]
	if a == nil || c.Key == "" || a.held.Session == 0 || a.held.Key != c.Key {
		return
	}
	up := a.held
	a.held = AgentUp{}
	if r.Kind == state.OK {
		l.do(Disconnect{c.Agent, up.Session, CauseCloned})
		return
	}
	if l.foreign(up) {
		up.Key = "" // of a state that was restored: nothing is known of its keys
	}
	l.agentUp(l.now, up)
	if a.session == up.Session {
		l.do(Resync{c.Agent, up.Session})
	}
}

// leftBehind reports whether the agent's present session is a copy's: a newer
// one from another boot has a newer key.
func (l *Leader) leftBehind(ev AgentUp) bool {
	rec, a := l.st.Agents[ev.Agent], l.agents[ev.Agent]
	if a.session == 0 || a.boot == "" || ev.Boot == "" || a.boot == ev.Boot || a.key == "" || ev.Key == "" {
		return false
	}
	return ev.Key == rec.NextKey && a.key == rec.KeyHash || ev.Key == rec.KeyHash && slices.Contains(rec.PastKeys, a.key)
}

// confirmed: a renewal over the agent's session has come to its end, or its
// first session with the next key has begun.
func (l *Leader) confirmed(c *state.Confirm, r state.Result) {
	if a := l.agents[c.Agent]; a != nil && r.Kind == state.OK && a.session != 0 && a.key != "" {
		a.key = c.Key
	}
}
