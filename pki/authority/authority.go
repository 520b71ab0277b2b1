package authority

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"go.step.sm/crypto/jose"

	"github.com/tenderfleet/tender/pki"
)

const (
	// DefaultLife is how long a certificate holds when nobody says otherwise.
	DefaultLife = 7 * 24 * time.Hour
	// DefaultMinLife keeps an authority near its end from handing out
	// certificates that would lapse before the next renewal.
	DefaultMinLife = 5 * time.Minute

	provisionerName = "tender"
	// audienceHost is never resolved; it only has to be the same on both ends
	// of a token that does not leave the process.
	audienceHost = "authority.tender.invalid"
)

// Kinds of failure that people act on.
var (
	ErrIssuerEnds = errors.New("the issuing authority is near its end")
	ErrLife       = errors.New("certificate life out of bounds")
)

// Config says who signs, and for whom.
type Config struct {
	TrustDomain        string
	Root, Intermediate *x509.Certificate
	IntermediateKey    crypto.Signer
	// MinLife and MaxLife bound the life of a leaf; zero is DefaultMinLife and
	// DefaultLife.
	MinLife, MaxLife time.Duration
	// Now dates the certificates; nil is time.Now.
	Now func() time.Time
}

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	cfg    Config
	ca     *authority.Authority
	tokens *mint
	used   *used
}

// New starts an authority, after checking that the intermediate is one that
// the root signed for this trust domain.
func New(cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.MinLife = cmp.Or(cfg.MinLife, DefaultMinLife)
	cfg.MaxLife = cmp.Or(cfg.MaxLife, DefaultLife)
	if err := pki.CheckTrustDomain(cfg.TrustDomain); err != nil {
		return nil, fmt.Errorf("start authority: %w", err)
	}
	if cfg.Root == nil || cfg.Intermediate == nil || cfg.IntermediateKey == nil {
		return nil, errors.New("start authority: root, intermediate or key is missing")
	}
	if err := pki.CheckIntermediate(cfg.Intermediate, cfg.Root, cfg.IntermediateKey, cfg.TrustDomain); err != nil {
		return nil, fmt.Errorf("start authority: %w", err)
	}
	tokens, err := newMint()
	if err != nil {
		return nil, fmt.Errorf("start authority: %w", err)
	}
	used := newUsed()
	guard, err := newGuard(cfg)
	if err != nil {
		return nil, fmt.Errorf("start authority: %w", err)
	}
	ca, err := authority.NewEmbedded(
		authority.WithConfig(&config.Config{
			DNSNames: []string{audienceHost},
			AuthorityConfig: &config.AuthConfig{
				Provisioners: provisioner.List{newProvisioner(tokens.public(), cfg.MinLife, cfg.MaxLife)},
				// The check refuses tokens made before this process began,
				// and a clock set back at start makes every token such a one.
				DisableIssuedAtCheck: true,
				Backdate:             &provisioner.Duration{Duration: pki.Backdate},
			},
		}),
		authority.WithX509RootCerts(cfg.Root),
		authority.WithX509IntermediateCerts(cfg.Intermediate),
		authority.WithX509CAService(guard),
		authority.WithDatabase(used),
		authority.WithQuietInit(),
	)
	if err != nil {
		return nil, fmt.Errorf("start authority: %w", err)
	}
	return &Authority{cfg: cfg, ca: ca, tokens: tokens, used: used}, nil
}

// newProvisioner is the authority's only one. Identity and use come from the
// token; nothing in the template reads the request.
func newProvisioner(key *jose.JSONWebKey, minLife, maxLife time.Duration) *provisioner.JWK {
	yes, no := true, false
	return &provisioner.JWK{
		Type: "JWK",
		Name: provisionerName,
		Key:  key,
		Claims: &provisioner.Claims{
			MinTLSDur:               &provisioner.Duration{Duration: minLife},
			MaxTLSDur:               &provisioner.Duration{Duration: maxLife},
			DefaultTLSDur:           &provisioner.Duration{Duration: maxLife},
			DisableRenewal:          &yes,
			AllowRenewalAfterExpiry: &no,
			EnableSSHCA:             &no,
		},
		Options: &provisioner.Options{X509: &provisioner.X509Options{Template: leafTemplate}},
	}
}

