package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// Every new certificate is for a new key, and takes effect in two steps, of
// which any may be the last one before a crash:
//
//	the control plane notes the next key and signs; the old key is good
//	the agent has both on disk, the old pair under pki-previous; both keys are good
//	the agent uses the new one: from then on only that is good
//
// previousDir is where the pair before the last one is kept until the new one
// has been taken.
func previousDir(state string) string { return filepath.Join(state, "pki-previous") }

// rekeys is the capability of replicas that note an agent's next key. An older
// one would sign for it all the same, and a newer one then take the agent for
// a copy.
const rekeys = 3

// trust replaces the trust bundle by a newer one; key and certificate stay.
func (a *Agent) trust(roots []byte, version uint64) error {
	old := a.cred.Get()
	if len(roots) == 0 || version <= old.Bundle.Version {
		return nil
	}
	bundle, err := pki.ParseBundle(roots, version)
	if err != nil {
		return err
	}
	next := *old
	next.Bundle = bundle
	if err := pki.SaveDir(pkiDir(a.cfg.StateDir), &next); err != nil {
		return err
	}
	a.cred.Set(&next)
	a.log.Info("trust bundle replaced", "version", version, "roots", len(bundle.Roots))
	return nil
}

// bundle takes a trust bundle that the replica sent and says so.
func (a *Agent) bundle(l *link, m wire.Bundle) error {
	if err := a.trust(m.Roots, m.Version); err != nil {
		return fmt.Errorf("trust bundle: %w", err)
	}
	l.queue(wire.Ask{}) // the readings tell which one is on disk
	if m.Renew {
		select {
		case l.early <- struct{}{}:
		default:
		}
	}
	return nil
}

// install makes a certificate that was signed for this agent, and its key, the
// ones that count here. The pair before is kept until settled.
func (a *Agent) install(chain [][]byte, key crypto.Signer, roots []byte, version uint64) error {
	old := a.cred.Get()
	bundle := old.Bundle
	if len(roots) > 0 && version >= bundle.Version {
		var err error
		if bundle, err = pki.ParseBundle(roots, version); err != nil {
			return err
		}
	}
	cred, err := pki.NewCredential(chain, key, bundle)
	if err != nil {
		return fmt.Errorf("new certificate: %w", err)
	}
	if cred.Identity != old.Identity {
		return fmt.Errorf("the new certificate is %s's", cred.Identity.Short())
	}
	if err := cred.Verify(a.now()); err != nil {
		return fmt.Errorf("new certificate: %w", err)
	}
	if err := pki.SaveDir(previousDir(a.cfg.StateDir), old); err != nil {
		return err
	}
	if err := pki.SaveDir(pkiDir(a.cfg.StateDir), cred); err != nil {
		return err
	}
	a.cred.Set(cred)
	return nil
}

// settled: the control plane has taken the newest key, so the one before is
// worth nothing.
func (a *Agent) settled() {
	if err := os.RemoveAll(previousDir(a.cfg.StateDir)); err != nil {
		a.log.Warn("previous key not removed", "error", err)
	}
}

// goBack returns to the pair before, where there is one: a control plane that
// was restored from a backup may know no other. It reports whether it did.
func (a *Agent) goBack() bool {
	old, err := pki.LoadDir(previousDir(a.cfg.StateDir))
	if err != nil || old.Identity != a.cred.Get().Identity {
		return false
	}
	back := *old
	back.Bundle = a.cred.Get().Bundle
	if err := pki.SaveDir(pkiDir(a.cfg.StateDir), &back); err != nil {
		a.log.Warn("previous key not restored", "error", err)
		return false
	}
	a.cred.Set(&back)
	a.settled()
	a.log.Warn("the control plane does not take the newest key; going back to the one before")
	return true
}

// earlyWithin is the time over which the agents of a fleet renew that were all
// asked to.
const earlyWithin = time.Minute

// renew asks for the next certificate at a random point of this one's life.
func (a *Agent) renew(ctx context.Context, l *link) error {
	for {
		wait := pki.RenewAt(a.cred.Get().Leaf(), rand.Float64()).Sub(a.now())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-l.early:
			timer.Stop()
			if !sleep(ctx, time.Duration(rand.Float64()*float64(earlyWithin))) {
				return ctx.Err()
			}
		case <-timer.C:
		}
		err := a.renewOnce(ctx, l)
		if errors.Is(err, errUnconfirmed) {
			return err
		}
		if err != nil {
			a.log.Error("certificate not renewed", "not_after", a.cred.Get().Leaf().NotAfter, "error", err)
			if !sleep(ctx, time.Minute) {
				return ctx.Err()
			}
		}
	}
}

// errUnconfirmed ends a session whose key may count no more: the next one
// begins with the new key and so settles it.
var errUnconfirmed = errors.New("the new key was stored and the replica has not confirmed it")

func (a *Agent) renewOnce(ctx context.Context, l *link) error {
	key, req, err := a.renewal(l.peer)
	if err != nil {
		return err
	}
	st, err := l.conn.Open(ctx, transport.StreamRenew)
	if err != nil {
		return err
	}
	defer st.Reset()
	_ = st.SetDeadline(time.Now().Add(30 * time.Second))
	conn := wire.NewConn(&counted{Stream: st, a: a.cfg.Account, out: forUpdates, in: forUpdates}, wire.MaxControl)
	if err := conn.Send(req); err != nil {
		return err
	}
	msg, err := conn.Recv()
	if err != nil {
		return err
	}
	switch msg := msg.(type) {
	case wire.Certificate:
		if err := a.install(msg.Chain, key, msg.Bundle, msg.BundleVersion); err != nil {
			return err
		}
	case wire.Refusal:
		return &refusedError{msg}
	default:
		return fmt.Errorf("%T instead of a certificate", msg)
	}
	a.log.Info("certificate renewed", "not_after", a.cred.Get().Leaf().NotAfter)
	if l.peer < rekeys {
		a.settled()
		return nil
	}
	l.queue(wire.KeyStored{})
	if err := conn.Send(wire.KeyStored{}); err != nil {
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	if msg, err = conn.Recv(); err != nil {
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	if _, ok := msg.(wire.KeyStored); !ok {
		return fmt.Errorf("%w: it sent %T", errUnconfirmed, msg)
	}
	a.settled()
	return nil
}

// renewal makes a request for a new key, or, for a replica that is too old to
// note one, for the key that there is.
func (a *Agent) renewal(peer int) (crypto.Signer, wire.RenewRequest, error) {
	old := a.cred.Get()
	key, ok := old.Chain.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, wire.RenewRequest{}, errors.New("the key cannot sign")
	}
	var err error
	if peer >= rekeys {
		if key, err = pki.NewKey(); err != nil {
			return nil, wire.RenewRequest{}, err
		}
	}
	req := wire.RenewRequest{}
	if req.CSR, err = pki.NewCSR(key); err == nil && peer >= rekeys {
		req.Key, req.Proof, err = enroll.ProveRekey(old, req.CSR)
	}
	return key, req, err
}
