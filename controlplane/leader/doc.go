// Package leader is the offer cycle: one function from an event and an instant
// to actions. It holds the soft state of a leading replica: who is connected,
// which offers are out, which updates wait for a commit. Everything that must
// outlive the leader is in package state, and changes only by a command that
// the trio has committed.
//
// The shell's loop, on the leading replica only:
//
//	st, entries := registrar.Follow(ctx)         // own copy of the state
//	l := leader.New(config, st, term, now)
//	for {
//	    select {
//	    case ev := <-events:  acts := l.Step(time.Now(), ev)
//	    case e := <-entries:  acts := l.Step(time.Now(), leader.Committed{...})
//	    case <-tick:          acts := l.Step(time.Now(), leader.Tick{})
//	    }
//	    perform(acts) // propose, send; failures come back as events
//	}
//
// A lost leadership ends the loop: the next leader starts anew from the
// replicated state. Step never blocks, reads no clock, and draws nothing at
// random; equal events at equal times give equal actions.
//
// Delivery is level-triggered. An agent pulls its desired set by generation,
// and what is lost on the way is pulled again. A status update is acknowledged
// only when its commit comes back.
package leader
