// Package enrolltest has the in-memory twin of the replicated registry, the
// suite that every registry passes, and a pipe to enrol over.
package enrolltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
)

// Registry is a registry in memory. Its zero value is not ready; see
// NewRegistry.
type Registry struct {
	mu     sync.Mutex
	domain string
	now    func() time.Time
	tokens map[string]*token
	taken  map[pki.Identity]bool
	leader error

	// Lookups and Consumed count calls that were answered; read them when
	// nobody calls.
	Lookups, Consumed int
	Admissions        []enroll.Admission
}

type token struct {
	grant    enroll.Grant
	admitted map[string]pki.Identity
}

var _ enroll.Registry = (*Registry)(nil)

// NewRegistry returns an empty registry of a trust domain that leads.
func NewRegistry(trustDomain string, now func() time.Time) *Registry {
	return &Registry{domain: trustDomain, now: now, tokens: make(map[string]*token), taken: make(map[pki.Identity]bool)}
}

// Add stores a token by its secret, as tender's operators do.
func (r *Registry) Add(secret string, g enroll.Grant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens[pki.HashSecret(secret)] = &token{grant: g, admitted: make(map[string]pki.Identity)}
}

// Lead says whether this registry leads: nil, or an enroll.ErrNotLeader.
func (r *Registry) Lead(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leader = err
}

// Lookup implements enroll.Registry.
func (r *Registry) Lookup(_ context.Context, hash string) (enroll.Grant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Lookups++
	t, ok := r.tokens[hash]
	if !ok && r.leader != nil {
		return enroll.Grant{}, r.leader
	}
	if !ok {
		return enroll.Grant{}, enroll.ErrTokenUnknown
	}
	g := t.grant
	g.Admitted = nil
	for pin := range t.admitted {
		g.Admitted = append(g.Admitted, pin)
	}
	return g, nil
}

// Consume implements enroll.Registry.
func (r *Registry) Consume(_ context.Context, hash string, a enroll.Admission) (pki.Identity, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader != nil {
		return pki.Identity{}, r.leader
	}
	r.Consumed++
	t, ok := r.tokens[hash]
	switch {
	case !ok:
		return pki.Identity{}, enroll.ErrTokenUnknown
	case t.grant.Kind != a.Kind:
		return pki.Identity{}, enroll.ErrTokenWrongKind
	case !r.now().Before(t.grant.Expires):
		return pki.Identity{}, enroll.ErrTokenExpired
	}
	if id, again := t.admitted[a.KeyPin]; again {
		return id, nil
	}
	if t.grant.UsesLeft <= 0 {
		return pki.Identity{}, enroll.ErrTokenUsed
	}
	id := pki.Identity{TrustDomain: r.domain, Kind: a.Kind, ID: a.Name}
	for n := 2; r.taken[id]; n++ {
		suffix := fmt.Sprintf("-%d", n)
		id.ID = strings.TrimRight(a.Name[:min(len(a.Name), 63-len(suffix))], "-_.") + suffix
	}
	t.grant.UsesLeft--
	t.admitted[a.KeyPin] = id
	r.taken[id] = true
	r.Admissions = append(r.Admissions, a)
	return id, nil
}

// Fixture is a registry under test and the way to put tokens into it.
type Fixture struct {
	Registry    enroll.Registry
	Add         func(secret string, g enroll.Grant)
	TrustDomain string
	Now         func() time.Time
}

// TestRegistry is the suite of every registry. Where the registry is
// replicated, the race may as well run over several of its replicas: give a
// Registry that spreads its calls.
func TestRegistry(t *testing.T, open func(t *testing.T) Fixture) {
	admission := func(name, pin string, now time.Time) enroll.Admission {
		return enroll.Admission{Kind: pki.KindAgent, Name: name, KeyPin: pin, Capability: 1, Remote: "192.0.2.1:1", At: now}
	}
	grant := func(f Fixture, uses int) enroll.Grant {
		return enroll.Grant{Kind: pki.KindAgent, Expires: f.Now().Add(time.Hour), UsesLeft: uses}
	}
	consume := func(t *testing.T, f Fixture, secret string, a enroll.Admission, want error) pki.Identity {
		t.Helper()
		id, err := f.Registry.Consume(t.Context(), pki.HashSecret(secret), a)
		if !errors.Is(err, want) {
			t.Errorf("consume %s for %s: got %v, want %v", secret, a.Name, err, want)
		}
		return id
	}
	t.Run("UnknownUsedExpiredWrongKind", func(t *testing.T) {
		f := open(t)
		f.Add("one", grant(f, 1))
		old := grant(f, 1)
		old.Expires = f.Now().Add(-time.Second)
		f.Add("old", old)
		consume(t, f, "nothing", admission("a", "k1", f.Now()), enroll.ErrTokenUnknown)
		consume(t, f, "old", admission("a", "k1", f.Now()), enroll.ErrTokenExpired)
		op := admission("a", "k1", f.Now())
		op.Kind = pki.KindOperator
		consume(t, f, "one", op, enroll.ErrTokenWrongKind)
		id := consume(t, f, "one", admission("a", "k1", f.Now()), nil)
		if want := (pki.Identity{TrustDomain: f.TrustDomain, Kind: pki.KindAgent, ID: "a"}); id != want {
			t.Errorf("got %s, want %s", id, want)
		}
		consume(t, f, "one", admission("b", "k2", f.Now()), enroll.ErrTokenUsed)
		g, err := f.Registry.Lookup(t.Context(), pki.HashSecret("one"))
		if err != nil || g.UsesLeft != 0 || !slices.Equal(g.Admitted, []string{"k1"}) {
			t.Errorf("lookup after use: %+v, %v", g, err)
		}
		if _, err := f.Registry.Lookup(t.Context(), pki.HashSecret("nothing")); !errors.Is(err, enroll.ErrTokenUnknown) {
			t.Errorf("lookup of nothing: %v", err)
		}
	})
	t.Run("SameKeyAgain", func(t *testing.T) {
		f := open(t)
		f.Add("one", grant(f, 1))
		first := consume(t, f, "one", admission("a", "k1", f.Now()), nil)
		if again := consume(t, f, "one", admission("a", "k1", f.Now()), nil); again != first {
			t.Errorf("got %s, then %s", first, again)
		}
	})
	t.Run("NameTaken", func(t *testing.T) {
		f := open(t)
		f.Add("many", grant(f, 3))
		long := strings.Repeat("x", 63)
		seen := make(map[pki.Identity]bool)
		for i := range 3 {
			id := consume(t, f, "many", admission(long, fmt.Sprint("k", i), f.Now()), nil)
			if err := id.Check(); err != nil || seen[id] {
				t.Errorf("%s: %v, seen %v", id, err, seen[id])
			}
			seen[id] = true
		}
	})
	t.Run("ThirtyAtOnceOneWins", func(t *testing.T) {
		f := open(t)
		f.Add("one", grant(f, 1))
		errs := make([]error, 30)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				a := admission(fmt.Sprint("a", i), fmt.Sprint("k", i), f.Now())
				_, errs[i] = f.Registry.Consume(t.Context(), pki.HashSecret("one"), a)
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, enroll.ErrTokenUsed) {
				t.Errorf("a loser got %v", err)
			}
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
	})
}
