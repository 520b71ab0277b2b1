package leader

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Leader is the soft state of a leading replica. It belongs to one loop.
type Leader struct {
	cfg    Config
	term   uint64
	st     *state.State // own copy, moved on by Committed alone
	alloc  *allocator.Allocator
	agents map[fleet.AgentID]*agentState
	subs   map[fleet.FrameworkID]*subscriber
	offers map[fleet.OfferID]*offerState
	// preempting are tasks whose Kill is on its way.
	preempting map[fleet.TaskID]bool
	// cut are the tasks that a lost link matters to.
	off cutOffs
	// inverse are the inverse offers that are out.
	inverse map[fleet.OfferID]InverseOffer
	now     time.Time // of the step under way
	// launching holds what Accept took out of offers until its Launch is
	// committed; the resources stay charged meanwhile.
	launching map[fleet.TaskID]launching
	reserving []reservation
	offerSeq  uint64
	lastRound time.Time
	due       bool // something changed that an allocation round should see
	// changed are agents to answer when all commands of an entry are applied.
	changed map[fleet.AgentID]bool
	acts    []Action
}

type launching struct {
	framework fleet.FrameworkID
	role      fleet.Role
	agent     fleet.AgentID
	resources fleet.Resources
	grace     time.Duration // of its specification
}

// agentState is what a leader knows of an agent's connection.
type agentState struct {
	session uint64 // 0 while there is none
	boot    string // of the machine that has the session
	remote  string // where it comes from
	epoch   uint64 // of the session
	contest contest
	key     string  // that the session has shown, or the agent's next one after a renewal over it
	held    AgentUp // of a session whose key the trio is asked about; its Session is 0 while there is none
	pull    *Pull   // waiting for a change
	// away is when the agent was last seen leaving, or when this leader began.
	away time.Time
	// since is when the session began, heard when the agent last pulled.
	since, heard time.Time
	// caughtUp: it has told all that happened before this session.
	caughtUp bool
	// reaching is set while a Reach command is on its way.
	reaching bool
	// tasks are those that the agent is to hold.
	tasks map[fleet.TaskID]bool
	// orphans are updates of tasks that nobody here knows, unacknowledged.
	orphans map[fleet.TaskID][]fleet.StatusUpdate
	// changes are what was desired anew since the generation base, oldest
	// first, so that a pull need not walk all tasks.
	changes []change
	base    uint64
}

type change struct {
	generation uint64
	task       fleet.TaskID
}

type offerState struct {
	offer  fleet.Offer
	demand string
	units  int
}

// New starts the term of a leader from its own copy of the state, which the
// leader keeps and moves on. Everything held is charged before the first round.
func New(cfg Config, st *state.State, term uint64, now time.Time) *Leader {
	l := &Leader{
		cfg: cfg.withDefaults(), term: term, st: st, alloc: allocator.New(cfg.Allocator),
		agents: map[fleet.AgentID]*agentState{}, subs: map[fleet.FrameworkID]*subscriber{},
		inverse: map[fleet.OfferID]InverseOffer{}, preempting: map[fleet.TaskID]bool{},
		offers: map[fleet.OfferID]*offerState{}, launching: map[fleet.TaskID]launching{},
		changed: map[fleet.AgentID]bool{},
	}
	for _, r := range state.SortedKeys(st.Roles) {
		l.alloc.SetWeight(r, st.Roles[r].Weight)
		l.alloc.SetQuota(r, st.Roles[r].Quota)
	}
	l.off = newCutOffs(now, st)
	l.knowFrameworks(now)
	for _, id := range state.SortedKeys(st.Agents) {
		l.agents[id] = &agentState{away: now, tasks: map[fleet.TaskID]bool{}, base: st.Agents[id].Generation}
		l.refreshAgent(id)
	}
	for _, id := range state.SortedKeys(st.Tasks) {
		if t := st.Tasks[id]; t.Held() {
			l.agents[t.Agent].tasks[id] = true
			l.alloc.Charge(t.Framework, t.Role, t.Agent, t.Resources)
		}
	}
	return l
}

// Step takes one event at one instant and returns what is to be done.
func (l *Leader) Step(now time.Time, ev Event) []Action {
	l.acts, l.now = nil, now
	switch ev := ev.(type) {
	case AgentUp:
		l.agentUp(now, ev)
	case AgentDown:
		l.agentDown(now, ev)
	case Answered:
		l.answered(ev)
	case Leave:
		l.leave(now, ev)
	case Pull:
		l.pulled(ev)
	case Report:
		l.reported(now, ev)
	case CapacityChanged:
		l.capacityChanged(now, ev)
	case Subscribe:
		l.subscribe(ev)
	case Unsubscribe:
		l.unsubscribe(now, ev)
	case Register, UpdateFramework, Teardown, Suppress, Revive, Kill, Acknowledge, AnswerInverse:
		l.called(now, ev)
	case Demands:
		l.alloc.SetDemands(ev.Framework, ev.Role, ev.Demands)
		l.due = true
	case Accept:
		l.accept(now, ev)
	case Decline:
		l.decline(now, ev)
	case Reconcile:
		l.reconcile(now, ev)
	case Reserve:
		l.reserve(now, ev)
	case Committed:
		for _, c := range ev.Commands {
			l.committed(c, l.st.Apply(ev.Index, c))
		}
		for _, id := range state.SortedKeys(l.changed) {
			l.answer(id)
		}
		clear(l.changed)
	case Tick:
		l.tick(now)
	}
	l.round(now)
	return l.acts
}

