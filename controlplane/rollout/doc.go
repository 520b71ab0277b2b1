// Package rollout decides how a version of tender-agent reaches the fleet: ring
// by ring, each of which has to pass its gate. It is values in, values out.
//
// Who begins one, with the rings that an operator has named:
//
//	rings, err := rollout.ParseRings([]string{"canary=site:lab", "10%", "rest"})
//	r.Rings = rollout.Fix(r.ID, rings, agents)  // what a percentage comes to
//	propose(state.Command{StartRollout: &r})
//
// Whoever leads, again and again:
//
//	v := rollout.Look(now, st, seen)            // st replicated, seen what agents tell
//	if c := rollout.Next(v); c != nil {
//	    propose(state.Command{AdvanceRollout: c})
//	}
//
// All that is decided is in the replicated state; what is seen of agents is soft
// and is looked at anew. So a leader goes on where the one before stopped, and
// a step that is proposed twice changes nothing.
//
// A ring opens when the one before has passed. It passes when its agents have
// run the version for the soak, those left out that are away, that failed and
// are tolerated, or that cannot be upgraded from here. An agent that the leader
// has not heard of yet, and does not hold to be away either, is waited for: a
// leader that was just elected knows nobody.
package rollout
