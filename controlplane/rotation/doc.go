// Package rotation decides how a rotation of the fleet's roots and
// intermediates goes on. It is values in, values out; the state that it reads is
// replicated, so whoever leads next goes on where the last leader stopped.
//
// The leader's loop:
//
//	view := rotation.Look(state, replicas, agents)
//	switch step := rotation.Next(now, view); {
//	case step.Make:        // have the holder of the root key make the new root
//	case step.To != "":    // propose the next phase
//	}
//
// and each replica's own:
//
//	if rotation.Due(issuer, state.Rotation, now) { /* have a new key signed */ }
//
// A rotation of the root:
//
//	making     the new root is made, sealed, where the old one's key is
//	trusting   the bundle holds both; agents and replicas store it
//	issuing    each replica makes a key, and has it signed by the new root and,
//	           for whoever is away, by the old one
//	renewing   agents renew under the new root
//	finished   the old root has left the bundle
//
// Only the last step waits for an operator.
package rotation
