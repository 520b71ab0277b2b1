package transport

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
)

// The kinds of streams that the protocols know.
const (
	StreamControl StreamKind = "control" // agent/1, opened by the agent, first
	StreamRenew   StreamKind = "renew"   // agent/1, opened by the agent
	StreamLogs    StreamKind = "logs"    // agent/1, opened by the replica
	StreamPackage StreamKind = "package" // agent/1, opened by the agent
	StreamEnrol   StreamKind = "enrol"   // enrol/1, the only one, as the next two
	StreamHeal    StreamKind = "heal"    // enrol/1: a new certificate for one that has ended
	StreamClock   StreamKind = "clock"   // enrol/1: the time
)

// exporterLen is how much of a connection's secret goes into a proof.
const exporterLen = 32

// Enrol joins over QUIC or, where UDP does not pass, over TCP: it asks the
// replicas that line names, one after the other, until one admits, one refuses
// for good, or ctx ends. It dials as cfg says, without a certificate. Where that
// fails for this machine's clock, the replicas are asked for the time, and the
// error is a *WrongClockError; nothing was used up then.
func Enrol(ctx context.Context, cfg DialerConfig, line pki.JoinLine, req enroll.Request) (enroll.Reply, error) {
	cfg.Holder = nil
	dialer, err := NewDialer(cfg)
	if err != nil {
		return enroll.Reply{}, err
	}
	defer dialer.Close() //nolint:errcheck // every session has ended
	reply, err := dialer.enrol(ctx, line, req, cfg.clock())
	if !wrongClock(err) {
		return reply, err
	}
	says := cfg.clock()()
	offset, clockErr := dialer.LearnClock(ctx, line.Addrs, pki.PinJudge(line.Pin), cfg.clock())
	if clockErr != nil {
		return reply, noTime(err, clockErr)
	}
	return reply, &WrongClockError{Says: says, Offset: offset, Err: err}
}

// noTime is err of a machine that could not find out how wrong its clock is.
func noTime(err, clockErr error) error {
	return fmt.Errorf("%w; the replicas were asked for the time, too: %w", err, clockErr)
}

// WrongClockError says that joining failed for this machine's clock.
type WrongClockError struct {
	Says   time.Time     // by the machine's clock
	Offset time.Duration // what to add to have the replicas' time
	Err    error         // what it looked like
}

// Error says how far the clock is off and what to do.
func (e *WrongClockError) Error() string {
	const layout = "2006-01-02 15:04:05Z"
	return fmt.Sprintf("this machine's clock is %s: it says %s, the replicas say %s; set it (timedatectl set-ntp true) and try again; the join line is still good",
		offBy(e.Offset), e.Says.UTC().Format(layout), e.Says.Add(e.Offset).UTC().Format(layout))
}

func (e *WrongClockError) Unwrap() error { return e.Err }

func (c *DialerConfig) clock() func() time.Time {
	if c.Now != nil {
		return c.Now
	}
	return time.Now
}

// EnrolAnyClock is Enrol for a machine whose clock, cfg.Now, may be wrong by
// years: where certificates do not hold by it, the time is learned from the
// replicas that line names, and the joining goes on with theirs. What to add to
// the clock to have it is returned, zero where the clock was good enough.
func EnrolAnyClock(ctx context.Context, cfg DialerConfig, line pki.JoinLine, req enroll.Request) (enroll.Reply, time.Duration, error) {
	var offset atomic.Int64
	machine := cfg.clock()
	cfg.Holder, cfg.Now = nil, func() time.Time { return machine().Add(time.Duration(offset.Load())) }
	d, err := NewDialer(cfg)
	if err != nil {
		return enroll.Reply{}, 0, err
	}
	defer d.Close() //nolint:errcheck // every session has ended
	reply, err := d.enrol(ctx, line, req, cfg.Now)
	if !wrongClock(err) {
		return reply, 0, err
	}
	told, clockErr := d.LearnClock(ctx, line.Addrs, pki.PinJudge(line.Pin), machine)
	if clockErr != nil {
		return reply, 0, noTime(err, clockErr)
	}
	offset.Store(int64(told))
	reply, err = d.enrol(ctx, line, req, cfg.Now)
	return reply, told, err
}

