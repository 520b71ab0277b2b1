package state_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestRestore(t *testing.T) {
	snap := booted(t)
	launchOn(t, snap, "ran", "a1")
	must(t, snap, observe("ran", "a1", 1, fleet.TaskStarting))
	launchOn(t, snap, "fresh", "a1") // nothing of it has been heard
	must(t, snap, state.Command{Submit: &state.Submit{ID: "waits", Framework: "run", Role: "*"}})
	launchOn(t, snap, "over", "a1")
	must(t, snap, observe("over", "a1", 1, fleet.TaskFinished))
	must(t, snap, state.Command{PutReplica: &state.Replica{ID: "r1"}})
	must(t, snap, state.Command{PutPrincipal: &state.Principal{ID: "bob", Kind: state.KindOperator, CertNotAfter: t0.Add(time.Hour)}})

	now := snap.Clone() // what has happened since
	must(t, now, state.Command{PutReplica: &state.Replica{ID: "r9"}})
	must(t, now, state.Command{DropReplica: &state.DropReplica{ID: "r1"}})
	must(t, now, state.Command{By: "operator/ann", Revoke: &state.Revoke{URI: "spiffe://test/operator/bob", Kind: state.KindOperator, ID: "bob"}})
	must(t, now, state.Command{Revoke: &state.Revoke{URI: "spiffe://test/replica/r1", Kind: state.KindReplica, ID: "r1"}})

	later := t0.Add(time.Hour)
	snap.Restore(later, now, "operator/ann")
	if snap.Epoch != uint64(later.Unix()) || snap.Fence(5)>>30 != snap.Epoch {
		t.Errorf("epoch %d", snap.Epoch)
	}
	if len(snap.Tokens) != 0 {
		t.Error("a join token outlived the restore")
	}
	if len(snap.Replicas) != 1 || snap.Replicas["r9"] == nil {
		t.Errorf("replicas: %v", state.SortedKeys(snap.Replicas))
	}
	if len(snap.Revoked) != 2 || snap.Principals["bob"].Revoked.IsZero() {
		t.Errorf("bans: %v, bob %+v", snap.Revoked, snap.Principals["bob"])
	}
	if s := snap.Tasks["waits"]; s.State != fleet.TaskLost {
		t.Errorf("what waited is %v", s.State)
	}
	for id, seq := range map[fleet.TaskID]uint64{"ran": 1, "fresh": 1} {
		if a := snap.Tasks[id].Assignment(); a.Seq != seq {
			t.Errorf("an agent that knows nothing of %s would start it: %+v", id, a)
		}
	}
	if !snap.Unsettled["a1"] || snap.Agents["a1"].Generation != snap.Fence(0) {
		t.Errorf("a1: %v, %+v", snap.Unsettled, snap.Agents["a1"])
	}
	if entries, _ := snap.Audit.Last(2, func(state.AuditEntry) bool { return true }); len(entries) != 2 || entries[0].Action != "principal.revoke" || entries[1].Action != "fleet.restore" || entries[1].By != "operator/ann" {
		t.Errorf("audit: %+v", entries)
	}

	// Updates that were acknowledged in between do not stand in the way.
	if r := apply(snap, observe("ran", "a1", 9, fleet.TaskRunning)); r.Kind != state.OK || snap.Tasks["ran"].Seq != 9 {
		t.Errorf("an update after a gap: %+v", r)
	}
	if r := apply(snap, observe("ran", "a1", 9, fleet.TaskRunning)); !r.Duplicate {
		t.Errorf("the same again: %+v", r)
	}
	if r := apply(snap, state.Command{Settle: &state.Settle{Agent: "a1"}}); r.Kind != state.OK || snap.Unsettled["a1"] || r.Generation <= snap.Fence(0) {
		t.Errorf("settle: %+v", r)
	}
	if r := apply(snap, state.Command{Settle: &state.Settle{Agent: "a1"}}); !r.Duplicate {
		t.Errorf("settle again: %+v", r)
	}
	if r := apply(snap, state.Command{Settle: &state.Settle{Agent: "a9"}}); r.Kind != state.NotFound {
		t.Errorf("settle a stranger: %+v", r)
	}

	// Again, within the same second: still a later history.
	again := snap.Clone()
	again.Restore(later, snap, "operator/ann")
	if again.Epoch <= snap.Epoch || again.Fence(0) <= snap.Agents["a1"].Generation {
		t.Errorf("epoch %d after %d", again.Epoch, snap.Epoch)
	}
}

// A replacement's id is not one that the history that is lost may have given.
func TestReplacementsAfterARestoreHaveNewIDs(t *testing.T) {
	s := booted(t)
	launchOn(t, s, "t", "a1")
	task := *s.Tasks["t"]
	task.Spec.Disconnect = fleet.Disconnect{Replace: true, LostAfter: time.Minute}
	s.Tasks["t"] = &task
	lost := s.Clone()
	s.Restore(t0, nil, "operator/ann")
	ids := map[string]bool{}
	for _, st := range []*state.State{lost, s} {
		must(t, st, state.Command{Reach: &state.Reach{Agent: "a1"}})
		r := apply(st, state.Command{Replace: &state.Replace{Task: "t"}})
		if r.Kind != state.OK || ids[r.ID] {
			t.Errorf("replaced by %q: %+v", r.ID, r)
		}
		ids[r.ID] = true
	}
}

// What needs a capability says so, and the state remembers it.
func TestCapability(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{PutReplica: &state.Replica{ID: "r1", Addr: "a"}})
	if s.Format > 1 {
		t.Errorf("format %d of a state of the first version", s.Format)
	}
	must(t, s, state.Command{NoteReplica: &state.NoteReplica{ID: "r1", Version: "v2", Capability: 2}})
	must(t, s, state.Command{PutReplica: &state.Replica{ID: "r1", Addr: "b"}})
	if r := s.Replicas["r1"]; s.Format != 2 || r.Version != "v2" || r.Capability != 2 || r.Addr != "b" {
		t.Errorf("format %d, %+v", s.Format, r)
	}
	if r := apply(s, state.Command{NoteReplica: &state.NoteReplica{ID: "r9"}}); r.Kind != state.NotFound {
		t.Errorf("a stranger: %+v", r)
	}
}
