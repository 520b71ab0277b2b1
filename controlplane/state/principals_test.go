package state_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func principal(id string, kind state.IdentityKind, roles ...fleet.Role) *state.Principal {
	return &state.Principal{ID: id, Kind: kind, Roles: roles, SecretHash: "hash of " + id, Expires: t0.Add(time.Hour)}
}

func put(p *state.Principal) state.Command { return state.Command{PutPrincipal: p} }

func revoke(kind state.IdentityKind, id string) state.Command {
	return state.Command{Revoke: &state.Revoke{URI: "spiffe://test/" + string(kind) + "/" + id, Kind: kind, ID: id}}
}

func TestPrincipalsAreChecked(t *testing.T) {
	with := func(change func(*state.Principal)) *state.Principal {
		p := principal("p", state.KindFramework, "a")
		change(p)
		return p
	}
	many := make([]fleet.Role, state.MaxPrincipalRoles+1)
	for i := range many {
		many[i] = fleet.Role(fmt.Sprintf("r%d", i))
	}
	for _, tt := range []struct {
		name string
		p    *state.Principal
		want state.Kind
	}{
		{"framework with a role", principal("p", state.KindFramework, "a/b", "*"), state.OK},
		{"framework of all roles", with(func(p *state.Principal) { p.Roles, p.AllRoles = nil, true }), state.OK},
		{"operator without roles", principal("p", state.KindOperator), state.OK},
		{"reader of a role", principal("p", state.KindReader, "a"), state.OK},
		{"known by a certificate", &state.Principal{ID: "p", Kind: state.KindOperator, CertNotAfter: t0.Add(time.Hour)}, state.OK},
		{"name of an operator that is there", principal("ops", state.KindFramework, "a"), state.Conflict},
		{"framework without a role", principal("p", state.KindFramework), state.Invalid},
		{"some roles and all", with(func(p *state.Principal) { p.AllRoles = true }), state.Invalid},
		{"too many roles", with(func(p *state.Principal) { p.Roles = many }), state.Invalid},
		{"a role that is none", principal("p", state.KindFramework, "a//b"), state.Invalid},
		{"an agent", principal("p", state.KindAgent), state.Invalid},
		{"a name that is none", principal("No Name", state.KindReader), state.Invalid},
		{"nothing to be known by", with(func(p *state.Principal) { p.SecretHash = "" }), state.Invalid},
		{"a token for ever", with(func(p *state.Principal) { p.Expires = time.Time{} }), state.Invalid},
		{"a token that has expired", with(func(p *state.Principal) { p.Expires = t0 }), state.Invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := booted(t)
			must(t, s, put(principal("ops", state.KindOperator)))
			before := s.Clone()
			r := apply(s, put(tt.p))
			if r.Kind != tt.want {
				t.Fatalf("got %+v, want %q", r, tt.want)
			}
			if tt.want != state.OK {
				if !reflect.DeepEqual(before, s) {
					t.Fatal("a refused command changed the state")
				}
				return
			}
			got := s.Principals["p"]
			if all := tt.p.AllRoles || len(tt.p.Roles) == 0; got == nil || got.AllRoles != all || !got.Created.Equal(t0) {
				t.Fatalf("kept %+v", got)
			}
		})
	}
}

