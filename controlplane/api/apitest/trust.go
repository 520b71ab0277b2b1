package apitest

import (
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
)

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