func (l *Leader) do(a Action) { l.acts = append(l.acts, a) }

func (l *Leader) propose(now time.Time, c state.Command) {
	c.Time = now
	l.do(Propose{c})
}

// State is the leader's copy of the replicated state, for reading between two
// steps. It may be a commit behind the trio.
func (l *Leader) State() *state.State { return l.st }

// Term is the Raft term this leader was elected in.
func (l *Leader) Term() uint64 { return l.term }

// Connected reports whether an agent has a session.
func (l *Leader) Connected(id fleet.AgentID) bool {
	a := l.agents[id]
	return a != nil && a.session != 0
}

// Session returns the agent's session, 0 while it has none.
func (l *Leader) Session(id fleet.AgentID) uint64 {
	if a := l.agents[id]; a != nil {
		return a.session
	}
	return 0
}

// Offers lists the offers that are out, in the order of their ids.
func (l *Leader) Offers() []fleet.Offer {
	out := make([]fleet.Offer, 0, len(l.offers))
	for _, o := range l.offers {
		out = append(out, o.offer)
	}
	slices.SortFunc(out, func(a, b fleet.Offer) int { return compareOffers(a.ID, b.ID) })
	return out
}

// Free returns what is neither used nor on offer on an agent.
func (l *Leader) Free(id fleet.AgentID) fleet.Resources { return l.alloc.Free(id) }

// Why explains a waiting task: what each agent lacks for it; never is true
// when no agent could hold it even if it were empty.
func (l *Leader) Why(now time.Time, id fleet.TaskID) (refusals []allocator.Refusal, never bool) {
	t := l.st.Tasks[id]
	if t == nil || !t.Waiting() {
		return nil, false
	}
	return l.alloc.Why(now, t.Framework, t.Role, t.Need)
}

func (l *Leader) tick(now time.Time) {
	for _, id := range state.SortedKeys(l.offers) {
		if o := l.offers[id]; !now.Before(o.offer.Expires) {
			l.rescind(id)
		}
	}
	for _, id := range state.SortedKeys(l.agents) {
		l.decide(now, id)
		a, rec := l.agents[id], l.st.Agents[id]
		if a.session == 0 && rec != nil && !rec.Revoked && rec.Unreachable.IsZero() &&
			!a.reaching && now.Sub(a.away) >= l.cfg.UnreachableAfter {
			a.reaching = true
			l.propose(now, state.Command{Reach: &state.Reach{Agent: id}})
		}
	}
	for _, id := range state.SortedKeys(l.subs) {
		l.tickFramework(now, id)
	}
	l.preempt(now)
	l.tickCutOffs(now)
}

// round allocates when something changed, and every interval besides: filters
// end and nothing says so.
func (l *Leader) round(now time.Time) {
	if !l.due && now.Sub(l.lastRound) < l.cfg.Interval {
		return
	}
	l.due, l.lastRound = false, now
	byFramework := map[fleet.FrameworkID][]fleet.Offer{}
	for _, g := range l.alloc.Allocate(now) {
		if s := l.subs[g.Framework]; s == nil || !s.connected {
			l.alloc.Settle(g.Framework, g.Role, g.Demand, g.Units)
			l.alloc.Recover(g.Framework, g.Role, g.Agent, g.Resources, true)
			continue
		}
		o := l.newOffer(now, g)
		byFramework[g.Framework] = append(byFramework[g.Framework], o)
	}
	for _, f := range state.SortedKeys(byFramework) {
		l.do(Offer{f, byFramework[f]})
	}
	l.askBack()
}

func (l *Leader) newOffer(now time.Time, g allocator.Grant) fleet.Offer {
	l.offerSeq++
	rec := l.st.Agents[g.Agent]
	o := fleet.Offer{
		ID:        fleet.OfferID(fmt.Sprintf("o%d-%d", l.term, l.offerSeq)),
		Framework: g.Framework, Role: g.Role, Agent: g.Agent,
		Site: rec.Site, Hostname: rec.Hostname, Labels: rec.Labels,
		Resources: g.Resources, Expires: now.Add(l.cfg.OfferTimeout),
	}
	gpus := g.Resources.Total().GPUs
	for _, d := range rec.Capacity.Devices {
		if _, ok := slices.BinarySearch(gpus, d.UUID); ok {
			o.Devices = append(o.Devices, d)
		}
	}
	l.offers[o.ID] = &offerState{offer: o, demand: g.Demand, units: g.Units}
	return o
}

// compareOffers orders ids by number: they all carry the same term.
func compareOffers(a, b fleet.OfferID) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}
