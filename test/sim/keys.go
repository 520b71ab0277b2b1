package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// certLife is short, so that machines are often down for longer.
const certLife = time.Minute

// pair is a key and the end of its certificate.
type pair struct {
	key   string
	until time.Time
}

// machine holds an agent's identity: it dials, renews over its session, and
// heals when its certificate has lapsed. It has no tasks. A copy is a machine
// with another one's disk.
type machine struct {
	k    *keyring
	id   fleet.AgentID
	name string
	copy bool

	// The disk: the pair that counts, and the one before until that has been
	// taken.
	pair pair
	prev *pair

	life, boots int
	down        bool
	session     uint64 // 0 while it has none
	shown       string // the key that the session is known to go by
	seated      time.Time
	renewAt     time.Time
	banned      time.Time // until then it does not try
}

// keyring is the fleet's machines and what the checker knows of them.
type keyring struct {
	w        *world
	machines []*machine
	sessions uint64
	keys     int
	// parent is the key that asked for another one, used the newest that an
	// agent's session has gone by for a while.
	parent map[string]string
	used   map[fleet.AgentID]string
	// twice is since when an agent has had two sessions.
	twice map[fleet.AgentID]time.Time
}

// bannedWait is the agent's, when only a person can help.
const bannedWait = 5 * time.Minute

// runKeys simulates the keys of a fleet's agents.
func runKeys(seed uint64, opt Options) (Stats, error) {
	opt.Agents = 0
	w := newWorld(seed^0x6b657973, opt)
	w.agents = nil
	k := &keyring{w: w, twice: map[fleet.AgentID]time.Time{}, parent: map[string]string{}, used: map[fleet.AgentID]string{}}
	w.keys = k
	k.admit()
	w.trio.elect()
	w.every(time.Second, func() { w.trio.step(leader.Tick{}); k.check() })
	w.replicas()
	if w.rng.IntN(2) == 0 {
		k.copies()
	} else {
		w.operator()
	}
	k.faults()
	w.run(epoch.Add(w.opt.Busy), nil)
	w.settleDown()
	if w.trio.leading < 0 {
		w.trio.elect()
	}
	w.run(w.now.Add(2*bannedWait), nil)
	k.inside()
	w.trio.agree()
	return w.stats, w.err
}

func (k *keyring) admit() {
	const n = 3
	cmds := []state.Command{
		{Bootstrap: &state.Bootstrap{TrustDomain: "sim"}},
		{PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: n, Expires: epoch.Add(time.Hour)}},
	}
	for i := range n {
		m := &machine{k: k, id: fleet.AgentID(fmt.Sprintf("a%d", i)), pair: k.pair()}
		m.name = string(m.id)
		k.machines = append(k.machines, m)
		cmds = append(cmds, state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: m.name, KeyHash: m.pair.key}},
			state.Command{Certified: &state.Certified{Kind: state.KindAgent, ID: m.name, NotAfter: m.pair.until}})
		m.boot()
	}
	for i := range cmds {
		cmds[i].Time = k.w.now
	}
	k.w.trio.commit(cmds)
}

func (k *keyring) pair() pair {
	k.keys++
	return pair{fmt.Sprintf("k%d", k.keys), k.w.now.Add(certLife)}
}

func (k *keyring) faults() {
	k.w.every(time.Second, func() {
		if k.w.chance(30) {
			k.w.trio.fail()
		}
		for _, m := range k.machines {
			switch {
			case k.w.chance(20):
				m.lost()
			case k.w.chance(10):
				m.crash(k.w.between(time.Second, 2*certLife))
			}
		}
	})
}

// copies has a disk copied and wake up beside the original, or while that is
// down.
func (k *keyring) copies() {
	k.w.after(k.w.between(10*time.Second, 2*time.Minute), func() {
		from := k.machines[0]
		c := *from
		c.name, c.copy, c.session, c.down, c.boots = from.name+"-copy", true, 0, true, 1000
		if c.prev != nil {
			p := *c.prev
			c.prev = &p
		}
		k.machines = append(k.machines, &c)
		k.w.stats.Copies++
		k.w.logf("the disk of %s is copied with key %s", from.name, c.pair.key)
		k.w.after(k.w.between(0, time.Minute), c.boot)
	})
}

func (m *machine) boot() {
	m.down = false
	m.life++
	m.boots++
	m.try()
}

