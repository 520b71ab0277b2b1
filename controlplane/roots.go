package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// lookForRoots is how often a replica looks whether the trust roots have
	// changed.
	lookForRoots = time.Second
	// distrustFor is for how long sessions are looked through after that: a
	// handshake that had begun may end with a session of the roots before.
	distrustFor = 15 * time.Second
)

// trust follows the trust roots that the trio has agreed on: a newer bundle is
// stored, takes effect in the next handshake, and goes to every agent that has
// a session here. Those that are away get it with their next Welcome. Readings
// tell who has stored it.
func (r *Replica) trust(ctx context.Context) error {
	tick := time.NewTicker(lookForRoots)
	defer tick.Stop()
	var distrusted struct{ rotation, bundle uint64 } // for which sessions are looked through
	var until time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := r.takeRoots(); err != nil {
			r.log.Error("trust roots not taken", "error", err)
		}
		// Whoever holds a stolen root may have opened a session under it.
		if rot := r.rotation(); rot != nil && rot.RevokeOld {
			now := distrusted
			if now.rotation, now.bundle = rot.Number, r.bundle().Version; now != distrusted {
				distrusted, until = now, time.Now().Add(distrustFor)
			}
			if time.Now().Before(until) {
				if n := r.port.Distrust(r.bundle().Roots); n > 0 {
					r.log.Warn("sessions ended that were opened under a root that is trusted no more", "sessions", n)
				}
			}
		}
	}
}

func (r *Replica) takeRoots() error {
	r.storing.Lock()
	defer r.storing.Unlock()
	var roots []byte
	var version uint64
	r.raft.Stale(func(s *state.State) { roots, version = s.Bundle, s.BundleVersion })
	old := r.cred.Get()
	if version <= old.Bundle.Version || len(roots) == 0 {
		return nil
	}
	bundle, err := pki.ParseBundle(roots, version)
	if err != nil {
		return err
	}
	next := *old
	next.Bundle = bundle
	if err := pki.SaveDir(r.dir.pki(), &next); err != nil {
		return err
	}
	r.cred.Set(&next)
	r.mgr.Push(wire.Bundle{Version: version, Roots: bundle.PEM()})
	r.log.Info("trust roots taken", "version", version, "roots", len(bundle.Roots))
	return nil
}

// SetRoots puts the trust roots in the place of the present ones, of which at
// least one must stay: agents and replicas that hold only those must be able to
// verify something. It returns the version of the new bundle.
func (r *Replica) SetRoots(ctx context.Context, by string, roots ...*x509.Certificate) (uint64, error) {
	now, err := pki.ParseBundle(r.bundle().PEM(), 0)
	if err != nil {
		return 0, err
	}
	var version uint64
	r.raft.Stale(func(s *state.State) { version = s.BundleVersion + 1 })
	bundle, err := pki.NewBundle(version, roots...)
	if err != nil {
		return 0, err
	}
	if !overlap(now, bundle) {
		return 0, errors.New("none of the present trust roots would stay: everybody would be locked out")
	}
	results, err := r.raft.Propose(ctx, state.Command{Time: time.Now(), By: by, SetBundle: &state.SetBundle{Bundle: bundle.PEM(), Version: version}})
	if err != nil {
		return 0, fmt.Errorf("set trust roots: %w", err)
	}
	return version, results[0].Err()
}

// Bundle is what this replica trusts now.
func (r *Replica) Bundle() *pki.Bundle { return r.bundle() }

func overlap(a, b *pki.Bundle) bool {
	return slices.ContainsFunc(a.Roots, func(x *x509.Certificate) bool { return slices.ContainsFunc(b.Roots, x.Equal) })
}

// issuerOf is the root of a bundle that has signed an intermediate: with a new
// root published, the replica's authority is still the old one's.
func issuerOf(inter *x509.Certificate, b *pki.Bundle) *x509.Certificate {
	for _, root := range b.Roots {
		if inter.CheckSignatureFrom(root) == nil {
			return root
		}
	}
	return b.Roots[0] // the authority says what is wrong
}
