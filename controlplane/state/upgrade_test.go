package state_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func pack(version, arch string, n int) state.Command {
	return state.Command{PutPackage: &state.Package{
		Package: fleet.Package{Arch: arch, SHA256: fmt.Sprintf("%064x", n), Size: 1, Signature: "s"}, Version: version, Key: "K1",
	}}
}

// steps applies commands in their order, each with what comes of it.
func steps(t *testing.T, s *state.State, all []step) {
	t.Helper()
	for _, x := range all {
		x.c.By = "operator/alice"
		if got := apply(s, x.c); got.Kind != x.want {
			t.Fatalf("%s: %v %q, want %v", x.name, got.Kind, got.Text, x.want)
		}
	}
}

type step struct {
	name string
	c    state.Command
	want state.Kind
}

func key(id string) state.Command {
	return state.Command{PutReleaseKey: &state.ReleaseKey{ID: id, Key: "key of " + id}}
}

func TestPackagesNeedAKey(t *testing.T) {
	s := booted(t)
	steps(t, s, []step{
		{"no key", pack("v1", "amd64", 1), state.Invalid},
		{"the key", key("K1"), state.OK},
		{"again", key("K1"), state.OK},
		{"another of its number", state.Command{PutReleaseKey: &state.ReleaseKey{ID: "K1", Key: "other"}}, state.Conflict},
		{"a key of no number", key(""), state.Invalid},
		{"a package", pack("v1", "amd64", 1), state.OK},
		{"again", pack("v1", "amd64", 1), state.OK},
		{"another of the same kind", pack("v1", "amd64", 2), state.Conflict},
		{"of another architecture", pack("v1", "arm64", 2), state.OK},
		{"of no version", pack("", "arm64", 3), state.Invalid},
		{"of no architecture", pack("v2", "", 3), state.Invalid},
		{"its key cannot go", state.Command{DropReleaseKey: &state.DropReleaseKey{ID: "K1"}}, state.Conflict},
		{"an unknown key", state.Command{DropReleaseKey: &state.DropReleaseKey{ID: "K2"}}, state.NotFound},
		{"an unknown version", state.Command{DropPackages: &state.DropPackages{Version: "v9"}}, state.NotFound},
	})
	if got := s.PackagesOf("v1"); len(got) != 2 || got[0].Arch != "amd64" || got[1].Arch != "arm64" {
		t.Errorf("packages %+v", got)
	}
	steps(t, s, []step{
		{"remove it", state.Command{DropPackages: &state.DropPackages{Version: "v1"}}, state.OK},
		{"now its key can go", state.Command{DropReleaseKey: &state.DropReleaseKey{ID: "K1"}}, state.OK},
	})
	if len(s.Packages)+len(s.ReleaseKeys) != 0 || s.Format != 3 {
		t.Errorf("%d packages, %d keys, format %d", len(s.Packages), len(s.ReleaseKeys), s.Format)
	}
}

func TestUpgradesAreBounded(t *testing.T) {
	s := booted(t)
	for i := range state.MaxReleaseKeys {
		must(t, s, key(fmt.Sprint("K", i)))
	}
	for i := range state.MaxVersions {
		must(t, s, pack(fmt.Sprint("v", i), "amd64", i))
	}
	for i := range fleet.MaxPackages - 1 {
		must(t, s, pack("v0", fmt.Sprint("arch", i), 100+i))
	}
	steps(t, s, []step{
		{"a key too many", key("K"), state.Conflict},
		{"a version too many", pack("v", "amd64", 99), state.Conflict},
		{"an architecture too many", pack("v0", "m68k", 99), state.Conflict},
		{"a long comment", state.Command{PutReleaseKey: &state.ReleaseKey{ID: "K", Key: "k", Comment: strings.Repeat("x", 400)}}, state.Invalid},
	})
}

func start(id fleet.RolloutID, change func(*state.Rollout)) state.Command {
	r := &state.Rollout{ID: id, Version: "v1", Rings: []state.Ring{{Name: "rest", Rest: true}}, Healthy: 100, AtOnce: 1}
	if change != nil {
		change(r)
	}
	return state.Command{StartRollout: r}
}

func steer(id fleet.RolloutID, to state.RolloutPhase) state.Command {
	return state.Command{SteerRollout: &state.SteerRollout{ID: id, To: to}}
}

func advance(id fleet.RolloutID, change func(*state.AdvanceRollout), agents ...state.AgentStep) state.Command {
	c := &state.AdvanceRollout{ID: id, Agents: agents}
	if change != nil {
		change(c)
	}
	return state.Command{AdvanceRollout: c}
}

func began(a fleet.AgentID) state.AgentStep { return state.AgentStep{Agent: a, To: state.StageBegan} }

func rolling(t *testing.T) *state.State {
	t.Helper()
	s := booted(t)
	must(t, s, key("K1"))
	must(t, s, pack("v1", "amd64", 1))
	return s
}