func (m *machine) crash(away time.Duration) {
	if m.down {
		return
	}
	m.lost()
	m.down = true
	m.life++
	m.k.w.logf("%s goes down for %v with key %s", m.name, away, m.pair.key)
	m.k.w.after(away, m.boot)
}

// lost ends the session; the leader hears of it later.
func (m *machine) lost() {
	if m.session == 0 {
		return
	}
	s, w := m.session, m.k.w
	m.session = 0
	w.after(w.between(time.Millisecond, 2*time.Second), func() { w.trio.step(leader.AgentDown{Agent: m.id, Session: s}) })
}

// try is the agent's loop: about once a second it does what is next.
func (m *machine) try() {
	life, w := m.life, m.k.w
	w.after(w.between(500*time.Millisecond, 2*time.Second), func() {
		if m.life != life {
			return
		}
		switch {
		case m.session != 0 && !w.now.Before(m.renewAt):
			m.renewAt = w.now.Add(10 * time.Second) // if that comes to nothing
			m.rekey(false)
		case m.session != 0 || w.now.Before(m.banned):
		case w.now.Before(m.pair.until):
			m.hello()
		default:
			m.rekey(true)
		}
		m.try()
	})
}

// ask is a request to the control plane and its answer, either of which may be
// lost; a process that has ended does not get it.
func (m *machine) ask(c state.Command, answer func(state.Result)) {
	life, w := m.life, m.k.w
	w.once(func() {
		if w.trio.leader == nil {
			return
		}
		c.Time = w.trio.now()
		w.trio.ask(c, func(r state.Result) {
			w.once(func() {
				if m.life == life {
					answer(r)
				}
			})
		})
	})
}

// hello begins a session, by what package controlplane's admitKey does.
func (m *machine) hello() {
	w, p := m.k.w, m.pair
	if k := w.trio.replicas[w.rng.IntN(3)].st.KeyOf(m.id, p.key); k == state.KeyCurrent || k == state.KeyNext {
		m.welcome(p)
		return
	}
	m.ask(state.Command{Confirm: &state.Confirm{Agent: m.id, Key: p.key, NotAfter: p.until}}, func(r state.Result) {
		if r.Kind == state.OK {
			m.welcome(p)
			return
		}
		m.ask(state.Command{Cloned: &state.Cloned{Agent: m.id, Key: p.key, Text: "its key is old"}}, func(r state.Result) {
			if r.Kind != state.OK {
				m.welcome(p)
			} else if !m.goBack() {
				m.banned = w.now.Add(bannedWait)
			}
		})
	})
}

func (m *machine) welcome(p pair) {
	w := m.k.w
	if w.trio.leader == nil || m.session != 0 || p != m.pair {
		return
	}
	m.k.sessions++
	m.session, m.prev, m.shown, m.seated = m.k.sessions, nil, p.key, w.now
	m.renewAt = p.until.Add(-w.between(certLife/5, certLife/2))
	w.logf("%s is welcome with key %s, session %d", m.name, p.key, m.session)
	w.trio.step(leader.AgentUp{
		Agent: m.id, Session: m.session, Boot: fmt.Sprint("boot-", m.boots), Epoch: m.session, Key: p.key, Remote: m.name,
	})
}

// rekey is a renewal over the session or, once the certificate has lapsed, the
// healing.
func (m *machine) rekey(heal bool) {
	w, old, next, session := m.k.w, m.pair, m.k.pair(), m.session
	m.k.parent[next.key] = old.key
	c := state.Rekey{Agent: m.id, Key: old.key, Next: next.key, Heal: heal, Addr: m.name}
	if heal {
		c.NotAfter = old.until
	}
	m.ask(state.Command{Rekey: &c}, func(r state.Result) {
		switch {
		case m.pair != old || m.session != session: // too late
		case r.Kind == state.PastKey || r.Kind == state.Foreign:
			if heal && !m.goBack() {
				m.banned = w.now.Add(bannedWait)
			}
		case r.Kind == state.OK: // signed, and noted before it is sent
			m.ask(state.Command{Certified: &state.Certified{Kind: state.KindAgent, ID: string(m.id), NotAfter: next.until}}, func(state.Result) {
				if m.pair == old && m.session == session {
					m.install(old, next, heal)
				}
			})
		}
	})
}

