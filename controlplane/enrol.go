package controlplane

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
)

// registry is enrol's view of the replicated state.
type registry struct{ r *Replica }

// Lookup reads this replica's own copy, so that a stranger with a wrong secret
// costs the trio nothing.
func (g registry) Lookup(_ context.Context, hash string) (enroll.Grant, error) {
	var grant enroll.Grant
	found := false
	g.r.raft.Stale(func(s *state.State) {
		t := s.Tokens[hash]
		if found = t != nil; found {
			grant = enroll.Grant{Kind: pki.Kind(t.Kind), Expires: t.Expires, UsesLeft: t.Uses, Admitted: state.SortedKeys(t.Admitted), Life: g.r.life(pki.Kind(t.Kind))}
		}
	})
	switch id, addr := g.r.raft.Leader(); {
	case id != g.r.self.ID:
		return enroll.Grant{}, enroll.ErrNotLeader{Addr: addr}
	case !found:
		return enroll.Grant{}, enroll.ErrTokenUnknown
	}
	return grant, nil
}

// Consume is the compare-and-set: of many that race for the last use of a
// token, one wins on all replicas.
func (g registry) Consume(ctx context.Context, hash string, a enroll.Admission) (pki.Identity, error) {
	results, err := g.r.raft.Propose(ctx, state.Command{Time: time.Now(), By: "token/" + state.TokenID(hash), Admit: &state.Admit{
		Hash: hash, Kind: state.IdentityKind(a.Kind), Name: a.Name, Suffix: strings.ToLower(rand.Text()[:4]),
		Hostname: a.Hostname, KeyHash: a.KeyPin, Addr: a.Addr,
	}})
	if err != nil {
		if not, ok := errors.AsType[*registrar.NotLeaderError](err); ok {
			return pki.Identity{}, enroll.ErrNotLeader{Addr: not.Addr}
		}
		return pki.Identity{}, err
	}
	if err := enrolError(results[0]); err != nil {
		return pki.Identity{}, err
	}
	return pki.Identity{TrustDomain: g.r.self.TrustDomain, Kind: a.Kind, ID: results[0].ID}, nil
}

func enrolError(res state.Result) error {
	kinds := map[state.Kind]error{
		state.TokenUnknown: enroll.ErrTokenUnknown, state.TokenUsed: enroll.ErrTokenUsed,
		state.TokenExpired: enroll.ErrTokenExpired, state.TokenKind: enroll.ErrTokenWrongKind,
		state.RevokedID: enroll.ErrRevoked,
	}
	if err := res.Err(); err != nil {
		return errors.Join(kinds[res.Kind], err)
	}
	return nil
}

// recordingSigner signs, and lets the trio know what it signed: `tender agents`
// shows how long a certificate still holds.
type recordingSigner struct{ r *Replica }

func (s recordingSigner) Sign(ctx context.Context, id pki.Identity, csr []byte, life time.Duration) ([][]byte, error) {
	if life == 0 {
		life = s.r.life(id.Kind)
	}
	chain, err := s.r.auth.Sign(ctx, id, csr, life)
	if err != nil {
		return nil, err
	}
	_, err = s.r.raft.Propose(ctx, state.Command{Time: time.Now(), Certified: &state.Certified{
		URI: id.String(), Kind: state.IdentityKind(id.Kind), ID: id.ID, NotAfter: time.Now().Add(life),
	}})
	if err != nil {
		return nil, fmt.Errorf("record certificate: %w", err)
	}
	return chain, nil
}

// life is how long a certificate of that kind holds.
func (r *Replica) life(k pki.Kind) time.Duration {
	if k == pki.KindAgent && r.cfg.AgentCertLife > 0 {
		return r.cfg.AgentCertLife
	}
	return leafLife
}

// Join returns the line for a new party, complete but for secret and expiry.
func (r *Replica) Join(kind pki.Kind) pki.JoinLine {
	addrs := r.addrs()
	if len(addrs) > 5 {
		addrs = slices.Clip(addrs[:5])
	}
	return pki.JoinLine{Kind: kind, Addrs: addrs, Pin: pki.Pin(r.root), TrustDomain: r.self.TrustDomain}
}
