// Package linkpolicy decides what an agent's link may cost: how often a sign of
// life is sent, which readings are worth sending, and what travels when the
// month's budget is used up. It is pure: the caller has the clock and the link.
//
// The agent's loop:
//
//	keep := linkpolicy.NewKeepalive(longest)
//	every keep.Interval() without another message: send a beat, keep.Held(gap)
//	the replica saw us at another address:         keep.Lost(gap)
//	another network:                               keep.Reset()
//
//	every ReadingsEvery: r := read(); if linkpolicy.Worth(last, r) { send(r) }
package linkpolicy