// install makes the new pair durable: first the old one where it is kept, then
// the new one in its place. The process may end at either step.
func (m *machine) install(old, next pair, heal bool) {
	w := m.k.w
	m.prev = &old
	if w.chance(50) {
		m.crash(w.between(time.Second, certLife))
		return
	}
	m.pair = next
	if heal {
		w.stats.Healed++
		return
	}
	w.stats.Renewed++
	if w.chance(50) {
		m.crash(w.between(time.Second, certLife))
		return
	}
	session := m.session
	m.ask(state.Command{Confirm: &state.Confirm{Agent: m.id, Key: next.key}}, func(r state.Result) {
		if m.session != session || m.pair != next {
			return
		}
		if r.Kind == state.OK {
			m.shown, m.seated = next.key, w.now
			m.prev, m.renewAt = nil, next.until.Add(-w.between(certLife/5, certLife/2))
		} else {
			m.lost()
		}
	})
	w.after(30*time.Second, func() { // no answer ends the session
		if m.session == session && m.prev != nil && m.pair == next {
			m.lost()
		}
	})
}

// goBack returns to the pair before, which a restored control plane may know.
func (m *machine) goBack() bool {
	if m.prev == nil || *m.prev == m.pair {
		m.prev = nil
		return false
	}
	m.pair, m.prev = *m.prev, nil
	return true
}

// told is the leader's word to a session.
func (k *keyring) told(act leader.Action) {
	of := func(session uint64) *machine {
		i := slices.IndexFunc(k.machines, func(m *machine) bool { return m.session == session && session != 0 })
		if i < 0 {
			return nil
		}
		return k.machines[i]
	}
	switch act := act.(type) {
	case leader.Disconnect: // a connection is closed sooner or later
		k.w.after(k.w.between(time.Millisecond, time.Second), func() {
			if m := of(act.Session); m != nil {
				k.w.logf("%s is turned away: %v", m.name, act.Cause)
				m.lost()
			}
		})
	case leader.Ask:
		k.w.once(func() {
			if of(act.Session) != nil {
				k.w.once(func() { k.w.trio.step(leader.Answered(act)) })
			}
		})
	}
}

func (k *keyring) drop() {
	for _, m := range k.machines {
		m.lost()
	}
}

// check: two machines with one identity do not both have a session for longer
// than it takes to notice and to say so.
func (k *keyring) check() {
	const patience = 15 * time.Second
	in := map[fleet.AgentID]int{}
	for _, m := range k.machines {
		if m.session != 0 {
			in[m.id]++
		}
	}
	for _, m := range k.machines {
		k.older(m)
		switch since := k.twice[m.id]; {
		case in[m.id] < 2:
			delete(k.twice, m.id)
		case since.IsZero():
			k.twice[m.id] = k.w.now
		case k.w.now.Sub(since) > patience:
			k.w.failf("agent %s has had two machines in since %v", m.id, since.Sub(epoch))
		}
	}
}

// older: once a session has gone by a key for a while, none is taken that goes by
// one from before it, whoever has it. A restored state may not know the newer one.
func (k *keyring) older(m *machine) {
	const while = 15 * time.Second
	l := k.w.trio.leader
	if k.w.check.history.number > 0 || m.session == 0 || l == nil || l.Session(m.id) != m.session || k.w.now.Sub(m.seated) < while {
		return
	}
	for key := k.used[m.id]; key != ""; key = k.parent[key] {
		if key != k.used[m.id] && key == m.shown {
			k.w.failf("%s is in with key %s, and agent %s has used %s", m.name, m.shown, m.id, k.used[m.id])
		}
	}
	k.used[m.id] = m.shown
}

// inside: in the end exactly one of the machines of every agent has a session,
// and it is the one whose key counts. Nobody is locked out who has no copy.
func (k *keyring) inside() {
	for _, id := range []fleet.AgentID{"a0", "a1", "a2"} {
		var in []string
		for _, m := range k.machines {
			if m.id == id && m.session != 0 {
				in = append(in, m.name)
			}
			if m.session != 0 && k.w.trio.head.KeyOf(m.id, m.pair.key) == state.KeyPast {
				k.w.failf("%s is in with a key that agent %s has left behind", m.name, m.id)
			}
		}
		if len(in) != 1 {
			k.w.failf("of agent %s, these are in: %v", id, in)
		}
	}
}
