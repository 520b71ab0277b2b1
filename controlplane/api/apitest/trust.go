package apitest

import (
	"context"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/rotation"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

var _ api.CA = (*Fleet)(nil)

// Trust gives the fleet a root, as version 2 of its trust bundle, and replica
// r1 an issuing authority under it. Agents that connect from then on have it.
func (f *Fleet) Trust() error {
	const year = 365 * 24 * time.Hour
	now := f.Now()
	root, rootKey, err := pki.NewRoot(TrustDomain, now, 10*year)
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return err
	}
	inter, err := pki.SignIntermediate(root, rootKey, csr, TrustDomain, now, 2*year)
	if err != nil {
		return err
	}
	bundle, err := pki.NewBundle(2, root)
	if err != nil {
		return err
	}
	f.do(func() {
		f.commit(
			state.Command{Time: now, SetBundle: &state.SetBundle{Bundle: bundle.PEM(), Version: bundle.Version}},
			state.Command{Time: now, PutReplica: &state.Replica{ID: "r1", Addr: "r1.fleet.example:7443", Intermediate: inter.Raw, Joined: now}},
		)
	})
	return nil
}

// Rotate implements api.CA: r1 holds the root key. The phases change by Turn.
func (f *Fleet) Rotate(_ context.Context, o client.RotateCA, by string) (err error) {
	f.do(func() {
		rot := f.st.Rotation
		c := state.Rotate{Number: 1, Kind: state.RotateRoot, To: state.RotationMaking, Holder: "r1", Old: []byte("old"), OldPin: "sha256:old", RevokeOld: o.RevokeOld}
		switch {
		case o.Finish && (rot == nil || rot.Phase != state.RotationRenewing):
			err = client.NewProblem(client.CodeConflict, "see how far it is: tender ca show", "no rotation of the root is so far")
			return
		case o.Finish:
			c = state.Rotate{Number: rot.Number, From: rot.Phase, To: state.RotationFinished}
		case rot.Active() && !o.Force:
			err = client.NewProblem(client.CodeConflict, "see how far it is: tender ca show", "rotation %d is under way (%s)", rot.Number, rot.Phase)
			return
		case rot.Active():
			c = state.Rotate{Number: rot.Number, From: rot.Phase, To: rot.Phase, Force: true}
		}
		f.commit(state.Command{Time: f.now, By: by, Rotate: &c})
	})
	return err
}

// Turn takes the rotation to a phase.
func (f *Fleet) Turn(phase string) {
	f.do(func() {
		rot := f.st.Rotation
		f.commit(state.Command{Time: f.now, Rotate: &state.Rotate{
			Number: rot.Number, From: rot.Phase, To: state.RotationPhase(phase), New: []byte("new"), NewPin: "sha256:new",
		}})
	})
}

// Turning implements api.CA: r1 has done its part, r3 does not answer.
func (f *Fleet) Turning(ctx context.Context) (v rotation.View, err error) {
	soft, err := f.Soft(ctx)
	seen := map[fleet.AgentID]rotation.Seen{}
	for id, a := range soft.Agents {
		if a.Connected {
			seen[id] = rotation.Seen{Bundle: a.Readings.Bundle}
		}
	}
	f.do(func() {
		for _, id := range []fleet.ReplicaID{"r2", "r3"} {
			if f.st.Replicas[id] == nil && f.st.Rotation != nil {
				f.commit(state.Command{Time: f.now, PutReplica: &state.Replica{ID: id, Joined: f.now}})
			}
		}
		v = rotation.Look(f.now, f.st, map[fleet.ReplicaID]rotation.Said{"r1": {Bundle: 99, Round: 99}, "r2": {}}, seen)
	})
	return v, err
}