func (d *Dialer) enrol(ctx context.Context, line pki.JoinLine, req enroll.Request, now func() time.Time) (enroll.Reply, error) {
	joiner := enroll.Joiner{Now: now, Dial: func(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
		s, err := d.DialEnrol(ctx, addr, line.Pin)
		if err != nil {
			return nil, err
		}
		return s.Open(ctx, StreamEnrol)
	}}
	return joiner.Run(ctx, line, req)
}

// ClockNotice says how far this machine's clock is off, offset being what to
// add to it.
func ClockNotice(offset time.Duration) string {
	return fmt.Sprintf("this machine's clock is %s; its own is not changed, what goes to the fleet is corrected; set it with: timedatectl set-ntp true",
		offBy(offset))
}

func offBy(offset time.Duration) string {
	if offset < 0 {
		return roughly(-offset) + " ahead"
	}
	return roughly(offset) + " behind"
}

// roughly prints a duration in one unit that suits its size.
func roughly(d time.Duration) string {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	switch {
	case d < 2*time.Hour:
		return d.Round(time.Second).String()
	case d < 2*day:
		return fmt.Sprintf("%d hours", d.Round(time.Hour)/time.Hour)
	case d < 2*year:
		return fmt.Sprintf("%d days", d.Round(day)/day)
	}
	return fmt.Sprintf("%d years", d.Round(year)/year)
}

// wrongClock reports whether err may be due to this machine's clock.
func wrongClock(err error) bool {
	_, ours := errors.AsType[*pki.ClockError](err)
	return ours || errors.Is(err, &enroll.Refusal{Code: enroll.CodeClock})
}

// Heal asks the replica at addr for a new certificate in the place of cred,
// which has ended, with the key next. A refusal is an *enroll.Refusal.
func (d *Dialer) Heal(ctx context.Context, addr string, cred *pki.Credential, next crypto.Signer) (enroll.Reply, error) {
	conf := d.clientTLS(nil, ALPNEnrol)
	var reply enroll.Reply
	err := d.ask(ctx, addr, conf, StreamHeal, enroll.HealLabel, func(_ Session, st Stream, exporter []byte) (err error) {
		reply, err = enroll.Heal(ctx, st, enroll.Healing{Credential: cred, NextKey: next, Exporter: exporter})
		return err
	})
	return reply, err
}

// LearnClock asks the replicas at addrs for the time and returns what to add to
// now to have it; see enroll.Agree for how many must agree. It takes five
// seconds at most.
func (d *Dialer) LearnClock(ctx context.Context, addrs []string, judge pki.Judge, now func() time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var mu sync.Mutex
	var told []enroll.Told
	var failed error
	var wg sync.WaitGroup
	for _, addr := range addrs {
		wg.Go(func() {
			t, err := d.askClock(ctx, addr, judge, now)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", addr, err))
				return
			}
			told = append(told, t)
		})
	}
	wg.Wait()
	offset, err := enroll.Agree(told, len(addrs))
	if err != nil && failed != nil {
		err = fmt.Errorf("%w (%w)", err, failed)
	}
	return offset, err
}

func (d *Dialer) askClock(ctx context.Context, addr string, judge pki.Judge, now func() time.Time) (enroll.Told, error) {
	var told enroll.Told
	conf := pki.UntimedTLS(judge, ALPNEnrol)
	err := d.ask(ctx, addr, conf, StreamClock, enroll.ClockLabel, func(s Session, st Stream, exporter []byte) (err error) {
		told, err = enroll.AskClock(ctx, st, PeerChain(s), exporter, judge, now)
		return err
	})
	return told, err
}

// ask runs one exchange over enrol/1 and ends the session.
func (d *Dialer) ask(ctx context.Context, addr string, conf *tls.Config, kind StreamKind, label string, talk func(Session, Stream, []byte) error) error {
	s, err := d.race(ctx, target{addr, ALPNEnrol, conf})
	if err != nil {
		return err
	}
	defer s.Close(CodeOK, "") //nolint:errcheck // it may be over already
	exporter, err := Exporter(s, label, exporterLen)
	if err != nil {
		return err
	}
	st, err := s.Open(ctx, kind)
	if err != nil {
		return err
	}
	defer st.Reset()
	if err := talk(s, st, exporter); err != nil {
		// A replica that does not know the kind ends the session without a word.
		if closed, ok := errors.AsType[*CloseError](context.Cause(s.Context())); ok && closed.Remote && closed.Code == CodeOK {
			return fmt.Errorf("the replica at %s does not know how to %s: it is of an older version; upgrade it (%w)", addr, kind, err)
		}
		return err
	}
	return nil
}
