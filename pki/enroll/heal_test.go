package enroll_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/enroll/enrolltest"
	"github.com/tenderfleet/tender/pki/pkitest"
)

// exporter stands for what both ends of one connection export.
var exporter = []byte("thirty-two bytes of a connection")

// sleeper is an agent whose certificate ended half a year ago, and its fleet.
func sleeper(t *testing.T) (*fleet, *enrolltest.Keys, *pki.Credential) {
	t.Helper()
	keys := &enrolltest.Keys{Held: map[pki.Identity][]string{}, Past: map[pki.Identity][]string{}, Revoked: map[pki.Identity]bool{}}
	f := newFleet(t, func(c *enroll.Config) { c.Healer = keys })
	now := time.Now()
	cred := f.ca.Credential(t, pki.KindAgent, "a1", pkitest.Validity(now.AddDate(0, -7, 0), now.AddDate(0, -6, 0)))
	keys.Held[cred.Identity] = []string{pinOf(cred)}
	return f, keys, cred
}

func pinOf(c *pki.Credential) string { return enroll.KeyPin(c.Leaf().RawSubjectPublicKeyInfo) }

// heal runs one healing with srv; both ends export what they are given.
func heal(t *testing.T, srv *enroll.Server, h enroll.Healing, there []byte) (enroll.Reply, error) {
	t.Helper()
	a, b := enrolltest.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { srv.ServeHeal(t.Context(), b, "192.0.2.1:4000", there); b.Close() })
	defer wg.Wait()
	defer a.Close()
	return enroll.Heal(t.Context(), a, h)
}

func healing(t *testing.T, cred *pki.Credential) enroll.Healing {
	return enroll.Healing{Credential: cred, NextKey: pkitest.Key(t), Exporter: exporter}
}

func code(err error) enroll.Code {
	if r, ok := errors.AsType[*enroll.Refusal](err); ok {
		return r.Code
	}
	return ""
}

