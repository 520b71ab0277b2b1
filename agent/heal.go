package agent

import (
	"context"
	"errors"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// mend puts right what kept this agent from a session, if it can be put right
// from here: a certificate that has ended, a key that the control plane does
// not know, a wrong clock. It reports whether dialling again at once makes
// sense, and else how long to wait at least. Tasks run on meanwhile.
func (a *Agent) mend(ctx context.Context, dialer *transport.Dialer, addr string, d *rounds, cause error) (mended bool, pause time.Duration) {
	if _, ours := errors.AsType[*pki.ClockError](cause); ours {
		return a.learnClock(ctx, dialer, d.addrs), 0
	}
	switch {
	case errors.Is(cause, transport.ErrCertificateExpired), errors.Is(cause, transport.ErrUnknownAuthority):
		return a.heal(ctx, dialer, addr, d.addrs)
	case refusedAs(cause, wire.RefusedCloned):
		return a.goBack(), 0
	}
	return false, 0
}

func refusedAs(err error, code wire.RefusalCode) bool {
	refused, ok := errors.AsType[*refusedError](err)
	return ok && refused.r.Code == code
}

// maxHops bounds how often one healing is sent on to the leader.
const maxHops = 3

// heal asks for a new certificate in the place of the one that has ended, by
// proof of its key.
func (a *Agent) heal(ctx context.Context, dialer *transport.Dialer, addr string, addrs []string) (healed bool, pause time.Duration) {
	old := a.cred.Get()
	var err error
	for range maxHops {
		if err = a.healAt(ctx, dialer, addr); err == nil {
			a.log.Warn("the certificate had lapsed and was healed", "lapsed", old.Leaf().NotAfter, "not_after", a.cred.Get().Leaf().NotAfter)
			return true, 0
		}
		if _, ours := errors.AsType[*pki.ClockError](err); ours && a.learnClock(ctx, dialer, addrs) {
			continue
		}
		refusal, ok := errors.AsType[*enroll.Refusal](err)
		if !ok || refusal.Code != enroll.CodeNotLeader || refusal.Leader == "" {
			break
		}
		addr = refusal.Leader
	}
	a.log.Warn("the certificate has lapsed and was not healed", "lapsed", old.Leaf().NotAfter, "replica", addr, "cause", transport.Explain(err))
	refusal, ok := errors.AsType[*enroll.Refusal](err)
	switch {
	case ok && refusal.Final() && a.goBack():
		return true, 0
	case ok && refusal.Final():
		return false, bannedWait // a person has to act
	}
	return false, 0
}

func (a *Agent) healAt(ctx context.Context, dialer *transport.Dialer, addr string) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	reply, err := dialer.Heal(ctx, addr, a.cred.Get(), key)
	if err != nil {
		return err
	}
	return a.install(reply.Chain, key, reply.Bundle, reply.BundleVersion)
}

// now is the time by which certificates are judged: the machine's, put right by
// what the replicas told.
func (a *Agent) now() time.Time { return a.machineTime().Add(a.clockOff()) }

func (a *Agent) machineTime() time.Time {
	if a.cfg.Now != nil {
		return a.cfg.Now()
	}
	return time.Now()
}

// clockOff is what to add to the machine's clock to have the fleet's time; 0
// until a certificate did not hold by the machine's clock. It is learned anew
// by every process and whenever that happens again, and is nowhere on disk.
func (a *Agent) clockOff() time.Duration { return time.Duration(a.offset.Load()) }

// sameClock is how near two findings of the time must be to mean that it is not
// the clock that is wrong.
const sameClock = time.Minute

// learnClock asks the replicas for the time and reports whether that explains
// why a certificate did not hold.
func (a *Agent) learnClock(ctx context.Context, dialer *transport.Dialer, addrs []string) bool {
	offset, err := dialer.LearnClock(ctx, addrs, a.cred.Judge(), a.machineTime)
	if err != nil {
		a.log.Warn("time not learned from the replicas", "error", err)
		return false
	}
	if d := offset - a.clockOff(); d > -sameClock && d < sameClock {
		return false
	}
	if offset > -sameClock && offset < sameClock {
		offset = 0
	}
	a.offset.Store(int64(offset))
	if offset == 0 {
		a.log.Info("this machine's clock is right again")
		return true
	}
	a.log.Warn("this machine's clock is off", "note", transport.ClockNotice(offset), "fleet_time", a.now().UTC())
	return true
}

// inFleetTime puts the times of a report right before it is sent. Inside the
// agent times are the machine's, so that no wait changes its length when the
// time is learned.
func (a *Agent) inFleetTime(act lifecycle.Action) lifecycle.Action {
	r, ok := act.(lifecycle.Report)
	off := a.clockOff()
	if !ok || off == 0 {
		return act
	}
	updates := append(r.Updates[:0:0], r.Updates...)
	for i := range updates {
		if t := &updates[i].Status.Time; !t.IsZero() {
			*t = t.Add(off)
		}
	}
	r.Updates = updates
	return r
}
