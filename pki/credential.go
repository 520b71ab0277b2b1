package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// MaxChain bounds a certificate chain: a leaf, and its issuer and root twice
// over while roots change, with one spare.
const MaxChain = 6

// Credential is one party's certificate chain, key and trust bundle. It is not
// changed once made.
type Credential struct {
	Identity Identity
	Chain    tls.Certificate
	Bundle   *Bundle
}

// NewKey makes a P-256 key, the one sort of key that certificates here hold.
func NewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// NewCredential puts together what the authority returned (leaf first, DER)
// with the key it was asked for. It checks that they belong together, not that
// the chain leads to the bundle: see Credential.Verify.
func NewCredential(chain [][]byte, key crypto.Signer, bundle *Bundle) (*Credential, error) {
	if len(chain) == 0 || len(chain) > MaxChain {
		return nil, fmt.Errorf("certificate chain of %d, allowed are 1 to %d", len(chain), MaxChain)
	}
	for i, der := range chain[1:] {
		if _, err := x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("leaf certificate: %w", err)
	}
	id, err := IdentityOf(leaf)
	if err != nil {
		return nil, err
	}
	if bundle == nil {
		return nil, errors.New("credential without a trust bundle")
	}
	if !sameKey(leaf.PublicKey, key) {
		return nil, fmt.Errorf("%w: the certificate of %s is for another key", ErrKeyMismatch, id.Short())
	}
	return &Credential{
		Identity: id,
		Chain:    tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf},
		Bundle:   bundle,
	}, nil
}

// ErrKeyMismatch marks a certificate and a key that do not belong together.
var ErrKeyMismatch = errors.New("key and certificate differ")

func sameKey(pub crypto.PublicKey, key crypto.Signer) bool {
	p, ok := pub.(*ecdsa.PublicKey)
	return ok && key != nil && p.Equal(key.Public())
}

// Leaf returns the certificate that names the party.
func (c *Credential) Leaf() *x509.Certificate { return c.Chain.Leaf }

// Verify reports whether the chain leads to a root of the bundle at now, for
// the use that every kind of party has.
func (c *Credential) Verify(now time.Time) error {
	inter := x509.NewCertPool()
	for _, der := range c.Chain.Certificate[1:] {
		if ic, err := x509.ParseCertificate(der); err == nil {
			inter.AddCert(ic)
		}
	}
	return verifyChain(c.Leaf(), inter, c.Bundle.Pool(), x509.ExtKeyUsageClientAuth, now)
}

// withRoot returns the chain ending in its root, which a joiner compares with
// the pin of its join line.
func (c *Credential) withRoot() *tls.Certificate {
	chain := c.Chain
	last, err := x509.ParseCertificate(chain.Certificate[len(chain.Certificate)-1])
	if err != nil || selfSigned(last) {
		return &chain
	}
	for _, r := range c.Bundle.Roots {
		if last.CheckSignatureFrom(r) == nil {
			full := make([][]byte, 0, len(chain.Certificate)+1)
			chain.Certificate = append(append(full, chain.Certificate...), r.Raw)
			break
		}
	}
	return &chain
}

// withRoots is withRoot with every root of the bundle that has signed the leaf's
// issuer: while roots change, join lines name the one or the other.
func (c *Credential) withRoots() *tls.Certificate {
	chain := *c.withRoot()
	full := slices.Clone(chain.Certificate)
	for _, der := range chain.Certificate[1:] {
		issuer, err := x509.ParseCertificate(der)
		if err != nil || selfSigned(issuer) {
			continue
		}
		for _, r := range c.Bundle.Roots {
			shown := slices.ContainsFunc(full, func(der []byte) bool { return bytes.Equal(der, r.Raw) })
			if !shown && len(full) < MaxChain && issuer.CheckSignatureFrom(r) == nil {
				full = append(full, r.Raw)
			}
		}
	}
	chain.Certificate = full
	return &chain
}

// withoutRoot leaves out the root, which the other side has.
func (c *Credential) withoutRoot() *tls.Certificate {
	chain := c.Chain
	if n := len(chain.Certificate); n > 1 {
		if last, err := x509.ParseCertificate(chain.Certificate[n-1]); err == nil && selfSigned(last) {
			chain.Certificate = chain.Certificate[:n-1]
		}
	}
	return &chain
}

// RenewAt returns when to renew leaf: r, drawn at random from [0,1), picks a
// point between 50 % and 80 % of its life, so that a fleet that joined at once
// does not renew at once.
func RenewAt(leaf *x509.Certificate, r float64) time.Time {
	r = min(max(r, 0), 1)
	// Of a short life the time that it is backdated by would be most.
	made := leaf.NotBefore.Add(Backdate)
	if made.After(leaf.NotAfter) {
		made = leaf.NotBefore
	}
	return made.Add(time.Duration(float64(leaf.NotAfter.Sub(made)) * (0.5 + 0.3*r)))
}

// Holder hands the newest credential to TLS, so that a renewal takes effect
// under running listeners. It is safe for concurrent use.
type Holder struct {
	chain atomic.Pointer[chains]
}

// chains is worked out once per credential instead of once per handshake.
type chains struct {
	of                    *Credential
	server, enrol, client *tls.Certificate
	roots                 *x509.CertPool
}

// NewHolder returns a Holder of c, which may be nil until the party has joined.
func NewHolder(c *Credential) *Holder {
	h := &Holder{}
	h.Set(c)
	return h
}

// Get returns the newest credential, nil before there is one.
func (h *Holder) Get() *Credential {
	if c := h.chain.Load(); c != nil {
		return c.of
	}
	return nil
}

// Set makes c the newest credential.
func (h *Holder) Set(c *Credential) {
	if c == nil {
		h.chain.Store(nil)
		return
	}
	h.chain.Store(&chains{of: c, server: c.withRoot(), enrol: c.withRoots(), client: c.withoutRoot(), roots: c.Bundle.Pool()})
}

var errNoCredential = errors.New("this process has no certificate yet: join first")

func (h *Holder) load() (*chains, error) {
	if c := h.chain.Load(); c != nil {
		return c, nil
	}
	return nil, errNoCredential
}