func TestRolloutGoesStepByStep(t *testing.T) {
	s := rolling(t)
	open := func(c *state.AdvanceRollout) { c.Open = 1 }
	steps(t, s, []step{
		{"of no package", start("r", func(r *state.Rollout) { r.Version = "v2" }), state.NotFound},
		{"of no ring", start("r", func(r *state.Rollout) { r.Rings = nil }), state.Invalid},
		{"of a ring of nothing", start("r", func(r *state.Rollout) { r.Rings[0].Rest = false }), state.Invalid},
		{"of a ring of two things", start("r", func(r *state.Rollout) { r.Rings[0].Percent = 5 }), state.Invalid},
		{"of a ring twice", start("r", func(r *state.Rollout) { r.Rings = append(r.Rings, r.Rings[0]) }), state.Invalid},
		{"nobody is to be healthy", start("r", func(r *state.Rollout) { r.Healthy = 0 }), state.Invalid},
		{"an advance of none", advance("r1", open), state.Conflict},
		{"begin", start("r1", nil), state.OK},
		{"begin another", start("r2", nil), state.Conflict},
		{"its packages are in use", state.Command{DropPackages: &state.DropPackages{Version: "v1"}}, state.Conflict},
		{"an advance of another", advance("r2", open), state.Conflict},
		{"open, and begin with an agent", advance("r1", open, began("a1"), began("nobody")), state.OK},
	})
	if len(s.Upgrades) != 1 || s.UpgradeOf("a1").Version != "v1" || s.UpgradeOf("a2").Version != "" {
		t.Fatalf("upgrades %+v, of a1 %+v", s.Upgrades, s.UpgradeOf("a1"))
	}
	steps(t, s, []step{
		{"pause", steer("r1", state.RolloutPaused), state.OK},
		{"twice", steer("r1", state.RolloutPaused), state.OK},
		{"another one", steer("r2", state.RolloutPaused), state.Conflict},
		{"another agent", state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a2", KeyHash: "k2"}}, state.OK},
		{"no agent is begun with", advance("r1", func(c *state.AdvanceRollout) { c.Pass, c.Finish = 1, true }, began("a2")), state.OK},
	})
	if len(s.Upgrades) != 1 {
		t.Fatalf("a paused rollout begins with agents: %+v", s.Upgrades)
	}
	if r := s.Rollout; !r.Rings[0].Passed.IsZero() || r.Phase != state.RolloutPaused || s.UpgradeOf("a1").Version != "" {
		t.Fatalf("a paused rollout goes on: %+v", r)
	}
	steps(t, s, []step{
		{"what happens is recorded", advance("r1", nil, state.AgentStep{Agent: "a1", To: state.StageFailed, Text: "refused"}), state.OK},
		{"resume", steer("r1", state.RolloutRunning), state.OK},
	})
	if u := s.Upgrades["a1"]; !u.Forgiven || u.Text != "refused" || s.UpgradeOf("a1").Version != "" {
		t.Errorf("after resuming: %+v", u)
	}
	steps(t, s, []step{
		{"pause by itself", advance("r1", func(c *state.AdvanceRollout) { c.Pause = "a1 failed" }), state.OK},
		{"abort", steer("r1", state.RolloutAborted), state.OK},
		{"no way back", steer("r1", state.RolloutRunning), state.Conflict},
		{"the next one", start("r3", nil), state.OK},
	})
	if s.Rollout.ID != "r3" || len(s.Upgrades) != 0 || s.Rollout.Revision < 8 {
		t.Errorf("the next rollout: %+v with %d upgrades", s.Rollout, len(s.Upgrades))
	}
	entries, _ := s.Audit.Last(1, func(e state.AuditEntry) bool { return e.Action == "rollout.abort" })
	if len(entries) != 1 || entries[0].Target != "r1" {
		t.Errorf("audit: %+v", entries)
	}
}

// Copies, which snapshots are made of, stay as they are.
func TestCopiesDoNotShareARollout(t *testing.T) {
	s := rolling(t)
	must(t, s, start("r1", nil))
	c := s.Clone()
	must(t, s, advance("r1", func(c *state.AdvanceRollout) { c.Open = 1 }, began("a1")))
	must(t, s, pack("v2", "amd64", 2))
	must(t, s, key("K2"))
	if len(c.Upgrades)+len(c.Packages)+len(c.ReleaseKeys) != 2 || !c.Rollout.Rings[0].Opened.IsZero() {
		t.Errorf("the copy has changed: %+v", c.Rollout)
	}
}

// After a restore a person looks first; the packages are those whose files the
// replicas have.
func TestRestoredRolloutIsPaused(t *testing.T) {
	snap, now := rolling(t), rolling(t)
	must(t, snap, start("r1", nil))
	must(t, now, pack("v2", "amd64", 2))
	must(t, now, start("r2", nil))
	must(t, now, steer("r2", state.RolloutPaused))
	before := now.Rollout.Revision
	snap.Restore(t0.Add(time.Hour), now, "operator/alice")
	if r := snap.Rollout; r.ID != "r1" || r.Phase != state.RolloutPaused || r.Reason == "" || r.Revision <= before {
		t.Errorf("restored: %+v", r)
	}
	if len(snap.Packages) != 2 {
		t.Errorf("packages %+v", snap.Packages)
	}
}
