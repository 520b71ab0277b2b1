package enroll

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// DefaultRate is how many requests a second are let in, from everybody; twice
// as many may come at once.
const DefaultRate = 50

// Rates of the open door. A site of many machines may stand behind one
// address, so the burst per address is generous; the sum is what guards the
// replicas.
const (
	addrRate  = 5
	addrBurst = 30
	// A machine heals once and then renews; more often than that something is
	// wrong with it.
	healRate  = 0.1
	healBurst = 5
	maxBucket = 4096
)

// limiter is a bucket per address or identity and one for all. It keeps those
// seen last; one forgotten starts anew, which the bucket for all makes harmless.
type limiter struct {
	each  rate.Limit
	burst int
	keyOf func(string) string // nil: as it is
	mu    sync.Mutex
	all   *rate.Limiter
	byKey map[string]*list.Element
	order *list.List // of *bucket, seen last in front
}

type bucket struct {
	key string
	lim *rate.Limiter
}

func newLimiter(all float64, each rate.Limit, burst int, keyOf func(string) string) *limiter {
	return &limiter{
		each: each, burst: burst, keyOf: keyOf,
		all: rate.NewLimiter(rate.Limit(all), int(2*all)), byKey: make(map[string]*list.Element), order: list.New(),
	}
}

func (l *limiter) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keyOf != nil {
		key = l.keyOf(key)
	}
	e, ok := l.byKey[key]
	if ok {
		l.order.MoveToFront(e)
	} else {
		e = l.order.PushFront(&bucket{key, rate.NewLimiter(l.each, l.burst)})
		l.byKey[key] = e
		if l.order.Len() > maxBucket {
			old := l.order.Remove(l.order.Back()).(*bucket)
			delete(l.byKey, old.key)
		}
	}
	// The address first, so that one that floods does not drain the sum.
	return e.Value.(*bucket).lim.AllowN(now, 1) && l.all.AllowN(now, 1)
}

// bucketKey is the address without the port; of IPv6 the /64, all of which one
// machine may have.
func bucketKey(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}
