package controlplane

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/rotation"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// hastenEvery is how often agents are asked again that have not renewed: they
	// take up to a minute, and others come back meanwhile.
	hastenEvery = 3 * time.Minute
	// maxIssuerWait bounds the wait between two tries to have an intermediate.
	maxIssuerWait = time.Minute
)

// hastened is which rotation's renewals were asked for last, and when.
type hastened struct {
	number uint64
	at     time.Time
}

// rotation is the last one that this replica's own copy of the state knows of,
// nil before the first.
func (r *Replica) rotation() (rot *state.Rotation) {
	r.raft.Stale(func(s *state.State) { rot = s.Rotation })
	return rot
}

// signingRoots are the root that signs intermediates now, and the one that also
// signs them for late-comers, nil for none.
func (r *Replica) signingRoots() (root, cross *x509.Certificate, err error) {
	rot := r.rotation()
	switch {
	case rot == nil || rot.NewPin == "" && rot.Kind == state.RotateIntermediates:
		return r.issuer.Load().root, nil, nil
	case rot.Kind == state.RotateRoot && !rot.Issues():
		root, err = x509.ParseCertificate(rot.Old)
		return root, nil, err
	}
	if root, err = x509.ParseCertificate(rot.New); err != nil {
		return nil, nil, err
	}
	if !rot.RevokeOld {
		cross, err = x509.ParseCertificate(rot.Old)
	}
	return root, cross, err
}

// joinPin is the root that join lines name: the one that every replica can
// show.
func (r *Replica) joinPin() string {
	if rot := r.rotation(); rot.Active() && rot.Phase == state.RotationIssuing && rot.Kind == state.RotateRoot && !rot.RevokeOld {
		return rot.OldPin
	}
	return pki.Pin(r.issuer.Load().root)
}

// tell adds to what this replica says of itself.
func (r *Replica) tell(a *registrar.About) {
	own := r.issuer.Load()
	a.Bundle, a.Round, a.Issuer = r.bundle().Version, own.round, own.inter.Raw
	if own.cross != nil {
		a.Cross = own.cross.Raw
	}
	a.RootKey = len(r.dir.rootKeys()) > 0
	a.Packages = r.heldPackages()
}

// keepIssuer gives this replica a new intermediate whenever one is due, and
// has its agents renew where a rotation wants that.
func (r *Replica) keepIssuer(ctx context.Context) error {
	tick := time.NewTicker(lookForRoots)
	defer tick.Stop()
	tries := again{most: maxIssuerWait}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		r.hasten()
		r.forgetRootKey()
		if !tries.due() {
			continue
		}
		if err := r.renewIssuer(ctx); tries.ended(err) && ctx.Err() == nil {
			r.log.Warn("no new issuing authority yet", "ends", r.issuer.Load().inter.NotAfter, "error", err)
		}
	}
}

// renewIssuer makes a key and has it signed, if that is due. The key takes
// effect with its certificates on disk; until then the old one signs.
func (r *Replica) renewIssuer(ctx context.Context) error {
	rot, own := r.rotation(), r.issuer.Load()
	if own.cross != nil && rot != nil && rot.RevokeOld {
		next := *own
		next.cross = nil
		return r.useIssuer(ctx, &next)
	}
	root, _, err := r.signingRoots()
	if err != nil {
		return err
	}
	if !rotation.Due(issuerFacts(own.inter, own.round, root), rot, leafLife, time.Now()) {
		return nil
	}
	key, csr, err := newKeyAndCSR()
	if err != nil {
		return err
	}
	next := &issuer{key: key, round: own.round}
	if rot.Issues() {
		next.round = rot.Number
	}
	if err := r.haveSigned(ctx, next, rot, csr); err != nil {
		return err
	}
	if root = issuerOf(next.inter, r.bundle()); next.inter.CheckSignatureFrom(root) != nil {
		return errors.New("the new root has not reached this replica yet")
	}
	if err := next.open(r.self.TrustDomain, root, r.minLife()); err != nil {
		return err
	}
	return r.useIssuer(ctx, next)
}

func (r *Replica) useIssuer(ctx context.Context, next *issuer) error {
	if err := r.dir.saveIssuer(next); err != nil {
		return err
	}
	r.issuer.Store(next)
	r.log.Info("new issuing authority", "rotation", next.round, "root", pki.Pin(next.root), "not_after", next.inter.NotAfter)
	return r.renewSelf(ctx)
}

