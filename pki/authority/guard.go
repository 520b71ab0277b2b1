package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/smallstep/certificates/authority/provisioner"
	casapi "github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"

	"github.com/tenderfleet/tender/pki"
)

// errGuard marks a certificate that the authority would have signed and the
// guard did not. It means a fault in this package, not in a request.
var errGuard = errors.New("guard refused the certificate")

// guard stands between the authority and the issuing key. It is the one place
// that sees whatever is about to be signed, by whichever way it came.
type guard struct {
	next        *softcas.SoftCAS
	trustDomain string
	notAfter    time.Time
	maxLife     time.Duration
}

var _ casapi.CertificateAuthorityService = (*guard)(nil)

func newGuard(cfg Config) (*guard, error) {
	next, err := softcas.New(context.Background(), casapi.Options{
		Type:             casapi.SoftCAS,
		Signer:           cfg.IntermediateKey,
		CertificateChain: []*x509.Certificate{cfg.Intermediate},
	})
	if err != nil {
		return nil, err
	}
	g := &guard{next: next, trustDomain: cfg.TrustDomain, maxLife: cfg.MaxLife, notAfter: cfg.Intermediate.NotAfter}
	if cfg.Root.NotAfter.Before(g.notAfter) {
		g.notAfter = cfg.Root.NotAfter
	}
	return g, nil
}

// Type says that the guard is no known service, so that the authority does not
// reach around it.
func (g *guard) Type() casapi.Type { return casapi.ExternalCAS }

// CreateCertificate signs what passes the checks.
func (g *guard) CreateCertificate(req *casapi.CreateCertificateRequest) (*casapi.CreateCertificateResponse, error) {
	if req.Template == nil {
		return nil, fmt.Errorf("%w: no template", errGuard)
	}
	if err := g.check(req.Template); err != nil {
		return nil, fmt.Errorf("%w: %w", errGuard, err)
	}
	return g.next.CreateCertificate(req)
}

// RenewCertificate refuses: a renewal prolongs a certificate without asking
// whether its identity is still wanted.
func (g *guard) RenewCertificate(*casapi.RenewCertificateRequest) (*casapi.RenewCertificateResponse, error) {
	return nil, fmt.Errorf("%w: the authority's renewal is not used", errGuard)
}

// RevokeCertificate refuses: identities are revoked, not serial numbers.
func (g *guard) RevokeCertificate(*casapi.RevokeCertificateRequest) (*casapi.RevokeCertificateResponse, error) {
	return nil, fmt.Errorf("%w: the authority's revocation is not used", errGuard)
}

func (g *guard) check(t *x509.Certificate) error {
	id, err := pki.IdentityOf(t)
	if err != nil {
		return err
	}
	if id.TrustDomain != g.trustDomain {
		return fmt.Errorf("%w: %s", pki.ErrForeign, id)
	}
	if t.KeyUsage != x509.KeyUsageDigitalSignature {
		return fmt.Errorf("key usage %b", t.KeyUsage)
	}
	if want := uses(id.Kind); !slices.Equal(t.ExtKeyUsage, want) || len(t.UnknownExtKeyUsage) != 0 {
		return fmt.Errorf("extended key usage %v %v of a %s, want %v", t.ExtKeyUsage, t.UnknownExtKeyUsage, id.Kind, want)
	}
	// An extension given raw replaces the checked field of the same meaning.
	for _, ext := range t.ExtraExtensions {
		if !ext.Id.Equal(provisioner.StepOIDProvisioner) {
			return fmt.Errorf("extension %s", ext.Id)
		}
	}
	if len(t.RawSubject) != 0 || t.Subject.CommonName != id.ID {
		return fmt.Errorf("subject %q", t.Subject.String())
	}
	if pub, ok := t.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return fmt.Errorf("public key %T", t.PublicKey)
	}
	switch {
	case t.NotBefore.IsZero() || t.NotAfter.IsZero():
		return errors.New("no validity")
	case t.NotAfter.After(g.notAfter):
		return fmt.Errorf("it would outlive its issuer, which ends %s", g.notAfter.UTC().Format(time.RFC3339))
	case t.NotAfter.Sub(t.NotBefore) > g.maxLife+pki.Backdate:
		return fmt.Errorf("%w: %v", ErrLife, t.NotAfter.Sub(t.NotBefore))
	}
	return nil
}

// uses are the extended key usages of a kind. Only a replica serves.
func uses(k pki.Kind) []x509.ExtKeyUsage {
	if k == pki.KindReplica {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// useNames are the same as the template spells them.
func useNames(k pki.Kind) []string {
	if k == pki.KindReplica {
		return []string{"serverAuth", "clientAuth"}
	}
	return []string{"clientAuth"}
}
