package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

func TestParseIdentity(t *testing.T) {
	for _, s := range []string{
		"spiffe://fleet.example/agent/a1",
		"spiffe://td/replica/r-1_x.y",
		"spiffe://a-b.c/operator/" + strings.Repeat("x", 63),
		"spiffe://fleet.example/framework/0",
		"spiffe://fleet.example/reader/board",
	} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		id, err := pki.ParseIdentity(u)
		if err != nil || id.String() != s || id.URI().String() != s {
			t.Errorf("%s: %v, %v", s, id, err)
		}
	}
	for _, s := range []string{
		"", "https://fleet.example/agent/a1", "spiffe://fleet.example/agent", "spiffe://fleet.example/agent/",
		"spiffe://fleet.example/agent/a1/", "spiffe://fleet.example//agent/a1", "spiffe://fleet.example/agent/a1/b",
		"spiffe://fleet.example/root/a1", "spiffe://fleet.example/Agent/a1", "spiffe://fleet.example/agent/A1",
		"spiffe://Fleet.example/agent/a1", "spiffe://fleet.example:1/agent/a1", "spiffe://u@fleet.example/agent/a1",
		"spiffe://fleet.example/agent/a1?x=1", "spiffe://fleet.example/agent/a1?", "spiffe://fleet.example/agent/a1#f",
		"spiffe://fleet.example/agent/%61", "spiffe://fleet.example/agent/..", "spiffe://fleet.example/agent/" + strings.Repeat("x", 64),
		"spiffe:///agent/a1", "spiffe://10.0.0.1/agent/a1", "spiffe://[::1]/agent/a1", "spiffe:fleet.example/agent/a1",
		"spiffe://fleet..example/agent/a1", "spiffe://.fleet/agent/a1", "spiffe://fleet./agent/a1", "spiffe://-a/agent/a1",
	} {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		if id, err := pki.ParseIdentity(u); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("%s: accepted as %v (%v)", s, id, err)
		}
	}
	if _, err := pki.ParseIdentity(nil); err == nil {
		t.Error("nil accepted")
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("spiffe://fleet.example/agent/a1")
	f.Add("spiffe://fleet.example/agent/%61")
	f.Add("spiffe://u@[::1]:1/agent/a1?#")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, err := pki.ParseIdentity(u)
		if err == nil && (id.String() != u.String() || id.Check() != nil) {
			t.Errorf("%q read as %q", s, id)
		}
	})
}

// FuzzIdentityOf feeds whole certificates, as a peer may send them.
func FuzzIdentityOf(f *testing.F) {
	ca := pkitest.New(f, "fleet.example")
	f.Add(ca.Credential(f, pki.KindAgent, "a1").Leaf().Raw)
	f.Add(ca.Root.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if id, err := pki.IdentityOf(c); err == nil && (len(c.URIs) != 1 || c.URIs[0].String() != id.String() || c.IsCA) {
			t.Errorf("read as %q", id)
		}
	})
}

func TestIdentityOfAuthority(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	for _, c := range []*x509.Certificate{nil, ca.Root, ca.Intermediate} {
		if _, err := pki.IdentityOf(c); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("got %v", err)
		}
	}
}

