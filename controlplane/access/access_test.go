package access_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport/fleet"
)

const domain = "fleet.example"

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a state with principals, by name: m and ended are frameworks by
// token, gone a revoked one, board a reader of one role, cert a framework by
// certificate.
func world(t *testing.T) (st *state.State, tokens map[string]string) {
	t.Helper()
	st, tokens = state.New(), map[string]string{}
	do := func(at time.Time, c state.Command) {
		t.Helper()
		c.Time = at
		if err := st.Apply(1, c).Err(); err != nil {
			t.Fatal(err)
		}
	}
	put := func(id string, kind state.IdentityKind, ttl time.Duration, roles ...fleet.Role) {
		t.Helper()
		tokens[id] = access.Token(id, pki.NewSecret())
		do(now.Add(-time.Hour), state.Command{PutPrincipal: &state.Principal{
			ID: id, Kind: kind, Roles: roles, SecretHash: pki.HashSecret(tokens[id]), Expires: now.Add(ttl),
		}})
	}
	do(now, state.Command{Bootstrap: &state.Bootstrap{TrustDomain: domain}})
	put("m", state.KindFramework, time.Hour, "a", "b/c")
	put("ended", state.KindFramework, 0, "a")
	put("gone", state.KindFramework, time.Hour, "a")
	put("board", state.KindReader, time.Hour, "a")
	put("ops", state.KindOperator, time.Hour)
	do(now, state.Command{Revoke: &state.Revoke{URI: "spiffe://" + domain + "/framework/gone", Kind: state.KindFramework, ID: "gone"}})
	do(now, state.Command{PutToken: &state.Token{Hash: "h", Kind: state.KindFramework, Roles: []fleet.Role{"a"}, Uses: 2, Expires: now.Add(time.Hour)}})
	for _, id := range []string{"cert", "cert-gone"} {
		do(now, state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindFramework, Name: id, KeyHash: id}})
	}
	do(now, state.Command{Revoke: &state.Revoke{URI: "spiffe://" + domain + "/framework/cert-gone", Kind: state.KindFramework, ID: "cert-gone"}})
	return st, tokens
}

