package state

import (
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// MaxPrincipals bounds the principals that are remembered. Those that have
// ended are among them, so that their ids are not given out again, until their
// place is needed.
const MaxPrincipals = 4096

// MaxPrincipalRoles bounds the roles that one principal or token names.
const MaxPrincipalRoles = 64

// certLife is the longest that a certificate holds (pki/authority.DefaultLife):
// so long a ban must outlast its principal's record.
const certLife = 7 * 24 * time.Hour

// Principal is a party that may use the API: a person or program that operates
// the fleet, a framework that runs work in its roles, a reader that only looks.
// It shows who it is by a bearer token, or by a client certificate.
type Principal struct {
	// ID is unique among principals of all kinds.
	ID   string
	Kind IdentityKind
	// Roles are those it may act in, each with its descendants in the role
	// tree. AllRoles stands for every role that there is and will be; "*" does
	// not, since that is the name of Mesos's default role.
	Roles    []fleet.Role
	AllRoles bool
	// SecretHash is the hex SHA-256 of its bearer token, empty when it has only
	// a certificate.
	SecretHash string
	// Expires is when it ends by itself; zero: when its certificate does.
	Expires time.Time
	// CertNotAfter is the end of its newest certificate, zero without one.
	CertNotAfter time.Time
	Created      time.Time
	// Revoked is when somebody ended it, zero while nobody has.
	Revoked time.Time
}

// Ended returns when the principal ended, zero while it holds.
func (p *Principal) Ended(now time.Time) time.Time {
	switch {
	case !p.Revoked.IsZero():
		return p.Revoked
	case !p.Expires.IsZero() && !now.Before(p.Expires):
		return p.Expires
	case p.SecretHash == "" && !p.CertNotAfter.IsZero() && !now.Before(p.CertNotAfter):
		return p.CertNotAfter
	}
	return time.Time{}
}

// IsPrincipal reports whether identities of that kind are principals.
func (k IdentityKind) IsPrincipal() bool {
	return k == KindOperator || k == KindFramework || k == KindReader
}

// CheckRoles reports what is wrong with the roles given to a principal of a
// kind, as text for who gives them.
func CheckRoles(kind IdentityKind, roles []fleet.Role, all bool) error {
	switch {
	case !kind.IsPrincipal() && (all || len(roles) > 0):
		return refuse(Invalid, "roles are for frameworks, operators and readers").Err()
	case all && len(roles) > 0:
		return refuse(Invalid, "give roles or all roles, not both").Err()
	case kind == KindFramework && !all && len(roles) == 0:
		return refuse(Invalid, "a framework needs a role to act in; name one or more, or say all roles").Err()
	case len(roles) > MaxPrincipalRoles:
		return refuse(Invalid, "%d roles, the limit is %d; give a role above them in the tree", len(roles), MaxPrincipalRoles).Err()
	}
	for _, r := range roles {
		if err := fleet.CheckRole(r); err != nil {
			return refuse(Invalid, "%v", err).Err()
		}
	}
	return nil
}

// allRoles: operators and readers are limited to roles only where that is said.
func allRoles(kind IdentityKind, roles []fleet.Role, all bool) bool {
	return all || len(roles) == 0 && (kind == KindOperator || kind == KindReader)
}

func (s *State) putPrincipal(now time.Time, p *Principal) Result {
	switch err := fleet.CheckID("name", p.ID); {
	case err != nil:
		return refuse(Invalid, "%v", err)
	case !p.Kind.IsPrincipal():
		return refuse(Invalid, "kind %.20q: write operator, framework or reader", string(p.Kind))
	case p.SecretHash == "" && p.CertNotAfter.IsZero():
		return refuse(Invalid, "a principal needs a token or a certificate to be known by")
	case p.SecretHash != "" && !p.Expires.After(now):
		return refuse(Invalid, "a token needs an expiry in the future")
	}
	if err := CheckRoles(p.Kind, p.Roles, p.AllRoles); err != nil {
		return refuse(Invalid, "%v", err)
	}
	if s.taken(p.Kind, p.ID) {
		return refuse(Conflict, "the name %s is taken: names are not given out again; choose another", p.ID)
	}
	c := *p
	c.Created, c.Revoked = now, time.Time{}
	c.AllRoles = allRoles(c.Kind, c.Roles, c.AllRoles)
	return s.addPrincipal(now, &c)
}

func (s *State) addPrincipal(now time.Time, p *Principal) Result {
	if !s.principalRoom(now) {
		return refuse(Conflict, "there are %d principals, which is the limit; revoke those that are not needed: tender principal list", MaxPrincipals)
	}
	s.Principals[p.ID] = p
	return Result{ID: p.ID}
}

// principalRoom makes room for one more principal and reports whether there is
// any: what ended first is forgotten first.
func (s *State) principalRoom(now time.Time) bool {
	if len(s.Principals) < MaxPrincipals {
		return true
	}
	var oldest *Principal
	for _, id := range SortedKeys(s.Principals) {
		p := s.Principals[id]
		end := p.Ended(now)
		if end.IsZero() || now.Before(p.certEnd()) {
			continue
		}
		if oldest == nil || end.Before(oldest.Ended(now)) {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	delete(s.Principals, oldest.ID)
	delete(s.Revoked, s.uri(oldest.Kind, oldest.ID)) // nothing is left that it bans
	return true
}

// certEnd is when the last certificate that the principal may hold has ended.
func (p *Principal) certEnd() time.Time {
	switch {
	case !p.CertNotAfter.IsZero():
		return p.CertNotAfter
	case p.SecretHash == "":
		return p.Created.Add(certLife) // its certificate is being signed
	}
	return time.Time{}
}

// endPrincipal is a revocation's part for principals. One without a record is
// an operator from before there were any.
func (s *State) endPrincipal(now time.Time, c *Revoke) Result {
	old := s.Principals[c.ID]
	switch {
	case old == nil && c.Kind == KindOperator:
		return Result{}
	case old == nil || old.Kind != c.Kind:
		return refuse(NotFound, "no %s %s; list them with: tender principal list", c.Kind, c.ID)
	}
	p := *old
	p.Revoked = now
	s.Principals[p.ID] = &p
	return Result{}
}

// roleWords names roles for the audit log.
func roleWords(kind IdentityKind, roles []fleet.Role, all bool) string {
	if allRoles(kind, roles, all) {
		return "all roles"
	}
	words := make([]string, len(roles))
	for i, r := range roles {
		words[i] = string(r)
	}
	slices.Sort(words)
	return "roles " + strings.Join(words, ",")
}
