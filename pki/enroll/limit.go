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
	maxBucket = 4096
)

// limiter is a bucket per address and one for all. It keeps the addresses seen
// last; one forgotten starts anew, which the bucket for all makes harmless.
type limiter struct {
	mu    sync.Mutex
	all   *rate.Limiter
	byKey map[string]*list.Element
	order *list.List // of *bucket, seen last in front
}

type bucket struct {
	key string
	lim *rate.Limiter
}

func newLimiter(all float64) *limiter {
	return &limiter{all: rate.NewLimiter(rate.Limit(all), int(2*all)), byKey: make(map[string]*list.Element), order: list.New()}
}

func (l *limiter) allow(remote string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := bucketKey(remote)
	e, ok := l.byKey[key]
	if ok {
		l.order.MoveToFront(e)
	} else {
		e = l.order.PushFront(&bucket{key, rate.NewLimiter(addrRate, addrBurst)})
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
