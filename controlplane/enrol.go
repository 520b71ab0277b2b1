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
	"github.com/tenderfleet/tender/pki/authority"
	"github.com/tenderfleet/tender/pki/enroll"
)

// registry is enrol's view of the replicated state.
type registry struct{ r *Replica }

// Lookup reads this replica's own copy. What that lacks is looked for in what
// the trio agrees on: the copy of a leader that was just elected may lag, and so
// does that of one that was deposed and has not noticed. Who asks would not ask
// again. Reads are shared and strangers are few at a time (see enroll.Config),
// so wrong secrets cost the trio little.
func (g registry) Lookup(ctx context.Context, hash string) (enroll.Grant, error) {
	var grant enroll.Grant
	found := false
	look := func(s *state.State) {
		t := s.Tokens[hash]
		if found = t != nil; found {
			grant = enroll.Grant{Kind: pki.Kind(t.Kind), Expires: t.Expires, UsesLeft: t.Uses, Admitted: state.SortedKeys(t.Admitted), Life: g.r.life(pki.Kind(t.Kind))}
		}
	}
	g.r.raft.Stale(look)
	if id, addr := g.r.raft.Leader(); id != g.r.self.ID {
		return enroll.Grant{}, enroll.ErrNotLeader{Addr: addr}
	}
	if found {
		return grant, nil
	}
	if err := g.r.raft.Read(ctx, look); err != nil {
		if not, ok := errors.AsType[*registrar.NotLeaderError](err); ok {
			err = enroll.ErrNotLeader{Addr: not.Addr}
		}
		return enroll.Grant{}, err
	}
	if !found {
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
	own := s.r.issuer.Load()
	chain, err := own.auth.Sign(ctx, id, csr, life)
	if err != nil {
		return nil, err
	}
	c := state.Certified{URI: id.String(), Kind: state.IdentityKind(id.Kind), ID: id.ID, NotAfter: time.Now().Add(life)}
	if rot := s.r.rotation(); rot != nil {
		c.Root = pki.Pin(own.root)
	}
	_, err = s.r.raft.Propose(ctx, state.Command{Time: time.Now(), Certified: &c})
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

// minLife is the least life of a certificate that is asked for here.
func (r *Replica) minLife() time.Duration {
	return min(r.life(pki.KindAgent), authority.DefaultMinLife)
}

// Join returns the line for a new party, complete but for secret and expiry.
func (r *Replica) Join(kind pki.Kind) pki.JoinLine {
	addrs := r.addrs()
	if len(addrs) > 5 {
		addrs = slices.Clip(addrs[:5])
	}
	return pki.JoinLine{Kind: kind, Addrs: addrs, Pin: r.joinPin(), TrustDomain: r.self.TrustDomain}
}
