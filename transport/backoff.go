package transport

import "time"

// Backoff spreads redials with full jitter: each wait is drawn from the whole
// range between nothing and a limit that doubles, so that a fleet that lost a
// replica at once does not come back at once. The zero value goes from 0.2 s
// to 30 s.
type Backoff struct {
	Min, Max time.Duration
	limit    time.Duration
}

// Defaults of Backoff.
const (
	DefaultBackoffMin = 200 * time.Millisecond
	DefaultBackoffMax = 30 * time.Second
)

// Next returns how long to wait now; r is drawn at random from [0,1).
func (b *Backoff) Next(r float64) time.Duration {
	low, high := b.Min, b.Max
	if low <= 0 {
		low = DefaultBackoffMin
	}
	if high <= 0 {
		high = DefaultBackoffMax
	}
	b.limit = min(max(2*b.limit, low), high)
	return time.Duration(min(max(r, 0), 1) * float64(b.limit))
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.limit = 0 }
