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

	"github.com/tenderfleet/tender/agent/capacity"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/agent/tasklog"
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
	// replyTime is how long a replica may take to answer a beat. A replica that
	// died says nothing, and QUIC alone would notice after a minute.
	replyTime = 5 * time.Second
	// dialTime bounds one try to reach a replica: others may be waiting.
	dialTime = 3 * time.Second
)

// link is one established session: its outbox, and what it was told.
type link struct {
	conn    transport.Session
	control *wire.Conn
	beat    time.Duration

	heard chan struct{} // something has arrived; holds one

	mu       sync.Mutex
	pull     *lifecycle.Pull
	reports  []fleet.StatusUpdate
	capacity *fleet.Capacity
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
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// dialLoop keeps one session with the leader. It goes where a follower points
// it to, and else waits with full jitter, so that a fleet that lost a replica
// does not come back in one wave.
func (a *Agent) dialLoop(ctx context.Context, replicas []string) error {
	select {
	case <-a.listed: // what truly runs is known before anything is assigned
	case <-ctx.Done():
		return ctx.Err()
	}
	a.look(ctx)
	dialer, err := transport.NewDialer(transport.DialerConfig{Holder: a.cred, Conn: a.cfg.Conn})
	if err != nil {
		return err
	}
	defer dialer.Close() //nolint:errcheck // the process ends, or the error was told
	d := &rounds{addrs: replicas}
	var back transport.Backoff
	for ctx.Err() == nil {
		addr := d.next()
		began := time.Now()
		err := a.session(ctx, dialer, addr, d)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > 30*time.Second {
			back.Reset()
		}
		d.avoid(addr)
		wait := back.Next(rand.Float64())
		var refused *refusedError
		var closed *transport.CloseError
		switch {
		case errors.As(err, &refused) && refused.r.Code == wire.RefusedNotLeader:
			d.hint(refused.r.Leader)
			if refused.r.Leader != "" && refused.r.Leader != addr {
				continue
			}
			wait = min(wait, refused.r.RetryAfter)
		case errors.As(err, &refused) && refused.r.Code == wire.RefusedRevoked,
			errors.As(err, &closed) && closed.Remote && closed.Code == transport.CodeRevoked:
			a.emit(ctx, lifecycle.Revoked{})
			wait = bannedWait
		case errors.As(err, &refused) && refused.r.Code == wire.RefusedUnknownAgent:
			wait = bannedWait
		}
		a.log.Warn("no session", "replica", addr, "cause", transport.Explain(err), "retry_in", wait.Round(time.Millisecond))
		sleep(ctx, wait)
	}
	return ctx.Err()
}

// rounds chooses the next address: the hinted one first, then each in turn.
type rounds struct {
	addrs  []string
	at     int
	hinted string
}

// avoid makes another address the next one, if there is one.
func (d *rounds) avoid(addr string) {
	if n := len(d.addrs); n > 1 && d.addrs[d.at%n] == addr {
		d.at++
	}
}

func (d *rounds) hint(addr string) { d.hinted = addr }

func (d *rounds) next() string {
	if h := d.hinted; h != "" {
		d.hinted = ""
		return h
	}
	d.at++
	return d.addrs[(d.at-1)%len(d.addrs)]
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
	if err := a.adopt(welcome); err != nil {
		return err
	}
	d.addrs = welcome.Replicas
	l := &link{conn: conn, control: control, beat: min(max(welcome.Heartbeat, time.Second), time.Minute), wake: make(chan struct{}, 1), heard: make(chan struct{}, 1)}
	a.mu.Lock()
	a.link = l
	a.mu.Unlock()
	a.log.Info("connected", "replica", welcome.Replica, "addr", addr, "term", welcome.Term)
	a.emit(ctx, lifecycle.Connected{Term: welcome.Term, Plain: welcome.Capability < stampsSince})
	if a.cfg.Ready != nil {
		a.ready.Do(a.cfg.Ready)
	}
	err = a.carry(ctx, l)
	a.mu.Lock()
	a.link = nil
	a.mu.Unlock()
	a.emit(ctx, lifecycle.Disconnected{})
	return cause(conn, err)
}

// cause prefers what ended the connection over how a stream noticed it.
func cause(conn transport.Session, err error) error {
	if _, ok := errors.AsType[*refusedError](err); ok {
		return err
	}
	if conn.Context().Err() != nil {
		return context.Cause(conn.Context())
	}
	return err
}

func (a *Agent) greet(ctx context.Context, conn transport.Session) (*wire.Conn, wire.Welcome, error) {
	st, err := conn.Open(ctx, transport.StreamControl)
	if err != nil {
		return nil, wire.Welcome{}, err
	}
	a.mu.Lock()
	hello := wire.Hello{
		Capability: wire.Capability, Agent: a.id, Version: a.cfg.Version, Hostname: a.host,
		BootID: capacity.BootID(), Capacity: a.capacity,
	}
	a.mu.Unlock()
	control := wire.NewConn(st, wire.MaxControl)
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
		return control, msg, nil
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
func (a *Agent) carry(ctx context.Context, l *link) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.receive(ctx, l) })
	g.Go(func() error { return a.send(ctx, l) })
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
		select {
		case l.heard <- struct{}{}:
		default:
		}
		switch msg := msg.(type) {
		case wire.DesiredSet:
			a.emit(ctx, lifecycle.Desired{Desired: msg.Desired})
		case wire.Acks:
			for _, k := range msg.Acks {
				a.emit(ctx, lifecycle.Acked{Task: k.Task, Update: k.Update, Generation: k.Generation})
			}
		case wire.Goaway:
			return &refusedError{wire.Refusal{Code: wire.RefusedNotLeader, Text: msg.Text, Leader: msg.Leader}}
		default:
			a.log.Warn("message ignored", "type", fmt.Sprintf("%T", msg))
		}
	}
}

