package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	replicated "github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/enroll/enrolltest"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// replica is both doors of one: enrol/1 over QUIC and the API over TLS.
type replica struct {
	fleet    *apitest.Fleet
	ca       *pkitest.CA
	registry *enrolltest.Registry
	enrol    string
	api      string
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	ca := pkitest.New(t, apitest.TrustDomain)
	holder := pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1"))
	allow := func(pki.Identity, *x509.Certificate, string) error { return nil }
	r := &replica{ca: ca, registry: enrolltest.NewRegistry(apitest.TrustDomain, time.Now)}

	f := apitest.New()
	r.fleet = f
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	o := f.Options()
	o.Local = false
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.api = l.Addr().String()
	serveOn(t, tls.NewListener(l, pki.ServerTLS(holder, allow, "http/1.1")), api.Handler(f, o))

	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.enrol = conn.LocalAddr().String()
	e, err := transport.Listen(transport.Config{Conn: conn, Holder: holder, Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := enroll.NewServer(enroll.Config{
		Registry: r.registry, Signer: ca, Bundle: ca.Bundle, Replicas: func() []string { return []string{r.api} }, Key: func() crypto.Signer { return holder.Get().Chain.PrivateKey.(crypto.Signer) },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			s, err := e.Accept(context.Background(), transport.ALPNEnrol)
			if err != nil {
				return
			}
			st, err := s.Accept(context.Background())
			if err != nil {
				continue
			}
			if st.Kind() == transport.StreamClock {
				exporter, _ := transport.Exporter(s, enroll.ClockLabel, 32)
				_ = srv.ServeClock(context.Background(), st, "192.0.2.1:1", exporter)
			} else {
				_ = srv.Serve(context.Background(), st, "192.0.2.1:1")
			}
			_ = st.Close()
		}
	}()
	t.Cleanup(func() {
		_ = e.Close()
		<-done
	})
	return r
}

func (r *replica) line(kind pki.Kind) pki.JoinLine {
	l := pki.JoinLine{
		Kind: kind, Addrs: []string{r.enrol}, Pin: pki.Pin(r.ca.Root), Secret: pki.NewSecret(),
		TrustDomain: apitest.TrustDomain, Expires: time.Now().Add(time.Hour),
	}
	r.registry.Add(l.Secret, enroll.Grant{Kind: kind, Expires: l.Expires, UsesLeft: 1, Life: time.Hour})
	return l
}

// runIn runs a command with a home and stdin and returns what it printed.
func runIn(t *testing.T, home, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), args, []string{"HOME=" + home, "USER=Ann"}, Streams{In: strings.NewReader(stdin), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

func TestLogin(t *testing.T) {
	r := newReplica(t)
	home := t.TempDir()
	line := r.line(pki.KindOperator)
	code, out, errs := runIn(t, home, "\n  "+line.String()+"\n", "login")
	if code != 0 || out != "" || !strings.HasPrefix(errs, "You are spiffe://fleet.example/operator/ann until ") || strings.Contains(errs, line.Secret) {
		t.Fatalf("login: %d %q %q", code, out, errs)
	}
	dir := filepath.Join(home, ".config/tender/credentials")
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "key.pem"): 0o600, filepath.Join(dir, "servers"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	// The login is all the setting up there is.
	if code, out, errs := runIn(t, home, "", "agents"); code != 0 || !strings.Contains(out, "\na1 ") {
		t.Errorf("agents: %d %q %q", code, out, errs)
	}
	if code, out, errs := runIn(t, home, "", "--server", r.api, "agents"); code != 0 || !strings.Contains(out, "\na1 ") {
		t.Errorf("agents of a server: %d %q %q", code, out, errs)
	}
	// A second login does not throw the first away unasked.
	code, _, errs = runIn(t, home, "", "login", r.line(pki.KindOperator).String())
	if code != 1 || !strings.Contains(errs, "already holds the credential of spiffe://fleet.example/operator/ann") {
		t.Errorf("second login: %d %q", code, errs)
	}
	code, _, errs = runIn(t, home, "", "login", "--force", "--name", "bob", r.line(pki.KindOperator).String())
	if code != 0 || !strings.Contains(errs, "operator/bob") {
		t.Errorf("forced login: %d %q", code, errs)
	}
}

// token makes a principal and returns its token.
func (r *replica) token(t *testing.T, id string, kind replicated.IdentityKind, roles ...fleet.Role) string {
	t.Helper()
	token := access.Token(id, pki.NewSecret())
	results, err := r.fleet.Propose(t.Context(), replicated.Command{Time: r.fleet.Now(), PutPrincipal: &replicated.Principal{
		ID: id, Kind: kind, Roles: roles, SecretHash: pki.HashSecret(token), Expires: r.fleet.Now().Add(time.Hour),
	}})
	if err != nil || results[0].Err() != nil {
		t.Fatal(err, results)
	}
	return token
}

// Somebody who has only a token uses the command like everybody else.
func TestLoginWithAToken(t *testing.T) {
	r := newReplica(t)
	home, pin := t.TempDir(), pki.Pin(r.ca.Root)
	dir := filepath.Join(home, ".config/tender/credentials")
	board := r.token(t, "board", replicated.KindReader)
	file := filepath.Join(home, "board.token")
	if err := os.WriteFile(file, []byte(board+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := runIn(t, home, "", "login", "--token-file", file, "--server", r.api, "--pin", pin)
	if code != 0 || out != "" || errs != "You are reader/board. The token is in "+dir+".\n" {
		t.Fatalf("login: %d %q %q", code, out, errs)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "token"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	// The login is all the setting up there is.
	if code, out, errs := runIn(t, home, "", "agents"); code != 0 || !strings.Contains(out, "\na1 ") {
		t.Errorf("agents: %d %q %q", code, out, errs)
	}
	code, _, errs = runIn(t, home, "", "agent", "revoke", "a1")
	if code != 1 || errs != "error: reader/board may only look; this changes something\nnext:  ask an operator, or log in as one: tender login\n" {
		t.Errorf("revoke: %d %q", code, errs)
	}
	// Another token for once, from stdin; the stored login says where and whom.
	m := r.token(t, "m", replicated.KindFramework, "a")
	if code, out, errs := runIn(t, home, m+"\n", "ps", "--token-file", "-"); code != 0 || !strings.HasPrefix(out, "TASK") {
		t.Errorf("ps by m: %d %q %q", code, out, errs)
	}
	if code, _, errs := runIn(t, home, m, "agents", "--token-file", "-"); code != 1 || !strings.Contains(errs, "error: framework/m may only deal with tasks in its roles") {
		t.Errorf("agents by m: %d %q", code, errs)
	}
	// A second login does not throw the first away unasked.
	again := []string{"login", "--token-file", "-", "--server", r.api, "--pin", pin}
	if code, _, errs := runIn(t, home, m, again...); code != 1 || !strings.Contains(errs, "already holds a token") {
		t.Errorf("second login: %d %q", code, errs)
	}
	if code, _, errs := runIn(t, home, m, append(again, "--force")...); code != 0 || !strings.Contains(errs, "You are framework/m.") {
		t.Errorf("forced login: %d %q", code, errs)
	}
	// A certificate takes the token's place, and the other way round.
	if code, _, errs := runIn(t, home, r.line(pki.KindFramework).String(), "login", "--name", "certified"); code != 0 || !strings.Contains(errs, "framework/certified") {
		t.Errorf("login with a line: %d %q", code, errs)
	}
	if _, err := os.Stat(filepath.Join(dir, "token")); err == nil {
		t.Error("the token is still there")
	}
	if code, _, errs := runIn(t, home, m, again...); code != 1 || !strings.Contains(errs, "already holds the credential of spiffe://fleet.example/framework/certified") {
		t.Errorf("over a certificate: %d %q", code, errs)
	}
}

func TestTokenInTheEnvironment(t *testing.T) {
	r := newReplica(t)
	pin, m := pki.Pin(r.ca.Root), r.token(t, "m", replicated.KindFramework, "a")
	run := func(env []string, args ...string) (int, string, string) {
		var o, e bytes.Buffer
		code := Run(t.Context(), args, append(env, "HOME="+t.TempDir()), Streams{In: strings.NewReader(""), Out: &o, Err: &e})
		return code, o.String(), e.String()
	}
	token := "TENDER_TOKEN=" + m
	if code, out, errs := run([]string{token, "TENDER_SERVER=" + r.api, "TENDER_PIN=" + pin}, "ps"); code != 0 || !strings.HasPrefix(out, "TASK") {
		t.Errorf("all in the environment: %d %q %q", code, out, errs)
	}
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		says string
	}{
		{"no server", []string{token}, nil, "error: there is a token, and no server to show it to\nnext:  name a replica with --server HOST:PORT\n"},
		{"no pin", []string{token}, []string{"--server", r.api}, "error: there is nothing to know the fleet's servers by\nnext:  give the pin that came with the token: --pin sha256:...\n"},
		{"another fleet's pin", []string{token}, []string{"--server", r.api, "--pin", pki.Pin(pkitest.New(t, apitest.TrustDomain).Root)}, "check the address"},
		{"mistyped", []string{token + "x"}, []string{"--server", r.api, "--pin", pin}, "error: this token is not known: it is mistyped, of another fleet, or was withdrawn\nnext:  log in with: tender login\n"},
		{"no such file", nil, []string{"--token-file", "/nonexistent"}, "error: read token: open /nonexistent: no such file or directory\n"},
		{"an empty file", nil, []string{"--token-file", os.DevNull}, "error: there is no token in /dev/null\n"},
	} {
		code, _, errs := run(tt.env, append(tt.args, "ps")...)
		if code != 1 || !strings.Contains(errs, tt.says) || strings.Contains(errs, m[2:]) {
			t.Errorf("%s: %d %q", tt.name, code, errs)
		}
	}
}

// A stored token that others can read is not used.
func TestStoredTokenForEverybody(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, ".config/tender/credentials")
	if err := saveToken(dir, "m.x", "sha256:x", []string{"r1:7443"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "token"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := runIn(t, home, "", "ps"); code != 1 || !strings.Contains(errs, "others can read the token") {
		t.Errorf("%d %q", code, errs)
	}
}

func TestLoginThatFails(t *testing.T) {
	r := newReplica(t)
	used := r.line(pki.KindOperator)
	if code, _, errs := runIn(t, t.TempDir(), used.String(), "login"); code != 0 {
		t.Fatal(errs)
	}
	wrongPin, foreign := r.line(pki.KindOperator), pkitest.New(t, apitest.TrustDomain)
	wrongPin.Pin = pki.Pin(foreign.Root)
	for _, tt := range []struct{ name, stdin, says string }{
		{"nothing", "", "error: join line: not a valid join line: it is empty\nnext:  make a new one with: tender token create --kind operator\n"},
		{"damaged", used.String()[:40], "error: join line: not a valid join line: "},
		{"agent's", r.line(pki.KindAgent).String(), "error: this join line admits a agent\n"},
		{"used", used.String(), "the join line has been used already; ask an operator for a new join line"},
		{"wrong pin", wrongPin.String(), "is not a replica of the fleet that the join line is for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := t.TempDir()
			code, _, errs := runIn(t, home, tt.stdin, "login", "-")
			if code != 1 || !strings.Contains(errs, tt.says) {
				t.Errorf("%d %q", code, errs)
			}
			if _, err := os.Stat(filepath.Join(home, ".config")); err == nil {
				t.Error("something was stored")
			}
		})
	}
}

// Whose clock is wrong is told by how much, and can use the join line later.
func TestLoginByAWrongClock(t *testing.T) {
	r := newReplica(t)
	line := r.line(pki.KindOperator).String()
	for off, want := range map[time.Duration]string{
		-3 * 365 * 24 * time.Hour: "error: this machine's clock is 3 years behind: it says ",
		50 * time.Hour:            "error: this machine's clock is 2 days ahead: it says ",
	} {
		var out, errs bytes.Buffer
		a := &app{
			Streams: Streams{In: strings.NewReader(line), Out: &out, Err: &errs},
			env:     map[string]string{"HOME": t.TempDir(), "USER": "ann"}, now: func() time.Time { return time.Now().Add(off) },
		}
		if code := a.run(t.Context(), []string{"login"}); code != 1 || !strings.HasPrefix(errs.String(), want) || !strings.Contains(errs.String(), "timedatectl set-ntp true") {
			t.Errorf("off by %v: %d %q", off, code, errs.String())
		}
	}
	if code, _, errs := runIn(t, t.TempDir(), line, "login"); code != 0 {
		t.Errorf("with the right time: %q", errs)
	}
}

func TestEndedCredential(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	home := t.TempDir()
	dir := filepath.Join(home, ".config/tender/credentials")
	cred := ca.Credential(t, pki.KindOperator, "ann", pkitest.Validity(time.Now().Add(-72*time.Hour), time.Now().Add(-50*time.Hour)))
	if err := pki.SaveDir(dir, cred); err != nil {
		t.Fatal(err)
	}
	code, _, errs := runIn(t, home, "", "--server", "r1.fleet.example", "ps")
	if code != 1 || !strings.Contains(errs, "error: the certificate of operator/ann ended 2d ago, at ") || !strings.Contains(errs, "log in again with: tender login") {
		t.Errorf("%d %q", code, errs)
	}
	if err := os.Chmod(filepath.Join(dir, "key.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := runIn(t, home, "", "--server", "r1.fleet.example", "ps"); code != 1 || !strings.Contains(errs, "others can read the key") {
		t.Errorf("key for everybody: %d %q", code, errs)
	}
}
