package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"time"

	"github.com/tenderfleet/tender/pki"
)

const (
	// tryTime bounds one address: dial, handshake, request, reply.
	tryTime = 15 * time.Second
	// maxHops bounds how often one round follows a hint to the leader.
	maxHops    = 3
	minBackoff = 200 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Join sends req and returns the reply. A refusal is an error of type
// *Refusal. The reply is well formed and not yet verified.
func Join(ctx context.Context, rw io.ReadWriter, req Request) (Reply, error) {
	if err := req.Check(); err != nil {
		return Reply{}, err
	}
	defer bindDeadline(ctx, rw)()
	werr := writeFrame(rw, req, MaxRequest)
	// A busy server answers without reading, so a failed write may still have
	// its reply.
	reply, err := readReply(rw)
	switch {
	case err != nil && werr != nil:
		return Reply{}, fmt.Errorf("send join request: %w", werr)
	case err != nil:
		return Reply{}, fmt.Errorf("read join reply: %w", err)
	case reply.Refusal != nil:
		return Reply{}, reply.Refusal
	}
	return reply, nil
}

// ErrReply marks a reply that is not what the join line promised.
var ErrReply = errors.New("the fleet's reply is not what the join line promised")

// Verify reports whether r is what line promised for the key of csrDER: the
// pinned root is in the bundle, the chain leads to the bundle and names the
// identity told, of the right kind and trust domain, and holds at now.
func (r *Reply) Verify(line pki.JoinLine, csrDER []byte, now time.Time) error {
	if err := r.verify(line, csrDER, now); err != nil {
		return fmt.Errorf("%w: %w", ErrReply, err)
	}
	return nil
}

func (r *Reply) verify(line pki.JoinLine, csrDER []byte, now time.Time) error {
	bundle, err := pki.ParseBundle(r.Bundle, r.BundleVersion)
	if err != nil {
		return err
	}
	if !slices.Contains(bundle.Pins(), line.Pin) {
		return fmt.Errorf("%w: the trust bundle lacks the root %s", pki.ErrWrongPin, line.Pin)
	}
	id, err := r.identity()
	if err != nil {
		return err
	}
	if id.TrustDomain != line.TrustDomain {
		return fmt.Errorf("%w: certificate of %s, the join line is for %s", pki.ErrForeign, id, line.TrustDomain)
	}
	if id.Kind != line.Kind {
		return fmt.Errorf("certificate of %s, the join line is for a %s", id, line.Kind)
	}
	leaf, err := r.certified(id, csrDER)
	if err != nil {
		return err
	}
	c := pki.Credential{Identity: id, Bundle: bundle}
	c.Chain.Certificate, c.Chain.Leaf = r.Chain, leaf
	return c.Verify(now)
}

// certified returns the leaf, after checking that it is for id and the key of
// the request.
func (r *Reply) certified(id pki.Identity, csrDER []byte) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(r.Chain[0])
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, csr.RawSubjectPublicKeyInfo) {
		return nil, pki.ErrKeyMismatch
	}
	named, err := pki.IdentityOf(leaf)
	if err != nil {
		return nil, err
	}
	if named != id {
		return nil, fmt.Errorf("%w: told %s, certified %s", pki.ErrIdentity, id, named)
	}
	return leaf, nil
}

func (r *Reply) identity() (pki.Identity, error) {
	u, err := url.Parse(r.Identity)
	if err != nil {
		return pki.Identity{}, fmt.Errorf("%w: %w", pki.ErrIdentity, err)
	}
	return pki.ParseIdentity(u)
}

// Credential puts a verified reply together with the key that asked.
func (r *Reply) Credential(key crypto.Signer) (*pki.Credential, error) {
	bundle, err := pki.ParseBundle(r.Bundle, r.BundleVersion)
	if err != nil {
		return nil, fmt.Errorf("join reply: %w", err)
	}
	return pki.NewCredential(r.Chain, key, bundle)
}