func TestHeal(t *testing.T) {
	f, keys, cred := sleeper(t)
	h := healing(t, cred)
	reply, err := heal(t, f.srv, h, exporter)
	if err != nil {
		t.Fatal(err)
	}
	next, err := reply.Credential(h.NextKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Verify(time.Now()); err != nil || next.Identity != cred.Identity {
		t.Errorf("%s, %v", next.Identity, err)
	}
	if got := keys.Held[cred.Identity]; !slices.Equal(got, []string{pinOf(cred), pinOf(next)}) {
		t.Errorf("keys %v", got)
	}
	// The answer was lost: the old key is good still.
	if _, err := heal(t, f.srv, healing(t, cred), exporter); err != nil {
		t.Errorf("again: %v", err)
	}
}

// Nobody learns by asking which identities there are, and nobody but who has a
// key of theirs makes the replicas propose anything.
func TestStrangersAreToldOneThing(t *testing.T) {
	f, keys, cred := sleeper(t)
	foreign := pkitest.New(t, domain)
	unknown := foreign.Credential(t, pki.KindAgent, "nobody")
	operator := foreign.Credential(t, pki.KindOperator, "admin")
	otherKey := pkitest.New(t, domain).Credential(t, pki.KindAgent, "a1")
	revoked := f.ca.Credential(t, pki.KindAgent, "banned")
	keys.Held[revoked.Identity], keys.Revoked[revoked.Identity] = []string{pinOf(revoked)}, true
	var texts []string
	for name, c := range map[string]*pki.Credential{"unknown": unknown, "another kind": operator, "another key": otherKey, "revoked": revoked} {
		_, err := heal(t, f.srv, healing(t, c), exporter)
		r, ok := errors.AsType[*enroll.Refusal](err)
		if !ok || r.Code != enroll.CodeNotHealed || !r.Final() {
			t.Fatalf("%s: %v", name, err)
		}
		texts = append(texts, r.Text)
	}
	// Answers to another challenge or from another connection.
	_, err := heal(t, f.srv, healing(t, cred), []byte("32 bytes of some other connection"[:32]))
	if r, ok := errors.AsType[*enroll.Refusal](err); ok {
		texts = append(texts, r.Text)
	} else {
		t.Errorf("another connection's exporter: %v", err)
	}
	if slices.Sort(texts); texts[0] != texts[len(texts)-1] {
		t.Errorf("refusals tell strangers apart: %q", texts)
	}
	if keys.Asked != 1 {
		t.Errorf("%d proposals, want one: of the revoked agent, which has proved its key", keys.Asked)
	}
	if log := f.log.String(); !strings.Contains(log, "revoked") || !strings.Contains(log, "agent/nobody") || !strings.Contains(log, "signature") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// relay passes a healing on from one connection to another and keeps what the
// healing party said.
type recorder struct {
	io.ReadWriter
	said []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.said = append(r.said, p...)
	return r.ReadWriter.Write(p)
}

// An answer that was overheard is worth nothing, even with the same exporter:
// every connection has a nonce of its own.
func TestHealIsReplayProof(t *testing.T) {
	f, keys, cred := sleeper(t)
	a, b := enrolltest.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { f.srv.ServeHeal(t.Context(), b, "192.0.2.1:4000", exporter); b.Close() })
	tap := &recorder{ReadWriter: a}
	if _, err := enroll.Heal(t.Context(), tap, healing(t, cred)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	before := keys.Asked

	a, b = enrolltest.Pipe()
	wg.Go(func() { f.srv.ServeHeal(t.Context(), b, "192.0.2.1:4000", exporter); b.Close() })
	if _, err := a.Write(tap.said); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(a)
	wg.Wait()
	if !strings.Contains(string(answer), string(enroll.CodeNotHealed)) || keys.Asked != before {
		t.Errorf("the replay was answered %q, %d proposals", answer, keys.Asked-before)
	}
}

func TestCopyIsToldSo(t *testing.T) {
	f, keys, cred := sleeper(t)
	keys.Held[cred.Identity], keys.Past[cred.Identity] = []string{"newer"}, []string{pinOf(cred)}
	_, err := heal(t, f.srv, healing(t, cred), exporter)
	r, ok := errors.AsType[*enroll.Refusal](err)
	if !ok || r.Code != enroll.CodeCloned || !strings.Contains(r.Text, "join it again") {
		t.Errorf("got %v", err)
	}
}

func TestHealRefusals(t *testing.T) {
	f, keys, cred := sleeper(t)
	sameKey := healing(t, cred)
	sameKey.NextKey = cred.Chain.PrivateKey.(crypto.Signer)
	if _, err := heal(t, f.srv, sameKey, exporter); code(err) != enroll.CodeBadRequest {
		t.Errorf("the old key again: %v", err)
	}
	if _, err := heal(t, f.server(t, nil), healing(t, cred), exporter); code(err) != enroll.CodeUnavailable {
		t.Errorf("a replica that heals nobody: %v", err)
	}
	if _, err := heal(t, f.srv, healing(t, cred), nil); code(err) != enroll.CodeUnavailable {
		t.Errorf("a connection that exports nothing: %v", err)
	}
	keys.Leader = enroll.ErrNotLeader{Addr: "r2.example:8750"}
	_, err := heal(t, f.srv, healing(t, cred), exporter)
	if r, ok := errors.AsType[*enroll.Refusal](err); !ok || r.Code != enroll.CodeNotLeader || r.Leader != "r2.example:8750" {
		t.Errorf("a follower: %v", err)
	}
}

// Only who has proved a key uses up the rate of its identity.
func TestHealRatePerIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, cred := sleeper(t)
		stranger := pkitest.New(t, domain).Credential(t, pki.KindAgent, "a1")
		for range 12 {
			if _, err := heal(t, f.srv, healing(t, stranger), exporter); code(err) != enroll.CodeNotHealed {
				t.Fatalf("a stranger: %v", err)
			}
		}
		healed := 0
		for range 10 {
			switch _, err := heal(t, f.srv, healing(t, cred), exporter); {
			case err == nil:
				healed++
			case code(err) != enroll.CodeBusy:
				t.Fatal(err)
			}
		}
		if healed != 5 {
			t.Errorf("healed %d times at once, want the burst of 5", healed)
		}
		time.Sleep(10 * time.Second)
		if _, err := heal(t, f.srv, healing(t, cred), exporter); err != nil {
			t.Errorf("ten seconds later: %v", err)
		}
	})
}

func TestRekeyIsProved(t *testing.T) {
	f, _, cred := sleeper(t)
	csr := pkitest.Request(t, pkitest.Key(t), x509.CertificateRequest{})
	key, proof, err := enroll.ProveRekey(cred, csr)
	if err != nil {
		t.Fatal(err)
	}
	current, next, err := enroll.CheckRekey(cred.Identity, csr, key, proof)
	if err != nil || current != pinOf(cred) || next == current {
		t.Errorf("%s, %s, %v", current, next, err)
	}
	if own, same, err := enroll.CheckRekey(cred.Identity, csr, nil, nil); err != nil || own != same || own != next {
		t.Errorf("without a proof: %s, %s, %v", own, same, err)
	}
	other := pkitest.Request(t, pkitest.Key(t), x509.CertificateRequest{})
	if _, _, err := enroll.CheckRekey(cred.Identity, other, key, proof); !errors.Is(err, enroll.ErrStranger) {
		t.Errorf("for another new key: %v", err)
	}
	if _, _, err := enroll.CheckRekey(f.ca.Identity(pki.KindAgent, "a2"), csr, key, proof); !errors.Is(err, enroll.ErrStranger) {
		t.Errorf("for another agent: %v", err)
	}
}

