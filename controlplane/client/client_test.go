package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport/fleet"
)

// operators lets operators and replicas in, as a replica's listener does.
func operators(id pki.Identity, _ *x509.Certificate, _ string) error {
	if id.Kind == pki.KindOperator || id.Kind == pki.KindReplica {
		return nil
	}
	return fmt.Errorf("%s may not use the API", id.Short())
}

func serveOn(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	srv := api.NewServer(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// serveTLS serves h as replica id and returns its address.
func serveTLS(t *testing.T, ca *pkitest.CA, id string, allow pki.Authorize, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := pki.ServerTLS(pki.NewHolder(ca.Credential(t, pki.KindReplica, id)), allow, "http/1.1")
	serveOn(t, tls.NewListener(l, cfg), h)
	return l.Addr().String()
}

func serveUnix(t *testing.T, h http.Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, h)
	return socket
}

func newClient(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// remote are a fleet's options for requests over TLS.
func remote(f *apitest.Fleet) api.Options {
	o := f.Options()
	o.Local = false
	return o
}

// follower is a fleet whose replica r2 follows r1 at addr.
func follower(addr string) *apitest.Fleet {
	f := apitest.New()
	f.SetStatus(api.Status{ID: "r2", Leader: "r1", LeaderAddr: addr})
	return f
}

var task = client.Submit{Image: "docker.io/library/busybox:1.36", CPUs: "1"}

// audit is what the fleet was asked to do, by whom.
func audit(t *testing.T, f *apitest.Fleet) (log []state.AuditEntry) {
	t.Helper()
	f.Stale(func(st *state.State) {
		log, _ = st.Audit.Last(100, func(state.AuditEntry) bool { return true })
	})
	return log
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestFollowsTheWayToTheLeader(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	f := apitest.New()
	leads := serveTLS(t, ca, "r1", operators, api.Handler(f, remote(f)))
	g := follower(leads)
	follows := serveTLS(t, ca, "r2", operators, api.Handler(g, remote(g)))
	c := newClient(t, client.Config{Servers: []string{closedPort(t), follows}, Credential: ca.Credential(t, pki.KindOperator, "ann")})
	got, err := c.Submit(t.Context(), task)
	if err != nil || got.ID != "busybox-1" || f.Tasks() != 1 || g.Tasks() != 0 {
		t.Errorf("submitted %+v, %v", got, err)
	}
	if r, err := c.Replicas(t.Context()); err != nil || r.Self != "r2" {
		t.Errorf("replicas as %s sees them, %v", r.Self, err)
	}
}

func TestSocketOfAFollower(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	f := apitest.New()
	leads := serveTLS(t, ca, "r1", operators, api.Handler(f, remote(f)))
	g := follower(leads)
	socket := serveUnix(t, api.Handler(g, g.Options()))

	// Without a credential, that is the end of the way.
	_, err := newClient(t, client.Config{Socket: socket}).Submit(t.Context(), task)
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != client.CodeNotLeader || p.Next == "" || !strings.Contains(p.Detail, leads) {
		t.Errorf("without a credential: %v", err)
	}
	withCredential := client.Config{Socket: socket, Credential: ca.Credential(t, pki.KindOperator, "ann")}
	if _, err := newClient(t, withCredential).Submit(t.Context(), task); err != nil {
		t.Errorf("with a credential: %v", err)
	}

	// A replica may pass requests on with its own certificate, logs too. The
	// leader knows over whose socket they came.
	o := g.Options()
	o.Forward = &http.Transport{TLSClientConfig: pki.ClientTLS(pki.NewHolder(ca.Credential(t, pki.KindReplica, "r2")), nil, "http/1.1")}
	c := newClient(t, client.Config{Socket: serveUnix(t, api.Handler(g, o))})
	f.AddAgent("a1", apitest.Capacity(8, 1024), fleet.Agent{})
	echo := task
	echo.Command = []string{"echo", "hello"}
	got, err := c.Submit(t.Context(), echo)
	if err != nil || got.State != "TASK_FINISHED" {
		t.Errorf("passed on: %+v, %v", got, err)
	}
	var out strings.Builder
	err = c.Logs(t.Context(), got.ID, client.LogOptions{Tail: -1, Stdout: true}, func(_ bool, data []byte) error {
		out.Write(data)
		return nil
	})
	if err != nil || out.String() != "hello\n" {
		t.Errorf("logs: %q, %v", out.String(), err)
	}
	if f.Tasks() != 2 || g.Tasks() != 0 {
		t.Errorf("the leader has %d tasks, the follower %d", f.Tasks(), g.Tasks())
	}

	if log := audit(t, f); log[len(log)-1].By != "local/r2" || log[len(log)-2].By != "operator/ann" {
		t.Errorf("asked by %+v", log)
	}

	// Two followers that take each other for the leader do not go on for ever.
	f.SetStatus(api.Status{ID: "r1", Leader: "r2", LeaderAddr: leads})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.Agents(ctx); !errors.As(err, &p) || p.Code != client.CodeNoLeader {
		t.Errorf("in a circle: %v", err)
	}
}

func TestWaitsThroughAnElection(t *testing.T) {
	f := apitest.New()
	inner := api.Handler(f, f.Options())
	var calls atomic.Int32
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"title":"t","detail":"no replica is known to lead","code":"no_leader"}`)
			return
		}
		inner.ServeHTTP(w, r)
	})
	c := newClient(t, client.Config{Socket: serveUnix(t, h)})
	if _, err := c.Submit(t.Context(), task); err != nil || f.Tasks() != 1 || calls.Load() != 3 {
		t.Errorf("%v after %d calls; %d tasks", err, calls.Load(), f.Tasks())
	}
}

// Until the followers notice that their leader died, they lead to it.
func TestWaitsForTheSuccessorOfADeadLeader(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	dead := closedPort(t)
	f := follower(dead)
	inner := api.Handler(f, remote(f))
	var calls atomic.Int32
	follows := serveTLS(t, ca, "r2", operators, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 3 {
			f.SetStatus(api.Status{ID: "r2", Leader: "r2"})
		}
		inner.ServeHTTP(w, r)
	}))
	c := newClient(t, client.Config{Servers: []string{follows}, Credential: ca.Credential(t, pki.KindOperator, "ann")})
	if _, err := c.Submit(t.Context(), task); err != nil || f.Tasks() != 1 || calls.Load() != 3 {
		t.Errorf("%v after %d calls; %d tasks", err, calls.Load(), f.Tasks())
	}
	// If nobody follows it, the error says what was tried.
	f.SetStatus(api.Status{ID: "r2", Leader: "r1", LeaderAddr: dead})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Submit(ctx, task)
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != client.CodeNoLeader || !strings.Contains(p.Detail, dead+" as their leader, and it does not answer: nobody listens there") || p.Next == "" {
		t.Errorf("without a successor: %+v", err)
	}
}

func TestNothingIsDoneTwice(t *testing.T) {
	var calls atomic.Int32
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		panic(http.ErrAbortHandler) // the connection breaks before the answer
	})
	ca := pkitest.New(t, apitest.TrustDomain)
	one, two := serveTLS(t, ca, "r1", operators, h), serveTLS(t, ca, "r2", operators, h)
	c := newClient(t, client.Config{Servers: []string{one, two}, Credential: ca.Credential(t, pki.KindOperator, "ann")})
	_, err := c.Submit(t.Context(), task)
	var u *client.UnreachableError
	if !errors.As(err, &u) || !u.Unknown || calls.Load() != 1 || u.Next() != "look before you repeat it: tender ps --all" {
		t.Errorf("submit: %v, %d calls", err, calls.Load())
	}
	if !strings.Contains(err.Error(), "the connection broke off; the request may have been carried out") {
		t.Errorf("submit: %v", err)
	}
	// A question may be asked again.
	calls.Store(0)
	if _, err := c.Agents(t.Context()); !errors.As(err, &u) || u.Unknown || calls.Load() < 2 {
		t.Errorf("agents: %v, %d calls", err, calls.Load())
	}
}

func TestUnreachable(t *testing.T) {
	ca, other := pkitest.New(t, apitest.TrustDomain), pkitest.New(t, apitest.TrustDomain)
	ann := ca.Credential(t, pki.KindOperator, "ann")
	ended := ca.Credential(t, pki.KindReplica, "r1", pkitest.Validity(time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)))
	refuse := func(pki.Identity, *x509.Certificate, string) error { return errors.New("revoked") }
	f := apitest.New()
	h := api.Handler(f, remote(f))
	port := closedPort(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, tls.NewListener(l, pki.ServerTLS(pki.NewHolder(ended), operators, "http/1.1")), h)
	for _, tt := range []struct {
		name, server, says, next string
		cred                     *pki.Credential
	}{
		{"nobody", port, port + ": nobody listens there", "check the address, and that tenderd runs there: systemctl status tenderd", ann},
		{"other fleet", serveTLS(t, other, "r1", operators, h), "its certificate is not of this fleet", "check that the address belongs to the fleet", ann},
		{"our certificate", serveTLS(t, ca, "r1", operators, h), "the server does not know who signed this certificate", "check that the address", mixed(other.Credential(t, pki.KindOperator, "ann"), ann)},
		{"revoked", serveTLS(t, ca, "r1", refuse, h), "the server refused this certificate", "log in again with: tender login", ann},
		{"ended", l.Addr().String(), "this machine's clock says", "", ann},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, client.Config{Servers: []string{tt.server}, Credential: tt.cred})
			_, err := c.Agents(t.Context())
			var u *client.UnreachableError
			if !errors.As(err, &u) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(u.Next(), tt.next) {
				t.Errorf("got %v; next: %s", err, u.Next())
			}
		})
	}
}

// mixed has one credential's certificate and trusts another's roots.
func mixed(c, trust *pki.Credential) *pki.Credential {
	m := *c
	m.Bundle = trust.Bundle
	return &m
}

func TestWhoMayAsk(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	everybody := func(pki.Identity, *x509.Certificate, string) error { return nil }
	f := apitest.New()
	addr := serveTLS(t, ca, "r1", everybody, api.Handler(f, remote(f)))
	var p *client.Problem
	for kind, code := range map[pki.Kind]client.Code{
		pki.KindAgent: client.CodeForbidden, pki.KindReplica: client.CodeForbidden,
		pki.KindFramework: client.CodeNoIdentity, pki.KindReader: client.CodeNoIdentity, // nobody admitted them
	} {
		c := newClient(t, client.Config{Servers: []string{addr}, Credential: ca.Credential(t, kind, "x")})
		if _, err := c.Agents(t.Context()); !errors.As(err, &p) || p.Code != code || p.Next == "" {
			t.Errorf("%s: %v", kind, err)
		}
	}
	ann := newClient(t, client.Config{Servers: []string{addr}, Credential: ca.Credential(t, pki.KindOperator, "ann")})
	if _, err := ann.Agents(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := ca.Identity(pki.KindOperator, "ann") // revoked while the connection is open
	if _, err := f.Propose(t.Context(), state.Command{Revoke: &state.Revoke{URI: id.String(), Kind: state.KindOperator, ID: "ann"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ann.Agents(t.Context()); !errors.As(err, &p) || p.Code != client.CodeNoIdentity || p.Detail != "operator/ann is revoked" {
		t.Errorf("revoked while connected: %v", err)
	}
	// Over a plain connection nobody is an operator.
	c := newClient(t, client.Config{Socket: serveUnix(t, api.Handler(f, remote(f)))})
	if _, err := c.Agents(t.Context()); !errors.As(err, &p) || p.Code != client.CodeNoIdentity {
		t.Errorf("without TLS: %v", err)
	}
}

// With a token and the pin of the root there is no need for a certificate.
func TestTokenAndPin(t *testing.T) {
	ca, other := pkitest.New(t, apitest.TrustDomain), pkitest.New(t, apitest.TrustDomain)
	f := apitest.New()
	leads := serveTLS(t, ca, "r1", operators, api.Handler(f, remote(f)))
	g := follower(leads)
	follows := serveTLS(t, ca, "r2", operators, api.Handler(g, remote(g)))
	local := newClient(t, client.Config{Socket: serveUnix(t, api.Handler(f, f.Options()))})
	made, err := local.CreatePrincipal(t.Context(), client.CreatePrincipal{ID: "m", Kind: "framework", Roles: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	pin, mine := pki.Pin(ca.Root), task
	mine.Role = "a"
	for name, cfg := range map[string]client.Config{
		"pin":        {Servers: []string{follows}, Token: made.Token, Pin: pin},
		"credential": {Servers: []string{leads}, Token: made.Token, Credential: ca.Credential(t, pki.KindOperator, "ann")},
	} {
		c := newClient(t, cfg)
		if who, err := c.Whoami(t.Context()); err != nil || who.Principal != "framework/m" {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
		if _, err := c.Submit(t.Context(), mine); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.Tasks() != 2 || g.Tasks() != 0 {
		t.Errorf("the leader has %d tasks, the follower %d", f.Tasks(), g.Tasks())
	}

	// The token is shown to nobody who is not of the fleet.
	var heard atomic.Int32
	impostor := serveTLS(t, other, "r1", operators, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) }))
	c := newClient(t, client.Config{Servers: []string{impostor}, Token: made.Token, Pin: pin})
	if _, err := c.Whoami(t.Context()); !errors.Is(err, pki.ErrWrongPin) || heard.Load() != 0 {
		t.Errorf("another fleet: %v, heard %d", err, heard.Load())
	}
	if _, err := client.New(client.Config{Servers: []string{leads}, Token: made.Token}); err == nil {
		t.Error("a token was to be shown to servers that nothing is known of")
	}
}

func TestLogStreamThatBreaks(t *testing.T) {
	for _, tt := range []struct{ name, body, says string }{
		{"cut off", `{"stream":"stdout","data":"aGk="}`, "read logs: unexpected EOF"},
		{"error inside", `{"stream":"stdout","data":"aGk="}` + "\n" + `{"error":{"title":"t","detail":"the agent left","code":"no_leader"}}`, "the agent left"},
		{"nonsense", "hello", "read logs: invalid character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls atomic.Int32
			c := newClient(t, client.Config{Socket: serveUnix(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls.Add(1)
				_, _ = io.WriteString(w, tt.body)
			}))})
			err := c.Logs(t.Context(), "t", client.LogOptions{}, func(bool, []byte) error { return nil })
			var s *client.StreamError
			if !errors.As(err, &s) || !strings.Contains(err.Error(), tt.says) || calls.Load() != 1 {
				t.Errorf("got %v after %d calls", err, calls.Load())
			}
		})
	}
	c := newClient(t, client.Config{Socket: serveUnix(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"stream":"stdout","data":"aGk="}{"end":true}`)
	}))})
	own := errors.New("pipe closed")
	if err := c.Logs(t.Context(), "t", client.LogOptions{}, func(bool, []byte) error { return own }); !errors.Is(err, own) {
		t.Errorf("emit failed: %v", err)
	}
}

func TestAnswersOfSomethingElse(t *testing.T) {
	c := newClient(t, client.Config{Socket: serveUnix(t, http.NotFoundHandler())})
	_, err := c.Agents(t.Context())
	var p *client.Problem
	if !errors.As(err, &p) || p.Detail != "the server answered 404 Not Found instead of a document of this API" {
		t.Errorf("got %v", err)
	}
}

func TestNew(t *testing.T) {
	ann := pkitest.New(t, apitest.TrustDomain).Credential(t, pki.KindOperator, "ann")
	for _, cfg := range []client.Config{{}, {Servers: []string{"r1:7443"}}, {Servers: []string{"r1"}, Credential: ann}} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