func TestBundle(t *testing.T) {
	ca, other := pkitest.New(t, "fleet.example"), pkitest.New(t, "fleet.example")
	b, err := pki.NewBundle(7, ca.Root, other.Root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pki.ParseBundle(b.PEM(), 7)
	if err != nil || got.Version != 7 || len(got.Roots) != 2 || !bytes.Equal(got.PEM(), b.PEM()) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if p := b.Pins(); p[0] != pki.Pin(ca.Root) || p[1] != pki.Pin(other.Root) || p[0] == p[1] || len(p[0]) != 50 {
		t.Errorf("pins %v", p)
	}
	keyPEM, err := pki.EncodeKey(ca.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":        nil,
		"junk after":   append(b.PEM(), "junk"...),
		"a key":        append(b.PEM(), keyPEM...),
		"too long":     bytes.Repeat([]byte{'\n'}, 1<<20),
		"intermediate": (&pki.Bundle{Roots: []*x509.Certificate{ca.Intermediate}}).PEM(),
		"a leaf":       (&pki.Bundle{Roots: []*x509.Certificate{ca.Credential(t, pki.KindAgent, "a").Leaf()}}).PEM(),
		"too many":     bytes.Repeat(ca.Bundle().PEM(), pki.MaxRoots+1),
	} {
		if _, err := pki.ParseBundle(data, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRenewAt(t *testing.T) {
	from := time.Unix(0, 0)
	leaf := &x509.Certificate{NotBefore: from.Add(-pki.Backdate), NotAfter: from.Add(100 * time.Hour)}
	for r, want := range map[float64]time.Duration{0: 50 * time.Hour, 0.5: 65 * time.Hour, 1: 80 * time.Hour, -1: 50 * time.Hour, 9: 80 * time.Hour} {
		if got := pki.RenewAt(leaf, r).Sub(from); got != want {
			t.Errorf("r=%v: %v, want %v", r, got, want)
		}
	}
}

func csrOf(t *testing.T, key crypto.Signer, req x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &req, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCheckCSR(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	id := pki.Identity{TrustDomain: "fleet.example", Kind: pki.KindAgent, ID: "a1"}
	other := pki.Identity{TrustDomain: "fleet.example", Kind: pki.KindAgent, ID: "a2"}
	plain, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(plain)
	broken[len(broken)-1] ^= 1
	isCA, err := asn1.Marshal(struct {
		CA bool
	}{true})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		der  []byte
		want string
	}{
		"ours":             {plain, ""},
		"names the asker":  {csrOf(t, key, x509.CertificateRequest{URIs: []*url.URL{id.URI()}, Subject: pkix.Name{CommonName: "a1"}}), ""},
		"another identity": {csrOf(t, key, x509.CertificateRequest{URIs: []*url.URL{other.URI()}}), "agent/a2"},
		"another name":     {csrOf(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a2"}}), `"a2"`},
		"two identities":   {csrOf(t, key, x509.CertificateRequest{URIs: []*url.URL{id.URI(), other.URI()}}), "more names"},
		"host name":        {csrOf(t, key, x509.CertificateRequest{DNSNames: []string{"x.example"}}), "more names"},
		"address":          {csrOf(t, key, x509.CertificateRequest{IPAddresses: []net.IP{{10, 0, 0, 1}}}), "more names"},
		"email":            {csrOf(t, key, x509.CertificateRequest{EmailAddresses: []string{"a@x.example"}}), "more names"},
		"authority": {csrOf(t, key, x509.CertificateRequest{ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: isCA},
		}}), "extension 2.5.29.19"},
		"P-384":         {csrOf(t, p384, x509.CertificateRequest{}), "P-256"},
		"RSA":           {csrOf(t, rsaKey, x509.CertificateRequest{}), "P-256"},
		"bad signature": {broken, "signature is wrong"},
		"no request":    {[]byte("hello"), "refused"},
		"empty":         {nil, "refused"},
		"trailing data": {append(bytes.Clone(plain), 0), "trailing"},
		"too long":      {make([]byte, pki.MaxCSR+1), "limit"},
	} {
		_, err := pki.CheckCSRFor(tt.der, id)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, pki.ErrCSR) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

func FuzzCheckCSR(f *testing.F) {
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	der, err := pki.NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	id := pki.Identity{TrustDomain: "fleet.example", Kind: pki.KindAgent, ID: "a1"}
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := pki.CheckCSRFor(der, id)
		if err == nil && (len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.EmailAddresses) != 0 || len(csr.URIs) > 1) {
			t.Error("a request with other names passed")
		}
	})
}

func TestRootCeremony(t *testing.T) {
	now := time.Now()
	year := 365 * 24 * time.Hour
	root, rootKey, err := pki.NewRoot("fleet.example", now, 2*year)
	if err != nil {
		t.Fatal(err)
	}
	if !root.IsCA || root.MaxPathLen != 1 || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("root: CA %v, pathlen %d, usage %b", root.IsCA, root.MaxPathLen, root.KeyUsage)
	}
	if !root.PermittedDNSDomainsCritical || root.PermittedURIDomains[0] != "fleet.example" {
		t.Error("root has no critical name constraint")
	}
	inter, interKey := pkitest.Intermediate(t, root, rootKey, "fleet.example", now, 10*year)
	if inter.NotAfter.After(root.NotAfter) {
		t.Errorf("intermediate ends %v, after its root %v", inter.NotAfter, root.NotAfter)
	}
	if err := pki.CheckIntermediate(inter, root, interKey, "fleet.example"); err != nil {
		t.Error(err)
	}
	if inter.Subject.String() == root.Subject.String() {
		t.Error("intermediate bears the root's name")
	}
	for name, err := range map[string]error{
		"another key":          pki.CheckIntermediate(inter, root, rootKey, "fleet.example"),
		"another trust domain": pki.CheckIntermediate(inter, root, interKey, "other.example"),
		"root as intermediate": pki.CheckIntermediate(root, root, rootKey, "fleet.example"),
		"another root":         pki.CheckIntermediate(inter, pkitest.New(t, "fleet.example").Root, interKey, "fleet.example"),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	csr, err := pki.NewCSR(interKey)
	if err != nil {
		t.Fatal(err)
	}
	id := pki.Identity{TrustDomain: "fleet.example", Kind: pki.KindAgent, ID: "a1"}
	rootCSR, err := pki.NewCSR(rootKey)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key crypto.Signer, csr []byte, at time.Time) error {
		_, err := pki.SignIntermediate(root, key, csr, "fleet.example", at, year)
		return err
	}
	for name, err := range map[string]error{
		"wrong root key":   sign(interKey, csr, now),
		"root's own key":   sign(rootKey, rootCSR, now),
		"with identity":    sign(rootKey, csrOf(t, interKey, x509.CertificateRequest{URIs: []*url.URL{id.URI()}}), now),
		"root has ended":   sign(rootKey, csr, now.Add(3*year)),
		"bad trust domain": func() error { _, _, err := pki.NewRoot("Fleet", now, year); return err }(),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
