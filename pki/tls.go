package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The protocols that a client without a certificate may speak. Over enrol/1 it
// joins; over HTTP it must show a bearer token with each request.
const (
	ALPNEnrol = "enrol/1"
	ALPNHTTP1 = "http/1.1"
	ALPNHTTP2 = "h2"
)

// IsHTTP reports whether a protocol is one of HTTP's, over which a certificate
// may be missing: whoever serves it asks each request who it is from.
func IsHTTP(alpn string) bool { return alpn == ALPNHTTP1 || alpn == ALPNHTTP2 }

func notHTTP(alpn string) bool { return !IsHTTP(alpn) }

// Kinds of refusal that people or callers act on.
var (
	ErrNoCertificate = errors.New("no verified certificate")
	ErrForeign       = errors.New("identity of another trust domain")
	ErrWrongPin      = errors.New("the server's authority is not the one of the join line")
	ErrExpired       = errors.New("certificate has ended")
	ErrNotYetValid   = errors.New("certificate is not valid yet")
	ErrNotReplica    = errors.New("the server is not a replica")
)

// Authorize decides on a verified peer. It runs inside every handshake,
// resumed ones too, so it must be quick and must not block; an error ends the
// handshake. A nil Authorize refuses everybody.
type Authorize func(id Identity, leaf *x509.Certificate, alpn string) error

// ServerTLS returns the configuration of a replica's listeners. Clients must
// show a certificate that leads to the holder's bundle and that allow accepts.
// Only where enrol/1 is among alpns, and only for a client that offers exactly
// that, no certificate is asked for. Where HTTP is among them, a client that
// offers nothing else may come without one; one that it shows is judged.
//
// The clock is the configuration's Time when set before first use.
func ServerTLS(h *Holder, allow Authorize, alpns ...string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A resumed session would carry on an identity banned meanwhile.
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              x509.NewCertPool(),
		NextProtos:             slices.DeleteFunc(slices.Clone(alpns), func(s string) bool { return s == ALPNEnrol }),
		VerifyConnection:       func(cs tls.ConnectionState) error { return verifyClient(h, allow, cs) },
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := h.load()
			if err != nil {
				return nil, err
			}
			if slices.Equal(hello.SupportedProtos, []string{ALPNEnrol}) {
				return c.enrol, nil
			}
			return c.server, nil
		},
	}
	enrols, web := slices.Contains(alpns, ALPNEnrol), slices.ContainsFunc(alpns, IsHTTP)
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		creds, err := h.load()
		if err != nil {
			return nil, err
		}
		c := cfg.Clone()
		c.GetConfigForClient = nil
		c.ClientCAs = creds.roots
		if enrols && slices.Equal(hello.SupportedProtos, []string{ALPNEnrol}) {
			c.ClientAuth, c.ClientCAs, c.VerifyConnection = tls.NoClientCert, nil, nil
			c.NextProtos = []string{ALPNEnrol}
		}
		if web && offersHTTP(hello.SupportedProtos) {
			c.ClientAuth = tls.VerifyClientCertIfGiven
			c.NextProtos = slices.DeleteFunc(slices.Clone(c.NextProtos), notHTTP)
		}
		return c, nil
	}
	return cfg
}

// offersHTTP reports whether a client wants HTTP and nothing else.
func offersHTTP(protos []string) bool {
	return len(protos) > 0 && !slices.ContainsFunc(protos, notHTTP)
}

func verifyClient(h *Holder, allow Authorize, cs tls.ConnectionState) error {
	creds, err := h.load()
	if err != nil {
		return err
	}
	if len(cs.PeerCertificates) == 0 && IsHTTP(cs.NegotiatedProtocol) {
		return nil // the handshake has demanded one wherever it must be
	}
	if len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return ErrNoCertificate
	}
	leaf := cs.VerifiedChains[0][0]
	id, err := IdentityOf(leaf)
	if err != nil {
		return err
	}
	// Go's name constraints let subdomains of the trust domain pass.
	if own := creds.of.Identity.TrustDomain; id.TrustDomain != own {
		return fmt.Errorf("%w: %s is not of %s", ErrForeign, id, own)
	}
	if cs.NegotiatedProtocol == "" {
		return fmt.Errorf("%s named no protocol", id.Short())
	}
	if allow == nil {
		return fmt.Errorf("nobody is allowed to speak %s here", cs.NegotiatedProtocol)
	}
	return allow(id, leaf, cs.NegotiatedProtocol)
}

