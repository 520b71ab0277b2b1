package controlplane

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Lives of certificates. Agents are renewed at 50 to 80 % of theirs.
const (
	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 2 * 365 * 24 * time.Hour
	leafLife         = 7 * 24 * time.Hour
)

// InitOptions describe the first replica.
type InitOptions struct {
	DataDir     string
	ID          fleet.ReplicaID
	Addr        string // advertised HOST:PORT
	TrustDomain string
}

// Initialised tells people what Init has made.
type Initialised struct {
	Pin            string
	RootKeyFile    string
	PassphraseFile string
	OperatorDir    string
}

// Init makes the trust root, the first replica's authority and certificate,
// and a credential for the operator. It touches nothing in a directory that
// already holds a replica.
func Init(ctx context.Context, o InitOptions) (Initialised, error) {
	d := layout(o.DataDir)
	if err := errors.Join(pki.CheckTrustDomain(o.TrustDomain), fleet.CheckID("replica id", string(o.ID))); err != nil {
		return Initialised{}, err
	}
	if err := d.fresh(); err != nil {
		return Initialised{}, err
	}
	now := time.Now()
	root, rootKey, err := pki.NewRoot(o.TrustDomain, now, rootLife)
	if err != nil {
		return Initialised{}, fmt.Errorf("make root: %w", err)
	}
	self := identity{ID: o.ID, TrustDomain: o.TrustDomain, Addr: o.Addr, Bootstrap: true}
	bundle, err := pki.NewBundle(1, root)
	if err != nil {
		return Initialised{}, err
	}
	if err := d.found(ctx, root, rootKey, bundle, self); err != nil {
		return Initialised{}, err
	}
	return Initialised{Pin: pki.Pin(root), RootKeyFile: d.rootKey(), PassphraseFile: d.passphrase(), OperatorDir: d.operator()}, nil
}

// found makes a first replica below a root of the bundle: its authority, its
// certificate and an operator's credential.
func (d layout) found(ctx context.Context, root *x509.Certificate, rootKey crypto.Signer, bundle *pki.Bundle, self identity) error {
	if err := d.sealRoot(d.rootKey(), d.passphrase(), rootKey); err != nil {
		return err
	}
	interKey, csr, err := newKeyAndCSR()
	if err != nil {
		return err
	}
	inter, err := pki.SignIntermediate(root, rootKey, csr, self.TrustDomain, time.Now(), intermediateLife)
	if err != nil {
		return fmt.Errorf("sign intermediate: %w", err)
	}
	own := issuer{key: interKey, inter: inter}
	if err := d.saveIssuer(&own); err != nil {
		return err
	}
	if err := own.open(self.TrustDomain, root, 0); err != nil {
		return err
	}
	if err := issue(ctx, &own, bundle, self.spiffe(), d.pki()); err != nil {
		return err
	}
	op := pki.Identity{TrustDomain: self.TrustDomain, Kind: pki.KindOperator, ID: "admin"}
	if err := issue(ctx, &own, bundle, op, d.operator()); err != nil {
		return err
	}
	// Last: a directory with replica.json is complete.
	return d.save(self)
}

func newKeyAndCSR() (crypto.Signer, []byte, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make request: %w", err)
	}
	return key, csr, nil
}

// issue makes a key, has it signed and stores the credential.
func issue(ctx context.Context, own *issuer, bundle *pki.Bundle, id pki.Identity, dir string) error {
	key, csr, err := newKeyAndCSR()
	if err != nil {
		return err
	}
	chain, err := own.auth.Sign(ctx, id, csr, leafLife)
	if err != nil {
		return fmt.Errorf("sign %s: %w", id.Short(), err)
	}
	if own.cross != nil {
		chain = slices.Insert(chain, 2, own.cross.Raw)
	}
	cred, err := pki.NewCredential(chain, key, bundle)
	if err != nil {
		return fmt.Errorf("sign %s: %w", id.Short(), err)
	}
	if err := pki.SaveDir(dir, cred); err != nil {
		return fmt.Errorf("store %s: %w", id.Short(), err)
	}
	return nil
}

// JoinOptions describe a further replica.
type JoinOptions struct {
	DataDir string
	ID      fleet.ReplicaID // proposed; the control plane may add to it
	Addr    string          // advertised HOST:PORT
	// Conn replaces the UDP socket; Join closes it once it asks. Now replaces the
	// machine's clock.
	Conn net.PacketConn
	Now  func() time.Time
}

// Join makes this machine a replica of an existing control plane. Its keys are
// made here and stay here. It serves once 'tenderd run' has started. A wrong
// clock is a *transport.WrongClockError.
func Join(ctx context.Context, line pki.JoinLine, o JoinOptions) (fleet.ReplicaID, error) {
	d := layout(o.DataDir)
	if line.Kind != pki.KindReplica {
		return "", fmt.Errorf("this join line is of kind %s, not replica; make one with: tender token create --kind replica", line.Kind)
	}
	if err := fleet.CheckID("replica id", string(o.ID)); err != nil {
		return "", err
	}
	if err := d.fresh(); err != nil {
		return "", err
	}
	key, err := pki.NewKey()
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	interKey, interCSR, err := newKeyAndCSR()
	if err != nil {
		return "", err
	}
	req, err := enroll.NewRequest(line, key, string(o.ID))
	if err != nil {
		return "", err
	}
	req.IntermediateCSR, req.Addr = interCSR, o.Addr
	reply, err := transport.Enrol(ctx, transport.DialerConfig{Conn: o.Conn, Now: o.Now}, line, req)
	if err != nil {
		return "", err
	}
	cred, err := reply.Credential(key)
	if err != nil {
		return "", err
	}
	if len(reply.Intermediate) == 0 {
		return "", errors.New("the control plane sent no certificate for this replica's authority")
	}
	inter, err := x509.ParseCertificate(reply.Intermediate[0])
	if err != nil {
		return "", fmt.Errorf("intermediate certificate: %w", err)
	}
	if err := d.saveIssuer(&issuer{key: interKey, inter: inter}); err != nil {
		return "", err
	}
	if err := pki.SaveDir(d.pki(), cred); err != nil {
		return "", err
	}
	self := identity{ID: fleet.ReplicaID(cred.Identity.ID), TrustDomain: cred.Identity.TrustDomain, Addr: o.Addr}
	return self.ID, d.save(self)
}
