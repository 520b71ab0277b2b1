package agent

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// steady is how long a session lasts, from its Welcome, that was worth its
	// dial: the next one is not put off for failures before it.
	steady = 10 * time.Second
	// maxMends bounds how often in a row a cause is put right and no session
	// comes of it.
	maxMends = 3
)

// dialLoop keeps one session with any replica; whoever that is passes on what
// is said to the leader. After a loss it waits with full jitter, so that a
// fleet that lost a replica does not come back in one wave.
func (a *Agent) dialLoop(ctx context.Context, replicas []string) error {
	select {
	case <-a.listed: // what truly runs is known before anything is assigned
	case <-ctx.Done():
		return ctx.Err()
	}
	a.look(ctx)
	dialer, err := transport.NewDialer(transport.DialerConfig{Holder: a.cred, Conn: a.cfg.Conn, DialTCP: a.cfg.DialTCP, Now: a.now})
	if err != nil {
		return err
	}
	defer dialer.Close() //nolint:errcheck // the process ends, or the error was told
	d := &rounds{id: a.id, addrs: replicas}
	d.sort()
	var back transport.Backoff
	mends := 0
	for ctx.Err() == nil {
		addr := d.next()
		d.welcomed = time.Time{}
		err := a.session(ctx, dialer, addr, d)
		if ctx.Err() != nil {
			break
		}
		a.tell(missed(err))
		mended, pause := a.mend(ctx, dialer, addr, d, err)
		if mended && mends < maxMends {
			mends++
			continue
		}
		wait := max(pause, back.Next(rand.Float64()))
		if d.lasted() {
			back.Reset()
			mends = 0
			wait = again(err, d.spread, rand.Float64())
		}
		var refused *refusedError
		var closed *transport.CloseError
		switch {
		case errors.As(err, &refused) && refused.r.Code == wire.RefusedNotLeader:
			d.hint(refused.r.Leader, addr)
			if d.hinted != "" {
				continue
			}
			wait = min(wait, refused.r.RetryAfter)
		case errors.As(err, &refused) && refused.r.Code == wire.RefusedRevoked,
			errors.As(err, &closed) && closed.Remote && closed.Code == transport.CodeRevoked:
			if err := a.banned(ctx); err != nil {
				return err
			}
			wait = bannedWait
		case errors.As(err, &refused) && (refused.r.Code == wire.RefusedUnknownAgent || refused.r.Code == wire.RefusedCloned),
			errors.As(err, &closed) && closed.Remote && closed.Code == transport.CodeCloned:
			wait = bannedWait
		}
		a.log.Warn("no session", "replica", addr, "cause", transport.Explain(err), "retry_in", wait.Round(time.Millisecond))
		sleep(ctx, wait)
	}
	return ctx.Err()
}

// again is how long to wait after a session that has lasted. Agents that lose
// theirs all at once spread over the time that their replica has asked for; those
// that find it silent do so at times of their own, since each beats by its own
// clock. r is drawn at random from [0,1).
func again(err error, spread time.Duration, r float64) time.Duration {
	if errors.Is(err, errSilent) {
		spread = 0
	}
	return time.Duration(r * float64(max(spread, transport.DefaultBackoffMin)))
}

// rounds chooses the next address: the hinted one first, then each in turn, in
// this agent's own order. So agents spread evenly over the replicas, and those
// of a replica that is lost over the others.
type rounds struct {
	id     fleet.AgentID
	addrs  []string
	at     int
	hinted string
	// welcomed is when the session began; zero without one.
	welcomed time.Time
	// spread is over how long to spread the first try after a loss.
	spread time.Duration
}

// sort puts the addresses into the order of a hash of each with the agent's id:
// an address that comes or goes moves nobody else (rendezvous hashing).
func (d *rounds) sort() {
	rank := func(addr string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(d.id)) // never fails
		_, _ = h.Write([]byte{0})
		_, _ = h.Write([]byte(addr))
		return mix(h.Sum64())
	}
	d.addrs = slices.Clone(d.addrs)
	slices.SortStableFunc(d.addrs, func(x, y string) int {
		switch rx, ry := rank(x), rank(y); {
		case rx < ry:
			return -1
		case rx > ry:
			return 1
		}
		return 0
	})
}

// mix spreads what FNV leaves in the low bits over all of them (the finaliser
// of MurmurHash3): ids of a fleet differ in their last letters alone.
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// know takes over what the replica at an address says about the control plane.
func (d *rounds) know(current string, w wire.Welcome) {
	d.spread = min(w.Spread, time.Minute)
	if d.welcomed.IsZero() {
		d.welcomed = time.Now()
	}
	if len(w.Replicas) == 0 {
		return
	}
	d.addrs = w.Replicas
	d.sort()
	d.at = slices.Index(d.addrs, current) + 1 // the one after it
}

// lasted reports whether there was a session, and a steady one.
func (d *rounds) lasted() bool {
	return !d.welcomed.IsZero() && time.Since(d.welcomed) > steady
}

// hint makes addr the next one, unless that was the one that said so.
func (d *rounds) hint(addr, by string) {
	if addr != by {
		d.hinted = addr
	}
}

func (d *rounds) next() string {
	if h := d.hinted; h != "" {
		d.hinted = ""
		return h
	}
	d.at++
	return d.addrs[(d.at-1)%len(d.addrs)]
}
