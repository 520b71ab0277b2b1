package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport/fleet"
)

// doors are both ways into one replica: its socket and its TLS port.
type doors struct {
	*apitest.Fleet
	local, remote http.Handler
	tokens        map[string]string
}

func newDoors(t *testing.T, log *slog.Logger) *doors {
	t.Helper()
	f := apitest.New()
	o := f.Options()
	o.Log = log
	d := &doors{Fleet: f, local: api.Handler(f, o), tokens: map[string]string{}}
	o.Local = false
	d.remote = api.Handler(f, o)
	return d
}

func (d *doors) principal(t *testing.T, id, kind string, roles ...string) {
	t.Helper()
	doc, err := json.Marshal(client.CreatePrincipal{ID: id, Kind: kind, Roles: roles, TTL: client.Duration(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	d.local.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/principals", bytes.NewReader(doc)))
	var p client.Principal
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusCreated || p.Token == "" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	d.tokens[id] = p.Token
}

// ask sends a request over TLS with a principal's token; with none when id is
// empty.
func (d *doors) ask(id, method, path, doc string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(doc))
	r.TLS = &tls.ConnectionState{}
	if id != "" {
		r.Header.Set("Authorization", "Bearer "+d.tokens[id])
	}
	w := httptest.NewRecorder()
	d.remote.ServeHTTP(w, r)
	return w
}

func (d *doors) submit(t *testing.T, role, name string) {
	t.Helper()
	w := httptest.NewRecorder()
	doc := fmt.Sprintf(`{"image":"docker.io/library/busybox:1.36","cpus":1,"role":%q,"name":%q,"command":["wait"]}`, role, name)
	if d.local.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/tasks", strings.NewReader(doc))); w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

const (
	tokenDoc     = `{"kind":"agent"}`
	principalDoc = `{"id":"new","kind":"reader"}`
	reserveDoc   = `{"role":"a","resources":{"cpus":1}}`
)

func taskIn(role string) string {
	return fmt.Sprintf(`{"image":"docker.io/library/busybox:1.36","cpus":1,"role":%q}`, role)
}

// Every route, for every kind of principal. The columns are nobody, an
// operator of all roles, one limited to role a, a reader of everything, one of
// role a, a framework in role a. Task a-1 is in role a/x, b-1 in role b; so are
// the outside frameworks fa and fb.
func TestWhoMayDoWhat(t *testing.T) {
	for _, tt := range []struct {
		method, path, doc string
		want              [6]int
	}{
		{"GET", "/healthz", "", [6]int{200, 200, 200, 200, 200, 200}},
		{"GET", "/v1/version", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/replicas", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/whoami", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/nowhere", "", [6]int{401, 404, 404, 404, 404, 404}},
		{"GET", "/v1/tasks", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/tasks?role=a", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/tasks?role=b", "", [6]int{401, 200, 403, 200, 403, 403}},
		{"POST", "/v1/tasks", taskIn("a"), [6]int{401, 201, 201, 403, 403, 201}},
		{"POST", "/v1/tasks", taskIn("a/y"), [6]int{401, 201, 201, 403, 403, 201}},
		{"POST", "/v1/tasks", taskIn("b"), [6]int{401, 201, 403, 403, 403, 403}},
		{"POST", "/v1/tasks", taskIn(""), [6]int{401, 201, 403, 403, 403, 403}},
		{"GET", "/v1/tasks/a-1", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/tasks/b-1", "", [6]int{401, 200, 403, 200, 403, 403}},
		{"GET", "/v1/tasks/b-1/why", "", [6]int{401, 200, 403, 200, 403, 403}},
		{"GET", "/v1/tasks/b-1/logs", "", [6]int{401, 200, 403, 200, 403, 403}},
		{"POST", "/v1/tasks/a-1/stop", "", [6]int{401, 200, 200, 403, 403, 200}},
		{"POST", "/v1/tasks/b-1/stop", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"GET", "/v1/agents", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"GET", "/v1/agents/a1", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"POST", "/v1/agents/a1/revoke", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/drain", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/deactivate", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/reactivate", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/gone", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/settle", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"GET", "/v1/replicas?from=leader", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/replicas?from=r1", "", [6]int{401, 400, 400, 400, 400, 400}},
		{"POST", "/v1/replicas/r3/remove", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"GET", "/v1/snapshot", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/snapshot", "no snapshot", [6]int{401, 422, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/reserve", reserveDoc, [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/agents/a1/unreserve", reserveDoc, [6]int{401, 409, 403, 403, 403, 403}},
		{"GET", "/v1/maintenance", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"POST", "/v1/maintenance", `{"agents":["a1"],"start":"2026-03-01T00:00:00Z"}`, [6]int{401, 200, 403, 403, 403, 403}},
		{"POST", "/v1/maintenance/clear", `{"agents":["a1"]}`, [6]int{401, 200, 403, 403, 403, 403}},
		{"GET", "/v1/roles", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"PUT", "/v1/roles/a/x/weight", `{"weight":2}`, [6]int{401, 200, 403, 403, 403, 403}},
		{"PUT", "/v1/quota", `{"quotas":[{"role":"a","limit":{"cpus":1}}]}`, [6]int{401, 200, 403, 403, 403, 403}},
		{"DELETE", "/v1/quota/a/x", "", [6]int{401, 404, 403, 403, 403, 403}},
		{"GET", "/v1/frameworks", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"GET", "/v1/frameworks/fa", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"GET", "/v1/frameworks/fb", "", [6]int{401, 200, 404, 200, 404, 403}},
		{"GET", "/v1/frameworks/fa/why", "", [6]int{401, 200, 200, 200, 200, 200}},
		{"GET", "/v1/frameworks/fb/why", "", [6]int{401, 200, 404, 200, 404, 404}},
		{"POST", "/v1/frameworks/fa/teardown", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"GET", "/v1/offers", "", [6]int{401, 200, 200, 200, 200, 403}},
		{"GET", "/v1/tokens", "", [6]int{401, 200, 403, 200, 403, 403}},
		{"POST", "/v1/tokens", tokenDoc, [6]int{401, 201, 403, 403, 403, 403}},
		{"DELETE", "/v1/tokens/0123456789", "", [6]int{401, 404, 403, 403, 403, 403}},
		{"GET", "/v1/principals", "", [6]int{401, 200, 403, 200, 403, 403}},
		{"POST", "/v1/principals", principalDoc, [6]int{401, 201, 403, 403, 403, 403}},
		{"POST", "/v1/principals/board/revoke", "", [6]int{401, 200, 403, 403, 403, 403}},
		{"GET", "/v1/audit", "", [6]int{401, 200, 403, 200, 403, 403}},
	} {
		for i, id := range []string{"", "ops", "ops-a", "board", "board-a", "m"} {
			d := newDoors(t, nil)
			d.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
			d.principal(t, "ops", "operator")
			d.principal(t, "ops-a", "operator", "a")
			d.principal(t, "board", "reader")
			d.principal(t, "board-a", "reader", "a")
			d.principal(t, "m", "framework", "a")
			d.submit(t, "a/x", "a")
			d.submit(t, "b", "b")
			d.Register(apitest.Info("fa", "a/x"))
			d.Register(apitest.Info("fb", "b"))
			before := d.commands()
			w := d.ask(id, tt.method, tt.path, tt.doc)
			if w.Code != tt.want[i] {
				t.Errorf("%s %s by %q: %d %s, want %d", tt.method, tt.path, id, w.Code, w.Body, tt.want[i])
				continue
			}
			if w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden {
				continue
			}
			var p client.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Detail == "" || p.Next == "" {
				t.Errorf("%s %s by %q: %s says not why, or what to do", tt.method, tt.path, id, w.Body)
			}
			if asks := w.Header().Values("WWW-Authenticate"); (w.Code == http.StatusUnauthorized) != (len(asks) > 0) {
				t.Errorf("%s %s by %q: %d asks for %v", tt.method, tt.path, id, w.Code, asks)
			}
			if d.commands() != before {
				t.Errorf("%s %s by %q: a refused request was proposed", tt.method, tt.path, id)
			}
		}
	}
}

// commands counts what was asked of the state.
func (d *doors) commands() (n uint64) {
	d.Stale(func(st *state.State) { n = st.Audit.Seq })
	return n
}

func TestListsShowOnlyOwnRoles(t *testing.T) {
	d := newDoors(t, nil)
	d.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	d.principal(t, "m", "framework", "a")
	d.principal(t, "board-a", "reader", "a")
	d.submit(t, "a/x", "a")
	d.submit(t, "b", "b")
	d.submit(t, "*", "c")
	var tasks client.TaskList
	if err := json.Unmarshal(d.ask("m", "GET", "/v1/tasks?all=true", "").Body.Bytes(), &tasks); err != nil || len(tasks.Tasks) != 1 || tasks.Tasks[0].ID != "a-1" {
		t.Errorf("tasks: %+v, %v", tasks, err)
	}
	var agents client.AgentList
	if err := json.Unmarshal(d.ask("board-a", "GET", "/v1/agents", "").Body.Bytes(), &agents); err != nil || len(agents.Agents) != 1 || fmt.Sprint(agents.Agents[0].Tasks) != "[a-1]" {
		t.Errorf("agents: %+v, %v", agents, err)
	}
	d.Subscribe("outsider") // its offers are of role *
	var offers client.OfferList
	if err := json.Unmarshal(d.ask("board-a", "GET", "/v1/offers", "").Body.Bytes(), &offers); err != nil || len(offers.Offers) != 0 {
		t.Errorf("offers: %+v, %v", offers, err)
	}
	d.Register(apitest.Info("fa", "a/x"))
	d.Register(apitest.Info("fb", "b"))
	var roles client.RoleList
	if unmarshal(t, d.ask("board-a", "GET", "/v1/roles", "").Body.Bytes(), &roles); fmt.Sprint(names(roles.Roles)) != "[a a/x]" {
		t.Errorf("roles: %+v", roles)
	}
	var frameworks client.FrameworkList
	unmarshal(t, d.ask("board-a", "GET", "/v1/frameworks", "").Body.Bytes(), &frameworks)
	var known []string
	for _, x := range frameworks.Frameworks {
		known = append(known, fmt.Sprint(x.ID, x.Tasks))
	}
	if got := strings.Join(known, " "); got != "famap[] outsidermap[] runmap[TASK_RUNNING:1]" {
		t.Errorf("frameworks: %s", got)
	}
	w := httptest.NewRecorder()
	d.local.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/maintenance", strings.NewReader(`{"agents":["a1"],"start":"2026-03-01T00:00:00Z"}`)))
	if unmarshal(t, d.ask("board-a", "GET", "/v1/offers", "").Body.Bytes(), &offers); len(offers.Inverse) != 0 {
		t.Errorf("inverse offers: %+v", offers)
	}
}

func TestPrincipals(t *testing.T) {
	d := newDoors(t, nil)
	c := serve(t, d.local)
	made, err := c.CreatePrincipal(t.Context(), client.CreatePrincipal{ID: "m", Kind: "framework", Roles: []string{"b", "a", "b"}, TTL: client.Duration(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(made.Token, "m.") || len(made.Servers) != 2 || made.Pin == "" || fmt.Sprint(made.Roles) != "[a b]" || !made.Expires.Equal(apitest.Epoch.Add(time.Hour)) {
		t.Errorf("made %+v", made)
	}
	d.Stale(func(st *state.State) {
		if h := st.Principals["m"].SecretHash; h != pki.HashSecret(made.Token) || strings.Contains(h, made.Token) {
			t.Errorf("the state holds %q", h)
		}
	})
	d.tokens["m"] = made.Token
	d.Advance(59 * time.Minute)
	if w := d.ask("m", "GET", "/v1/tasks", ""); w.Code != 200 {
		t.Errorf("before it expires: %d %s", w.Code, w.Body)
	}
	d.Advance(time.Minute)
	if w := d.ask("m", "GET", "/v1/tasks", ""); w.Code != 401 || !strings.Contains(w.Body.String(), "the token of framework/m expired at 2026-01-02T16:04:05Z") {
		t.Errorf("after it expired: %d %s", w.Code, w.Body)
	}
	d.principal(t, "n", "reader")
	p, err := c.RevokePrincipal(t.Context(), "n")
	if err != nil || p.State != client.PrincipalRevoked {
		t.Errorf("revoked: %+v, %v", p, err)
	}
	if w := d.ask("n", "GET", "/v1/tasks", ""); w.Code != 401 || !strings.Contains(w.Body.String(), "reader/n was revoked at") {
		t.Errorf("after the revocation: %d %s", w.Code, w.Body)
	}
	list, err := c.Principals(t.Context())
	if err != nil || len(list) != 2 || list[0].State != client.PrincipalExpired || list[1].State != client.PrincipalRevoked || list[0].Token != "" {
		t.Errorf("listed %+v, %v", list, err)
	}
	for _, bad := range []client.CreatePrincipal{
		{ID: "x", Kind: "framework"},
		{ID: "x", Kind: "agent"},
		{ID: "x"},
		{Kind: "reader"},
		{ID: "x", Kind: "reader", Roles: []string{"A"}},
		{ID: "x", Kind: "reader", Roles: []string{"a"}, AllRoles: true},
		{ID: "x", Kind: "reader", TTL: -1},
		{ID: "x", Kind: "reader", TTL: client.Duration(367 * 24 * time.Hour)},
	} {
		if p := problem(t, second(c.CreatePrincipal(t.Context(), bad))); p.Code != client.CodeInvalid {
			t.Errorf("%+v: %+v", bad, p)
		}
	}
	if p := problem(t, second(c.CreatePrincipal(t.Context(), client.CreatePrincipal{ID: "n", Kind: "reader"}))); p.Code != client.CodeConflict {
		t.Errorf("a revoked name again: %+v", p)
	}
	if p := problem(t, second(c.RevokePrincipal(t.Context(), "nobody"))); p.Code != client.CodeNotFound || p.Next != "list them with: tender principal list" {
		t.Errorf("revoke nobody: %+v", p)
	}
}

func TestAuditOfTheAPI(t *testing.T) {
	d := newDoors(t, nil)
	d.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	d.principal(t, "m", "framework", "a")
	d.ask("m", "POST", "/v1/tasks", taskIn("a"))
	d.ask("m", "POST", "/v1/tasks/busybox-1/stop", "")
	d.ask("m", "POST", "/v1/tasks", taskIn("b")) // refused before Raft
	c := serve(t, d.local)
	if _, err := c.RevokeAgent(t.Context(), "nobody"); err == nil {
		t.Error("revoked nobody")
	}
	lines := func(f client.AuditFilter) (out []string, omitted int) {
		list, err := c.Audit(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Entries {
			out = append(out, strings.Join([]string{e.By, e.Action, e.Target, e.Refused}, " "))
		}
		return out, list.Omitted
	}
	got, _ := lines(client.AuditFilter{})
	want := []string{
		"local/r1 principal.create framework/m ", "framework/m task.submit busybox-1 ", "framework/m task.stop busybox-1 ",
		"local/r1 agent.revoke agent/nobody no agent nobody; list them with: tender agents",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q", got)
	}
	for by, n := range map[string]int{"framework": 2, "framework/m": 2, "local": 2, "framework/": 0, "fram": 0, "m": 0} {
		if got, _ := lines(client.AuditFilter{By: by}); len(got) != n {
			t.Errorf("by %s: %q", by, got)
		}
	}
	if got, omitted := lines(client.AuditFilter{Limit: 1}); len(got) != 1 || got[0] != want[3] || omitted != 3 {
		t.Errorf("the last: %q, %d omitted", got, omitted)
	}
}

// A follower does not judge a token that it may not know yet, and tells nothing
// to who shows none.
func TestFollowerSendsTokensToTheLeader(t *testing.T) {
	d := newDoors(t, nil)
	d.principal(t, "m", "framework", "a")
	d.tokens["fresh"] = "fresh.secret"
	d.SetStatus(api.Status{ID: "r1", Leader: "r2", LeaderAddr: "r2:7443", Replicas: []registrar.Replica{}})
	for id, want := range map[string]int{"m": 307, "fresh": 307, "": 401} {
		if w := d.ask(id, "GET", "/v1/tasks", ""); w.Code != want || want == 401 && w.Header().Get("Location") != "" {
			t.Errorf("%q: %d %v", id, w.Code, w.Header())
		}
	}
}

// Refused requests are logged, with the reason and without the secret, but not
// each of them when there are many.
func TestRefusalsInTheLogAreBounded(t *testing.T) {
	var out bytes.Buffer
	d := newDoors(t, slog.New(slog.NewTextHandler(&out, nil)))
	d.tokens["x"] = "x.secret"
	for range 1000 {
		d.ask("x", "POST", "/v1/tasks", taskIn("a"))
	}
	lines := strings.Count(out.String(), "\n")
	if lines == 0 || lines > 60 || !strings.Contains(out.String(), "this token is not known") || strings.Contains(out.String(), "secret") {
		t.Errorf("%d lines: %.300s", lines, out.String())
	}
	d.Advance(time.Second)
	out.Reset()
	d.ask("x", "POST", "/v1/tasks", taskIn("a"))
	if !strings.Contains(out.String(), "not_logged=950") {
		t.Errorf("a second later: %s", out.String())
	}
}

// A connection without a certificate reaches the HTTP API, over either version
// of it, and gets 401 there until it shows a token.
func TestConnectionWithoutCertificate(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	d := newDoors(t, nil)
	d.principal(t, "m", "framework", "a")
	srv := httptest.NewUnstartedServer(d.remote)
	allow := func(pki.Identity, *x509.Certificate, string) error { return nil }
	srv.Listener = tls.NewListener(srv.Listener, pki.ServerTLS(pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1")), allow, pki.ALPNHTTP2, pki.ALPNHTTP1))
	srv.Start()
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	for _, two := range []bool{false, true} {
		cfg := pki.PinnedTLS(pki.Pin(ca.Root), "")
		hc := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: two}}
		if !two {
			cfg.NextProtos = []string{pki.ALPNHTTP1}
		}
		get := func(path, token string) (status int) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := hc.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if (resp.ProtoMajor == 2) != two {
				t.Errorf("it spoke %s", resp.Proto)
			}
			return resp.StatusCode
		}
		for _, tt := range []struct {
			path, token string
			want        int
		}{
			{"/healthz", "", 200}, {"/v1/tasks", "", 401}, {"/v1/version", "", 401}, {"/v1/tasks", d.tokens["m"], 200}, {"/v1/agents", d.tokens["m"], 403},
		} {
			if got := get(tt.path, tt.token); got != tt.want {
				t.Errorf("HTTP/2 %t: %s with %.2q: %d", two, tt.path, tt.token, got)
			}
		}
		hc.CloseIdleConnections()
	}
	// Nothing else is spoken without a certificate.
	for _, proto := range []string{"agent/1", "raft/1", ""} {
		cfg := pki.PinnedTLS(pki.Pin(ca.Root), proto)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // the client is done before the server has judged it
			conn.Close()
		}
		cancel()
		if err == nil || ctx.Err() == context.DeadlineExceeded {
			t.Errorf("%q without a certificate: %v", proto, err)
		}
	}
}

// Who follows a log and is revoked meanwhile is told so, and gets no more.
func TestStreamEndsWithTheRevocation(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	d := newDoors(t, nil)
	d.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	d.principal(t, "m", "framework", "a")
	d.submit(t, "a", "a")
	srv := httptest.NewUnstartedServer(d.remote)
	allow := func(pki.Identity, *x509.Certificate, string) error { return nil }
	srv.Listener = tls.NewListener(srv.Listener, pki.ServerTLS(pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1")), allow, pki.ALPNHTTP1))
	srv.Start()
	defer srv.Close()
	c, err := client.New(client.Config{Servers: []string{srv.Listener.Addr().String()}, Token: d.tokens["m"], Pin: pki.Pin(ca.Root)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d.Print("a-1", false, "first\n")
	local := serve(t, d.local)
	err = c.Logs(t.Context(), "a-1", client.LogOptions{Follow: true, Tail: -1, Stdout: true}, func(_ bool, data []byte) error {
		_, err := local.RevokePrincipal(t.Context(), "m")
		return err
	})
	if p := problem(t, err); p.Code != client.CodeNoIdentity || !strings.Contains(p.Detail, "framework/m was revoked at") {
		t.Errorf("it ended with %+v", p)
	}
}

// askLocal sends a request over the replica's socket.
func (d *doors) askLocal(method, path, doc string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	d.local.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(doc)))
	return w
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Error(err)
	}
}
