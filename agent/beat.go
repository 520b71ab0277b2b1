package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// replyTime is how long nothing may come after a beat. A replica that died says
// nothing, and QUIC alone would notice after minutes. A reply costs no message
// over QUIC, which acknowledges packets; over TCP the replica sends one.
const replyTime = 5 * time.Second

// maxReport bounds the updates in one message.
const maxReport = 512

var errSilent = fmt.Errorf("the replica was silent for %v after a beat", replyTime)

// controlStream is the control stream and what its bytes are for.
type controlStream struct {
	*wire.Conn
	bytes *counted
}

// Send books a message by its purpose. One goroutine sends.
func (c *controlStream) Send(m wire.Message) error {
	c.bytes.out, c.bytes.free = forUpdates, false
	switch m.(type) {
	case wire.Readings:
		c.bytes.out = forReadings
	case wire.Beat:
		c.bytes.free = true
	}
	return c.Conn.Send(m)
}

// sender is what one session's send loop knows.
type sender struct {
	a    *Agent
	l    *link
	told fleet.Readings // the last sent
	last time.Time      // when anything was sent
	gap  time.Duration  // the silence before that
	kept bool           // nobody has said that the silence was too long

	beat  *time.Timer
	reply *time.Timer
	count uint64 // what had been received when the beat was sent
}

// send carries out what the session has to say: what waits in the outbox,
// readings when they are worth it, and a beat when there was nothing.
func (a *Agent) send(ctx context.Context, l *link) error {
	link := &tap{a: a.cfg.Account, conn: l.conn}
	defer link.sample(true)
	s := &sender{a: a, l: l, last: time.Now(), beat: time.NewTimer(time.Hour), reply: time.NewTimer(time.Hour)}
	defer s.beat.Stop()
	defer s.reply.Stop()
	s.reply.Stop()
	every := a.cfg.Link.ReadingsEvery
	if every <= 0 {
		every = linkpolicy.ReadingsEvery
	}
	if !l.beats {
		every = l.beat
	}
	look := time.NewTicker(every)
	defer look.Stop()
	if err := s.say(s.readings(ctx)); err != nil {
		return err
	}
	for {
		var msgs []wire.Message
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.reply.C:
			if transport.Received(l.conn) == s.count {
				return errSilent
			}
		case <-look.C:
			link.sample(false)
			if r := a.readings(ctx); s.worth(r.Readings) {
				s.told = r.Readings
				msgs = append(msgs, r)
			}
		case <-s.beat.C:
			msgs = append(msgs, s.nextBeat())
		case <-l.wake:
			msgs = s.woken(ctx)
		}
		if err := s.say(msgs...); err != nil {
			return err
		}
	}
}

func (s *sender) readings(ctx context.Context) wire.Readings {
	r := s.a.readings(ctx)
	s.told = r.Readings
	return r
}

// worth decides about readings. Where the link carries only states and kills,
// that is the last thing that they tell.
func (s *sender) worth(now fleet.Readings) bool {
	if now.Link.State != s.told.Link.State || !s.l.beats {
		return true
	}
	return now.Link.State == "" && linkpolicy.Worth(s.told, now)
}

// woken is what the outbox holds.
func (s *sender) woken(ctx context.Context) []wire.Message {
	l := s.l
	l.mu.Lock()
	asked, observed, roamed := l.asked, l.observed, l.roamed
	l.asked, l.observed, l.roamed = false, false, false
	l.mu.Unlock()
	var msgs []wire.Message
	switch {
	case roamed: // another network: a word at once shows the replica where we are
		s.kept = false
		msgs = append(msgs, wire.Beat{Every: s.tune((*linkpolicy.Keepalive).Reset)})
	case observed && s.kept:
		s.kept = false
		before, after := s.interval(), s.tune(func(k *linkpolicy.Keepalive) { k.Lost(s.gap) })
		if after != before {
			s.a.log.Info("a NAT on the way forgets sooner than the beat; it comes more often now", "silence", s.gap.Round(time.Second), "every", after)
			msgs = append(msgs, wire.Beat{Every: after})
		}
	}
	if !l.beats {
		msgs = nil // it knows no Beat
	}
	if asked {
		msgs = append(msgs, s.readings(ctx))
	}
	return append(msgs, l.take()...)
}

// nextBeat is due when the silence has lasted as long as it may.
func (s *sender) nextBeat() wire.Message {
	before := s.interval()
	if s.kept && transport.LinkOf(s.l.conn) == "quic" { // TCP's mappings last for hours
		if after := s.tune(func(k *linkpolicy.Keepalive) { k.Held(s.gap) }); after != before {
			return wire.Beat{Every: after}
		}
	}
	return wire.Beat{}
}

func (s *sender) tune(f func(*linkpolicy.Keepalive)) time.Duration {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	f(s.a.keep)
	return s.a.keep.Interval()
}

func (s *sender) interval() time.Duration { return s.tune(func(*linkpolicy.Keepalive) {}) }

// say sends messages; the next beat then has time. A replica answers signs of
// life.
func (s *sender) say(msgs ...wire.Message) error {
	for _, m := range msgs {
		switch m.(type) {
		case wire.Beat, wire.Readings:
			s.count = transport.Received(s.l.conn)
			s.reply.Reset(replyTime)
		}
		if err := s.l.control.Send(m); err != nil {
			return fmt.Errorf("send %T: %w", m, err)
		}
	}
	if len(msgs) > 0 {
		now := time.Now()
		s.gap, s.last, s.kept = now.Sub(s.last), now, true
		s.beat.Stop()
		if s.l.beats {
			s.beat.Reset(s.interval())
		}
	}
	return nil
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
	if l.stored {
		out = append(out, wire.KeyStored{})
	}
	if l.leave != nil {
		out = append(out, *l.leave)
	}
	l.capacity, l.reports, l.pull, l.stored, l.leave = nil, nil, nil, false, nil
	return out
}