// ClientTLS returns the configuration for dialling a replica. Host names are
// not looked at: the chain must lead to the holder's bundle and name a replica
// that expect accepts; a nil expect accepts every replica of the trust domain.
//
// The clock is the configuration's Time when set before first use.
func ClientTLS(h *Holder, expect func(Identity) error, alpn string) *tls.Config {
	cfg := clientConfig(alpn)
	judge := h.Judge()
	// Always our one certificate: Go would send none at all where the server's
	// list of authorities does not match.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := h.load()
		if err != nil {
			return nil, err
		}
		return c.client, nil
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		id, err := judge(cs.PeerCertificates, clock(cfg))
		if err != nil {
			return err
		}
		if expect != nil {
			return expect(id)
		}
		return nil
	}
	return cfg
}

// PinnedTLS returns the configuration of a machine that joins: it has no
// bundle, only the pin of the root, and accepts a replica whose chain holds
// the root of that pin.
//
// The clock is the configuration's Time when set before first use.
func PinnedTLS(pin, alpn string) *tls.Config {
	cfg := clientConfig(alpn)
	judge := PinJudge(pin)
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := judge(cs.PeerCertificates, clock(cfg))
		return err
	}
	return cfg
}

func clientConfig(alpn string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// VerifyConnection does the whole check: identities are URIs, which
		// the built-in one, made for host names, does not look at.
		InsecureSkipVerify: true,
	}
	if alpn != "" {
		cfg.NextProtos = []string{alpn}
	}
	return cfg
}

func clock(cfg *tls.Config) time.Time {
	if cfg.Time != nil {
		return cfg.Time()
	}
	return time.Now()
}

func verifyReplica(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, ErrNoCertificate
	}
	if len(chain) > MaxChain {
		return Identity{}, fmt.Errorf("certificate chain of %d, the limit is %d", len(chain), MaxChain)
	}
	inter := x509.NewCertPool()
	for _, c := range chain[1:] {
		inter.AddCert(c)
	}
	if err := verifyChain(chain[0], inter, roots, x509.ExtKeyUsageServerAuth, now); err != nil {
		return Identity{}, err
	}
	id, err := IdentityOf(chain[0])
	if err != nil {
		return Identity{}, err
	}
	if id.Kind != KindReplica {
		return Identity{}, fmt.Errorf("%w: it is %s", ErrNotReplica, id.Short())
	}
	return id, nil
}

func verifyChain(leaf *x509.Certificate, inter, roots *x509.CertPool, use x509.ExtKeyUsage, now time.Time) error {
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: inter,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{use},
	})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		return newClockError(invalid.Cert, now)
	}
	if err != nil {
		return fmt.Errorf("verify certificate: %w", err)
	}
	return nil
}

// LeadsTo reports whether a chain, leaf first, that was good once leads to one of
// the roots, whatever the time is now.
func LeadsTo(chain, roots []*x509.Certificate) bool {
	pool, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	for _, c := range chain[1:] {
		inter.AddCert(c)
	}
	return verifyChain(chain[0], inter, pool, x509.ExtKeyUsageAny, chain[0].NotAfter) == nil
}

// ClockError says that a certificate does not hold at this machine's time. It
// is ErrExpired or ErrNotYetValid.
type ClockError struct {
	Subject             string
	Now                 time.Time
	NotBefore, NotAfter time.Time
}

func newClockError(c *x509.Certificate, now time.Time) *ClockError {
	subject := c.Subject.CommonName
	if id, err := IdentityOf(c); err == nil {
		subject = id.Short()
	}
	return &ClockError{Subject: subject, Now: now.UTC(), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC()}
}

// Error names the machine's time, the certificate's validity and what to do.
func (e *ClockError) Error() string {
	text := fmt.Sprintf("this machine's clock says %s, but the certificate of %s is valid from %s to %s",
		stamp(e.Now), e.Subject, stamp(e.NotBefore), stamp(e.NotAfter))
	if e.Now.Before(e.NotBefore) {
		return text + "; set the clock (timedatectl set-ntp true) and try again"
	}
	return text + "; if the clock is wrong, set it (timedatectl set-ntp true) and try again; if it is right, the certificate was not renewed in time"
}

// Is tells the two directions apart.
func (e *ClockError) Is(target error) bool {
	if e.Now.Before(e.NotBefore) {
		return target == ErrNotYetValid
	}
	return target == ErrExpired
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
