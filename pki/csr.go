package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// MaxCSR bounds a certificate request; ours are about 200 bytes.
const MaxCSR = 2048

// ErrCSR marks a certificate request that no authority here signs.
var ErrCSR = errors.New("certificate request refused")

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// NewCSR returns a certificate request for key. It names nobody: who the
// certificate is for is the authority's to say.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// CheckCSR parses a request and reports whether it may be signed at all: the
// asker holds the key, which is P-256, and it asks for nothing but perhaps one
// URI name. It is cheap, and comes before anything that cannot be undone.
func CheckCSR(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > MaxCSR {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrCSR, len(der), MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: its key is not ECDSA P-256", ErrCSR)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature is wrong: %w", ErrCSR, err)
	}
	for _, ext := range csr.Extensions {
		if !ext.Id.Equal(oidSAN) {
			return nil, fmt.Errorf("%w: it asks for the extension %s", ErrCSR, ext.Id)
		}
	}
	if n := len(csr.DNSNames) + len(csr.IPAddresses) + len(csr.EmailAddresses); n != 0 || len(csr.URIs) > 1 {
		return nil, fmt.Errorf("%w: it asks for more names than one identity has", ErrCSR)
	}
	return csr, nil
}

// CheckCSRFor is CheckCSR for a party already known: the request names nobody
// or exactly that party.
func CheckCSRFor(der []byte, id Identity) (*x509.CertificateRequest, error) {
	csr, err := CheckCSR(der)
	if err != nil {
		return nil, err
	}
	if cn := csr.Subject.CommonName; cn != "" && cn != id.ID {
		return nil, fmt.Errorf("%w: it names %.70q, the asker is %s", ErrCSR, cn, id.Short())
	}
	if len(csr.URIs) == 1 && csr.URIs[0].String() != id.String() {
		return nil, fmt.Errorf("%w: it names %.100q, the asker is %s", ErrCSR, csr.URIs[0].String(), id)
	}
	return csr, nil
}
