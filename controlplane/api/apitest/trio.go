package apitest

import (
	"context"
	"slices"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/transport/fleet"
)

var _ api.Trio = (*Fleet)(nil)

// Members implements api.Trio: r3 has not been heard for long, and r2 has
// nearly no space left.
func (f *Fleet) Members() map[fleet.ReplicaID]api.Member {
	return map[fleet.ReplicaID]api.Member{
		"r1": {Version: "v1.2.3", Capability: 2, Heard: true, Free: 5 << 30, Stable: Epoch.Add(-7200e9)},
		"r2": {Version: "v1.2.3", Capability: 2, Heard: true, Free: 10 << 20, Low: true, Fault: f.fault, Stable: Epoch.Add(-60e9)},
		"r3": {Version: "v1.2.2", Capability: 1},
	}
}

// Fill sets what is wrong with r2's disk.
func (f *Fleet) Fill(fault string) { f.fault = fault }

// Fault implements api.Trio.
func (f *Fleet) Fault() error { return nil }

// RemoveReplica implements api.Trio: r2 is needed as long as r3 is silent.
func (f *Fleet) RemoveReplica(_ context.Context, id fleet.ReplicaID, force bool, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(f.status.Replicas, func(r registrar.Replica) bool { return r.ID == id })
	switch {
	case at < 0:
		return client.NewProblem(client.CodeNotFound, "list them with: tender replica ls", "there is no replica %s", id)
	case id == "r2" && len(f.status.Replicas) == 3 && !force:
		return client.NewProblem(client.CodeConflict, "start the others first, or give --force", "without replica r2, 1 of 2 voters answer, which is no majority")
	}
	f.status.Replicas = slices.Delete(slices.Clone(f.status.Replicas), at, at+1)
	return nil
}

// Export implements api.Trio.
func (f *Fleet) Export(context.Context) (h client.SnapshotHeader, body []byte, err error) {
	f.do(func() {
		body, err = registrar.EncodeState(f.st)
		h = client.SnapshotHeader{
			Format: client.SnapshotFormat, TrustDomain: TrustDomain, Capability: max(f.st.Format, 1), Version: "v1.2.3",
			Term: 1, Index: 42, Time: f.now, Size: int64(len(body)),
			Summary: client.SnapshotSummary{Replicas: 3, Agents: len(f.st.Agents), Tasks: map[string]int{}},
		}
		for _, t := range f.st.Tasks {
			h.Summary.Tasks[t.State.String()]++
		}
	})
	return h, body, err
}

// Import implements api.Trio. The agents' connections are lost by it.
func (f *Fleet) Import(_ context.Context, _ client.SnapshotHeader, body []byte, by string) (done client.Restored, err error) {
	st, err := registrar.DecodeState(body)
	if err != nil {
		return done, err
	}
	f.do(func() {
		st.Restore(f.now, f.st, by)
		f.st = st
		f.leader = leader.New(leader.Config{}, st.Clone(), st.Fence(1), f.now)
		done = client.Restored{Epoch: st.Epoch, Unsettled: len(st.Unsettled)}
	})
	return done, nil
}
