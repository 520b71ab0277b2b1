package api

import (
	"cmp"
	"slices"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
)

// byVersion lists the digests of packages, the newest version first.
func byVersion(st *state.State) []string {
	sums := state.SortedKeys(st.Packages)
	slices.SortStableFunc(sums, func(x, y string) int {
		a, b := st.Packages[x], st.Packages[y]
		return cmp.Or(-rollout.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch))
	})
	return sums
}

func rolloutDoc(v rollout.View) *client.Rollout {
	r := v.Rollout
	if r == nil {
		return nil
	}
	doc := &client.Rollout{
		ID: string(r.ID), Version: r.Version, Phase: string(r.Phase), Reason: r.Reason, Began: utc(r.Began), Since: utc(r.Since),
		Soak: client.Duration(r.Soak), Healthy: r.Healthy, MaxFailures: r.MaxFailures, AtOnce: r.AtOnce, AllowDowngrade: r.Downgrade,
		Rings: []client.RolloutRing{}, Outside: v.Outside,
	}
	for i := range v.Rings {
		doc.Rings = append(doc.Rings, ringDoc(&v.Rings[i]))
	}
	return doc
}

// ringDoc names the agents that something can be said of.
func ringDoc(ring *rollout.RingView) client.RolloutRing {
	doc := client.RolloutRing{
		Name: ring.Name, Selector: rollout.Selector(ring.Ring), Opened: utc(ring.Opened), Passed: utc(ring.Passed), WaitsFor: ring.Waits,
		Agents: len(ring.Agents), Healthy: ring.Count(rollout.Healthy), Soaking: ring.Count(rollout.Soaking), Upgrading: ring.Count(rollout.InFlight),
		Waiting: ring.Count(rollout.Waiting, rollout.Unheard), Failed: ring.Count(rollout.Failed), Offline: ring.Count(rollout.Away),
		Newer: ring.Count(rollout.Newer), TooOld: ring.Count(rollout.Old),
		InFlight: []client.RolloutAgent{}, Failures: []client.RolloutAgent{},
	}
	for _, a := range ring.Agents {
		d := client.RolloutAgent{Agent: string(a.ID), State: a.State, Text: a.Text, Connected: a.Connected, Forgiven: a.Forgiven}
		if a.Standing == rollout.InFlight {
			doc.InFlight = append(doc.InFlight, d)
		}
		if a.Standing == rollout.Failed {
			doc.Failures = append(doc.Failures, d)
		}
	}
	return doc
}