// tell runs one exchange of the time; the machine's clock is off by -off.
func tell(t *testing.T, srv *enroll.Server, chain []*x509.Certificate, judge pki.Judge, off time.Duration, there []byte) (enroll.Told, error) {
	t.Helper()
	a, b := enrolltest.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { srv.ServeClock(context.Background(), b, "192.0.2.1:4000", there); b.Close() })
	defer wg.Wait()
	defer a.Close()
	return enroll.AskClock(t.Context(), a, chain, exporter, judge, func() time.Time { return time.Now().Add(-off) })
}

func TestClock(t *testing.T) {
	f := newFleet(t, nil)
	now := time.Now()
	day := 24 * time.Hour
	// leafs of r1: today's, and one whose key was stolen a month ago.
	today := f.ca.Credential(t, pki.KindReplica, "r1")
	stolen := f.ca.Credential(t, pki.KindReplica, "r1", pkitest.Validity(now.Add(-37*day), now.Add(-30*day)))
	judge := pki.NewHolder(f.ca.Credential(t, pki.KindAgent, "a1")).Judge()
	ask := func(c *pki.Credential, at time.Time, off time.Duration, there []byte) (enroll.Told, error) {
		srv := f.server(t, func(cfg *enroll.Config) {
			cfg.Key = func() crypto.Signer { return c.Chain.PrivateKey.(crypto.Signer) }
			cfg.Now = func() time.Time { return at }
		})
		chain := []*x509.Certificate{c.Leaf(), f.ca.Intermediate, f.ca.Root}
		return tell(t, srv, chain, judge, off, there)
	}
	for _, off := range []time.Duration{0, 56 * 365 * day, -14 * 365 * day} {
		told, err := ask(today, now, off, exporter)
		if err != nil || told.Replica.ID != "r1" || told.Offset < off-time.Minute || told.Offset > off+time.Minute {
			t.Errorf("off by %v: %v, %v", off, told, err)
		}
	}
	if _, err := ask(today, now, 0, []byte("32 bytes of some other connection"[:32])); err == nil {
		t.Error("the time of another connection was taken")
	}
	if _, err := ask(stolen, now, 0, exporter); !errors.Is(err, pki.ErrExpired) {
		t.Errorf("a key that was stolen told today's time: %v", err)
	}
	// What it can do is tell its own past: that is for Agree.
	if _, err := ask(stolen, now.Add(-33*day), 0, exporter); err != nil {
		t.Errorf("its own time: %v", err)
	}
	other := pkitest.New(t, domain)
	chain := []*x509.Certificate{other.Credential(t, pki.KindReplica, "r1").Leaf(), other.Intermediate, other.Root}
	if _, err := tell(t, f.srv, chain, judge, 0, exporter); err == nil {
		t.Error("another fleet told the time")
	}
}

func TestAgree(t *testing.T) {
	r := func(id string, off time.Duration) enroll.Told {
		return enroll.Told{Replica: pki.Identity{TrustDomain: domain, Kind: pki.KindReplica, ID: id}, Offset: off}
	}
	year := 365 * 24 * time.Hour
	for _, tc := range []struct {
		name  string
		told  []enroll.Told
		known int
		want  time.Duration
		ok    bool
	}{
		{"all of a trio", []enroll.Told{r("r1", year), r("r2", year+time.Second), r("r3", year-time.Second)}, 3, year, true},
		{"two of a trio", []enroll.Told{r("r1", year), r("r2", year+time.Minute)}, 3, year + time.Minute, true},
		{"one of a trio", []enroll.Told{r("r1", year)}, 3, 0, false},
		{"one replica at two addresses", []enroll.Told{r("r1", year), r("r1", year)}, 3, 0, false},
		{"one who leads back in time", []enroll.Told{r("r1", -year), r("r2", 0), r("r3", time.Second)}, 3, time.Second, true},
		{"two who do not agree", []enroll.Told{r("r1", -year), r("r2", 0)}, 3, 0, false},
		{"a fleet of one", []enroll.Told{r("r1", year)}, 1, year, true},
		{"nobody", nil, 1, 0, false},
	} {
		got, err := enroll.Agree(tc.told, tc.known)
		if (err == nil) != tc.ok || got != tc.want {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
		if err != nil && !errors.Is(err, enroll.ErrNoTime) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