// Frameworks, operators and readers that join by a token become principals
// with its roles.
func TestTokensAdmitPrincipals(t *testing.T) {
	for _, tt := range []struct {
		kind     state.IdentityKind
		roles    []fleet.Role
		allRoles bool
	}{
		{state.KindFramework, []fleet.Role{"a", "b"}, false},
		{state.KindReader, []fleet.Role{"a"}, false},
		{state.KindReader, nil, true},
		{state.KindOperator, nil, true},
	} {
		s := booted(t)
		must(t, s, state.Command{PutToken: &state.Token{Hash: "f", Kind: tt.kind, Uses: 2, Expires: t0.Add(time.Hour), Roles: tt.roles}})
		admit := state.Command{Admit: &state.Admit{Hash: "f", Kind: tt.kind, Name: "p", Suffix: "x", KeyHash: "k"}}
		r := must(t, s, admit)
		p := s.Principals["p"]
		if r.ID != "p" || p == nil || p.Kind != tt.kind || !reflect.DeepEqual(p.Roles, tt.roles) || p.AllRoles != tt.allRoles || !p.Ended(t0).IsZero() {
			t.Fatalf("%s: admitted %q as %+v", tt.kind, r.ID, p)
		}
		end := t0.Add(24 * time.Hour)
		must(t, s, state.Command{Certified: &state.Certified{URI: "spiffe://test/" + string(tt.kind) + "/p", Kind: tt.kind, ID: "p", NotAfter: end}})
		if p := s.Principals["p"]; !p.CertNotAfter.Equal(end) || !p.Ended(end).Equal(end) || !p.Ended(t0).IsZero() {
			t.Errorf("%s: certified %+v", tt.kind, p)
		}
		must(t, s, revoke(tt.kind, "p"))
		if p := s.Principals["p"]; !p.Ended(t0).Equal(t0) {
			t.Errorf("%s: revoked %+v", tt.kind, p)
		}
		if r := apply(s, admit); r.Kind != state.RevokedID {
			t.Errorf("%s asks again: %+v", tt.kind, r)
		}
		if r := apply(s, state.Command{Certified: &state.Certified{Kind: tt.kind, ID: "p", NotAfter: end.Add(end.Sub(t0))}}); r.Kind != state.NotFound {
			t.Errorf("%s, certified after the revocation: %+v", tt.kind, r)
		}
		// The name stays taken, whatever kind asks for it.
		admit.Admit = &state.Admit{Hash: "f", Kind: tt.kind, Name: "p", Suffix: "x", KeyHash: "k2"}
		if r := must(t, s, admit); r.ID != "p-x" {
			t.Errorf("the newcomer is %q", r.ID)
		}
	}
	s := booted(t)
	for _, tok := range []state.Token{
		{Hash: "f", Kind: state.KindFramework, Uses: 1, Expires: t0.Add(time.Hour)},
		{Hash: "f", Kind: state.KindAgent, Uses: 1, Expires: t0.Add(time.Hour), Roles: []fleet.Role{"a"}},
	} {
		if r := apply(s, state.Command{PutToken: &tok}); r.Kind != state.Invalid {
			t.Errorf("%+v: %+v", tok, r)
		}
	}
}

func TestRevokePrincipals(t *testing.T) {
	s := booted(t)
	must(t, s, put(principal("p", state.KindFramework, "a")))
	for _, wrong := range []state.Command{revoke(state.KindReader, "p"), revoke(state.KindFramework, "q")} {
		if r := apply(s, wrong); r.Kind != state.NotFound || !s.Principals["p"].Revoked.IsZero() {
			t.Errorf("%v: %+v", wrong, r)
		}
	}
	must(t, s, revoke(state.KindFramework, "p"))
	if r := must(t, s, revoke(state.KindFramework, "p")); !r.Duplicate {
		t.Errorf("twice: %+v", r)
	}
	if r := apply(s, put(principal("p", state.KindFramework, "a"))); r.Kind != state.Conflict {
		t.Errorf("the name again: %+v", r)
	}
	// An operator from before there were records can still be banned.
	must(t, s, revoke(state.KindOperator, "admin"))
	if _, banned := s.Revoked["spiffe://test/operator/admin"]; !banned {
		t.Error("the operator without a record is not banned")
	}
}

// The oldest that has ended makes room; one that holds never does, and neither
// does one whose certificate outlives it.
func TestPrincipalsAreBounded(t *testing.T) {
	s := booted(t)
	must(t, s, state.Command{PutToken: &state.Token{Hash: "f", Kind: state.KindReader, Uses: 1, Expires: t0.Add(time.Hour)}})
	must(t, s, state.Command{Admit: &state.Admit{Hash: "f", Kind: state.KindReader, Name: "certified"}})
	must(t, s, state.Command{Certified: &state.Certified{Kind: state.KindReader, ID: "certified", NotAfter: t0.Add(48 * time.Hour)}})
	must(t, s, revoke(state.KindReader, "certified"))
	for i := len(s.Principals); i < state.MaxPrincipals; i++ {
		must(t, s, put(principal(fmt.Sprintf("p%d", i), state.KindReader)))
	}
	if r := apply(s, put(principal("one-more", state.KindReader))); r.Kind != state.Conflict || len(s.Principals) != state.MaxPrincipals {
		t.Fatalf("beyond the limit: %+v, %d", r, len(s.Principals))
	}
	c := revoke(state.KindReader, "p7")
	c.Time = t0.Add(time.Minute)
	must(t, s, c)
	c = revoke(state.KindReader, "p5")
	c.Time = t0.Add(2 * time.Minute)
	must(t, s, c)
	must(t, s, put(principal("one-more", state.KindReader)))
	if s.Principals["p7"] != nil || s.Principals["p5"] == nil || s.Principals["certified"] == nil || len(s.Principals) != state.MaxPrincipals {
		t.Fatalf("another than the oldest was forgotten")
	}
	if _, banned := s.Revoked["spiffe://test/reader/p7"]; banned {
		t.Error("the ban outlives what it bans")
	}
}
