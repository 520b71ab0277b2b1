package access

import (
	"context"
	"crypto/tls"
	"net/http"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// watchEvery is how long a stream may outlive a revocation.
const watchEvery = time.Second

// Gate asks requests who they are from. It is safe for concurrent use.
type Gate struct {
	// Replica is the one that serves.
	Replica fleet.ReplicaID
	// Local: requests come over that replica's socket.
	Local bool
	// State gives fn this replica's own copy of the state; it must not block.
	State func(fn func(*state.State))
	Now   func() time.Time
	// Bundle is what this replica trusts now; nil trusts what the handshake did.
	Bundle func() *pki.Bundle
}

// Who says who asks. The error is a *Refusal.
func (g *Gate) Who(r *http.Request) (Principal, error) {
	if g.Local {
		return Local(g.Replica), nil
	}
	s, err := Show(r)
	if err != nil {
		return Principal{}, err
	}
	if !g.trusts(r.TLS) {
		return Principal{}, unknown("the certificate of %s is of a root that is trusted no more", s.Certificate.Short())
	}
	return g.judge(s)
}

// trusts reports whether what the handshake has verified holds still: a
// connection may outlive the root that it was opened under. A replica, which
// passes requests on, has long renewed when a root goes; its connections to the
// leader may be older.
func (g *Gate) trusts(conn *tls.ConnectionState) bool {
	if g.Bundle == nil || conn == nil || len(conn.VerifiedChains) == 0 {
		return true
	}
	roots := g.Bundle().Roots
	for _, chain := range conn.VerifiedChains {
		if id, err := pki.IdentityOf(chain[0]); err == nil && id.Kind == pki.KindReplica {
			return true
		}
		if slices.ContainsFunc(roots, chain[len(chain)-1].Equal) {
			return true
		}
	}
	return false
}

func (g *Gate) judge(s Shown) (p Principal, err error) {
	now := g.Now()
	g.State(func(st *state.State) { p, err = Authenticate(st, now, s) })
	return p, err
}

// Watch returns a context for an answer that streams: it ends with a *Refusal
// as its cause soon after whoever asked was revoked or expired. The caller
// calls stop when the answer is over.
func (g *Gate) Watch(ctx context.Context, r *http.Request) (_ context.Context, stop func()) {
	if g.Local {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := g.Who(r); err != nil {
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// PassOn says in a request to the leader, which this replica sends with its own
// certificate, who asked. What the asker showed does not go along.
func PassOn(out *http.Request, who Principal) {
	out.Header.Del("Authorization")
	out.Header.Set(HeaderPrincipal, who.String())
}
