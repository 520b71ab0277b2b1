package controlplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/sessions"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// campaign runs the leader whenever this replica leads.
func (r *Replica) campaign(ctx context.Context) error {
	for l := range r.raft.Leadership() {
		for l.Leading && ctx.Err() == nil {
			next, err := r.leadUntil(ctx, l)
			if err != nil && ctx.Err() == nil {
				r.log.Warn("leading ended", "term", l.Term, "error", err)
			}
			if next == nil {
				return ctx.Err()
			}
			l = *next
		}
	}
	return ctx.Err()
}

// leadUntil leads until leadership changes or the term's own loop fails, and
// returns what comes next.
func (r *Replica) leadUntil(ctx context.Context, l registrar.Leadership) (*registrar.Leadership, error) {
	termCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.leadTerm(termCtx, l.Term) }()
	select {
	case next, ok := <-r.raft.Leadership():
		cancel()
		err := <-ended
		if !ok {
			return nil, err
		}
		return &next, err
	case err := <-ended:
		// The state is the truth: start anew from it, after a breath.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		if leading, _ := r.raft.Leader(); leading != r.self.ID {
			return &registrar.Leadership{}, err
		}
		return &l, err
	}
}

// term is one term of this replica as leader: the loop that owns the core.
type term struct {
	r       *Replica
	number  uint64
	core    *leader.Leader
	run     *framework.Run
	hub     *mesosv1.Hub   // of outside frameworks
	desk    *sessions.Desk // of agents
	queries chan func(*leader.Leader)
	done    <-chan struct{}
	// What the steps since the last flush want proposed and acknowledged.
	proposals []state.Command
	acks      map[uint64][]wire.Ack // by session
	// reserving are those who wait for a reservation, by its number; the last
	// one given is reserves.
	reserving map[uint64]chan<- state.Result
	reserves  uint64

	mu      sync.Mutex
	pending []state.Command
	wake    chan struct{}
	commit  chan struct{} // closed and replaced at each commit
}

func (r *Replica) leadTerm(ctx context.Context, number uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	st, entries, err := r.raft.Follow(ctx)
	if err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	t := &term{r: r, number: number, commit: make(chan struct{}), queries: make(chan func(*leader.Leader)), done: ctx.Done(), wake: make(chan struct{}, 1), acks: map[uint64][]wire.Ack{}, reserving: map[uint64]chan<- state.Result{}}
	fence := st.Fence(number)
	t.core = leader.New(r.cfg.Leader, st, fence, time.Now())
	t.hub = mesosv1.NewHub(t.done, t.deliver)
	t.run = framework.NewRun(st, func(id fleet.TaskID) *state.Task { return t.core.State().Tasks[id] })
	t.desk = r.mgr.Lead(fence)
	defer t.desk.Yield()
	r.lead.Store(t)
	defer r.lead.CompareAndSwap(t, nil)
	r.log.Info("leading", "term", number)
	g.Go(func() error { return t.loop(ctx, t.desk.Events(), entries) })
	g.Go(func() error { return t.propose(ctx) })
	g.Go(func() error { return r.tend(ctx) })
	g.Go(func() error { return r.rollOut(ctx) })
	return g.Wait()
}

// loop owns the core: nothing else touches it.
func (t *term) loop(ctx context.Context, events <-chan leader.Event, entries <-chan registrar.Entry) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	t.feed(t.run.Start())
	for {
		t.flush()
		select {
		case <-ctx.Done():
			// The follower must be drained until its channel closes.
			for range entries { //nolint:revive // draining is the point
			}
			return ctx.Err()
		case e, ok := <-entries:
			if !ok {
				return errors.New("the log jumped")
			}
			t.step(leader.Committed{Index: e.Index, Commands: e.Commands})
			t.feed(t.run.Step(framework.Committed{Commands: e.Commands}))
			t.mu.Lock()
			close(t.commit)
			t.commit = make(chan struct{})
			t.mu.Unlock()
		case ev := <-events:
			t.step(ev)
		case <-tick.C:
			t.step(leader.Tick{})
		case q := <-t.queries:
			q(t.core)
		}
	}
}

func (t *term) nextCommit() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.commit
}

func (t *term) feed(calls []leader.Event) {
	for _, c := range calls {
		t.step(c)
	}
}

func (t *term) step(ev leader.Event) {
	for _, act := range t.core.Step(time.Now(), ev) {
		t.perform(act)
	}
}

var closeCodes = map[leader.Cause]transport.Code{
	leader.CauseRevoked:  transport.CodeRevoked,
	leader.CauseReplaced: transport.CodeReplaced,
	leader.CauseUnknown:  transport.CodeUnknownAgent,
	leader.CauseCloned:   transport.CodeCloned,
}

