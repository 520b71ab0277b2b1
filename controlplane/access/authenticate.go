package access

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Refusal is why a request was not granted. It never quotes a secret.
type Refusal struct {
	// Unknown: it is not clear who asks (401); otherwise they may not (403).
	Unknown bool
	// Text is what is missing, Next what to do.
	Text, Next string
}

func (e *Refusal) Error() string { return e.Text }

const nextLogin = "log in with: tender login"

func unknown(format string, args ...any) error {
	return &Refusal{Unknown: true, Text: fmt.Sprintf(format, args...), Next: nextLogin}
}

func forbid(next, format string, args ...any) error {
	return &Refusal{Text: fmt.Sprintf(format, args...), Next: next}
}

// maxToken bounds a token: a name, a dot and 43 characters.
const maxToken = 128

// Token makes the bearer token of a principal from a fresh secret. The state
// gets pki.HashSecret of it.
func Token(id, secret string) string { return id + "." + secret }

// Shown is what a request shows of who asks. Nothing in it is believed yet,
// but Certificate, which the handshake has verified.
type Shown struct {
	Certificate pki.Identity // zero: none
	Token       string       // empty: none
	// User is the name given beside a token, empty when there was none.
	User string
	// OnBehalf is whom a replica names as the one who asked.
	OnBehalf string
}

// HeaderPrincipal is where a replica that passes a request on says who asked.
const HeaderPrincipal = "Tender-Principal"

// Show reads what a request shows. What is malformed is a *Refusal, as is a
// request that shows nothing, or two things.
func Show(r *http.Request) (Shown, error) {
	var s Shown
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		id, err := pki.IdentityOf(r.TLS.VerifiedChains[0][0])
		if err != nil {
			return s, unknown("%v", err)
		}
		s.Certificate, s.OnBehalf = id, r.Header.Get(HeaderPrincipal)
	}
	if err := s.readAuthorization(r); err != nil {
		return s, err
	}
	certified := s.Certificate != pki.Identity{}
	switch {
	case !certified && s.Token == "":
		return s, unknown("this request shows neither a client certificate nor a token")
	case certified && s.Token != "":
		return s, unknown("this request shows a certificate, of %s, and a token as well; show one of them", s.Certificate.Short())
	}
	return s, nil
}

func (s *Shown) readAuthorization(r *http.Request) error {
	given := r.Header.Values("Authorization")
	if len(given) == 0 {
		return nil
	}
	scheme, rest, _ := strings.Cut(given[0], " ")
	user, password, basic := r.BasicAuth()
	switch {
	case len(given) > 1:
		return unknown("this request has %d Authorization headers; send one", len(given))
	case strings.EqualFold(scheme, "Bearer"):
		s.Token = strings.TrimSpace(rest)
	case basic:
		s.User, s.Token = user, password
	default:
		return unknown("the Authorization header is of no kind that is known here; write: Authorization: Bearer TOKEN")
	}
	if s.Token == "" || len(s.Token) > maxToken || basic && s.User == "" {
		return errNoSuchToken
	}
	return nil
}

// errNoSuchToken is the same whether the name or the secret is wrong.
var errNoSuchToken = unknown("this token is not known: it is mistyped, of another fleet, or was withdrawn")

// Authenticate says who shows that, by the state as it is at now. The error is
// a *Refusal.
func Authenticate(st *state.State, now time.Time, s Shown) (Principal, error) {
	switch {
	case s.Token != "":
		return byToken(st, now, s)
	case s.Certificate.Kind == pki.KindReplica:
		return onBehalf(st, now, s)
	case s.Certificate.Kind.UsesAPI():
		return byName(st, now, state.IdentityKind(s.Certificate.Kind), s.Certificate.ID)
	case s.Certificate.Kind != "":
		return Principal{}, forbid(nextLogin, "%s may not use the API: that is for operators, frameworks and readers", s.Certificate.Short())
	}
	return Principal{}, unknown("this request shows neither a client certificate nor a token")
}

func byToken(st *state.State, now time.Time, s Shown) (Principal, error) {
	name := s.Token[:max(0, strings.LastIndexByte(s.Token, '.'))]
	p := st.Principals[name]
	hash := pki.HashSecret(s.Token)
	if p == nil || p.SecretHash == "" || subtle.ConstantTimeCompare([]byte(hash), []byte(p.SecretHash)) != 1 {
		return Principal{}, errNoSuchToken
	}
	if s.User != "" && s.User != name {
		return Principal{}, unknown("the token is not that of %.64q", s.User)
	}
	return judge(p, now)
}

// byName judges an identity that a certificate or a replica vouches for.
func byName(st *state.State, now time.Time, kind state.IdentityKind, id string) (Principal, error) {
	named := pki.Identity{TrustDomain: st.TrustDomain, Kind: pki.Kind(kind), ID: id}
	if _, revoked := st.Revoked[named.String()]; revoked {
		return Principal{}, unknown("%s is revoked", named.Short())
	}
	p := st.Principals[id]
	switch {
	case p != nil && p.Kind == kind:
		return judge(p, now)
	case p == nil && kind == state.KindOperator:
		// `tenderd init` made its certificate before there was a record of it.
		return Principal{Kind: kind, ID: id, AllRoles: true}, nil
	}
	return Principal{}, unknown("the control plane has no record of %s", named.Short())
}

func judge(p *state.Principal, now time.Time) (Principal, error) {
	word := string(p.Kind) + "/" + p.ID
	switch {
	case !p.Revoked.IsZero():
		return Principal{}, unknown("%s was revoked at %s", word, p.Revoked.UTC().Format(time.RFC3339))
	case !p.Expires.IsZero() && !now.Before(p.Expires):
		return Principal{}, unknown("the token of %s expired at %s; have an operator make a new one: tender principal create", word, p.Expires.UTC().Format(time.RFC3339))
	}
	return Principal{Kind: p.Kind, ID: p.ID, Roles: p.Roles, AllRoles: p.AllRoles}, nil
}

// onBehalf judges whom a replica names. A replica asks nothing for itself.
func onBehalf(st *state.State, now time.Time, s Shown) (Principal, error) {
	kind, id, ok := strings.Cut(s.OnBehalf, "/")
	switch k := state.IdentityKind(kind); {
	case s.OnBehalf == "":
		return Principal{}, forbid("install the same version on all replicas", "%s passes a request on and does not say whose", s.Certificate.Short())
	case ok && k == kindLocal && id == s.Certificate.ID:
		return Local(fleet.ReplicaID(id)), nil
	case ok && k.IsPrincipal():
		return byName(st, now, k, id)
	}
	return Principal{}, forbid("", "%s cannot ask on behalf of %.64q", s.Certificate.Short(), s.OnBehalf)
}
