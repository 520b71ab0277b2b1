package sessions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// maxBatch bounds the sessions, and the updates of one session, in one
	// message.
	maxBatch = 512
	// softEvery is how long readings wait for something to travel with.
	softEvery = time.Second
)

// outbox is what waits to be sent over a relay. What is new of one session is
// put together, so that it holds no more than there are sessions.
type outbox struct {
	over func(number uint64) // a session has more waiting than it may

	mu    sync.Mutex
	items map[uint64]*parcel
	order []uint64
	wake  chan struct{}
}

// parcel is what is new of one session.
type parcel struct {
	wire.Relayed
	heard time.Time // what Ago will count from
}

func newOutbox(over func(uint64)) *outbox {
	return &outbox{over: over, items: map[uint64]*parcel{}, wake: make(chan struct{}, 1)}
}

// put adds what is new of a session. It never blocks.
func (o *outbox) put(item wire.Relayed) {
	o.mu.Lock()
	have := o.items[item.Session]
	if have == nil {
		have = &parcel{Relayed: item}
		o.items[item.Session], o.order = have, append(o.order, item.Session)
	} else {
		merge(&have.Relayed, &item)
	}
	have.heard = time.Now().Add(-item.Ago)
	full := len(have.Updates) > maxQueued || len(have.Acks) > maxQueued
	if full {
		have.Updates, have.Acks = nil, nil
	}
	o.mu.Unlock()
	if full {
		o.over(item.Session)
	}
	if !soft(&item) {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// soft reports whether an item can wait.
func soft(r *wire.Relayed) bool {
	return r.Up == nil && r.Capacity == nil && r.Updates == nil && r.Pull == nil && !r.Answered && !r.Down && r.Leave == nil &&
		r.Acks == nil && r.Desired == nil && r.Close == nil && !r.Ask && !r.Resync
}

// merge adds newer news of the same session.
func merge(have, add *wire.Relayed) {
	if add.Up != nil {
		have.Up = add.Up
	}
	if add.Capacity != nil {
		have.Capacity = add.Capacity
	}
	have.Updates = append(have.Updates, add.Updates...)
	if add.Pull != nil {
		have.Pull = add.Pull
	}
	if add.Readings != nil {
		have.Readings = add.Readings
	}
	if add.Leave != nil {
		have.Leave = add.Leave
	}
	have.Acks = append(have.Acks, add.Acks...)
	have.Desired = supersede(have.Desired, add.Desired)
	if add.Close != nil {
		have.Close = add.Close
	}
	have.Answered, have.Down = have.Answered || add.Answered, have.Down || add.Down
	have.Ask, have.Resync = have.Ask || add.Ask, have.Resync || add.Resync
}

// supersede adds parts of a desired set to those that wait; a first part begins
// another set, which counts instead.
func supersede(have, add []wire.DesiredSet) []wire.DesiredSet {
	if len(add) > 0 && add[0].Part == 0 {
		return add
	}
	return append(have, add...)
}

// take empties the outbox, each session's news in the order of its first.
func (o *outbox) take() []wire.Relayed {
	o.mu.Lock()
	items, order := o.items, o.order
	o.items, o.order = map[uint64]*parcel{}, nil
	o.mu.Unlock()
	out := make([]wire.Relayed, 0, len(order))
	for _, n := range order {
		p := items[n]
		p.Ago = max(0, time.Since(p.heard))
		out = append(out, cut(p.Relayed)...)
	}
	return out
}

// cut makes several items of one with many updates, or many parts of a set.
// What comes before the updates is in the first, what comes after them in the
// last.
func cut(item wire.Relayed) []wire.Relayed {
	var out []wire.Relayed
	for len(item.Updates) > maxBatch {
		first := wire.Relayed{Session: item.Session, Ago: item.Ago, Up: item.Up, Capacity: item.Capacity, Updates: item.Updates[:maxBatch]}
		out = append(out, first)
		item.Up, item.Capacity, item.Updates = nil, nil, item.Updates[maxBatch:]
	}
	for len(item.Desired) > 1 {
		out = append(out, wire.Relayed{Session: item.Session, Ago: item.Ago, Desired: item.Desired[:1]})
		item.Desired = item.Desired[1:]
	}
	return append(out, item)
}

// run sends what is put until ctx ends or the stream fails.
func (o *outbox) run(ctx context.Context, control *wire.Conn) error {
	tick := time.NewTicker(softEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-o.wake:
		case <-tick.C:
		}
		items := o.take()
		for len(items) > 0 {
			n := min(len(items), maxBatch)
			if err := o.send(control, items[:n]); err != nil {
				return fmt.Errorf("send relay: %w", err)
			}
			items = items[n:]
		}
	}
}

// send halves what does not fit into one message. What fits into none costs its
// own session, not all of them.
func (o *outbox) send(control *wire.Conn, items []wire.Relayed) error {
	err := control.Send(wire.Relay{Items: items})
	switch {
	case !errors.Is(err, wire.ErrTooLarge) && !errors.Is(err, wire.ErrInvalid):
		return err
	case len(items) == 1:
		o.over(items[0].Session)
		return nil
	}
	half := len(items) / 2
	return errors.Join(o.send(control, items[:half]), o.send(control, items[half:]))
}
