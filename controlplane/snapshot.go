package controlplane

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/authority"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Export returns the state as the trio agrees on it now. No private key and no
// secret of the control plane is in it: keys are on their machines, and of
// tokens the state has hashes. What users put into their tasks is.
func (r *Replica) Export(ctx context.Context) (client.SnapshotHeader, []byte, error) {
	st, index, term, err := r.raft.Export(ctx)
	if err != nil {
		return client.SnapshotHeader{}, nil, err
	}
	body, err := registrar.EncodeState(st)
	if err != nil {
		return client.SnapshotHeader{}, nil, fmt.Errorf("export: %w", err)
	}
	return client.SnapshotHeader{
		Format: client.SnapshotFormat, TrustDomain: st.TrustDomain, Capability: max(st.Format, 1), Version: r.cfg.Version,
		Epoch: st.Epoch, Term: term, Index: index, Time: time.Now().UTC(), Size: int64(len(body)), Summary: summary(st),
	}, body, nil
}

func summary(st *state.State) client.SnapshotSummary {
	s := client.SnapshotSummary{
		Replicas: len(st.Replicas), Agents: len(st.Agents), Tasks: map[string]int{}, Roles: len(st.Roles), Frameworks: len(st.Frameworks),
		Principals: len(st.Principals), Tokens: len(st.Tokens), Revoked: len(st.Revoked), Audit: len(st.Audit.Admin) + len(st.Audit.Routine),
	}
	for _, t := range st.Tasks {
		s.Tasks[t.State.String()]++
	}
	return s
}

// Import replaces the state of all replicas by that of a snapshot of the same
// fleet: see state.Restore for what that means to agents and tasks.
func (r *Replica) Import(ctx context.Context, h client.SnapshotHeader, body []byte, by string) (client.Restored, error) {
	if _, err := r.current(); err != nil {
		return client.Restored{}, err
	}
	st, err := decodeSnapshot(h, body)
	if err != nil {
		return client.Restored{}, client.NewProblem(client.CodeInvalid, "look at the file: tender snapshot inspect FILE", "%v", err)
	}
	if st.TrustDomain != r.self.TrustDomain {
		return client.Restored{}, client.NewProblem(client.CodeConflict, "to make a control plane of it on a fresh machine: tenderd restore --help",
			"the snapshot is of the fleet %s, this is %s", st.TrustDomain, r.self.TrustDomain)
	}
	now, _, _, err := r.raft.Export(ctx)
	if err != nil {
		return client.Restored{}, err
	}
	done := restore(st, now, by)
	if err := r.raft.Import(ctx, st); err != nil {
		if errors.Is(err, registrar.ErrTooNew) {
			return client.Restored{}, client.NewProblem(client.CodeConflict, "upgrade all replicas, then repeat it", "%v", err)
		}
		return client.Restored{}, err
	}
	r.log.Warn("the state was restored from a snapshot", "by", by, "index", h.Index, "term", h.Term, "time", h.Time, "epoch", st.Epoch)
	return done, nil
}

func decodeSnapshot(h client.SnapshotHeader, body []byte) (*state.State, error) {
	if h.Capability > state.Capability {
		return nil, fmt.Errorf("the snapshot needs capability %d, this tenderd has %d: use the version that wrote it (%.40s) or a newer one", h.Capability, state.Capability, h.Version)
	}
	st, err := registrar.DecodeState(body)
	if err != nil {
		return nil, fmt.Errorf("the state in the snapshot: %w", err)
	}
	return st, nil
}

// restore makes a decoded state ready and says what that comes to.
func restore(st, current *state.State, by string) client.Restored {
	ended := len(st.Ended)
	st.Restore(time.Now().UTC(), current, by)
	return client.Restored{Epoch: st.Epoch, Unsettled: len(st.Unsettled), Lost: max(0, len(st.Ended)-ended)}
}

// RestoreOptions describe a new control plane made from a snapshot.
type RestoreOptions struct {
	InitOptions // without TrustDomain: the snapshot has it
	Snapshot    io.Reader
	// RootKey and Passphrase are the fleet's root, from where it is kept: no
	// snapshot has it, and agents trust nothing else.
	RootKeyFile, PassphraseFile string
}

// Restore makes the first replica of a control plane that takes over a fleet:
// its state from a snapshot, its root from the sealed key. It touches nothing in
// a directory that already holds a replica.
func Restore(ctx context.Context, o RestoreOptions) (client.SnapshotHeader, client.Restored, error) {
	var none client.Restored
	d := layout(o.DataDir)
	if err := fleet.CheckID("replica id", string(o.ID)); err != nil {
		return client.SnapshotHeader{}, none, err
	}
	var body bytes.Buffer
	h, err := client.CheckSnapshot(o.Snapshot, &body)
	if err != nil {
		return h, none, err
	}
	st, err := decodeSnapshot(h, body.Bytes())
	if err != nil {
		return h, none, err
	}
	self := identity{ID: o.ID, TrustDomain: st.TrustDomain, Addr: o.Addr, Bootstrap: true, Member: true}
	if _, banned := st.Revoked[self.spiffe().String()]; banned {
		return h, none, fmt.Errorf("the replica id %s was revoked in this fleet; give another one with --id", o.ID)
	}
	root, key, bundle, err := rootOf(st, o.RootKeyFile, o.PassphraseFile)
	if err != nil {
		return h, none, err
	}
	if err := d.fresh(); err != nil {
		return h, none, err
	}
	done := restore(st, nil, "local/"+string(o.ID))
	if err := registrar.Seed(registrar.Config{ID: o.ID, Addr: o.Addr, Dir: d.raft()}, st); err != nil {
		return h, none, err
	}
	return h, done, d.found(ctx, root, key, bundle, self)
}

// rootOf opens the root key and finds its certificate in the fleet's bundle.
func rootOf(st *state.State, keyFile, passphraseFile string) (*x509.Certificate, crypto.Signer, *pki.Bundle, error) {
	sealed, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("root key: %w", err)
	}
	passphrase, err := os.ReadFile(passphraseFile)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("passphrase of the root key: %w", err)
	}
	key, err := authority.OpenKey(sealed, bytes.TrimSpace(passphrase))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("root key %s: %w", keyFile, err)
	}
	bundle, err := pki.ParseBundle(st.Bundle, st.BundleVersion)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("roots in the snapshot: %w", err)
	}
	type public interface{ Equal(crypto.PublicKey) bool }
	for _, root := range bundle.Roots {
		if p, ok := root.PublicKey.(public); ok && p.Equal(key.Public()) {
			return root, key, bundle, nil
		}
	}
	return nil, nil, nil, fmt.Errorf("root key %s is not the key of this fleet's root (%s)", keyFile, bundle.Pins()[0])
}
