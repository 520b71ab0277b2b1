package enroll_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/enroll/enrolltest"
	"github.com/tenderfleet/tender/pki/pkitest"
)

const domain = "fleet.example"

// fleet is one replica's enrolment and what stands behind it.
type fleet struct {
	ca  *pkitest.CA
	reg *enrolltest.Registry
	srv *enroll.Server
	log *bytes.Buffer
	out slog.Handler // one for all servers, since it guards the buffer
	now func() time.Time
}

func newFleet(t *testing.T, change func(*enroll.Config)) *fleet {
	t.Helper()
	f := &fleet{ca: pkitest.New(t, domain), log: new(bytes.Buffer), now: time.Now}
	f.out = slog.NewTextHandler(f.log, nil)
	f.reg = enrolltest.NewRegistry(domain, time.Now)
	f.srv = f.server(t, change)
	return f
}

func (f *fleet) signAuthority(_ context.Context, id pki.Identity, csr []byte) (*x509.Certificate, error) {
	if id.Kind != pki.KindReplica {
		return nil, fmt.Errorf("asked for the authority of %s", id.Short())
	}
	return pki.SignIntermediate(f.ca.Root, f.ca.RootKey, csr, domain, time.Now(), 24*time.Hour)
}

// noRootKey finds nobody who holds it.
func noRootKey(context.Context) (enroll.SignAuthority, error) {
	return nil, &enroll.Refusal{Code: enroll.CodeNoRootKey, Text: "r9 held it last"}
}

func (f *fleet) server(t *testing.T, change func(*enroll.Config)) *enroll.Server {
	t.Helper()
	cfg := enroll.Config{
		Registry: f.reg, Signer: f.ca, Bundle: f.ca.Bundle,
		Replicas: func() []string { return []string{"r1.example:8750", "r2.example:8750"} },
		RootKey:  func(context.Context) (enroll.SignAuthority, error) { return f.signAuthority, nil },
		Now:      time.Now, Log: slog.New(f.out),
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := enroll.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// line makes a token for one use and its line.
func (f *fleet) line(kind pki.Kind) pki.JoinLine {
	l := pki.JoinLine{
		Kind: kind, Addrs: []string{"r1.example:8750"}, Pin: pki.Pin(f.ca.Root), Secret: pki.NewSecret(),
		TrustDomain: domain, Expires: f.now().Add(time.Hour),
	}
	f.reg.Add(l.Secret, enroll.Grant{Kind: kind, Expires: l.Expires, UsesLeft: 1, Life: 48 * time.Hour})
	return l
}

func request(t *testing.T, line pki.JoinLine, key crypto.Signer) enroll.Request {
	t.Helper()
	req, err := enroll.NewRequest(line, key, "GPU-01.lab.example")
	if err != nil {
		t.Fatal(err)
	}
	if line.Kind == pki.KindReplica {
		req.Addr = "r3.example:8750"
		req.IntermediateCSR = pkitest.Request(t, pkitest.Key(t), x509.CertificateRequest{})
	}
	return req
}

// ask runs one exchange with srv.
func ask(t *testing.T, srv *enroll.Server, req enroll.Request) (enroll.Reply, error) {
	t.Helper()
	a, b := enrolltest.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(t.Context(), b, "192.0.2.1:4000"); b.Close() })
	defer wg.Wait()
	defer a.Close()
	return enroll.Join(t.Context(), a, req)
}

func TestJoinEveryKind(t *testing.T) {
	for _, kind := range []pki.Kind{pki.KindAgent, pki.KindOperator, pki.KindReplica, pki.KindFramework, pki.KindReader} {
		t.Run(string(kind), func(t *testing.T) {
			f := newFleet(t, nil)
			line := f.line(kind)
			key := pkitest.Key(t)
			req := request(t, line, key)
			req.Labels = map[string]string{"site": "berlin"}
			reply, err := ask(t, f.srv, req)
			if err != nil {
				t.Fatal(err)
			}
			if err := reply.Verify(line, req.CSR, time.Now()); err != nil {
				t.Fatal(err)
			}
			cred, err := reply.Credential(key)
			if err != nil {
				t.Fatal(err)
			}
			if want := (pki.Identity{TrustDomain: domain, Kind: kind, ID: "gpu-01"}); cred.Identity != want {
				t.Errorf("got %s, want %s", cred.Identity, want)
			}
			if cred.Bundle.Version != 1 || len(reply.Replicas) != 2 {
				t.Errorf("bundle %d, replicas %v", cred.Bundle.Version, reply.Replicas)
			}
			if life := cred.Leaf().NotAfter.Sub(cred.Leaf().NotBefore); life < 48*time.Hour || life > 49*time.Hour {
				t.Errorf("life %v, the token says 48h", life)
			}
			dir := t.TempDir()
			if err := pki.SaveDir(dir, cred); err != nil {
				t.Fatal(err)
			}
			if got, err := pki.LoadDir(dir); err != nil || got.Identity != cred.Identity {
				t.Errorf("loaded %v, %v", got, err)
			}
			a := f.reg.Admissions[0]
			if a.Hostname != "GPU-01.lab.example" || a.Labels["site"] != "berlin" || a.Remote != "192.0.2.1:4000" || a.KeyPin == "" {
				t.Errorf("admission %+v", a)
			}
			if kind == pki.KindReplica {
				inter, err := x509.ParseCertificate(reply.Intermediate[0])
				if err != nil || inter.CheckSignatureFrom(f.ca.Root) != nil || inter.PermittedURIDomains[0] != domain {
					t.Errorf("intermediate: %v", err)
				}
			} else if reply.Intermediate != nil {
				t.Error("an authority for one who is not a replica")
			}
			if strings.Contains(f.log.String(), line.Secret) {
				t.Error("the secret is in the log")
			}
		})
	}
}