func issuerFacts(inter *x509.Certificate, round uint64, root *x509.Certificate) rotation.Issuer {
	f := rotation.Issuer{Round: round, RootEnds: root.NotAfter}
	if inter != nil {
		f.NotBefore, f.NotAfter = inter.NotBefore, inter.NotAfter
	}
	return f
}

// haveSigned asks the holder of the root key first, and then everybody: the key
// may have been moved.
func (r *Replica) haveSigned(ctx context.Context, next *issuer, rot *state.Rotation, csr []byte) error {
	ask := []fleet.ReplicaID{}
	if rot != nil {
		ask = append(ask, rot.Holder)
	}
	for _, m := range r.raft.Replicas() {
		if rot == nil || m.ID != rot.Holder {
			ask = append(ask, m.ID)
		}
	}
	var all error
	for _, id := range ask {
		got, err := r.ask(ctx, id, question{Op: opSign, CSR: csr})
		if err == nil {
			next.inter, err = x509.ParseCertificate(got.Intermediate)
		}
		if err == nil && len(got.Cross) > 0 {
			next.cross, err = x509.ParseCertificate(got.Cross)
		}
		if err == nil {
			return nil
		}
		all = errors.Join(all, err)
	}
	return all
}

// hasten has the agents here renew that a rotation wants to.
func (r *Replica) hasten() {
	rot := r.rotation()
	if rot == nil || rot.Kind != state.RotateRoot || r.issuer.Load().round < rot.Number ||
		rot.Phase != state.RotationRenewing && rot.Phase != state.RotationFinished {
		return
	}
	if r.hastened.number == rot.Number && time.Since(r.hastened.at) < hastenEvery {
		return
	}
	r.hastened = hastened{rot.Number, time.Now()}
	late := map[fleet.AgentID]bool{}
	r.raft.Stale(func(s *state.State) {
		for id, a := range s.Agents {
			if rotation.Renews(rot, a) {
				late[id] = true
			}
		}
	})
	b := r.bundle()
	r.mgr.Hasten(wire.Bundle{Version: b.Version, Roots: b.PEM()}, func(id fleet.AgentID) bool { return late[id] })
}

// signFor signs the intermediate of a replica that is known here with the root
// key, if one is due.
func (r *Replica) signFor(id fleet.ReplicaID, csr []byte) (answer, error) {
	var rec *state.Replica
	var rot *state.Rotation
	r.raft.Stale(func(s *state.State) { rec, rot = s.Replicas[id], s.Rotation })
	if rec == nil {
		return answer{}, fmt.Errorf("replica %s is gone", id)
	}
	root, old, err := r.signingRoots()
	if err != nil {
		return answer{}, err
	}
	var now *x509.Certificate
	if len(rec.Intermediate) > 0 {
		if now, err = x509.ParseCertificate(rec.Intermediate); err != nil {
			return answer{}, err
		}
	}
	if !rotation.Due(issuerFacts(now, rec.Round, root), rot, leafLife, time.Now()) {
		return answer{}, errors.New("as far as this replica knows, no new intermediate is due there")
	}
	key, err := r.openRoot(root)
	if err != nil {
		return answer{}, err
	}
	sign := func(root *x509.Certificate, key crypto.Signer) ([]byte, error) {
		inter, err := pki.SignIntermediate(root, key, csr, r.self.TrustDomain, time.Now(), r.issuerLife())
		if err != nil {
			return nil, err
		}
		return inter.Raw, nil
	}
	var a answer
	if a.Intermediate, err = sign(root, key); err != nil || old == nil {
		return a, err
	}
	// Without the old key late-comers cannot verify this replica; others can.
	if key, err = r.dir.openRoot(old); err != nil {
		r.log.Warn("not signed for late-comers", "replica", rec.ID, "error", err)
		return a, nil
	}
	if a.Cross, err = sign(old, key); err != nil {
		r.log.Warn("not signed for late-comers", "replica", rec.ID, "error", err)
		a.Cross = nil
	}
	return a, nil
}

