package rotation

import (
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Patience is how long a phase waits for replicas that do not answer and for
// agents that do not take the new bundle. They can follow later: the old root's
// signature lets them verify the replicas, and the proof of their key lets
// agents have a new certificate.
const Patience = 10 * time.Minute

// Said is what a replica has said of itself just now.
type Said struct {
	Bundle uint64 // the version of the trust bundle that it holds
	Round  uint64 // the rotation that its intermediate was made for
}

// Seen is what the leader sees of a connected agent.
type Seen struct {
	Bundle uint64 // the version of the trust bundle that it holds; 0: not told
}

// View is what decides about the next step.
type View struct {
	Rotation *state.Rotation // nil: there never was one
	// Behind are the replicas that answer and have not done what the phase asks
	// of them, Silent those that do not answer and are not known to have done it.
	Behind, Silent []fleet.ReplicaID
	// Waiting are the connected agents that have not done it, Away the others.
	Waiting, Away []fleet.AgentID
}

// Look makes a View. Agents that are not in seen are away; now tells whose
// certificate has ended, which no phase waits for.
func Look(now time.Time, st *state.State, said map[fleet.ReplicaID]Said, seen map[fleet.AgentID]Seen) View {
	v := View{Rotation: st.Rotation}
	rot := st.Rotation
	if rot == nil || rot.Phase == state.RotationMaking {
		return v
	}
	for _, id := range state.SortedKeys(st.Replicas) {
		about, heard := said[id]
		done := about.Round >= rot.Number || st.Replicas[id].Round >= rot.Number
		if rot.Phase == state.RotationTrusting {
			done = about.Bundle >= st.BundleVersion
		}
		switch {
		case done:
		case heard:
			v.Behind = append(v.Behind, id)
		default:
			v.Silent = append(v.Silent, id)
		}
	}
	for _, id := range state.SortedKeys(st.Agents) {
		a := st.Agents[id]
		if a.Revoked || !a.Gone.IsZero() {
			continue
		}
		s, connected := seen[id]
		switch {
		case connected && rot.Phase == state.RotationTrusting && s.Bundle < st.BundleVersion,
			connected && Renews(rot, a):
			v.Waiting = append(v.Waiting, id)
		case !connected && rot.Kind == state.RotateRoot && a.CertRoot != rot.NewPin && now.Before(a.CertNotAfter):
			v.Away = append(v.Away, id)
		}
	}
	return v
}

// Renews reports whether an agent is to renew its certificate because of a
// rotation.
func Renews(rot *state.Rotation, a *fleet.Agent) bool {
	return rot != nil && rot.Kind == state.RotateRoot && a.CertRoot != rot.NewPin &&
		(rot.Phase == state.RotationRenewing || rot.Phase == state.RotationFinished)
}

// Step is what to do next; the zero Step is to wait.
type Step struct {
	Make bool                // the new root is to be made
	To   state.RotationPhase // the next phase, empty: not yet
}

// Next decides.
func Next(now time.Time, v View) Step {
	rot := v.Rotation
	if !rot.Active() {
		return Step{}
	}
	over := rot.Force || now.Sub(rot.Since) >= Patience
	switch rot.Phase {
	case state.RotationMaking:
		return Step{Make: true}
	case state.RotationTrusting:
		if over || len(v.Behind)+len(v.Silent)+len(v.Waiting) == 0 {
			return Step{To: state.RotationIssuing}
		}
	case state.RotationIssuing:
		// Who answers can issue still, and would sign under the old root.
		if len(v.Behind) > 0 || len(v.Silent) > 0 && !over {
			return Step{}
		}
		if rot.Kind == state.RotateIntermediates {
			return Step{To: state.RotationFinished}
		}
		return Step{To: state.RotationRenewing}
	case state.RotationRenewing, state.RotationFinished: // an operator finishes
	}
	return Step{}
}

// Margin is how long before its end an intermediate is replaced: the longest
// life of a leaf and a week, of a short life a third.
func Margin(leafLife, life time.Duration) time.Duration {
	return min(leafLife+7*24*time.Hour, life/3)
}

// Issuer is what is known of a replica's intermediate.
type Issuer struct {
	Round               uint64
	NotBefore, NotAfter time.Time
	// RootEnds is when the root ends that would sign the next one.
	RootEnds time.Time
}

// Due reports whether a replica is to have a new intermediate: for a rotation,
// or because its own nears its end. leafLife is the longest life of what it
// signs.
func Due(own Issuer, rot *state.Rotation, leafLife time.Duration, now time.Time) bool {
	if rot.Issues() && own.Round < rot.Number {
		return true
	}
	life := own.NotAfter.Sub(own.NotBefore)
	if now.Add(Margin(leafLife, life)).Before(own.NotAfter) {
		return false
	}
	return own.NotAfter.Add(time.Minute).Before(own.RootEnds) // else the next one would end as soon
}
