package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// answerTime bounds the wait for an answer where nobody else is to be asked.
	answerTime = 10 * time.Second
	// welcomeLeast and welcomeMost bound the wait for a Welcome. Where the end of
	// a handshake is lost the agent takes it for complete, and the replica, which
	// has given it up after 3 s, never says a word: the agent must not wait for
	// long. Over a very slow link it must.
	welcomeLeast = 4 * time.Second
	welcomeMost  = 16 * time.Second
	// bannedWait is between two tries of an agent that was told not to come
	// back: a person has to act, but the agent must not need a visit then.
	bannedWait = 5 * time.Minute
	// dialTime bounds one try to reach a replica: others may be waiting.
	dialTime = 3 * time.Second
)

// link is one established session: its outbox, and what it was told.
type link struct {
	conn    transport.Session
	control *controlStream
	peer    int           // the replica's capability
	early   chan struct{} // asks for a renewal before its time; holds one
	beat    time.Duration // how often a replica from before beats wants readings
	beats   bool          // the replica knows them

	mu       sync.Mutex
	pull     *lifecycle.Pull
	reports  []fleet.StatusUpdate
	capacity *fleet.Capacity
	asked    bool // for a sign of life
	observed bool // at another address than before
	roamed   bool // to another network
	stored   bool // a new key, which the replica should hear of
	leave    *wire.Leave
	wake     chan struct{}
}

// queue adds something to send. Of pulls and capacities the last one counts;
// reports are bounded by what the core holds.
func (l *link) queue(m any) {
	l.mu.Lock()
	switch m := m.(type) {
	case lifecycle.Pull:
		l.pull = &m
	case lifecycle.Report:
		l.reports = append(l.reports, m.Updates...)
	case fleet.Capacity:
		l.capacity = &m
	case wire.Ask:
		l.asked = true
	case wire.KeyStored:
		l.stored = true
	case wire.Observed:
		l.observed = true
	case wire.Leave:
		l.leave = &m
	case roamed:
		l.roamed = true
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

type refusedError struct{ r wire.Refusal }

func (e *refusedError) Error() string { return e.r.Text }

// session dials one replica and carries the session until it ends.
func (a *Agent) session(ctx context.Context, dialer *transport.Dialer, addr string, d *rounds) error {
	dialCtx, cancel := context.WithTimeout(ctx, dialTime)
	conn, err := dialer.Dial(dialCtx, addr, transport.ALPNAgent, nil)
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close(transport.CodeOK, "") //nolint:errcheck // it may be over already
	control, welcome, err := a.greet(ctx, conn)
	if err != nil {
		return cause(conn, err)
	}
	next := &established{addr, conn, control, welcome}
	for next != nil { // more than once where it moves
		next, err = a.hold(ctx, dialer, d, next)
	}
	return err
}

// hold carries an established session until it ends or has moved to the next.
func (a *Agent) hold(ctx context.Context, dialer *transport.Dialer, d *rounds, e *established) (*established, error) {
	conn, control, welcome := e.conn, e.control, e.welcome
	defer conn.Close(transport.CodeOK, "") //nolint:errcheck // it may be over already
	if err := a.adopt(welcome); err != nil {
		return nil, err
	}
	d.know(e.addr, welcome)
	a.settled()
	l := &link{
		conn: conn, control: control, peer: welcome.Capability, early: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		beat: min(max(welcome.Heartbeat, time.Second), time.Minute), beats: welcome.Capability >= 3,
	}
	a.mu.Lock()
	a.link = l
	a.mu.Unlock()
	a.upgrade.poke()
	a.tell(gate.Session{})
	a.log.Info("connected", "replica", welcome.Replica, "addr", e.addr, "link", transport.LinkOf(conn), "term", welcome.Term)
	if welcome.Term != 0 { // else Led comes once somebody leads
		a.emit(ctx, lifecycle.Connected{Term: welcome.Term, Plain: welcome.Capability < stampsSince})
	}
	if a.cfg.Ready != nil {
		a.ready.Do(a.cfg.Ready)
	}
	var next *established
	err := a.carry(ctx, l, dialer, func(ctx context.Context) (err error) {
		next, err = a.seek(ctx, dialer, e, d)
		return err
	})
	a.mu.Lock()
	a.link = nil
	a.mu.Unlock()
	a.emit(ctx, lifecycle.Disconnected{})
	return next, cause(conn, err)
}

// cause prefers what ended the connection over how a stream noticed it. Where
// this agent has closed the connection, err is why.
func cause(conn transport.Session, err error) error {
	if _, ok := errors.AsType[*refusedError](err); ok || conn.Context().Err() == nil {
		return err
	}
	ended := context.Cause(conn.Context())
	if closed, ok := errors.AsType[*transport.CloseError](ended); ok && !closed.Remote {
		return err
	}
	return ended
}

func (a *Agent) greet(ctx context.Context, conn transport.Session) (*controlStream, wire.Welcome, error) {
	st, err := conn.Open(ctx, transport.StreamControl)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	a.epoch++
	a.mu.Lock()
	hello := wire.Hello{
		Capability: wire.Capability, Agent: a.id, Version: a.cfg.Version, Hostname: a.host,
		BootID: a.cfg.BootID, Capacity: a.capacity, Epoch: a.epoch,
		BundleVersion: a.cred.Get().Bundle.Version, Beat: a.keep.Interval(),
	}
	a.mu.Unlock()
	stream := &counted{Stream: st, a: a.cfg.Account, out: forUpdates, in: forUpdates}
	control := wire.NewConn(stream, wire.MaxControl)
	began := time.Now()
	_ = st.SetDeadline(began.Add(a.patience.wait()))
	if err := control.Send(hello); err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("send hello: %w", err)
	}
	msg, err := control.Recv()
	a.patience.learn(time.Since(began), err)
	if err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("wait for welcome: %w", err)
	}
	_ = st.SetDeadline(time.Time{})
	switch msg := msg.(type) {
	case wire.Welcome:
		if msg.Capability < wire.MinCapability {
			return nil, msg, fmt.Errorf("the replica speaks capability %d, this agent needs %d; upgrade the control plane first", msg.Capability, wire.MinCapability)
		}
		return &controlStream{Conn: control, bytes: stream}, msg, nil
	case wire.Refusal:
		return nil, wire.Welcome{}, &refusedError{msg}
	default:
		return nil, wire.Welcome{}, fmt.Errorf("%T instead of welcome", msg)
	}
}

