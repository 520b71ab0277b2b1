package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Backdate is how far a certificate begins before it was made, so that a clock
// that is a little slow does not refuse it.
const Backdate = 5 * time.Minute

// NewRoot makes the root of a fleet. Its key signs intermediates and nothing
// else; take it offline once the replicas have theirs.
func NewRoot(trustDomain string, now time.Time, life time.Duration) (*x509.Certificate, crypto.Signer, error) {
	if err := CheckTrustDomain(trustDomain); err != nil {
		return nil, nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make root key: %w", err)
	}
	t := caTemplate("Tender root of "+trustDomain, trustDomain, key.Public(), now, life)
	t.MaxPathLen = 1
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign root: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("sign root: %w", err)
	}
	return root, key, nil
}

// SignIntermediate signs a replica's own issuing authority with the root. The
// request decides nothing but the key; the intermediate can sign leaves of
// this trust domain only, no further authorities, and ends with the root at
// the latest.
func SignIntermediate(root *x509.Certificate, rootKey crypto.Signer, csrDER []byte, trustDomain string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	if err := CheckTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	if err := checkRoot(root); err != nil {
		return nil, fmt.Errorf("sign intermediate: the root: %w", err)
	}
	if !sameKey(root.PublicKey, rootKey) {
		return nil, fmt.Errorf("sign intermediate: %w: the root certificate is of another key", ErrKeyMismatch)
	}
	csr, err := CheckCSR(csrDER)
	if err != nil {
		return nil, err
	}
	if len(csr.URIs) != 0 {
		return nil, fmt.Errorf("%w: an authority has no identity of its own", ErrCSR)
	}
	pub := csr.PublicKey
	if sameKey(pub, rootKey) {
		return nil, fmt.Errorf("%w: it is for the root's own key", ErrCSR)
	}
	if now.After(root.NotAfter) {
		return nil, fmt.Errorf("sign intermediate: %w", newClockError(root, now))
	}
	// The name follows from the key: a name chosen by the asker could be the
	// root's.
	ski := keyID(pub)
	t := caTemplate("Tender issuer "+hex.EncodeToString(ski[:8]), trustDomain, pub, now, life)
	t.MaxPathLenZero = true
	if t.NotAfter.After(root.NotAfter) {
		t.NotAfter = root.NotAfter
	}
	if t.NotBefore.Before(root.NotBefore) {
		t.NotBefore = root.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root, pub, rootKey)
	if err != nil {
		return nil, fmt.Errorf("sign intermediate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// CheckIntermediate reports whether inter may issue for trustDomain under
// root, for the holder of key.
func CheckIntermediate(inter, root *x509.Certificate, key crypto.Signer, trustDomain string) error {
	switch {
	case !sameKey(inter.PublicKey, key):
		return fmt.Errorf("%w: the intermediate is of another key", ErrKeyMismatch)
	case !inter.IsCA || inter.MaxPathLen != 0 || !inter.MaxPathLenZero:
		return errors.New("the intermediate is not an authority for leaves only")
	case len(inter.PermittedURIDomains) != 1 || inter.PermittedURIDomains[0] != trustDomain:
		return fmt.Errorf("the intermediate is not limited to %s", trustDomain)
	}
	if err := checkRoot(root); err != nil {
		return fmt.Errorf("the root: %w", err)
	}
	if err := inter.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("the intermediate was not signed by the root: %w", err)
	}
	return nil
}

func caTemplate(name, trustDomain string, pub crypto.PublicKey, now time.Time, life time.Duration) *x509.Certificate {
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     pkix.Name{CommonName: name},
		NotBefore:                   now.Add(-Backdate),
		NotAfter:                    now.Add(life),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		SubjectKeyId:                keyID(pub),
		PermittedURIDomains:         []string{trustDomain},
		PermittedDNSDomainsCritical: true, // marks the whole extension critical
	}
}

func keyID(pub crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil // CreateCertificate refuses such a key too
	}
	sum := sha256.Sum256(der)
	return sum[:20]
}

func newSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f // positive, so that it is 16 bytes in DER
	return new(big.Int).SetBytes(b)
}
