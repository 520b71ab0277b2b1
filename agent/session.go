package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// welcomeTime bounds the wait for a replica's first answer.
	welcomeTime = 10 * time.Second
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
	beat    time.Duration // how often a replica from before beats wants readings
	beats   bool          // the replica knows them

	mu       sync.Mutex
	pull     *lifecycle.Pull
	reports  []fleet.StatusUpdate
	capacity *fleet.Capacity
	asked    bool // for a sign of life
	observed bool // at another address than before
	roamed   bool // to another network
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
	case wire.Observed:
		l.observed = true
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
	next := &established{conn, control, welcome}
	for next != nil { // more than once where it moves from TCP to QUIC
		next, err = a.hold(ctx, dialer, addr, d, next)
	}
	return err
}

// hold carries an established session until it ends or has moved to the next.
func (a *Agent) hold(ctx context.Context, dialer *transport.Dialer, addr string, d *rounds, e *established) (*established, error) {
	conn, control, welcome := e.conn, e.control, e.welcome
	defer conn.Close(transport.CodeOK, "") //nolint:errcheck // it may be over already
	if err := a.adopt(welcome); err != nil {
		return nil, err
	}
	d.know(addr, welcome)
	l := &link{conn: conn, control: control, beat: min(max(welcome.Heartbeat, time.Second), time.Minute), beats: welcome.Capability >= 3, wake: make(chan struct{}, 1)}
	a.mu.Lock()
	a.link = l
	a.mu.Unlock()
	a.log.Info("connected", "replica", welcome.Replica, "addr", addr, "link", transport.LinkOf(conn), "term", welcome.Term)
	if welcome.Term != 0 { // else Led comes once somebody leads
		a.emit(ctx, lifecycle.Connected{Term: welcome.Term})
	}
	if a.cfg.Ready != nil {
		a.ready.Do(a.cfg.Ready)
	}
	var next *established
	err := a.carry(ctx, l, dialer, func(ctx context.Context) (err error) {
		next, err = a.seekQUIC(ctx, dialer, addr, conn)
		return err
	})
	a.mu.Lock()
	a.link = nil
	a.mu.Unlock()
	a.emit(ctx, lifecycle.Disconnected{})
	return next, cause(conn, err)
}

// cause prefers what ended the connection over how a stream noticed it.
func cause(conn transport.Session, err error) error {
	if _, ok := errors.AsType[*refusedError](err); ok || errors.Is(err, errSilent) || errors.Is(err, errRoamed) {
		return err
	}
	if conn.Context().Err() != nil {
		return context.Cause(conn.Context())
	}
	return err
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
		BootID: a.cfg.BootID, Capacity: a.capacity, Epoch: a.epoch, Beat: a.keep.Interval(),
	}
	a.mu.Unlock()
	stream := &counted{Stream: st, a: a.cfg.Account, out: forUpdates, in: forUpdates}
	control := wire.NewConn(stream, wire.MaxControl)
	_ = st.SetDeadline(time.Now().Add(welcomeTime))
	if err := control.Send(hello); err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("send hello: %w", err)
	}
	msg, err := control.Recv()
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

// adopt stores what a Welcome says about the control plane.
func (a *Agent) adopt(w wire.Welcome) error {
	if len(w.Replicas) > 0 {
		if old, err := recall(a.cfg.StateDir); err != nil || !slices.Equal(old, w.Replicas) {
			if err := remember(a.cfg.StateDir, w.Replicas); err != nil {
				return err
			}
		}
	}
	cred := a.cred.Get()
	if len(w.Bundle) == 0 || w.BundleVersion <= cred.Bundle.Version {
		return nil
	}
	return a.store(cred.Chain.Certificate, w.Bundle, w.BundleVersion)
}

// store replaces certificate and bundle; the key stays.
func (a *Agent) store(chain [][]byte, bundlePEM []byte, version uint64) error {
	old := a.cred.Get()
	bundle := old.Bundle
	if len(bundlePEM) > 0 && version >= bundle.Version {
		var err error
		if bundle, err = pki.ParseBundle(bundlePEM, version); err != nil {
			return fmt.Errorf("trust bundle: %w", err)
		}
	}
	key, ok := old.Chain.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("the key cannot sign")
	}
	cred, err := pki.NewCredential(chain, key, bundle)
	if err != nil {
		return fmt.Errorf("new certificate: %w", err)
	}
	if cred.Identity != old.Identity {
		return fmt.Errorf("the new certificate is %s's", cred.Identity.Short())
	}
	if err := pki.SaveDir(pkiDir(a.cfg.StateDir), cred); err != nil {
		return err
	}
	a.cred.Set(cred)
	return nil
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
	for {
		msg, err := l.control.Recv()
		if err != nil {
			return fmt.Errorf("read control stream: %w", err)
		}
		switch msg := msg.(type) {
		case wire.DesiredSet:
			a.emit(ctx, lifecycle.Desired{Desired: msg.Desired})
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
			a.emit(ctx, lifecycle.Connected{Term: msg.Term})
		case wire.Ask, wire.Observed:
			l.queue(msg)
		case wire.Goaway:
			return &refusedError{wire.Refusal{Code: wire.RefusedNotLeader, Text: msg.Text, Leader: msg.Leader}}
		default:
			a.log.Warn("message ignored", "type", fmt.Sprintf("%T", msg))
		}
	}
}

// renew asks for the next certificate at a random point of this one's life.
func (a *Agent) renew(ctx context.Context, l *link) error {
	for {
		at := pki.RenewAt(a.cred.Get().Leaf(), rand.Float64())
		if !sleep(ctx, time.Until(at)) {
			return ctx.Err()
		}
		if err := a.renewOnce(ctx, l); err != nil {
			a.log.Error("certificate not renewed", "not_after", a.cred.Get().Leaf().NotAfter, "error", err)
			if !sleep(ctx, time.Minute) {
				return ctx.Err()
			}
		}
	}
}

func (a *Agent) renewOnce(ctx context.Context, l *link) error {
	key, ok := a.cred.Get().Chain.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("the key cannot sign")
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return err
	}
	st, err := l.conn.Open(ctx, transport.StreamRenew)
	if err != nil {
		return err
	}
	defer st.Reset()
	_ = st.SetDeadline(time.Now().Add(30 * time.Second))
	conn := wire.NewConn(&counted{Stream: st, a: a.cfg.Account, out: forUpdates, in: forUpdates}, wire.MaxControl)
	if err := conn.Send(wire.RenewRequest{CSR: csr}); err != nil {
		return err
	}
	msg, err := conn.Recv()
	if err != nil {
		return err
	}
	switch msg := msg.(type) {
	case wire.Certificate:
		if err := a.store(msg.Chain, msg.Bundle, msg.BundleVersion); err != nil {
			return err
		}
		a.log.Info("certificate renewed", "not_after", a.cred.Get().Leaf().NotAfter)
		return nil
	case wire.Refusal:
		return &refusedError{msg}
	default:
		return fmt.Errorf("%T instead of a certificate", msg)
	}
}