const leafTemplate = `{
	"subject": {"commonName": {{ toJson .Token.sub }}},
	"uris": {{ toJson .Token.sans }},
	"keyUsage": ["digitalSignature"],
	"extKeyUsage": {{ toJson .Token.use }}
}`

// Sign returns a certificate for id and the key of csrDER: leaf, intermediate,
// root, in DER. A life of zero is DefaultLife; the leaf ends with its issuer at
// the latest, so it may be shorter than asked for.
//
// id must come from a join token consumed or from a verified peer, never from
// the request. A refused request has used up nothing.
func (a *Authority) Sign(ctx context.Context, id pki.Identity, csrDER []byte, life time.Duration) ([][]byte, error) {
	if err := id.Check(); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	if id.TrustDomain != a.cfg.TrustDomain {
		return nil, fmt.Errorf("sign certificate: %w: %s is not of %s", pki.ErrForeign, id, a.cfg.TrustDomain)
	}
	csr, err := pki.CheckCSRFor(csrDER, id)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	now := a.cfg.Now().UTC().Truncate(time.Second)
	end, err := a.end(now, life)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id.Short(), err)
	}
	chain, err := a.sign(ctx, id, csr, now, end)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id.Short(), err)
	}
	return chain, nil
}

// end works out when a leaf asked for now shall end.
func (a *Authority) end(now time.Time, life time.Duration) (time.Time, error) {
	if life == 0 {
		life = min(DefaultLife, a.cfg.MaxLife)
	}
	if life < a.cfg.MinLife || life > a.cfg.MaxLife {
		return time.Time{}, fmt.Errorf("%w: %v asked for, allowed are %v to %v", ErrLife, life, a.cfg.MinLife, a.cfg.MaxLife)
	}
	end := now.Add(life)
	for _, issuer := range []*x509.Certificate{a.cfg.Intermediate, a.cfg.Root} {
		if end.After(issuer.NotAfter) {
			end = issuer.NotAfter
		}
	}
	if end.Sub(now) < a.cfg.MinLife {
		return time.Time{}, fmt.Errorf("%w: it ends at %s; sign a new intermediate with the root key",
			ErrIssuerEnds, end.UTC().Format(time.RFC3339))
	}
	return end, nil
}

func (a *Authority) sign(ctx context.Context, id pki.Identity, csr *x509.CertificateRequest, now, end time.Time) ([][]byte, error) {
	token, err := a.tokens.make(id, csr)
	if err != nil {
		return nil, err
	}
	opts, err := a.ca.Authorize(provisioner.NewContextWithMethod(ctx, provisioner.SignMethod), token)
	if err != nil {
		return nil, err
	}
	certs, err := a.ca.SignWithContext(ctx, csr, provisioner.SignOptions{
		NotBefore: provisioner.NewTimeDuration(now.Add(-pki.Backdate)),
		NotAfter:  provisioner.NewTimeDuration(end),
	}, opts...)
	if err != nil {
		return nil, err
	}
	if len(certs) < 2 {
		return nil, fmt.Errorf("the authority returned %d certificates", len(certs))
	}
	// The guard knows what any certificate must look like; only here is it
	// known for whom this one is.
	if got, err := pki.IdentityOf(certs[0]); err != nil || got != id {
		return nil, fmt.Errorf("%w: signed for %q (%v)", errGuard, got, err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("%w: signed for another key", errGuard)
	}
	return [][]byte{certs[0].Raw, a.cfg.Intermediate.Raw, a.cfg.Root.Raw}, nil
}

// Root returns the root that certificates lead to.
func (a *Authority) Root() *x509.Certificate { return a.cfg.Root }

// Intermediate returns the certificate that signs.
func (a *Authority) Intermediate() *x509.Certificate { return a.cfg.Intermediate }

// fingerprint binds a token to one request.
func fingerprint(csr *x509.CertificateRequest) string {
	sum := sha256.Sum256(csr.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
