package rotation_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/rotation"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fleetIn is three replicas and four agents in one phase of a rotation.
func fleetIn(kind state.RotationKind, phase state.RotationPhase) *state.State {
	st := state.New()
	st.BundleVersion = 2
	st.Rotation = &state.Rotation{Number: 5, Kind: kind, Phase: phase, OldPin: "old", NewPin: "new", Since: t0}
	for _, id := range []fleet.ReplicaID{"r1", "r2", "r3"} {
		st.Replicas[id] = &state.Replica{ID: id}
	}
	for _, id := range []fleet.AgentID{"a1", "a2", "away", "banned", "lapsed"} {
		st.Agents[id] = &fleet.Agent{ID: id, CertNotAfter: t0.Add(time.Hour), Revoked: id == "banned"}
	}
	st.Agents["lapsed"].CertNotAfter = t0.Add(-time.Hour)
	return st
}

func TestNextStep(t *testing.T) {
	type said = map[fleet.ReplicaID]rotation.Said
	type seen = map[fleet.AgentID]rotation.Seen
	here := seen{"a1": {Bundle: 2}, "a2": {Bundle: 2}}
	stored := said{"r1": {Bundle: 2}, "r2": {Bundle: 2}, "r3": {Bundle: 2}}
	issued := said{"r1": {Round: 5}, "r2": {Round: 5}, "r3": {Round: 5}}
	for _, tc := range []struct {
		name  string
		kind  state.RotationKind
		phase state.RotationPhase
		said  said
		seen  seen
		after time.Duration
		force bool
		want  rotation.Step
	}{
		{"the root is to be made", state.RotateRoot, state.RotationMaking, nil, nil, 0, false, rotation.Step{Make: true}},
		{"all hold the bundle", state.RotateRoot, state.RotationTrusting, stored, here, 0, false, rotation.Step{To: state.RotationIssuing}},
		{"an agent does not", state.RotateRoot, state.RotationTrusting, stored, seen{"a1": {Bundle: 2}, "a2": {Bundle: 1}}, time.Minute, false, rotation.Step{}},
		{"a replica does not", state.RotateRoot, state.RotationTrusting, said{"r1": {Bundle: 2}, "r2": {Bundle: 1}, "r3": {Bundle: 2}}, here, 0, false, rotation.Step{}},
		{"a replica is silent", state.RotateRoot, state.RotationTrusting, said{"r1": {Bundle: 2}, "r2": {Bundle: 2}}, here, 0, false, rotation.Step{}},
		{"for long", state.RotateRoot, state.RotationTrusting, said{"r1": {Bundle: 2}, "r2": {Bundle: 2}}, here, rotation.Patience, false, rotation.Step{To: state.RotationIssuing}},
		{"an agent does not, forced", state.RotateRoot, state.RotationTrusting, stored, seen{"a1": {}}, 0, true, rotation.Step{To: state.RotationIssuing}},
		{"all have issued", state.RotateRoot, state.RotationIssuing, issued, here, 0, false, rotation.Step{To: state.RotationRenewing}},
		{"one that answers has not, forced", state.RotateRoot, state.RotationIssuing, said{"r1": {Round: 5}, "r2": {Round: 4}, "r3": {Round: 5}}, here, time.Hour, true, rotation.Step{}},
		{"one is silent", state.RotateRoot, state.RotationIssuing, said{"r1": {Round: 5}, "r2": {Round: 5}}, here, 0, false, rotation.Step{}},
		{"one is silent, forced", state.RotateRoot, state.RotationIssuing, said{"r1": {Round: 5}, "r2": {Round: 5}}, here, 0, true, rotation.Step{To: state.RotationRenewing}},
		{"an operator finishes", state.RotateRoot, state.RotationRenewing, issued, here, time.Hour, true, rotation.Step{}},
		{"intermediates alone", state.RotateIntermediates, state.RotationIssuing, issued, nil, 0, false, rotation.Step{To: state.RotationFinished}},
		{"it is over", state.RotateRoot, state.RotationFinished, nil, nil, time.Hour, true, rotation.Step{}},
	} {
		st := fleetIn(tc.kind, tc.phase)
		st.Rotation.Force = tc.force
		now := t0.Add(tc.after)
		if got := rotation.Next(now, rotation.Look(now, st, tc.said, tc.seen)); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
	if got := rotation.Next(t0, rotation.Look(t0, state.New(), nil, nil)); got != (rotation.Step{}) {
		t.Errorf("without a rotation: %+v", got)
	}
}

// What a rotation waits for is named.
func TestWhoIsWaitedFor(t *testing.T) {
	st := fleetIn(state.RotateRoot, state.RotationRenewing)
	st.Agents["a1"].CertRoot = "new"
	st.Replicas["r3"].Round = 5 // it is down and has done its part
	got := rotation.Look(t0, st, map[fleet.ReplicaID]rotation.Said{"r1": {Round: 5}}, map[fleet.AgentID]rotation.Seen{"a1": {}, "a2": {}})
	want := rotation.View{
		Rotation: st.Rotation, Silent: []fleet.ReplicaID{"r2"},
		Waiting: []fleet.AgentID{"a2"}, Away: []fleet.AgentID{"away"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWhenAnIntermediateIsDue(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	issuing := &state.Rotation{Number: 2, Kind: state.RotateRoot, Phase: state.RotationIssuing}
	trusting := &state.Rotation{Number: 2, Kind: state.RotateRoot, Phase: state.RotationTrusting}
	of := func(round uint64, life, rootLife time.Duration) rotation.Issuer {
		return rotation.Issuer{Round: round, NotBefore: t0, NotAfter: t0.Add(life), RootEnds: t0.Add(rootLife)}
	}
	for _, tc := range []struct {
		name string
		own  rotation.Issuer
		rot  *state.Rotation
		age  time.Duration
		want bool
	}{
		{"fresh", of(0, 2*year, 10*year), nil, 0, false},
		{"fifteen days before its end", of(0, 2*year, 10*year), nil, 2*year - 15*day, false},
		{"fourteen days before its end", of(0, 2*year, 10*year), nil, 2*year - 14*day, true},
		{"of a short life a third", of(0, 3*day, 10*year), nil, 2 * day, true},
		{"it ends with its root", of(0, 2*year, 2*year), nil, 2*year - day, false},
		{"a rotation", of(1, 2*year, 10*year), issuing, 0, true},
		{"its part is done", of(2, 2*year, 10*year), issuing, 0, false},
		{"the bundle comes first", of(1, 2*year, 10*year), trusting, 0, false},
	} {
		if got := rotation.Due(tc.own, tc.rot, 7*day, t0.Add(tc.age)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