// patience is how long the Welcomes of a link are worth waiting for; the zero
// value is welcomeLeast.
type patience time.Duration

func (p patience) wait() time.Duration {
	return min(max(time.Duration(p), welcomeLeast), welcomeMost)
}

// learn takes in how a wait has ended: four times what the last Welcome took,
// and twice as long after one that did not come.
func (p *patience) learn(took time.Duration, err error) {
	switch {
	case err == nil:
		*p = patience(4 * took)
	case errors.Is(err, os.ErrDeadlineExceeded):
		*p = patience(2 * p.wait())
	}
}

// adopt stores what a Welcome says about the control plane.
func (a *Agent) adopt(w wire.Welcome) error {
	if len(w.Replicas) > 0 {
		if old, err := recall(a.cfg.StateDir); err != nil || !slices.Equal(old, w.Replicas) {
			if err := remember(a.cfg.StateDir, w.Replicas); err != nil {
				return err
			}
		}
	}
	return a.trust(w.Bundle, w.BundleVersion)
}

// carry runs a session's parts; the first that fails ends the others.
func (a *Agent) carry(ctx context.Context, l *link, dialer *transport.Dialer, seek func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return seek(ctx) })
	g.Go(func() error { return a.receive(ctx, l) })
	g.Go(func() error { return a.send(ctx, l) })
	g.Go(func() error { return a.roam(ctx, l, dialer) })
	g.Go(func() error { return a.serve(ctx, l, g) })
	g.Go(func() error { return a.renew(ctx, l) })
	g.Go(func() error {
		select { // unblocks the receiver
		case <-ctx.Done():
			_ = l.conn.Close(transport.CodeOK, "the agent is stopping")
		case <-l.conn.Context().Done():
		}
		return context.Cause(l.conn.Context())
	})
	return g.Wait()
}

func (a *Agent) receive(ctx context.Context, l *link) error {
	var parts wire.Parts
	for {
		msg, err := l.control.Recv()
		if err != nil {
			return fmt.Errorf("read control stream: %w", err)
		}
		switch msg := msg.(type) {
		case wire.DesiredSet:
			if d, whole := parts.Add(msg); whole {
				a.emit(ctx, lifecycle.Desired{Desired: d})
			}
		case wire.Acks:
			for _, k := range msg.Acks {
				a.emit(ctx, lifecycle.Acked{Task: k.Task, Update: k.Update, Generation: k.Generation})
			}
		case wire.Led:
			// What the new leader must know, it hears from here alone.
			if msg.Term == 0 {
				a.emit(ctx, lifecycle.Disconnected{})
				break
			}
			a.log.Info("another leader", "term", msg.Term)
			a.emit(ctx, lifecycle.Connected{Term: msg.Term}) // who says Led knows stamps, too
		case wire.Ask, wire.Observed:
			l.queue(msg)
		case wire.Upgrade:
			a.upgrade.take(msg.Upgrade)
		case wire.Bundle:
			if err := a.bundle(l, msg); err != nil {
				return err
			}
		case wire.Goaway:
			return &refusedError{wire.Refusal{Code: wire.RefusedNotLeader, Text: msg.Text, Leader: msg.Leader}}
		default:
			a.log.Warn("message ignored", "type", fmt.Sprintf("%T", msg))
		}
	}
}
