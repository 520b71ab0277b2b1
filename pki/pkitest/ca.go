// Package pkitest makes authorities and credentials for tests, from crypto/x509
// alone: the twin of pki/authority, without its weight.
//
//	ca := pkitest.New(t, "fleet.example")
//	replica := ca.Credential(t, pki.KindReplica, "r1")
//	late := ca.Credential(t, pki.KindAgent, "a1", pkitest.Validity(from, to))
//
// TestSigner is the suite that the twin and the real authority both pass.
package pkitest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// CA is an authority in memory. It signs whatever a test asks for, bad
// certificates too.
type CA struct {
	TrustDomain         string
	Root, Intermediate  *x509.Certificate
	RootKey, IssuingKey crypto.Signer
	// Now is time.Now unless a test sets it.
	Now func() time.Time
}

// New makes an authority whose root and intermediate began a year ago and end
// in ten years.
func New(tb testing.TB, trustDomain string) *CA {
	tb.Helper()
	now := time.Now().AddDate(-1, 0, 0)
	root, rootKey, err := pki.NewRoot(trustDomain, now, 11*365*24*time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	inter, interKey := Intermediate(tb, root, rootKey, trustDomain, now, 10*365*24*time.Hour)
	return &CA{
		TrustDomain: trustDomain, Root: root, RootKey: rootKey,
		Intermediate: inter, IssuingKey: interKey, Now: time.Now,
	}
}

// Intermediate makes a key and has the root sign an issuing authority for it.
func Intermediate(tb testing.TB, root *x509.Certificate, rootKey crypto.Signer, trustDomain string, now time.Time, life time.Duration) (*x509.Certificate, crypto.Signer) {
	tb.Helper()
	key, err := pki.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		tb.Fatal(err)
	}
	inter, err := pki.SignIntermediate(root, rootKey, csr, trustDomain, now, life)
	if err != nil {
		tb.Fatal(err)
	}
	return inter, key
}

// Bundle is the trust bundle of the fleet, version 1.
func (ca *CA) Bundle() *pki.Bundle {
	return &pki.Bundle{Version: 1, Roots: []*x509.Certificate{ca.Root}}
}

// Identity names a party of the fleet.
func (ca *CA) Identity(kind pki.Kind, id string) pki.Identity {
	return pki.Identity{TrustDomain: ca.TrustDomain, Kind: kind, ID: id}
}

// Sign does what authority.Authority.Sign does.
func (ca *CA) Sign(_ context.Context, id pki.Identity, csrDER []byte, life time.Duration) ([][]byte, error) {
	if err := id.Check(); err != nil {
		return nil, err
	}
	if id.TrustDomain != ca.TrustDomain {
		return nil, fmt.Errorf("%w: %s", pki.ErrForeign, id)
	}
	csr, err := pki.CheckCSRFor(csrDER, id)
	if err != nil {
		return nil, err
	}
	t := Template(id, ca.Now())
	if life > 0 {
		t.NotAfter = ca.Now().Add(life)
	}
	if t.NotAfter.After(ca.Intermediate.NotAfter) {
		t.NotAfter = ca.Intermediate.NotAfter
	}
	return ca.sign(t, csr.PublicKey)
}

func (ca *CA) sign(t *x509.Certificate, pub crypto.PublicKey) ([][]byte, error) {
	leaf, err := x509.CreateCertificate(rand.Reader, t, ca.Intermediate, pub, ca.IssuingKey)
	if err != nil {
		return nil, err
	}
	return [][]byte{leaf, ca.Intermediate.Raw, ca.Root.Raw}, nil
}

// Template is the certificate that id ought to have, from now for seven days.
func Template(id pki.Identity, now time.Time) *x509.Certificate {
	serial := make([]byte, 8)
	rand.Read(serial)
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: id.ID},
		URIs:         []*url.URL{id.URI()},
		NotBefore:    now.Add(-pki.Backdate),
		NotAfter:     now.Add(7 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id.Kind == pki.KindReplica {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return t
}

// Option changes the certificate that Credential makes.
type Option func(*x509.Certificate)

// Validity sets when the certificate holds.
func Validity(from, to time.Time) Option {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
}

// Credential makes a credential of the fleet. With options it may be one that
// no real authority would sign.
func (ca *CA) Credential(tb testing.TB, kind pki.Kind, id string, opts ...Option) *pki.Credential {
	tb.Helper()
	key, err := pki.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	ident := ca.Identity(kind, id)
	t := Template(ident, ca.Now())
	for _, o := range opts {
		o(t)
	}
	chain, err := ca.sign(t, key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		tb.Fatal(err)
	}
	c := &pki.Credential{Identity: ident, Bundle: ca.Bundle()}
	c.Chain.Certificate, c.Chain.PrivateKey, c.Chain.Leaf = chain, key, leaf
	return c
}
