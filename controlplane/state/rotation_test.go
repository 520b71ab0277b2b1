package state_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
)

func TestRotationGoesStepByStep(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{PutReplica: &state.Replica{ID: "r1", Addr: "a"}})
	root := func(c state.Rotate) state.Command {
		c.Number = 1
		return by("operator/alice", state.Command{Rotate: &c})
	}
	begin := state.Rotate{To: state.RotationMaking, Kind: state.RotateRoot, Holder: "r1", Old: []byte("o"), OldPin: "old"}
	both := &state.SetBundle{Bundle: []byte("o n"), Version: s.BundleVersion + 1}
	for _, step := range []struct {
		name string
		c    state.Command
		want state.Kind
	}{
		{"a phase of none", root(state.Rotate{From: state.RotationMaking, To: state.RotationTrusting}), state.Conflict},
		{"of no kind", root(state.Rotate{To: state.RotationMaking}), state.Invalid},
		{"begin", root(begin), state.OK},
		{"begin twice", root(begin), state.Conflict},
		{"with a bundle of the wrong version", root(state.Rotate{From: state.RotationMaking, To: state.RotationTrusting, Bundle: &state.SetBundle{Bundle: []byte("x"), Version: 9}}), state.Conflict},
		{"the new root", root(state.Rotate{From: state.RotationMaking, To: state.RotationTrusting, New: []byte("n"), NewPin: "new", Bundle: both}), state.OK},
		{"the same from another leader", root(state.Rotate{From: state.RotationMaking, To: state.RotationTrusting, New: []byte("m"), NewPin: "other"}), state.Conflict},
		{"force", root(state.Rotate{From: state.RotationTrusting, To: state.RotationTrusting, Force: true}), state.OK},
		{"issuing", root(state.Rotate{From: state.RotationTrusting, To: state.RotationIssuing}), state.OK},
		{"an issuer", state.Command{NoteIssuer: &state.NoteIssuer{ID: "r1", Intermediate: []byte("i"), Cross: []byte("c"), Round: 1}}, state.OK},
		{"of nobody", state.Command{NoteIssuer: &state.NoteIssuer{ID: "r9", Round: 1}}, state.NotFound},
		{"finished", root(state.Rotate{From: state.RotationIssuing, To: state.RotationFinished}), state.OK},
		{"back again", root(state.Rotate{From: state.RotationFinished, To: state.RotationIssuing}), state.Conflict},
		{"intermediates", by("operator/alice", state.Command{Rotate: &state.Rotate{Number: 2, To: state.RotationIssuing, Kind: state.RotateIntermediates, Holder: "r1"}}), state.OK},
	} {
		if got := apply(s, step.c); got.Kind != step.want {
			t.Fatalf("%s: %v %q, want %v", step.name, got.Kind, got.Text, step.want)
		}
	}
	r := s.Rotation
	if r.Number != 2 || r.NewPin != "new" || r.OldPin != "old" || r.Force || string(s.Bundle) != "o n" || s.Format != 3 {
		t.Errorf("rotation %+v, bundle %q, format %d", r, s.Bundle, s.Format)
	}
	if rec := s.Replicas["r1"]; string(rec.Cross) != "c" || rec.Round != 1 || rec.Addr != "a" {
		t.Errorf("replica %+v", rec)
	}
}

// A snapshot of before a rotation does not bring the old roots back: nobody
// would take the older bundle.
func TestRestoreKeepsNewerRoots(t *testing.T) {
	snap, now := booted(t), booted(t)
	must(t, now, state.Command{SetBundle: &state.SetBundle{Bundle: []byte("new"), Version: now.BundleVersion + 1}})
	now.Rotation = &state.Rotation{Number: 3, Phase: state.RotationFinished}
	snap.Restore(t0.Add(time.Hour), now, "operator/alice")
	if string(snap.Bundle) != "new" || snap.BundleVersion != now.BundleVersion || snap.Rotation == nil {
		t.Errorf("bundle %d %q, rotation %+v", snap.BundleVersion, snap.Bundle, snap.Rotation)
	}
}
