package state

import (
	"strconv"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// RotationKind says what a rotation replaces.
type RotationKind string

// The kinds of rotation.
const (
	RotateRoot          RotationKind = "root"         // the root and all below it
	RotateIntermediates RotationKind = "intermediate" // the replicas' issuing authorities alone
)

// RotationPhase is how far a rotation is. Each is left for the next one only.
type RotationPhase string

// The phases of a rotation. One of intermediates has issuing and finished only.
const (
	RotationMaking   RotationPhase = "making"   // the holder of the root key makes the new root
	RotationTrusting RotationPhase = "trusting" // everybody learns to trust both roots
	RotationIssuing  RotationPhase = "issuing"  // replicas get new intermediates and certificates
	RotationRenewing RotationPhase = "renewing" // agents renew; an operator finishes it
	RotationFinished RotationPhase = "finished" // the old root is trusted no more
)

// Rotation is the last rotation of the fleet's authorities, under way or
// finished.
type Rotation struct {
	// Number counts rotations from 1; replicas say for which one their
	// intermediate was made.
	Number uint64
	Kind   RotationKind
	Phase  RotationPhase
	// Holder is the replica that has the root key.
	Holder fleet.ReplicaID
	// Old and New are the roots (DER), OldPin and NewPin their pins. A rotation
	// of intermediates keeps those of the last root: late-comers hold its Old.
	Old, New       []byte
	OldPin, NewPin string
	// Began is when the rotation began, Since when its phase did.
	Began, Since time.Time
	// Force: whoever does not answer is not waited for.
	Force bool `cbor:",omitempty"`
	// RevokeOld: nothing of the old root is served, whoever is away.
	RevokeOld bool `cbor:",omitempty"`
}

// Active reports whether the rotation is under way; that of nil is not.
func (r *Rotation) Active() bool { return r != nil && r.Phase != RotationFinished }

// Issues reports whether replicas are to have an intermediate of this rotation.
func (r *Rotation) Issues() bool {
	return r != nil && r.Phase != RotationMaking && r.Phase != RotationTrusting
}

type (
	// Rotate begins a rotation (From is empty) or takes the one of that Number
	// from one phase to another. Where the bundle changes with that, it is done
	// in the same step. Of two who do the same at once one is refused.
	Rotate struct {
		Number   uint64
		From, To RotationPhase
		// Kind, Holder, Old and OldPin are set by who begins.
		Kind   RotationKind    `cbor:",omitempty"`
		Holder fleet.ReplicaID `cbor:",omitempty"`
		Old    []byte          `cbor:",omitempty"`
		OldPin string          `cbor:",omitempty"`
		// New and NewPin are the new root, once it is made.
		New    []byte `cbor:",omitempty"`
		NewPin string `cbor:",omitempty"`
		// Force and RevokeOld stay set.
		Force     bool       `cbor:",omitempty"`
		RevokeOld bool       `cbor:",omitempty"`
		Bundle    *SetBundle `cbor:",omitempty"`
	}
	// NoteIssuer records a replica's issuing authority: its certificate (DER), the
	// old root's signature of the same key, and the rotation it was made for; and
	// whether a root key lay there when one was last heard of.
	NoteIssuer struct {
		ID           fleet.ReplicaID
		Intermediate []byte
		Cross        []byte `cbor:",omitempty"`
		Round        uint64
		RootKey      bool `cbor:",omitempty"`
	}
)

func (s *State) rotate(now time.Time, c *Rotate) Result {
	next, r := s.nextRotation(now, c)
	if r.Kind != OK {
		return r
	}
	if c.Bundle != nil {
		if r := s.setBundle(c.Bundle); r.Kind != OK {
			return r
		}
	}
	if next.Phase != c.To {
		next.Phase, next.Since = c.To, now
	}
	if len(c.New) > 0 {
		next.New, next.NewPin = c.New, c.NewPin
	}
	next.Force = next.Force || c.Force
	next.RevokeOld = next.RevokeOld || c.RevokeOld
	s.Rotation = &next
	return Result{}
}

func (s *State) nextRotation(now time.Time, c *Rotate) (Rotation, Result) {
	var last Rotation
	if s.Rotation != nil {
		last = *s.Rotation
	}
	if c.From != "" {
		if last.Number != c.Number || last.Phase != c.From || last.Phase == RotationFinished && c.To != RotationFinished {
			return last, refuse(Conflict, "the rotation has gone on meanwhile; look at it and try again: tender ca show")
		}
		return last, Result{}
	}
	switch {
	case s.Rotation.Active():
		return last, refuse(Conflict, "a rotation is under way; look at it with: tender ca show")
	case c.Number != last.Number+1:
		return last, refuse(Conflict, "another rotation has begun meanwhile; look at it with: tender ca show")
	case c.Kind == RotateRoot && c.To == RotationMaking && len(c.Old) > 0:
		return Rotation{Number: c.Number, Kind: c.Kind, Holder: c.Holder, Old: c.Old, OldPin: c.OldPin, Began: now}, Result{}
	case c.Kind == RotateIntermediates && c.To == RotationIssuing:
		last.Number, last.Kind, last.Holder, last.Began, last.Force = c.Number, c.Kind, c.Holder, now, false
		return last, Result{}
	}
	return last, refuse(Invalid, "a rotation of %.20q does not begin with %.20q", string(c.Kind), string(c.To))
}

func (s *State) noteIssuer(c *NoteIssuer) Result {
	old := s.Replicas[c.ID]
	if old == nil {
		return refuse(NotFound, "no replica %s", c.ID)
	}
	r := *old
	r.Intermediate, r.Cross, r.Round, r.RootKey = c.Intermediate, c.Cross, c.Round, c.RootKey
	s.Replicas[r.ID] = &r
	return Result{}
}

func (c *Rotate) audit(Result) (action, target, detail string) {
	detail = string(c.To)
	if c.Kind != "" {
		detail = string(c.Kind) + ", " + detail
	}
	if c.Force {
		detail += ", forced"
	}
	if c.RevokeOld {
		detail += ", old root revoked"
	}
	return "ca.rotate", "rotation " + strconv.FormatUint(c.Number, 10), detail
}

func (c *NoteIssuer) audit(Result) (action, target, detail string) {
	return "ca.issuer", identityWord(KindReplica, string(c.ID)), ""
}
