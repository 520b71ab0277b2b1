package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/rotation"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
)

var _ api.CA = (*Replica)(nil)

const lookAtCA = "see how far it is and what it waits for: tender ca show"

// Rotate does what an operator asks for: it begins a rotation, has it wait for
// nobody that does not answer, or finishes it. The leader does the rest.
func (r *Replica) Rotate(ctx context.Context, o client.RotateCA, by string) error {
	if _, err := r.current(); err != nil {
		return err
	}
	rot := r.rotation()
	switch {
	case o.Finish:
		return r.finish(ctx, rot, o, by)
	case rot.Active() && o.Force:
		return r.rotate(ctx, by, state.Rotate{Number: rot.Number, From: rot.Phase, To: rot.Phase, Force: true})
	case rot.Active():
		return client.NewProblem(client.CodeConflict, lookAtCA+"; to wait for nobody that does not answer: tender ca rotate --force",
			"rotation %d is under way (%s)", rot.Number, rot.Phase)
	}
	root := r.issuer.Load().root
	holder, err := r.rootHolder(ctx, root)
	if none, ok := errors.AsType[*noHolderError](err); ok {
		return client.NewProblem(client.CodeConflict, putBack("for as long as the rotation takes")+", and repeat this", "%s", none)
	}
	if err != nil {
		return err
	}
	c := state.Rotate{Number: 1, Holder: holder, Force: o.Force, RevokeOld: o.RevokeOld}
	if rot != nil {
		c.Number = rot.Number + 1
	}
	if o.Intermediate {
		c.To, c.Kind = state.RotationIssuing, state.RotateIntermediates
	} else {
		c.To, c.Kind, c.Old, c.OldPin = state.RotationMaking, state.RotateRoot, root.Raw, pki.Pin(root)
	}
	return r.rotate(ctx, by, c)
}

// finish takes the old root out of the bundle.
func (r *Replica) finish(ctx context.Context, rot *state.Rotation, o client.RotateCA, by string) error {
	switch {
	case rot == nil || rot.NewPin == "" && !rot.Active() || rot.Active() && rot.Kind != state.RotateRoot:
		return client.NewProblem(client.CodeConflict, "begin one with: tender ca rotate", "no rotation of the root is under way")
	case !rot.Active() && o.RevokeOld && !rot.RevokeOld:
		return r.rotate(ctx, by, state.Rotate{Number: rot.Number, From: rot.Phase, To: rot.Phase, RevokeOld: true})
	case !rot.Active():
		return client.NewProblem(client.CodeConflict, "begin another one with: tender ca rotate", "rotation %d is finished", rot.Number)
	case rot.Phase != state.RotationRenewing:
		return client.NewProblem(client.CodeConflict, lookAtCA, "rotation %d is not so far: it is %s", rot.Number, rot.Phase)
	}
	v, err := r.Turning(ctx)
	if err != nil {
		return err
	}
	if text := holdsOld(v); text != "" && !o.Force {
		hint := "wait for them, or give --force: agents come back by the key that they have, a replica has to be removed and join again"
		if o.RevokeOld || rot.RevokeOld {
			hint = "wait for them, or give --force: those that are away then have to join again"
		}
		return client.NewProblem(client.CodeConflict, hint, "certificates of the old root are held by %s", text)
	}
	b := r.bundle()
	roots := slices.DeleteFunc(slices.Clone(b.Roots), func(c *x509.Certificate) bool { return pki.Pin(c) == rot.OldPin })
	next, err := pki.NewBundle(b.Version+1, roots...)
	if err != nil {
		return err
	}
	return r.rotate(ctx, by, state.Rotate{
		Number: rot.Number, From: rot.Phase, To: state.RotationFinished, RevokeOld: o.RevokeOld,
		Bundle: &state.SetBundle{Bundle: next.PEM(), Version: next.Version},
	})
}

// maxHolders bounds those that are named.
const maxHolders = 10

func holdsOld(v rotation.View) string {
	var who []string
	for _, id := range append(slices.Clone(v.Behind), v.Silent...) {
		who = append(who, "replica "+string(id))
	}
	for _, id := range append(slices.Clone(v.Waiting), v.Away...) {
		who = append(who, "agent "+string(id))
	}
	if len(who) > maxHolders {
		who = append(who[:maxHolders], fmt.Sprintf("%d more", len(who)-maxHolders))
	}
	return strings.Join(who, ", ")
}
