package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// MaxRoots bounds a bundle; a rotation needs two.
const MaxRoots = 8

// Bundle is the set of roots a fleet trusts. Its version only grows; whoever
// holds a bundle takes a newer one and ignores an older one. A Bundle is not
// changed once made.
type Bundle struct {
	Version uint64
	Roots   []*x509.Certificate
}

// Pin names a root by its content: "sha256:" and the unpadded base64url of the
// SHA-256 of its DER form.
func Pin(root *x509.Certificate) string {
	sum := sha256.Sum256(root.Raw)
	return "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Pins returns the pin of every root.
func (b *Bundle) Pins() []string {
	pins := make([]string, len(b.Roots))
	for i, r := range b.Roots {
		pins[i] = Pin(r)
	}
	return pins
}

// Pool returns the roots as crypto/x509 wants them.
func (b *Bundle) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, r := range b.Roots {
		pool.AddCert(r)
	}
	return pool
}

// PEM returns the roots as PEM blocks. The version is not in it.
func (b *Bundle) PEM() []byte {
	var out []byte
	for _, r := range b.Roots {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: r.Raw})...)
	}
	return out
}

// ParseBundle reads what PEM wrote and refuses anything that is not a
// self-signed authority.
func ParseBundle(data []byte, version uint64) (*Bundle, error) {
	certs, err := parseCerts(data)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	return NewBundle(version, certs...)
}

// NewBundle returns a bundle of roots, after checking that they are roots.
func NewBundle(version uint64, roots ...*x509.Certificate) (*Bundle, error) {
	if len(roots) == 0 || len(roots) > MaxRoots {
		return nil, fmt.Errorf("trust bundle: %d roots, allowed are 1 to %d", len(roots), MaxRoots)
	}
	for _, r := range roots {
		if err := checkRoot(r); err != nil {
			return nil, fmt.Errorf("trust bundle: root %q: %w", r.Subject.CommonName, err)
		}
	}
	return &Bundle{Version: version, Roots: slices.Clone(roots)}, nil
}

func checkRoot(r *x509.Certificate) error {
	if !r.IsCA || !r.BasicConstraintsValid {
		return errors.New("it is not an authority's certificate")
	}
	if !selfSigned(r) {
		return errors.New("it is not signed by itself")
	}
	return nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil
}

const (
	blockCert = "CERTIFICATE"
	blockKey  = "PRIVATE KEY"
	// maxPEM bounds what is parsed, whoever it came from.
	maxPEM = 64 << 10
)

func parseCerts(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("%d bytes of PEM, the limit is %d", len(data), maxPEM)
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != blockCert {
			return nil, fmt.Errorf("a PEM block %.30q where only certificates belong", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(bytes.TrimSpace(data)) != 0 {
		return nil, errors.New("text after the last certificate; the file is damaged")
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}
