package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Kind says what sort of party an identity is.
type Kind string

// The kinds of parties in a fleet.
const (
	KindReplica   Kind = "replica"
	KindAgent     Kind = "agent"
	KindOperator  Kind = "operator"
	KindFramework Kind = "framework"
	KindReader    Kind = "reader"
)

// Valid reports whether k is one of the known kinds.
func (k Kind) Valid() bool {
	switch k {
	case KindReplica, KindAgent, KindOperator, KindFramework, KindReader:
		return true
	}
	return false
}

// UsesAPI reports whether parties of that kind come to the fleet through its
// API, rather than being a part of it.
func (k Kind) UsesAPI() bool {
	return k == KindOperator || k == KindFramework || k == KindReader
}

// ErrIdentity marks a name or certificate that is not an identity of a fleet.
var ErrIdentity = errors.New("not an identity")

// Identity is the name of one party. It is comparable; the zero value names
// nobody.
type Identity struct {
	TrustDomain string
	Kind        Kind
	ID          string
}

// String returns spiffe://TRUST-DOMAIN/KIND/ID.
func (id Identity) String() string {
	return "spiffe://" + id.TrustDomain + "/" + string(id.Kind) + "/" + id.ID
}

// Short returns KIND/ID, for messages inside one trust domain.
func (id Identity) Short() string { return string(id.Kind) + "/" + id.ID }

// URI returns the identity as it stands in a certificate.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/" + string(id.Kind) + "/" + id.ID}
}

// Check reports whether every part of id is well formed.
func (id Identity) Check() error {
	if err := CheckTrustDomain(id.TrustDomain); err != nil {
		return err
	}
	if !id.Kind.Valid() {
		return fmt.Errorf("%w: kind %.20q is none of replica, agent, operator, framework, reader", ErrIdentity, string(id.Kind))
	}
	return checkID(id.ID)
}

const (
	maxID          = 63
	maxTrustDomain = 253
)

// checkID repeats the rule of transport/fleet.CheckID, which this leaf package
// may not import: ids become file names, cgroup names and URI paths.
func checkID(s string) error {
	if s == "" || len(s) > maxID {
		return fmt.Errorf("%w: id %.20q has %d characters, allowed are 1 to %d", ErrIdentity, s, len(s), maxID)
	}
	for i := range len(s) {
		if !alnum(s[i]) && (i == 0 || !strings.ContainsRune("-_.", rune(s[i]))) {
			return fmt.Errorf("%w: id %q: use lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit", ErrIdentity, s)
		}
	}
	return nil
}

// CheckTrustDomain reports whether s can be a trust domain: a lower-case
// domain name. An IP address cannot be one, since name constraints do not
// apply to addresses.
func CheckTrustDomain(s string) error {
	if s == "" || len(s) > maxTrustDomain {
		return fmt.Errorf("%w: trust domain %.20q has %d characters, allowed are 1 to %d", ErrIdentity, s, len(s), maxTrustDomain)
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return fmt.Errorf("%w: trust domain %q is an address; use a name such as fleet.example", ErrIdentity, s)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxID || !alnum(label[0]) || !alnum(label[len(label)-1]) {
			return fmt.Errorf("%w: trust domain %q is not a domain name", ErrIdentity, s)
		}
		for i := range len(label) {
			if !alnum(label[i]) && label[i] != '-' {
				return fmt.Errorf("%w: trust domain %q: use lower-case letters, digits, '-' and '.'", ErrIdentity, s)
			}
		}
	}
	return nil
}

func alnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// ParseIdentity reads an identity from a URI and accepts only the one spelling
// that Identity.URI writes: no port, user, query, fragment or escapes.
func ParseIdentity(u *url.URL) (Identity, error) {
	if u == nil {
		return Identity{}, fmt.Errorf("%w: no URI", ErrIdentity)
	}
	parts := strings.Split(u.Path, "/")
	if u.Scheme != "spiffe" || len(parts) != 3 || parts[0] != "" {
		return Identity{}, fmt.Errorf("%w: %.100q does not read spiffe://TRUST-DOMAIN/KIND/ID", ErrIdentity, u.String())
	}
	id := Identity{TrustDomain: u.Host, Kind: Kind(parts[1]), ID: parts[2]}
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	// Two spellings of one name would let a ban of one miss the other.
	if u.String() != id.String() {
		return Identity{}, fmt.Errorf("%w: %.100q is not the plain spelling %q", ErrIdentity, u.String(), id.String())
	}
	return id, nil
}

// IdentityOf returns the identity that c certifies: its one URI SAN. A
// certificate with more names of any sort is refused, since another reader
// could see another party in it.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	if c == nil {
		return Identity{}, fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	if len(c.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: the certificate has %d URI names instead of one", ErrIdentity, len(c.URIs))
	}
	if n := len(c.DNSNames) + len(c.IPAddresses) + len(c.EmailAddresses); n != 0 {
		return Identity{}, fmt.Errorf("%w: the certificate has %d names beside its URI", ErrIdentity, n)
	}
	if c.IsCA {
		return Identity{}, fmt.Errorf("%w: the certificate is an authority's", ErrIdentity)
	}
	return ParseIdentity(c.URIs[0])
}
