package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// What a Registry says about a token.
var (
	ErrTokenUnknown   = errors.New("join token is not known")
	ErrTokenUsed      = errors.New("join token is used up")
	ErrTokenExpired   = errors.New("join token has expired")
	ErrTokenWrongKind = errors.New("join token is for another kind of party")
	// ErrRevoked marks an identity that was admitted once and banned since.
	ErrRevoked = errors.New("identity is revoked")
)

// ErrNotLeader says that another replica has to answer; Addr is its address
// when known.
type ErrNotLeader struct{ Addr string }

func (e ErrNotLeader) Error() string {
	if e.Addr == "" {
		return "no replica leads at the moment"
	}
	return fmt.Sprintf("the replica at %s leads", e.Addr)
}

// Grant is what a join token allows, as its hash is stored.
type Grant struct {
	Kind    pki.Kind
	Expires time.Time
	// UsesLeft is how many more parties it admits.
	UsesLeft int
	// Admitted are the key pins that it has admitted.
	Admitted []string
	// Life is how long certificates hold; zero is the authority's default.
	Life time.Duration
}

// Admission is what a token is used for. It goes into the replicated log as it
// is, so it holds no secret.
type Admission struct {
	Kind     pki.Kind
	Name     string // proposed; the registry's answer counts
	Hostname string
	Labels   map[string]string
	Addr     string
	// Remote is where the request came from.
	Remote     string
	KeyPin     string
	Capability int
	At         time.Time
}

// Registry is the replicated side of enrolment. Both methods are called by
// many requests at once.
type Registry interface {
	// Lookup looks at this replica's own copy and blocks on nobody. A replica
	// that does not lead may lag, so for a hash it does not know it says
	// ErrNotLeader; only the leader says ErrTokenUnknown.
	Lookup(ctx context.Context, secretHash string) (Grant, error)

	// Consume uses up the token, in one compare-and-set that all replicas see
	// in the same order, and returns the identity admitted: of a's kind, its
	// name a's, or a's with something added when that is taken. It is
	// idempotent by key: a repetition with the same KeyPin returns the same
	// identity and uses nothing. Of different keys at once as many win as
	// there are uses. It may block until the replicas agree.
	Consume(ctx context.Context, secretHash string, a Admission) (pki.Identity, error)
}

// Signer signs a leaf for id: leaf, intermediate, root. It is
// authority.Authority in a replica.
type Signer interface {
	Sign(ctx context.Context, id pki.Identity, csrDER []byte, life time.Duration) ([][]byte, error)
}

// SignRenewal signs the next certificate of peer, who is at the other end of a
// verified session. Whom it is for comes from there and never from the
// request; the caller has checked that peer is not revoked.
func SignRenewal(ctx context.Context, s Signer, peer pki.Identity, csrDER []byte) ([][]byte, error) {
	if _, err := pki.CheckCSRFor(csrDER, peer); err != nil {
		return nil, fmt.Errorf("renew certificate: %w", err)
	}
	chain, err := s.Sign(ctx, peer, csrDER, 0)
	if err != nil {
		return nil, fmt.Errorf("renew certificate: %w", err)
	}
	return chain, nil
}