// Whatever is wrong with a request, it gets its own text, proposes nothing to
// the replicas, and leaves the token good for the request put right.
func TestRefusalsBurnNothing(t *testing.T) {
	key := pkitest.Key(t)
	other := pki.Identity{TrustDomain: domain, Kind: pki.KindAgent, ID: "a2"}
	csr := func(r x509.CertificateRequest) []byte { return pkitest.Request(t, key, r) }
	for _, tt := range []struct {
		name   string
		kind   pki.Kind
		spoil  func(*enroll.Request)
		config func(*enroll.Config)
		code   enroll.Code
		text   string
	}{
		{name: "unknown or foreign token", spoil: func(r *enroll.Request) { r.Secret = pki.NewSecret() }, code: enroll.CodeTokenUnknown, text: "ask an operator for a new join line"},
		{name: "token of another kind", spoil: func(r *enroll.Request) { r.Kind = pki.KindOperator }, code: enroll.CodeWrongKind, text: "another kind"},
		{name: "clock a day behind", spoil: func(r *enroll.Request) { r.Clock = time.Now().Add(-24 * time.Hour).Unix() }, code: enroll.CodeClock, text: "set the clock"},
		{name: "clock a day ahead", spoil: func(r *enroll.Request) { r.Clock = time.Now().Add(24 * time.Hour).Unix() }, code: enroll.CodeClock, text: "the join line is still good"},
		{name: "request for another identity", spoil: func(r *enroll.Request) { r.CSR = csr(x509.CertificateRequest{URIs: []*url.URL{other.URI()}}) }, code: enroll.CodeBadRequest, text: "names somebody"},
		{name: "request with a name", spoil: func(r *enroll.Request) { r.CSR = csr(x509.CertificateRequest{Subject: pkix.Name{CommonName: "a2"}}) }, code: enroll.CodeBadRequest, text: "names somebody"},
		{name: "request with a host name", spoil: func(r *enroll.Request) { r.CSR = csr(x509.CertificateRequest{DNSNames: []string{"x"}}) }, code: enroll.CodeBadRequest, text: "more names"},
		{name: "request with a bad signature", spoil: func(r *enroll.Request) { r.CSR[len(r.CSR)-1] ^= 1 }, code: enroll.CodeBadRequest, text: "signature"},
		{name: "no request for a certificate", spoil: func(r *enroll.Request) { r.CSR = nil }, code: enroll.CodeBadRequest, text: "refused"},
		{name: "program too old", config: func(c *enroll.Config) { c.MinCapability = enroll.Capability + 1 }, spoil: func(*enroll.Request) {}, code: enroll.CodeTooOld, text: "install the fleet's version"},
		{name: "root key offline", kind: pki.KindReplica, config: func(c *enroll.Config) { c.RootKey = noRootKey }, spoil: func(*enroll.Request) {}, code: enroll.CodeNoRootKey, text: "r9 held it last"},
		{name: "no replicas wanted", kind: pki.KindReplica, config: func(c *enroll.Config) { c.RootKey = nil }, spoil: func(*enroll.Request) {}, code: enroll.CodeNoRootKey, text: "the join line is still good"},
		{name: "replica with one key for both", kind: pki.KindReplica, spoil: func(r *enroll.Request) { r.IntermediateCSR = r.CSR }, code: enroll.CodeBadRequest, text: "the same"},
		{name: "replica with a bad authority", kind: pki.KindReplica, spoil: func(r *enroll.Request) { r.IntermediateCSR = []byte("x") }, code: enroll.CodeBadRequest, text: "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, tt.config)
			if tt.kind == "" {
				tt.kind = pki.KindAgent
			}
			line := f.line(tt.kind)
			good := request(t, line, key)
			bad := good
			bad.CSR = bytes.Clone(good.CSR)
			tt.spoil(&bad)
			_, err := ask(t, f.srv, bad)
			var refusal *enroll.Refusal
			if !errors.As(err, &refusal) || refusal.Code != tt.code || !strings.Contains(refusal.Text, tt.text) {
				t.Fatalf("got %#v (%v)", refusal, err)
			}
			if !refusal.Final() {
				t.Error("it invites to try again")
			}
			if f.reg.Consumed != 0 {
				t.Error("it was proposed to the replicas")
			}
			if tt.config != nil {
				f.srv = f.server(t, nil)
			}
			if _, err := ask(t, f.srv, good); err != nil {
				t.Errorf("put right: %v", err)
			}
		})
	}
}