func (t *term) perform(act leader.Action) {
	switch act := act.(type) {
	case leader.Propose:
		t.proposals = append(t.proposals, act.Command)
	case leader.Offer:
		if act.Framework == framework.RunID {
			t.feed(t.run.Step(framework.Offers{Offers: act.Offers}))
			return
		}
		t.hub.Perform(act)
	case leader.Update:
		if act.Framework == framework.RunID {
			t.feed(t.run.Step(framework.Updated{Status: act.Status}))
			return
		}
		t.hub.Perform(act)
	case leader.Assign:
		t.desk.Assign(act.Session, act.Desired)
	case leader.Ask:
		t.desk.Ask(act.Session)
	case leader.Resync:
		t.desk.Resync(act.Session)
	case leader.Reserved:
		t.reserved(act)
	case leader.Ack:
		t.acks[act.Session] = append(t.acks[act.Session], wire.Ack{Task: act.Task, Update: act.Update, Generation: act.Generation})
	case leader.Disconnect:
		if act.Cause == leader.CauseCloned {
			t.r.log.Warn("two machines go by one identity; the newer one is refused", "agent", act.Agent)
		}
		t.desk.Disconnect(act.Session, closeCodes[act.Cause], string(act.Cause))
	default:
		t.hub.Perform(act)
	}
}

// flush passes on what the steps have gathered: one message for an agent and
// one proposal, however many updates an entry held.
func (t *term) flush() {
	for s, acks := range t.acks {
		t.desk.Acknowledge(s, acks)
	}
	clear(t.acks)
	if len(t.proposals) == 0 {
		return
	}
	t.mu.Lock()
	t.pending = append(t.pending, t.proposals...)
	t.mu.Unlock()
	t.proposals = t.proposals[:0]
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// propose commits what the core proposes, in order: all that has come while
// the last entry was on its way goes into the next. An error ends the term: an
// outcome that is not known cannot be worked with, only read back.
func (t *term) propose(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.wake:
		}
		t.mu.Lock()
		batch := t.pending
		t.pending = nil
		t.mu.Unlock()
		for len(batch) > 0 {
			n := min(len(batch), registrar.MaxCommands/2)
			if _, err := t.r.raft.Propose(ctx, batch[:n]...); err != nil {
				return fmt.Errorf("commit: %w", err)
			}
			batch = batch[n:]
		}
	}
}

// query runs fn in the leader's loop.
func (t *term) query(ctx context.Context, fn func(*leader.Leader)) error {
	done := make(chan struct{})
	select {
	case t.queries <- func(l *leader.Leader) { fn(l); close(done) }:
		<-done
		return nil
	case <-t.done:
		return registrar.ErrNotLeader
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Replica) introduce(ctx context.Context) error {
	b := r.bundle()
	cmds := []state.Command{{Bootstrap: &state.Bootstrap{TrustDomain: r.self.TrustDomain, Bundle: b.PEM()}}}
	known := false
	self := state.Replica{ID: r.self.ID, Addr: r.self.Addr, Intermediate: r.issuer.Load().inter.Raw, Joined: time.Now()}
	r.raft.Stale(func(s *state.State) {
		if s.TrustDomain != "" {
			cmds = nil
		}
		rec := s.Replicas[r.self.ID]
		known = rec != nil && rec.Addr == r.self.Addr && len(rec.Intermediate) > 0
		if rec != nil {
			self.Cross, self.Round, self.RootKey = rec.Cross, rec.Round, rec.RootKey // see noteIssuers
		}
	})
	if !known {
		cmds = append(cmds, state.Command{PutReplica: &self})
	}
	if p := r.firstOperator(); p != nil {
		cmds = append(cmds, state.Command{PutPrincipal: p})
	}
	if len(cmds) == 0 {
		return nil
	}
	for i := range cmds {
		cmds[i].Time = time.Now()
	}
	if _, err := r.raft.Propose(ctx, cmds...); err != nil {
		return fmt.Errorf("introduce this replica: %w", err)
	}
	return nil
}

// firstOperator is the one whose certificate `tenderd init` made, before there
// was a state to record it in; nil once it is recorded.
func (r *Replica) firstOperator() *state.Principal {
	cred, err := pki.LoadDir(r.dir.operator())
	if err != nil || !time.Now().Before(cred.Leaf().NotAfter) {
		return nil // taken away, or of no use any more
	}
	id, known := cred.Identity, false
	r.raft.Stale(func(s *state.State) {
		_, banned := s.Revoked[id.String()]
		known = banned || s.Principals[id.ID] != nil
	})
	if known {
		return nil
	}
	return &state.Principal{ID: id.ID, Kind: state.KindOperator, AllRoles: true, CertNotAfter: cred.Leaf().NotAfter}
}

func expectReplica(id fleet.ReplicaID) func(pki.Identity) error {
	return func(got pki.Identity) error {
		if got.Kind != pki.KindReplica || got.ID != string(id) {
			return fmt.Errorf("%s answered instead of replica/%s", got.Short(), id)
		}
		return nil
	}
}