// errSilent: the replica does not answer a beat any more.
var errSilent = fmt.Errorf("the replica was silent for %v after a beat", replyTime)

// maxReport bounds the updates in one message.
const maxReport = 512

func (a *Agent) send(ctx context.Context, l *link) error {
	beat := time.NewTicker(l.beat)
	defer beat.Stop()
	reply := time.NewTimer(replyTime)
	defer reply.Stop()
	if err := l.control.Send(a.readings(ctx)); err != nil {
		return fmt.Errorf("send readings: %w", err)
	}
	for {
		var msgs []wire.Message
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.heard:
			reply.Stop()
		case <-reply.C:
			return errSilent
		case <-beat.C:
			msgs = append(msgs, a.readings(ctx))
			reply.Reset(replyTime)
		case <-l.wake:
			msgs = l.take()
		}
		for _, m := range msgs {
			if err := l.control.Send(m); err != nil {
				return fmt.Errorf("send %T: %w", m, err)
			}
		}
	}
}

// take empties the outbox. The capacity goes first: what it takes back must
// not be offered any longer.
func (l *link) take() []wire.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []wire.Message
	if l.capacity != nil {
		out = append(out, wire.CapacityChanged{Capacity: *l.capacity})
	}
	for chunk := range slices.Chunk(l.reports, maxReport) {
		out = append(out, wire.Report{Updates: chunk})
	}
	if l.pull != nil {
		out = append(out, wire.Pull{Generation: l.pull.Generation, Full: l.pull.Full, Stamp: l.pull.Stamp, CaughtUp: l.pull.CaughtUp})
	}
	l.capacity, l.reports, l.pull = nil, nil, nil
	return out
}

// serve answers the streams that the replica opens: requests for logs.
func (a *Agent) serve(ctx context.Context, l *link, g *errgroup.Group) error {
	for {
		st, err := l.conn.Accept(ctx)
		if err != nil {
			return err
		}
		if st.Kind() != transport.StreamLogs {
			st.Reset()
			continue
		}
		g.Go(func() error {
			defer st.Reset()
			defer context.AfterFunc(ctx, st.Reset)()
			if err := a.logs(ctx, st); err != nil && ctx.Err() == nil {
				a.log.Debug("log stream ended", "error", err)
			}
			return nil
		})
	}
}

func (a *Agent) logs(ctx context.Context, st transport.Stream) error {
	conn := wire.NewConn(st, wire.MaxControl)
	_ = st.SetDeadline(time.Now().Add(welcomeTime))
	msg, err := conn.Recv()
	if err != nil {
		return err
	}
	_ = st.SetDeadline(time.Time{})
	req, ok := msg.(wire.LogsRequest)
	if !ok {
		return fmt.Errorf("%T on a log stream", msg)
	}
	a.mu.Lock()
	ended := a.ended[req.Task]
	a.mu.Unlock()
	if ended == nil { // not held any more: what there is, is all
		ended = make(chan struct{})
		close(ended)
	}
	// A follower that goes away is noticed even while nothing is printed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, st.Reset)
	go func() {
		defer cancel()
		_, _ = conn.Recv()
	}()
	tail := req.Tail // -1 is all on the wire, 0 is all in the log
	if tail <= 0 {
		tail = -tail - 1
	}
	opts := tasklog.Options{Follow: req.Follow, Tail: tail, Stdout: req.Stdout, Stderr: req.Stderr, Ended: ended}
	err = a.cfg.Logs.Read(ctx, req.Task, opts, func(stderr bool, data []byte) error {
		for chunk := range slices.Chunk(data, wire.MaxLogChunk) {
			if err := conn.Send(wire.LogChunk{Stderr: stderr, Data: chunk}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, conn.Send(wire.Refusal{Code: wire.RefusedNotFound, Text: err.Error()}))
	}
	if err := conn.Send(wire.LogEnd{}); err != nil {
		return err
	}
	if err := st.Close(); err != nil {
		return err
	}
	<-ctx.Done() // until the reader has it all
	return nil
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
	conn := wire.NewConn(st, wire.MaxControl)
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