// Dial opens an enrol/1 stream to addr, having checked the pin of the join line
// in the handshake (pki.PinnedTLS). If what it returns has SetDeadline, the end
// of the context ends reads and writes too.
type Dial func(ctx context.Context, addr string) (io.ReadWriteCloser, error)

// Run joins: it asks each address of line in turn, follows hints to the
// leader, waits with full jitter and asks again until somebody admits the
// machine, somebody refuses for good, or ctx ends. The reply is verified.
func Run(ctx context.Context, line pki.JoinLine, dial Dial, req Request) (Reply, error) {
	return (&Joiner{Dial: dial}).Run(ctx, line, req)
}

// Joiner is Run with its sources of time and chance in the open.
type Joiner struct {
	Dial Dial
	// Now is the machine's clock, Rand draws from [0,1).
	Now  func() time.Time
	Rand func() float64
	Log  *slog.Logger
}

// Run is the package's Run.
func (j *Joiner) Run(ctx context.Context, line pki.JoinLine, req Request) (Reply, error) {
	if err := line.Check(); err != nil {
		return Reply{}, err
	}
	run := *j
	if run.Now == nil {
		run.Now = time.Now
	}
	if run.Rand == nil {
		run.Rand = rand.Float64
	}
	if run.Log == nil {
		run.Log = slog.New(slog.DiscardHandler)
	}
	for n := 0; ; n++ {
		reply, err := run.round(ctx, line, req)
		if err == nil {
			return reply, nil
		}
		if final(err) {
			return Reply{}, fmt.Errorf("join: %w", err)
		}
		wait := run.backoff(n, err)
		run.Log.Info("join failed, will try again", "error", err, "wait", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Reply{}, fmt.Errorf("join: gave up after %d rounds: %w; last: %w", n+1, ctx.Err(), err)
		case <-timer.C:
		}
	}
}

// backoff draws from zero to a limit that doubles each round, after what a
// refusal asked for.
func (j *Joiner) backoff(n int, err error) time.Duration {
	limit := maxBackoff
	if n < 8 {
		limit = min(minBackoff<<n, maxBackoff)
	}
	wait := time.Duration(j.Rand() * float64(limit))
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		wait += time.Duration(refusal.RetryMillis) * time.Millisecond
	}
	return wait
}

// round asks every address once, and leaders that they name. What is wrong
// with one address, such as its pin, is final only when it is wrong with all.
func (j *Joiner) round(ctx context.Context, line pki.JoinLine, req Request) (Reply, error) {
	queue := slices.Clone(line.Addrs)
	asked := make(map[string]bool)
	hops := 0
	var hope, dead error
	for len(queue) > 0 {
		addr := queue[0]
		queue = queue[1:]
		if asked[addr] {
			continue
		}
		asked[addr] = true
		reply, err := j.try(ctx, addr, line, req)
		if err == nil {
			return reply, nil
		}
		err = fmt.Errorf("%s: %w", addr, err)
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			if refusal.Final() {
				return Reply{}, err
			}
			if refusal.Leader != "" && hops < maxHops {
				hops++
				queue = slices.Insert(queue, 0, refusal.Leader)
			}
		}
		var said *Refusal
		switch {
		case final(err):
			dead = err
		case hope == nil || !errors.As(hope, &said):
			// A refusal tells more than a dial that failed.
			hope = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if hope == nil {
		hope = dead
	}
	return Reply{}, hope
}

func (j *Joiner) try(ctx context.Context, addr string, line pki.JoinLine, req Request) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	conn, err := j.Dial(ctx, addr)
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	req.Clock = j.Now().Unix()
	reply, err := Join(ctx, conn, req)
	if err != nil {
		return Reply{}, err
	}
	return reply, reply.Verify(line, req.CSR, j.Now())
}

// final reports whether trying again cannot help.
func final(err error) bool {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return refusal.Final()
	}
	for _, kind := range []error{
		pki.ErrWrongPin, pki.ErrExpired, pki.ErrNotYetValid, pki.ErrNotReplica, ErrReply, ErrMessage,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
