package apitest

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client/release"
	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

var _ api.Upgrades = (*Fleet)(nil)

// AddPackage implements api.Upgrades: the file is checked and not kept.
func (f *Fleet) AddPackage(_ context.Context, signature string, body io.Reader, by string) (p state.Package, holders []fleet.ReplicaID, err error) {
	var keys []release.Key
	f.do(func() {
		for id, k := range f.st.ReleaseKeys {
			keys = append(keys, release.Key{ID: id, Text: k.Key})
		}
	})
	var file bytes.Buffer
	checked, err := release.Check(io.TeeReader(body, &file), signature, keys)
	if err != nil {
		return p, nil, err
	}
	about, err := release.Read(&file)
	if err != nil {
		return p, nil, err
	}
	p = state.Package{
		Package: fleet.Package{Arch: about.Arch, SHA256: checked.SHA256, Size: checked.Size, Signature: signature},
		Version: about.Agent, Key: checked.Key,
	}
	f.do(func() {
		err = f.commit(state.Command{Time: f.now, By: by, PutPackage: &p})[0].Err()
	})
	return p, f.Holders(p.SHA256), err
}

// Holders implements api.Upgrades: r3 lacks every package.
func (f *Fleet) Holders(string) []fleet.ReplicaID { return []fleet.ReplicaID{"r1", "r2"} }

// Upgraded has a connected agent tell how far the last rollout is with it, and
// run version unless that is empty.
func (f *Fleet) Upgraded(id fleet.AgentID, version, state, text string) {
	f.do(func() {
		a := f.agents[id]
		u := fleet.UpgradeStatus{State: state, Text: text}
		if r := f.st.Rollout; r != nil {
			u.Rollout, u.Version = r.ID, r.Version
		}
		a.soft.Readings.Upgrade = u
		if version != "" {
			a.soft.Version = version
		}
	})
}

// Roll has the leader look at the rollout each second, for so long.
func (f *Fleet) Roll(d time.Duration) error {
	for end := f.Now().Add(d); f.Now().Before(end); f.Advance(time.Second) {
		soft, err := f.Soft(context.Background())
		if err != nil {
			return err
		}
		f.do(func() {
			if c := rollout.Next(rollout.Look(f.now, f.st, api.Seen(soft))); c != nil {
				err = f.commit(state.Command{Time: f.now, AdvanceRollout: c})[0].Err()
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