func TestUsedAndExpiredTokens(t *testing.T) {
	f := newFleet(t, nil)
	line := f.line(pki.KindAgent)
	key := pkitest.Key(t)
	req := request(t, line, key)
	first, err := ask(t, f.srv, req)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(req enroll.Request, code enroll.Code, text string) {
		t.Helper()
		before := f.reg.Consumed
		_, err := ask(t, f.srv, req)
		if !errors.Is(err, &enroll.Refusal{Code: code}) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s", err, code)
		}
		if f.reg.Consumed != before {
			t.Error("it was proposed to the replicas")
		}
	}
	refused(request(t, line, pkitest.Key(t)), enroll.CodeTokenUsed, "used already; ask an operator")

	// The reply was lost: the same key may ask again and is who it was.
	again, err := ask(t, f.srv, req)
	if err != nil || again.Identity != first.Identity {
		t.Errorf("again: %s, %v; first %s", again.Identity, err, first.Identity)
	}

	late := f.line(pki.KindAgent)
	f.reg.Add(late.Secret, enroll.Grant{Kind: pki.KindAgent, Expires: time.Now().Add(-time.Minute), UsesLeft: 1})
	refused(request(t, late, key), enroll.CodeTokenExpired, "expired; ask an operator")
}

// The holder of the root key goes away when the line is used up already: the
// joiner asks again with the same key until it is back, and the line is good
// for that.
func TestTheRootKeyGoesAwayMeanwhile(t *testing.T) {
	f := newFleet(t, func(c *enroll.Config) {
		c.RootKey = func(context.Context) (enroll.SignAuthority, error) {
			return func(context.Context, pki.Identity, []byte) (*x509.Certificate, error) {
				return nil, errors.New("no answer")
			}, nil
		}
	})
	req := request(t, f.line(pki.KindReplica), pkitest.Key(t))
	for _, srv := range []*enroll.Server{f.srv, f.server(t, func(c *enroll.Config) { c.RootKey = noRootKey })} {
		_, err := ask(t, srv, req)
		var refusal *enroll.Refusal
		if !errors.As(err, &refusal) || refusal.Final() {
			t.Fatalf("it is told not to ask again: %v", err)
		}
	}
	if _, err := ask(t, f.server(t, nil), req); err != nil || f.reg.Consumed != 2 {
		t.Errorf("when it is back: %v, asked the replicas %d times", err, f.reg.Consumed)
	}
}