// request is one that shows the certificate of an identity, if any, and
// headers, given as name and value in turn.
func request(t *testing.T, ca *pkitest.CA, kind pki.Kind, id string, headers ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "https://r1/v1/tasks", nil)
	r.TLS = &tls.ConnectionState{}
	if id != "" {
		leaf := ca.Credential(t, kind, id).Leaf()
		r.TLS.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func basic(user, password string) string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

func TestWhoAsks(t *testing.T) {
	st, tokens := world(t)
	ca := pkitest.New(t, domain)
	const auth, onBehalf = "Authorization", access.HeaderPrincipal
	const none = pki.Kind("")
	mistyped := tokens["m"][:len(tokens["m"])-1] + "_"
	for _, tt := range []struct {
		name    string
		kind    pki.Kind
		id      string
		headers []string
		want    string // who, empty for a refusal
		says    string
		unknown bool
	}{
		{"a token", none, "", []string{auth, "Bearer " + tokens["m"]}, "framework/m", "", false},
		{"the scheme in small letters", none, "", []string{auth, "bearer  " + tokens["m"]}, "framework/m", "", false},
		{"a reader's", none, "", []string{auth, "Bearer " + tokens["board"]}, "reader/board", "", false},
		{"as Mesos's frameworks do", none, "", []string{auth, basic("m", tokens["m"])}, "framework/m", "", false},
		{"with another's name", none, "", []string{auth, basic("ops", tokens["m"])}, "", `the token is not that of "ops"`, true},
		{"with no name", none, "", []string{auth, basic("", tokens["m"])}, "", "this token is not known", true},
		{"nothing", none, "", nil, "", "neither a client certificate nor a token", true},
		{"mistyped", none, "", []string{auth, "Bearer " + mistyped}, "", "this token is not known", true},
		{"no such name", none, "", []string{auth, "Bearer x." + pki.NewSecret()}, "", "this token is not known", true},
		{"a name and no secret", none, "", []string{auth, "Bearer m."}, "", "this token is not known", true},
		{"the hash in place of the secret", none, "", []string{auth, "Bearer m." + st.Principals["m"].SecretHash}, "", "this token is not known", true},
		{"a principal without a token", none, "", []string{auth, "Bearer cert."}, "", "this token is not known", true},
		{"empty", none, "", []string{auth, "Bearer "}, "", "this token is not known", true},
		{"huge", none, "", []string{auth, "Bearer " + strings.Repeat("x", 5000)}, "", "this token is not known", true},
		{"another scheme", none, "", []string{auth, "Negotiate x"}, "", "write: Authorization: Bearer TOKEN", true},
		{"two", none, "", []string{auth, "Bearer " + tokens["m"], auth, "Bearer " + tokens["ops"]}, "", "2 Authorization headers", true},
		{"expired", none, "", []string{auth, "Bearer " + tokens["ended"]}, "", "the token of framework/ended expired at 2026-01-02T03:04:05Z", true},
		{"revoked", none, "", []string{auth, "Bearer " + tokens["gone"]}, "", "framework/gone was revoked at 2026-01-02T03:04:05Z", true},

		{"a certificate", pki.KindFramework, "cert", nil, "framework/cert", "", false},
		{"an operator's from before there were records", pki.KindOperator, "admin", nil, "operator/admin", "", false},
		{"revoked certificate", pki.KindFramework, "cert-gone", nil, "", "framework/cert-gone is revoked", true},
		{"a framework nobody admitted", pki.KindFramework, "x", nil, "", "no record of framework/x", true},
		{"a name of another kind", pki.KindReader, "cert", nil, "", "no record of reader/cert", true},
		{"an operator with a framework's name", pki.KindOperator, "m", nil, "", "no record of operator/m", true},
		{"an agent", pki.KindAgent, "a1", nil, "", "agent/a1 may not use the API", false},
		{"a certificate and a token", pki.KindFramework, "cert", []string{auth, "Bearer " + tokens["ops"]}, "", "show one of them", true},

		{"a replica on behalf of its socket", pki.KindReplica, "r2", []string{onBehalf, "local/r2"}, "local/r2", "", false},
		{"a replica on behalf of an operator", pki.KindReplica, "r2", []string{onBehalf, "operator/ops"}, "operator/ops", "", false},
		{"a replica on behalf of a framework", pki.KindReplica, "r2", []string{onBehalf, "framework/m"}, "framework/m", "", false},
		{"of another replica's socket", pki.KindReplica, "r2", []string{onBehalf, "local/r1"}, "", `replica/r2 cannot ask on behalf of "local/r1"`, false},
		{"of itself", pki.KindReplica, "r2", []string{onBehalf, "replica/r2"}, "", "cannot ask on behalf", false},
		{"of one who was revoked", pki.KindReplica, "r2", []string{onBehalf, "framework/gone"}, "", "framework/gone is revoked", true},
		{"of nobody", pki.KindReplica, "r2", nil, "", "does not say whose", false},
		{"a framework that says it is an operator", pki.KindFramework, "cert", []string{onBehalf, "operator/ops"}, "framework/cert", "", false},
		{"a framework that says it is a socket", pki.KindFramework, "cert", []string{onBehalf, "local/cert"}, "framework/cert", "", false},
		{"a token that says it is an operator", none, "", []string{auth, "Bearer " + tokens["m"], onBehalf, "operator/ops"}, "framework/m", "", false},
		{"nothing that says it is a socket", none, "", []string{onBehalf, "local/r1"}, "", "neither", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := access.Gate{Replica: "r1", State: func(fn func(*state.State)) { fn(st) }, Now: func() time.Time { return now }}
			p, err := g.Who(request(t, ca, tt.kind, tt.id, tt.headers...))
			if p.String() != tt.want {
				t.Errorf("it is %q (%v), want %q", p, err, tt.want)
			}
			if tt.want != "" {
				return
			}
			var no *access.Refusal
			if !errors.As(err, &no) || !strings.Contains(no.Text, tt.says) || no.Unknown != tt.unknown {
				t.Errorf("refused with %+v", err)
			}
			for _, token := range tokens {
				if _, secret, _ := strings.Cut(token, "."); strings.Contains(err.Error(), secret) {
					t.Errorf("%q tells a secret", err)
				}
			}
		})
	}
	g := access.Gate{Replica: "r1", Local: true}
	if p, err := g.Who(request(t, ca, none, "", onBehalf, "framework/m")); err != nil || p.String() != "local/r1" || !p.MayUse("x") {
		t.Errorf("over the socket: %v, %v", p, err)
	}
}

