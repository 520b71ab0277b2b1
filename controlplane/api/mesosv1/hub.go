package mesosv1

import (
	"context"
	"sync"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Bounds on what a scheduler may keep waiting.
const (
	maxStreams = 1024
	// maxQueue counts what one stream has not yet written: an offer, an update.
	// A scheduler that lets so much pile up is disconnected; nothing is lost by
	// that, since it is told again when it comes back.
	maxQueue = 16 << 10
)

// Hub joins the streams of schedulers to one term of the leader. Its owner
// calls Perform from the leader's loop; everything else is called by handlers.
type Hub struct {
	step func(context.Context, ...leader.Event) error
	done <-chan struct{}

	mu      sync.Mutex
	conns   map[uint64]*stream            // all streams
	current map[fleet.FrameworkID]*stream // those that are subscribed
	next    uint64
}

// NewHub makes the hub of a term. step hands events to the leader's loop, in
// order, and returns when they are taken up; it fails when the term has ended,
// which done tells.
func NewHub(done <-chan struct{}, step func(context.Context, ...leader.Event) error) *Hub {
	return &Hub{step: step, done: done, conns: map[uint64]*stream{}, current: map[fleet.FrameworkID]*stream{}}
}

// Perform passes on what the leader tells a framework. It never blocks; what is
// for a framework that has no stream is gone.
func (h *Hub) Perform(act leader.Action) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var to *stream
	switch act := act.(type) {
	case leader.Registered:
		to = h.conns[act.Conn]
		if to != nil && act.Refused == "" {
			h.current[act.Framework] = to
		}
	case leader.Dismiss:
		to = h.conns[act.Conn]
		if h.current[act.Framework] == to {
			delete(h.current, act.Framework)
		}
	case leader.Offer:
		to = h.current[act.Framework]
	case leader.Rescind:
		to = h.current[act.Framework]
	case leader.InverseOffer:
		to = h.current[act.Framework]
	case leader.RescindInverse:
		to = h.current[act.Framework]
	case leader.Update:
		to = h.current[act.Framework]
	case leader.Failure:
		to = h.current[act.Framework]
	}
	if to != nil {
		to.push(item{act: act})
	}
}

// open adds a stream that is not subscribed yet. It fails when there are too
// many, or when another principal is subscribing the same framework.
func (h *Hub) open(info fleet.FrameworkInfo) (*stream, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) >= maxStreams {
		return nil, "too many schedulers are subscribed"
	}
	for _, s := range h.conns {
		if s.framework == info.ID && s.principal != info.Principal {
			return nil, notYours
		}
	}
	h.next++
	s := &stream{
		id: newUUID(), conn: h.next, framework: info.ID, principal: info.Principal, info: info, wake: make(chan struct{}, 1),
		offers: map[fleet.OfferID]*fleet.Offer{}, unsent: map[fleet.OfferID]bool{}, updates: map[fleet.UpdateID]bool{},
	}
	h.conns[s.conn] = s
	return s, ""
}

// notYours is what a framework id of another principal is answered with.
const notYours = "the framework id is another principal's"

func (h *Hub) close(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, s.conn)
	if h.current[s.framework] == s {
		delete(h.current, s.framework)
	}
}

// stream is the one over which a framework is subscribed, or nil.
func (h *Hub) stream(id fleet.FrameworkID) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current[id]
}

// stream is one subscription: what is to be written, and what was offered.
type stream struct {
	id        string // Mesos-Stream-Id
	conn      uint64
	framework fleet.FrameworkID
	principal string
	wake      chan struct{} // has an entry when there is something to take

	mu   sync.Mutex
	info fleet.FrameworkInfo
	// offers are those that are out, unsent those that are still in the queue.
	offers  map[fleet.OfferID]*fleet.Offer
	unsent  map[fleet.OfferID]bool
	updates map[fleet.UpdateID]bool // in the queue
	queue   []item
	size    int
	ended   bool // nothing more is queued
	slow    bool // too much was
}

// item is something to write: an action of the leader, or an event as it is.
type item struct {
	act   leader.Action
	event *pb.Event
}

func (s *stream) push(it item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !s.note(it.act) {
		return
	}
	if offers, ok := it.act.(leader.Offer); ok && len(s.queue) > 0 {
		if last, ok := s.queue[len(s.queue)-1].act.(leader.Offer); ok { // one event for both
			last.Offers = append(last.Offers[:len(last.Offers):len(last.Offers)], offers.Offers...)
			s.queue[len(s.queue)-1].act = last
			it.act = nil
		}
	}
	if it.act != nil || it.event != nil {
		s.queue = append(s.queue, it)
	}
	if s.size > maxQueue {
		s.queue, s.ended, s.slow = nil, true, true
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// note follows what an action means and reports whether it has to be written:
// an offer that is taken back before it was, and an update that waits already,
// need not be.
func (s *stream) note(act leader.Action) bool {
	s.size++
	switch act := act.(type) {
	case leader.Offer:
		for i := range act.Offers {
			s.offers[act.Offers[i].ID], s.unsent[act.Offers[i].ID] = &act.Offers[i], true
		}
		s.size += len(act.Offers) - 1
	case leader.Rescind:
		delete(s.offers, act.Offer)
		if s.unsent[act.Offer] {
			delete(s.unsent, act.Offer)
			s.size--
			return false
		}
	case leader.Update:
		if act.ID != "" && s.updates[act.ID] {
			s.size--
			return false
		}
		s.updates[act.ID] = true
	case leader.Dismiss:
		s.ended = true
	case leader.Registered:
		s.ended = act.Refused != ""
	}
	return true
}

// take returns what waits, and whether the stream ends after it.
func (s *stream) take() (items []item, ended, slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.queue {
		if o, ok := it.act.(leader.Offer); ok {
			var still []fleet.Offer
			for _, offer := range o.Offers {
				if s.unsent[offer.ID] {
					still = append(still, offer)
				}
			}
			if len(still) == 0 {
				continue
			}
			it.act = leader.Offer{Framework: o.Framework, Offers: still}
		}
		items = append(items, it)
	}
	clear(s.unsent)
	clear(s.updates)
	s.queue, s.size = nil, 0
	return items, s.ended, s.slow
}

// description is what the framework says of itself now.
func (s *stream) description() fleet.FrameworkInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

func (s *stream) redescribe(info fleet.FrameworkInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info = info
}

// use returns offers that are answered, nil for those that are not out.
func (s *stream) use(ids []*pb.OfferID) []*fleet.Offer {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*fleet.Offer, len(ids))
	for i, id := range ids {
		out[i] = s.offers[fleet.OfferID(id.GetValue())]
	}
	for _, id := range ids {
		delete(s.offers, fleet.OfferID(id.GetValue()))
	}
	return out
}
