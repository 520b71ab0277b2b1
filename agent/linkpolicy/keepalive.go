package linkpolicy

import "time"

const (
	// Shortest is the least time between two signs of life. Few NATs
	// forget a UDP mapping sooner than after 30 s (Linux's, without an answer);
	// RFC 4787 wants two minutes, but routers of homes are worse.
	Shortest = 15 * time.Second
	// Longest is what a NAT may be asked to remember, and a fleet to wait.
	Longest = 60 * time.Second
	// Default is where it begins, and where it stays unless the link's owner
	// allows more: a replica gives an agent up Grace after the beat that did
	// not come, and 30 s are what a fleet may expect.
	Default = 25 * time.Second
	// Grace is for packets that are lost and sent again.
	Grace = 5 * time.Second

	step = 5 * time.Second
	// patience is how many beats in a row must have kept the mapping before a
	// longer time is tried.
	patience = 20
)

// Keepalive is the time between two signs of life. It goes down when the NAT
// has forgotten the agent in between, and up again, as far as it may, while the
// NAT remembers.
type Keepalive struct {
	longest  time.Duration
	interval time.Duration
	// lost is the shortest silence after which the mapping was gone; 0: never.
	lost   time.Duration
	steady int
}

// NewKeepalive begins at Default, or at longest where that is less. Longest
// outside its bounds becomes the nearer one; zero is Default.
func NewKeepalive(longest time.Duration) *Keepalive {
	if longest == 0 {
		longest = Default
	}
	k := &Keepalive{longest: min(max(longest, Shortest), Longest)}
	k.Reset()
	return k
}

// Reset forgets what was learnt of a network that was left.
func (k *Keepalive) Reset() {
	k.interval, k.lost, k.steady = min(Default, k.longest), 0, 0
}

// Interval is the time until the next sign of life.
func (k *Keepalive) Interval() time.Duration { return k.interval }

// Held says that after a silence of gap the mapping was still there.
func (k *Keepalive) Held(gap time.Duration) {
	if gap < k.interval {
		return // says nothing of the interval
	}
	k.steady++
	next := k.interval + step
	if k.steady < patience || next > k.longest || k.lost > 0 && next >= k.lost {
		return
	}
	k.interval, k.steady = next, 0
}

// Lost says that after a silence of gap the agent came from another port or
// address, though it has not moved.
func (k *Keepalive) Lost(gap time.Duration) {
	k.steady = 0
	if k.lost == 0 || gap < k.lost {
		k.lost = gap
	}
	for k.interval >= gap && k.interval > Shortest {
		k.interval = max(k.interval-step, Shortest)
	}
}