// A connection that was opened under a root does not outlive it, but a replica's.
func TestACertificateOfARootThatIsTrustedNoMore(t *testing.T) {
	st, _ := world(t)
	ca, next := pkitest.New(t, domain), pkitest.New(t, domain)
	bundle := ca.Bundle()
	g := access.Gate{Replica: "r1", State: func(fn func(*state.State)) { fn(st) }, Now: func() time.Time { return now }, Bundle: func() *pki.Bundle { return bundle }}
	people := request(t, ca, pki.KindFramework, "cert")
	replica := request(t, ca, pki.KindReplica, "r2", access.HeaderPrincipal, "framework/cert")
	both := request(t, ca, pki.KindFramework, "cert")
	for _, r := range []*http.Request{people, replica, both} {
		r.TLS.VerifiedChains[0] = append(r.TLS.VerifiedChains[0], ca.Root)
	}
	both.TLS.VerifiedChains = append(both.TLS.VerifiedChains, []*x509.Certificate{both.TLS.VerifiedChains[0][0], next.Root})
	for name, tt := range map[string]struct {
		r     *http.Request
		after bool
	}{"of the old root": {people, false}, "a replica's": {replica, true}, "of both": {both, true}} {
		bundle = ca.Bundle()
		if _, err := g.Who(tt.r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		bundle = next.Bundle()
		_, err := g.Who(tt.r)
		if refused, ok := errors.AsType[*access.Refusal](err); (err == nil) != tt.after || err != nil && (!ok || !refused.Unknown || !strings.Contains(err.Error(), "trusted no more")) {
			t.Errorf("%s, afterwards: %v", name, err)
		}
	}
}

func TestRights(t *testing.T) {
	limited := []fleet.Role{"a"}
	ask := []access.Right{access.Look, access.SeeTasks, access.ActOnTasks, access.SeeFleet, access.SeeRecords, access.Administer}
	for _, tt := range []struct {
		who  access.Principal
		want string // y or n for each of ask
	}{
		{access.Local("r1"), "yyyyyy"},
		{access.Principal{Kind: state.KindOperator, ID: "o", AllRoles: true}, "yyyyyy"},
		{access.Principal{Kind: state.KindOperator, ID: "o", Roles: limited}, "yyyynn"},
		{access.Principal{Kind: state.KindReader, ID: "r", AllRoles: true}, "yynyyn"},
		{access.Principal{Kind: state.KindReader, ID: "r", Roles: limited}, "yynynn"},
		{access.Principal{Kind: state.KindFramework, ID: "f", Roles: limited}, "yyynnn"},
		{access.Principal{Kind: state.KindFramework, ID: "f", AllRoles: true}, "yyynnn"},
		{access.Principal{}, "nnnnnn"},
	} {
		got := ""
		for _, right := range ask {
			err := tt.who.May(right)
			var no *access.Refusal
			switch {
			case err == nil:
				got += "y"
			case errors.As(err, &no) && no.Text != "" && (no.Next != "" || no.Unknown):
				got += "n"
			default:
				t.Errorf("%s: %v", tt.who, err)
			}
		}
		if got != tt.want {
			t.Errorf("%s of %v: %s, want %s", tt.who, tt.who.Roles, got, tt.want)
		}
	}
}

func TestRoles(t *testing.T) {
	f := access.Principal{Kind: state.KindFramework, ID: "f", Roles: []fleet.Role{"a", "b/c"}}
	star := access.Principal{Kind: state.KindFramework, ID: "f", Roles: []fleet.Role{fleet.DefaultRole}}
	all := access.Principal{Kind: state.KindFramework, ID: "f", AllRoles: true}
	for role, want := range map[fleet.Role]string{
		"a": "yny", "a/b": "yny", "ab": "nny", "b": "nny", "b/c": "yny", "b/c/d": "yny", "b/d": "nny", "*": "nyy",
	} {
		got := ""
		for _, p := range []access.Principal{f, star, all} {
			if (p.CheckRole(role) == nil) != p.MayUse(role) {
				t.Errorf("%s: two answers", role)
			}
			if p.MayUse(role) {
				got += "y"
			} else {
				got += "n"
			}
		}
		if got != want {
			t.Errorf("role %s: %s, want %s", role, got, want)
		}
	}
	if err := f.CheckRole("b"); err == nil || err.Error() != "framework/f may not use role b; it was given a, b/c" {
		t.Errorf("the refusal says %v", err)
	}
	if (access.Principal{}).MayUse("*") {
		t.Error("nobody has a role")
	}
}

func TestContextCarriesWhoAsks(t *testing.T) {
	if p := access.From(t.Context()); p.String() != "" || p.MayUse("a") || p.May(access.Look) == nil {
		t.Errorf("nobody is %v", p)
	}
	if p := access.From(access.With(t.Context(), access.Local("r1"))); p.String() != "local/r1" {
		t.Errorf("got %v", p)
	}
}

// What a follower passes on does not take along what the asker showed or said.
func TestPassOn(t *testing.T) {
	r := request(t, nil, "", "", "Authorization", "Bearer x", access.HeaderPrincipal, "operator/ops")
	access.PassOn(r, access.Local("r2"))
	if r.Header.Get("Authorization") != "" || len(r.Header.Values(access.HeaderPrincipal)) != 1 || r.Header.Get(access.HeaderPrincipal) != "local/r2" {
		t.Errorf("it says %v", r.Header)
	}
}

// An answer that streams ends when its asker is revoked, with the reason.
func TestWatchEndsWithTheRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, tokens := world(t)
		var mu sync.Mutex
		g := access.Gate{Replica: "r1", Now: func() time.Time { return now }, State: func(fn func(*state.State)) {
			mu.Lock()
			defer mu.Unlock()
			fn(st)
		}}
		r := request(t, nil, "", "", "Authorization", "Bearer "+tokens["m"])
		ctx, stop := g.Watch(t.Context(), r)
		defer stop()
		time.Sleep(time.Minute)
		if ctx.Err() != nil {
			t.Fatalf("ended while it holds: %v", context.Cause(ctx))
		}
		mu.Lock()
		st.Apply(1, state.Command{Time: now, Revoke: &state.Revoke{URI: "spiffe://" + domain + "/framework/m", Kind: state.KindFramework, ID: "m"}})
		mu.Unlock()
		time.Sleep(2 * time.Second)
		if no, ok := errors.AsType[*access.Refusal](context.Cause(ctx)); !ok || !strings.Contains(no.Text, "framework/m was revoked") {
			t.Errorf("after the revocation: %v", context.Cause(ctx))
		}
	})
}

// FuzzShow: whatever a request shows is judged without a panic, and nobody gets
// in who has no token.
func FuzzShow(f *testing.F) {
	f.Add("Bearer m.x", "local/r1")
	f.Add("Basic bTp4", "operator/ops")
	f.Add("Basic", "/")
	f.Fuzz(func(t *testing.T, auth, onBehalf string) {
		st, tokens := world(t)
		for _, token := range tokens {
			if strings.Contains(auth, token) {
				return // who has the token gets in
			}
		}
		g := access.Gate{Replica: "r1", State: func(fn func(*state.State)) { fn(st) }, Now: func() time.Time { return now }}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Authorization": {auth}, access.HeaderPrincipal: {onBehalf}}
		if p, err := g.Who(r); err == nil {
			t.Errorf("%q and %q got in as %s", auth, onBehalf, p)
		}
	})
}