// turn is a leader's chore: it records what the replicas say of their issuing
// authorities, and takes a rotation to its next phase.
func (r *Replica) turn(ctx context.Context) error {
	if err := r.noteIssuers(ctx); err != nil {
		return err
	}
	rot := r.rotation()
	if !rot.Active() {
		return nil
	}
	v, err := r.Turning(ctx)
	if err != nil {
		return err
	}
	switch step := rotation.Next(time.Now(), v); {
	case step.Make:
		return r.publishRoot(ctx, rot)
	case step.To != "":
		return r.rotate(ctx, "", state.Rotate{Number: rot.Number, From: rot.Phase, To: step.To})
	}
	return nil
}

// Turning tells what a rotation waits for.
func (r *Replica) Turning(ctx context.Context) (v rotation.View, err error) {
	soft, err := r.Soft(ctx)
	if err != nil {
		return v, err
	}
	seen := map[fleet.AgentID]rotation.Seen{}
	for id, a := range soft.Agents {
		if a.Connected {
			seen[id] = rotation.Seen{Bundle: a.Readings.Bundle}
		}
	}
	said := map[fleet.ReplicaID]rotation.Said{}
	r.members.mu.Lock()
	for id, a := range r.members.said {
		said[id] = rotation.Said{Bundle: a.Bundle, Round: a.Round}
	}
	r.members.mu.Unlock()
	r.raft.Stale(func(s *state.State) { v = rotation.Look(time.Now(), s, said, seen) })
	return v, nil
}

// noteIssuers records the issuing authorities that replicas have said they have.
func (r *Replica) noteIssuers(ctx context.Context) error {
	if r.raft.Capability() < 3 {
		return nil
	}
	r.members.mu.Lock()
	said := r.members.said
	r.members.mu.Unlock()
	var notes []state.Command
	roots := r.bundle()
	somewhere := false // does a root key lie
	for _, a := range said {
		somewhere = somewhere || a.RootKey
	}
	r.raft.Stale(func(s *state.State) {
		for _, id := range state.SortedKeys(said) {
			a, rec := said[id], s.Replicas[id]
			if rec == nil || len(a.Issuer) == 0 {
				continue
			}
			// Who held the last one is remembered until another one is found.
			holds := a.RootKey || rec.RootKey && !somewhere
			if bytes.Equal(a.Issuer, rec.Intermediate) && bytes.Equal(a.Cross, rec.Cross) && a.Round == rec.Round && holds == rec.RootKey {
				continue
			}
			inter, err := x509.ParseCertificate(a.Issuer)
			if err != nil || inter.CheckSignatureFrom(issuerOf(inter, roots)) != nil {
				r.log.Warn("a replica names an issuing authority that no trusted root has signed", "replica", id)
				continue
			}
			notes = append(notes, state.Command{Time: time.Now(), By: "replica/" + string(id), NoteIssuer: &state.NoteIssuer{
				ID: id, Intermediate: a.Issuer, Cross: a.Cross, Round: a.Round, RootKey: holds,
			}})
		}
	})
	if len(notes) == 0 {
		return nil
	}
	_, err := r.raft.Propose(ctx, notes...)
	return err
}

// publishRoot has the new root made, and makes it part of the bundle.
func (r *Replica) publishRoot(ctx context.Context, rot *state.Rotation) error {
	got, err := r.ask(ctx, rot.Holder, question{Op: opRoot, Rotation: rot.Number})
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(got.Root)
	if err != nil {
		return fmt.Errorf("the new root: %w", err)
	}
	b := r.bundle()
	next, err := pki.NewBundle(b.Version+1, append([]*x509.Certificate{root}, b.Roots...)...)
	if err != nil {
		return err
	}
	return r.rotate(ctx, "", state.Rotate{
		Number: rot.Number, From: rot.Phase, To: state.RotationTrusting, New: root.Raw, NewPin: pki.Pin(root),
		Bundle: &state.SetBundle{Bundle: next.PEM(), Version: next.Version},
	})
}

func (r *Replica) rotate(ctx context.Context, by string, c state.Rotate) error {
	results, err := r.raft.Propose(ctx, state.Command{Time: time.Now(), By: by, Rotate: &c})
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	if err := results[0].Err(); err != nil {
		return err
	}
	r.log.Info("rotation of the authorities", "number", c.Number, "from", c.From, "to", c.To, "by", by)
	return nil
}