// A token used on one replica is used on all, also under a race.
func TestThirtyAtOnceOneWins(t *testing.T) {
	f := newFleet(t, nil)
	servers := []*enroll.Server{f.srv, f.server(t, nil), f.server(t, nil)}
	line := f.line(pki.KindAgent)
	errs := make([]error, 30)
	var wg sync.WaitGroup
	for i := range errs {
		req := request(t, line, pkitest.Key(t))
		wg.Go(func() { _, errs[i] = ask(t, servers[i%3], req) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, &enroll.Refusal{Code: enroll.CodeTokenUsed}):
			t.Errorf("a loser got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
}

func TestFailuresInsideStayInside(t *testing.T) {
	secretDetail := errors.New("disk /dev/sda1 on fire")
	for name, change := range map[string]func(*enroll.Config){
		"registry": func(c *enroll.Config) { c.Registry = failing{secretDetail} },
		"signer":   func(c *enroll.Config) { c.Signer = failing{secretDetail} },
	} {
		f := newFleet(t, change)
		_, err := ask(t, f.srv, request(t, f.line(pki.KindAgent), pkitest.Key(t)))
		var refusal *enroll.Refusal
		if !errors.As(err, &refusal) || refusal.Code != enroll.CodeUnavailable || refusal.Final() || strings.Contains(err.Error(), "sda1") {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(f.log.String(), "sda1") {
			t.Errorf("%s: the log does not say why", name)
		}
	}
}

type failing struct{ err error }

func (f failing) Lookup(context.Context, string) (enroll.Grant, error) { return enroll.Grant{}, f.err }

func (f failing) Consume(context.Context, string, enroll.Admission) (pki.Identity, error) {
	return pki.Identity{}, f.err
}

func (f failing) Sign(context.Context, pki.Identity, []byte, time.Duration) ([][]byte, error) {
	return nil, f.err
}

func TestNotLeader(t *testing.T) {
	f := newFleet(t, nil)
	req := request(t, f.line(pki.KindAgent), pkitest.Key(t))
	f.reg.Lead(enroll.ErrNotLeader{Addr: "r2.example:8750"})
	_, err := ask(t, f.srv, req)
	var refusal *enroll.Refusal
	if !errors.As(err, &refusal) || refusal.Code != enroll.CodeNotLeader || refusal.Leader != "r2.example:8750" {
		t.Errorf("got %v", err)
	}
	// A replica that lags does not call a token unknown.
	req.Secret = "not yet replicated"
	if _, err := ask(t, f.srv, req); !errors.Is(err, &enroll.Refusal{Code: enroll.CodeNotLeader}) {
		t.Errorf("got %v", err)
	}
}

func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestFramesFromStrangers(t *testing.T) {
	for name, in := range map[string][]byte{
		"nothing":       nil,
		"half a length": {0, 0},
		"too long":      binary.BigEndian.AppendUint32(nil, enroll.MaxRequest+1),
		"far too long":  {0xff, 0xff, 0xff, 0xff},
		"cut short":     frame(`{"kind":"agent"}`)[:9],
		"empty":         frame(""),
		"null":          frame("null"),
		"no JSON":       frame("hello"),
		"unknown field": frame(`{"kind":"agent","admin":true}`),
		"two messages":  frame(`{} {}`),
		"wrong type":    frame(`{"kind":7}`),
	} {
		f := newFleet(t, nil)
		a, b := enrolltest.Pipe()
		if _, err := a.Write(in); err != nil {
			t.Fatal(err)
		}
		a.Close() // as a stranger's stream ends
		err := f.srv.Serve(t.Context(), b, "192.0.2.1:1")
		if err == nil {
			t.Errorf("%s: served", name)
		}
		if f.reg.Lookups != 0 {
			t.Errorf("%s: the registry was asked", name)
		}
	}
}

// A stranger who says nothing is let go after exactly ten seconds, and at once
// when the replica stops.
func TestSilentStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, nil)
		a, b := enrolltest.Pipe()
		defer a.Close()
		begin := time.Now()
		if err := f.srv.Serve(t.Context(), b, "192.0.2.1:1"); err == nil {
			t.Error("served")
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin = time.Now()
		_, b = enrolltest.Pipe()
		if err := f.srv.Serve(ctx, b, "192.0.2.1:1"); err == nil {
			t.Error("served")
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestRates(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := newFleet(t, func(c *enroll.Config) { c.Now = func() time.Time { return now } })
	busy := func(remote string) bool {
		a, b := enrolltest.Pipe()
		a.Write(frame("{}"))
		err := f.srv.Serve(t.Context(), b, remote)
		return errors.Is(err, &enroll.Refusal{Code: enroll.CodeBusy})
	}
	count := func(n int, remote func(i int) string) int {
		served := 0
		for i := range n {
			if !busy(remote(i)) {
				served++
			}
		}
		return served
	}
	one := func(addr string) func(int) string {
		return func(i int) string { return fmt.Sprintf("%s:%d", addr, 1000+i) }
	}
	if got := count(60, one("192.0.2.1")); got != 30 {
		t.Errorf("one address: %d served", got)
	}
	if got := count(60, func(i int) string { return fmt.Sprintf("[2001:db8::%x]:1", i+1) }); got != 30 {
		t.Errorf("one IPv6 network: %d served", got)
	}
	if got := count(200, func(i int) string { return fmt.Sprintf("198.51.100.%d:1", i) }); got != 40 {
		t.Errorf("all together: %d served, the bucket of 100 had 40 left", got)
	}
	now = now.Add(time.Second)
	if got := count(20, one("192.0.2.1")); got != 5 {
		t.Errorf("a second later: %d served", got)
	}
	if got := count(200, func(i int) string { return fmt.Sprintf("203.0.113.%d:1", i) }); got != 45 {
		t.Errorf("all together a second later: %d served", got)
	}
	if f.reg.Lookups != 0 {
		t.Error("the registry was asked")
	}
}

func TestServerWantsAllParts(t *testing.T) {
	if _, err := enroll.NewServer(enroll.Config{}); err == nil {
		t.Error("made of nothing")
	}
}

// Renewal is for whom the session is, whatever the request says.
