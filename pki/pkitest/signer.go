package pkitest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// Signer is what the authority and its twin have in common.
type Signer interface {
	Sign(ctx context.Context, id pki.Identity, csrDER []byte, life time.Duration) ([][]byte, error)
}

// TestSigner is the suite of every Signer. The signer's trust domain and root
// are given, to check what it signs.
func TestSigner(t *testing.T, s Signer, trustDomain string, root *x509.Certificate) {
	t.Run("EveryKind", func(t *testing.T) { testKinds(t, s, trustDomain, root) })
	t.Run("Refusals", func(t *testing.T) { testRefusals(t, s, trustDomain) })
	t.Run("OtherIdentities", func(t *testing.T) {
		csr := Request(t, Key(t), x509.CertificateRequest{})
		for _, id := range []pki.Identity{
			{},
			{TrustDomain: "other.example", Kind: pki.KindAgent, ID: "a1"},
			{TrustDomain: "sub." + trustDomain, Kind: pki.KindAgent, ID: "a1"},
			{TrustDomain: trustDomain, Kind: "root", ID: "a1"},
			{TrustDomain: trustDomain, Kind: pki.KindAgent, ID: "../a1"},
		} {
			if _, err := s.Sign(t.Context(), id, csr, time.Hour); err == nil {
				t.Errorf("signed for %s", id)
			}
		}
	})
}

func testKinds(t *testing.T, s Signer, trustDomain string, root *x509.Certificate) {
	for kind, want := range map[pki.Kind][]x509.ExtKeyUsage{
		pki.KindAgent:     {x509.ExtKeyUsageClientAuth},
		pki.KindOperator:  {x509.ExtKeyUsageClientAuth},
		pki.KindFramework: {x509.ExtKeyUsageClientAuth},
		pki.KindReader:    {x509.ExtKeyUsageClientAuth},
		pki.KindReplica:   {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	} {
		key := Key(t)
		id := pki.Identity{TrustDomain: trustDomain, Kind: kind, ID: "x1"}
		chain, err := s.Sign(t.Context(), id, Request(t, key, x509.CertificateRequest{}), time.Hour)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		bundle, err := pki.NewBundle(1, root)
		if err != nil {
			t.Fatal(err)
		}
		c, err := pki.NewCredential(chain, key, bundle)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		leaf := c.Leaf()
		got := slices.Sorted(slices.Values(leaf.ExtKeyUsage))
		slices.Sort(want)
		if c.Identity != id || !slices.Equal(got, want) || leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA {
			t.Errorf("%s: %s, uses %v, key usage %b, CA %v", kind, c.Identity, got, leaf.KeyUsage, leaf.IsCA)
		}
		if len(chain) != 3 || !bytes.Equal(chain[2], root.Raw) {
			t.Errorf("%s: the chain does not end in the root", kind)
		}
		if err := c.Verify(leaf.NotBefore.Add(2 * pki.Backdate)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life < time.Hour || life > time.Hour+pki.Backdate+time.Second {
			t.Errorf("%s: life %v", kind, life)
		}
	}
}

func testRefusals(t *testing.T, s Signer, trustDomain string) {
	key := Key(t)
	id := pki.Identity{TrustDomain: trustDomain, Kind: pki.KindAgent, ID: "a1"}
	other := pki.Identity{TrustDomain: trustDomain, Kind: pki.KindAgent, ID: "a2"}
	replica := pki.Identity{TrustDomain: trustDomain, Kind: pki.KindReplica, ID: "a1"}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	badSig := Request(t, key, x509.CertificateRequest{})
	badSig[len(badSig)-1] ^= 1
	for name, csr := range map[string][]byte{
		"AnotherIdentity": Request(t, key, x509.CertificateRequest{URIs: []*url.URL{other.URI()}}),
		"AnotherKind":     Request(t, key, x509.CertificateRequest{URIs: []*url.URL{replica.URI()}}),
		"AnotherName":     Request(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a2"}}),
		"TwoIdentities":   Request(t, key, x509.CertificateRequest{URIs: []*url.URL{id.URI(), other.URI()}}),
		"HostName":        Request(t, key, x509.CertificateRequest{DNSNames: []string{"a1.example"}}),
		"Address":         Request(t, key, x509.CertificateRequest{IPAddresses: []net.IP{{10, 0, 0, 1}}}),
		"Email":           Request(t, key, x509.CertificateRequest{EmailAddresses: []string{"a@b.example"}}),
		"BadSignature":    badSig,
		"RSA":             Request(t, rsaKey, x509.CertificateRequest{}),
		"P384":            Request(t, p384, x509.CertificateRequest{}),
		"Junk":            []byte("junk"),
		"Empty":           nil,
	} {
		if _, err := s.Sign(t.Context(), id, csr, time.Hour); !errors.Is(err, pki.ErrCSR) {
			t.Errorf("%s: got %v, want ErrCSR", name, err)
		}
	}
}

// Key makes a key.
func Key(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := pki.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// Request makes a certificate request, bad ones too.
func Request(tb testing.TB, key crypto.Signer, req x509.CertificateRequest) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &req, key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}
