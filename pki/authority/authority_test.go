package authority

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smallstep/certificates/authority/provisioner"
	casapi "github.com/smallstep/certificates/cas/apiv1"
	"go.step.sm/crypto/jose"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

const domain = "fleet.example"

func start(t *testing.T, change func(*Config)) (*Authority, *pkitest.CA) {
	t.Helper()
	ca := pkitest.New(t, domain)
	cfg := Config{TrustDomain: domain, Root: ca.Root, Intermediate: ca.Intermediate, IntermediateKey: ca.IssuingKey}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a, ca
}

func agent(id string) pki.Identity {
	return pki.Identity{TrustDomain: domain, Kind: pki.KindAgent, ID: id}
}

func request(t *testing.T) []byte {
	return pkitest.Request(t, pkitest.Key(t), x509.CertificateRequest{})
}

func parse(t *testing.T, chain [][]byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAuthorityPassesTheSuite(t *testing.T) {
	a, ca := start(t, nil)
	pkitest.TestSigner(t, a, domain, ca.Root)
}

// The traps of the embedded authority, one by one. Each was shown to give away
// or to prolong identities, or to burn the tokens of others.

func TestTrapForgedTokenFromOutsideHasNoWayIn(t *testing.T) {
	typ := reflect.TypeFor[*Authority]()
	var methods []string
	for i := range typ.NumMethod() {
		methods = append(methods, typ.Method(i).Name)
	}
	if want := []string{"Intermediate", "Root", "Sign"}; !slices.Equal(methods, want) {
		t.Errorf("methods %v, want %v: Renew and Rekey give identities away, a token from outside burns those of others", methods, want)
	}
	sign, _ := typ.MethodByName("Sign")
	for i := range sign.Type.NumIn() {
		if sign.Type.In(i).Kind() == reflect.String {
			t.Error("Sign takes a string, which could be a token")
		}
	}
}

func TestTrapBadRequestBurnsNothing(t *testing.T) {
	a, _ := start(t, nil)
	bad := request(t)
	bad[len(bad)-1] ^= 1
	if _, err := a.Sign(t.Context(), agent("a1"), bad, 0); !errors.Is(err, pki.ErrCSR) {
		t.Fatalf("got %v", err)
	}
	if len(a.used.queue) != 0 {
		t.Error("a token was used")
	}
	if _, err := a.Sign(t.Context(), agent("a1"), request(t), 0); err != nil {
		t.Errorf("the good request after it: %v", err)
	}
}

func TestTrapRenewOfForeignExpiredCertificate(t *testing.T) {
	a, _ := start(t, nil)
	foreign := pkitest.New(t, domain)
	now := time.Now()
	old := foreign.Credential(t, pki.KindAgent, "a1", pkitest.Validity(now.AddDate(0, 0, -9), now.AddDate(0, 0, -1)))
	if chain, err := a.ca.Renew(old.Leaf()); err == nil {
		t.Errorf("renewed: %v", chain[0].Subject)
	}
}

func TestTrapRenewOfCertificateWithoutStepExtension(t *testing.T) {
	a, ca := start(t, nil)
	// Under our own root and valid, so that only the missing extension tells.
	leaf := ca.Credential(t, pki.KindAgent, "a1").Leaf()
	if _, err := a.ca.Renew(leaf); err == nil {
		t.Error("renewed")
	}
	if _, err := a.ca.Rekey(leaf, pkitest.Key(t).Public()); err == nil {
		t.Error("rekeyed")
	}
}

func TestTrapSuccessorOfRevokedSerialRenews(t *testing.T) {
	a, _ := start(t, nil)
	chain, err := a.Sign(t.Context(), agent("a1"), request(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, chain)
	if _, err := a.ca.Renew(leaf); err == nil {
		t.Error("a certificate of our own was renewed beside the registry")
	}
	if _, err := a.ca.Rekey(leaf, pkitest.Key(t).Public()); err == nil {
		t.Error("a certificate of our own was rekeyed beside the registry")
	}
}

func TestTrapX5CProvisionerIsNotConfigured(t *testing.T) {
	a, _ := start(t, nil)
	list, _, err := a.ca.GetProvisioners("", 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].GetType() != provisioner.TypeJWK {
		t.Fatalf("provisioners %v", list)
	}
	p, ok := list[0].(*provisioner.JWK)
	if !ok {
		t.Fatalf("a %T", list[0])
	}
	if p.EncryptedKey != "" || !p.Key.IsPublic() {
		t.Error("the provisioner carries a private key, which the authority hands out")
	}
	c := p.Claims
	if !*c.DisableRenewal || *c.AllowRenewalAfterExpiry || *c.EnableSSHCA || c.DisableSmallstepExtensions != nil {
		t.Errorf("claims %+v", c)
	}
}

func TestTrapLeafOutlivesItsIssuer(t *testing.T) {
	ca := pkitest.New(t, domain)
	now := time.Now()
	inter, key := pkitest.Intermediate(t, ca.Root, ca.RootKey, domain, now, time.Hour)
	a, err := New(Config{TrustDomain: domain, Root: ca.Root, Intermediate: inter, IntermediateKey: key})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(t.Context(), agent("a1"), request(t), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := parse(t, chain); leaf.NotAfter.After(inter.NotAfter) {
		t.Errorf("leaf ends %v, issuer %v", leaf.NotAfter, inter.NotAfter)
	}
	g, err := newGuard(a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	late := template(t)
	late.NotAfter = inter.NotAfter.Add(time.Second)
	if err := g.check(late); err == nil || !strings.Contains(err.Error(), "outlive") {
		t.Errorf("guard: %v", err)
	}

	ended, key := pkitest.Intermediate(t, ca.Root, ca.RootKey, domain, now, time.Minute)
	a, err = New(Config{TrustDomain: domain, Root: ca.Root, Intermediate: ended, IntermediateKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(t.Context(), agent("a1"), request(t), 0); !errors.Is(err, ErrIssuerEnds) || !strings.Contains(err.Error(), "new intermediate") {
		t.Errorf("near the end: %v", err)
	}
}

func TestTrapEnforcersDoNotSeeRenewals(t *testing.T) {
	ca := pkitest.New(t, domain)
	g, err := newGuard(Config{TrustDomain: domain, Root: ca.Root, Intermediate: ca.Intermediate, IntermediateKey: ca.IssuingKey, MaxLife: DefaultLife})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.RenewCertificate(&casapi.RenewCertificateRequest{Template: template(t), Lifetime: time.Hour}); !errors.Is(err, errGuard) {
		t.Errorf("renew: %v", err)
	}
	if _, err := g.RevokeCertificate(&casapi.RevokeCertificateRequest{}); !errors.Is(err, errGuard) {
		t.Errorf("revoke: %v", err)
	}
	if _, ok := any(g).(casapi.CertificateAuthoritySigner); ok {
		t.Error("the guard hands out the issuing key")
	}
}

func TestTrapRenewalAfterExpiryByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		root, rootKey, err := pki.NewRoot(domain, now, 365*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		inter, interKey := pkitest.Intermediate(t, root, rootKey, domain, now, 300*24*time.Hour)
		a, err := New(Config{TrustDomain: domain, Root: root, Intermediate: inter, IntermediateKey: interKey})
		if err != nil {
			t.Fatal(err)
		}
		key := pkitest.Key(t)
		chain, err := a.Sign(t.Context(), agent("a1"), pkitest.Request(t, key, x509.CertificateRequest{}), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
			new(jose.SignerOptions).WithHeader("x5cInsecure", []string{b64(chain[0]), b64(chain[1])}))
		if err != nil {
			t.Fatal(err)
		}
		now = time.Now()
		token, err := jose.Signed(signer).Claims(jose.Claims{
			Issuer: "step-ca-client/1.0", Subject: "a1", ID: "1",
			Audience: jose.Audience{"https://" + audienceHost + "/1.0/renew"},
			IssuedAt: jose.NewNumericDate(now), NotBefore: jose.NewNumericDate(now), Expiry: jose.NewNumericDate(now.Add(time.Minute)),
		}).CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := a.ca.AuthorizeRenewToken(t.Context(), token)
		if err != nil {
			t.Fatalf("the token itself is good, so that it is the renewal that is tested: %v", err)
		}
		if _, err := a.ca.Renew(cert); err == nil {
			t.Error("an expired certificate was renewed")
		}
	})
}

// What held in the trials must go on holding.

func TestTokenIsBoundToItsRequest(t *testing.T) {
	a, _ := start(t, nil)
	csr := func() *x509.CertificateRequest {
		c, err := pki.CheckCSR(request(t))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	mine, thief := csr(), csr()
	token, err := a.tokens.make(agent("a1"), mine)
	if err != nil {
		t.Fatal(err)
	}
	ctx := provisioner.NewContextWithMethod(t.Context(), provisioner.SignMethod)
	opts, err := a.ca.Authorize(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.ca.SignWithContext(ctx, thief, provisioner.SignOptions{}, opts...); err == nil {
		t.Error("signed a thief's request")
	}
	if _, err := a.ca.Authorize(ctx, token); err == nil {
		t.Error("the token was good twice")
	}
	other, _ := start(t, nil)
	token, err = a.tokens.make(agent("a1"), mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.ca.Authorize(ctx, token); err == nil {
		t.Error("another process took the token")
	}
}

func TestLifeIsBounded(t *testing.T) {
	a, _ := start(t, nil)
	for life, want := range map[time.Duration]time.Duration{0: DefaultLife, DefaultLife: DefaultLife, time.Hour: time.Hour, DefaultMinLife: DefaultMinLife} {
		chain, err := a.Sign(t.Context(), agent("a1"), request(t), life)
		if err != nil {
			t.Errorf("%v: %v", life, err)
			continue
		}
		leaf := parse(t, chain)
		if got := leaf.NotAfter.Sub(leaf.NotBefore); got != want+pki.Backdate {
			t.Errorf("%v: got %v", life, got)
		}
	}
	for _, life := range []time.Duration{-1, time.Second, DefaultLife + time.Second, 90 * 24 * time.Hour} {
		if _, err := a.Sign(t.Context(), agent("a1"), request(t), life); !errors.Is(err, ErrLife) {
			t.Errorf("%v: got %v", life, err)
		}
	}
}

func TestShorterLivesAreForThoseWhoAskForThem(t *testing.T) {
	a, _ := start(t, func(c *Config) { c.MinLife = 10 * time.Second })
	for life, want := range map[time.Duration]error{10 * time.Second: nil, 9 * time.Second: ErrLife} {
		if _, err := a.Sign(t.Context(), agent("a1"), request(t), life); !errors.Is(err, want) {
			t.Errorf("%v: got %v, want %v", life, err, want)
		}
	}
}

func template(t *testing.T) *x509.Certificate {
	t.Helper()
	c := pkitest.Template(agent("a1"), time.Now())
	c.PublicKey = pkitest.Key(t).Public()
	c.NotAfter = time.Now().Add(time.Hour)
	return c
}

func TestGuardChecksEveryLeaf(t *testing.T) {
	ca := pkitest.New(t, domain)
	g, err := newGuard(Config{TrustDomain: domain, Root: ca.Root, Intermediate: ca.Intermediate, IntermediateKey: ca.IssuingKey, MaxLife: DefaultLife})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.CreateCertificate(&casapi.CreateCertificateRequest{Template: template(t), Lifetime: time.Hour}); err != nil {
		t.Fatalf("a good leaf: %v", err)
	}
	if _, err := g.CreateCertificate(&casapi.CreateCertificateRequest{Lifetime: time.Hour}); !errors.Is(err, errGuard) {
		t.Errorf("no template: %v", err)
	}
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for name, change := range map[string]func(*x509.Certificate){
		"no URI":            func(c *x509.Certificate) { c.URIs = nil },
		"two URIs":          func(c *x509.Certificate) { c.URIs = append(c.URIs, agent("a2").URI()) },
		"other domain":      func(c *x509.Certificate) { c.URIs[0] = uri("spiffe://other.example/agent/a1") },
		"domain below ours": func(c *x509.Certificate) { c.URIs[0] = uri("spiffe://sub.fleet.example/agent/a1") },
		"unknown kind":      func(c *x509.Certificate) { c.URIs[0] = uri("spiffe://fleet.example/root/a1") },
		"DNS name":          func(c *x509.Certificate) { c.DNSNames = []string{"a1"} },
		"address":           func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 0, 0, 1}} },
		"email":             func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} },
		"CA bit":            func(c *x509.Certificate) { c.IsCA = true },
		"key usage":         func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"agent that serves": func(c *x509.Certificate) { c.ExtKeyUsage = uses(pki.KindReplica) },
		"any use":           func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"no use":            func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"unknown use":       func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
		"replica that does not serve": func(c *x509.Certificate) {
			c.URIs[0] = uri("spiffe://fleet.example/replica/a1")
		},
		"raw extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0}}}
		},
		"raw subject":   func(c *x509.Certificate) { c.RawSubject = []byte{0x30, 0} },
		"other subject": func(c *x509.Certificate) { c.Subject.CommonName = "a2" },
		"no validity":   func(c *x509.Certificate) { c.NotAfter = time.Time{} },
		"too long":      func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(DefaultLife + pki.Backdate + time.Second) },
		"other key":     func(c *x509.Certificate) { c.PublicKey = []byte("key") },
	} {
		bad := template(t)
		change(bad)
		if _, err := g.CreateCertificate(&casapi.CreateCertificateRequest{Template: bad, Lifetime: time.Hour}); !errors.Is(err, errGuard) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	ca, other := pkitest.New(t, domain), pkitest.New(t, domain)
	elsewhere := pkitest.New(t, "other.example")
	good := Config{TrustDomain: domain, Root: ca.Root, Intermediate: ca.Intermediate, IntermediateKey: ca.IssuingKey}
	for name, change := range map[string]func(*Config){
		"no trust domain":        func(c *Config) { c.TrustDomain = "" },
		"no root":                func(c *Config) { c.Root = nil },
		"another root":           func(c *Config) { c.Root = other.Root },
		"another key":            func(c *Config) { c.IntermediateKey = other.IssuingKey },
		"the root as issuer":     func(c *Config) { c.Intermediate, c.IntermediateKey = ca.Root, ca.RootKey },
		"another trust domain":   func(c *Config) { c.TrustDomain = "other.example" },
		"intermediate elsewhere": func(c *Config) { c.Intermediate, c.IntermediateKey = elsewhere.Intermediate, elsewhere.IssuingKey },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSignAtOnce(t *testing.T) {
	a, _ := start(t, nil)
	var wg sync.WaitGroup
	serials := make([]string, 32)
	for i := range serials {
		csr := request(t)
		wg.Go(func() {
			chain, err := a.Sign(t.Context(), agent("a1"), csr, 0)
			if err != nil {
				t.Error(err)
				return
			}
			c, err := x509.ParseCertificate(chain[0])
			if err != nil {
				t.Error(err)
				return
			}
			serials[i] = c.SerialNumber.String()
		})
	}
	wg.Wait()
	slices.Sort(serials)
	if len(slices.Compact(serials)) != 32 {
		t.Error("serial numbers repeat")
	}
}

// Used tokens are forgotten when they could not be used any more, and never
// earlier.
func TestUsedTokensArePruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUsed()
		use := func(id string, want bool) {
			t.Helper()
			if got, err := u.UseToken(id, ""); err != nil || got != want {
				t.Errorf("%s: %v, %v", id, got, err)
			}
		}
		use("a", true)
		use("a", false)
		time.Sleep(tokenLife + tokenLeeway)
		use("a", false)
		time.Sleep(2 * tokenLeeway)
		use("b", true)
		if len(u.seen) != 1 || len(u.queue) != 1 {
			t.Errorf("%d remembered", len(u.seen))
		}
		for i := range maxUsed {
			u.UseToken(string(rune(i))+"x", "")
		}
		if _, err := u.UseToken("one more", ""); !errors.Is(err, errTooMany) {
			t.Errorf("over the bound: %v", err)
		}
	})
}

// A whole fleet in one synctest bubble has its authority in there too.
func TestRunsOnFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		root, rootKey, err := pki.NewRoot(domain, now, 365*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		inter, key := pkitest.Intermediate(t, root, rootKey, domain, now, 300*24*time.Hour)
		a, err := New(Config{TrustDomain: domain, Root: root, Intermediate: inter, IntermediateKey: key})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			chain, err := a.Sign(t.Context(), agent("a1"), request(t), 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := parse(t, chain).NotAfter; !got.Equal(time.Now().Add(DefaultLife).UTC()) {
				t.Errorf("ends %v at %v", got, time.Now())
			}
			time.Sleep(5 * 24 * time.Hour)
		}
	})
}

func b64(der []byte) string { return base64.StdEncoding.EncodeToString(der) }
