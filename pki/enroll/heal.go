package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// HealLabel names the proof that a healing party signs, and what is exported
// from its connection.
const HealLabel = "tender-heal/1"

const (
	nonceLen    = 32
	exporterLen = 32
	maxKey      = 256 // a P-256 public key is 91 bytes
	maxProof    = 128 // an ECDSA signature is 72 bytes at most
	maxIdentity = 512
)

// Challenge opens a healing: the replica speaks first. Its nonce is drawn for
// this one connection and asked back once, so that no answer can be used again.
type Challenge struct {
	Nonce      []byte   `json:"nonce,omitempty"`
	Capability int      `json:"capability,omitempty"`
	Refusal    *Refusal `json:"refusal,omitempty"`
}

// Check reports whether c is well formed.
func (c *Challenge) Check() error {
	if c.Refusal != nil {
		return c.Refusal.check()
	}
	if len(c.Nonce) != nonceLen || c.Capability < 1 {
		return fmt.Errorf("%w: nonce of %d bytes, capability %d", ErrMessage, len(c.Nonce), c.Capability)
	}
	return nil
}

// HealRequest asks for a new certificate in the place of one that has ended.
type HealRequest struct {
	Identity string `json:"identity"`
	// Key is the public key that was enrolled (SubjectPublicKeyInfo): the fleet
	// keeps no more of it than a pin.
	Key []byte `json:"key"`
	// Signature by that key, over the proof of this very request; see prove.
	Signature []byte `json:"signature"`
	// Chain is the certificate that has ended and its intermediate, without the
	// root. The fleet needs it only where its memory is older than they are.
	Chain [][]byte `json:"chain,omitempty"`
	// CSR is for a new key. A copy of the machine's disk that does not heal
	// first is left with a key that counts no more.
	CSR        []byte `json:"csr"`
	Capability int    `json:"capability"`
}

// Check reports whether r is well formed. Whether it is true is the server's
// to find out.
func (r *HealRequest) Check() error {
	switch {
	case r.Identity == "" || len(r.Identity) > maxIdentity:
		return fmt.Errorf("%w: identity of %d bytes", ErrMessage, len(r.Identity))
	case len(r.Key) == 0 || len(r.Key) > maxKey:
		return fmt.Errorf("%w: key of %d bytes", ErrMessage, len(r.Key))
	case len(r.Signature) == 0 || len(r.Signature) > maxProof:
		return fmt.Errorf("%w: signature of %d bytes", ErrMessage, len(r.Signature))
	case r.Capability < 1:
		return fmt.Errorf("%w: capability %d", ErrMessage, r.Capability)
	case len(r.Chain) > pki.MaxChain:
		return fmt.Errorf("%w: certificate chain of %d", ErrMessage, len(r.Chain))
	}
	return nil
}

// digest is the SHA-256 over parts, each behind its length in four bytes, big
// endian: no two lists of parts are the same bytes.
func digest(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

// proof is what the enrolled key signs: for whom and for which new key, on
// which connection (exporter), in answer to which nonce.
func proof(nonce, exporter []byte, identity string, csr []byte) []byte {
	return digest([]byte(HealLabel), nonce, exporter, []byte(identity), csr)
}

// Healing is what a party whose certificate has ended shows.
type Healing struct {
	// Credential is the one that has ended.
	Credential *pki.Credential
	// NextKey is the key of the next one. It is made here and stays here.
	NextKey crypto.Signer
	// Exporter is the connection's, for HealLabel.
	Exporter []byte
}

// Heal asks for a new certificate over rw, an enrol/1 stream to a replica that
// was verified. A refusal is an error of type *Refusal. The reply is verified
// but for time, which the caller's clock decides: see pki.Credential.Verify.
func Heal(ctx context.Context, rw io.ReadWriter, h Healing) (Reply, error) {
	defer bindDeadline(ctx, rw)()
	var c Challenge
	if err := readFrame(rw, &c, MaxRequest); err != nil {
		return Reply{}, fmt.Errorf("read challenge: %w", err)
	}
	if err := c.Check(); err != nil {
		return Reply{}, err
	}
	if c.Refusal != nil {
		return Reply{}, c.Refusal
	}
	req, err := h.answer(c)
	if err != nil {
		return Reply{}, err
	}
	werr := writeFrame(rw, req, MaxRequest)
	reply, err := readReply(rw)
	switch {
	case err != nil && werr != nil:
		return Reply{}, fmt.Errorf("send request to heal: %w", werr)
	case err != nil:
		return Reply{}, fmt.Errorf("read reply to heal: %w", err)
	case reply.Refusal != nil:
		return Reply{}, reply.Refusal
	}
	if err := reply.verifyHealed(h.Credential, req.CSR); err != nil {
		return Reply{}, fmt.Errorf("%w: %w", ErrReply, err)
	}
	return reply, nil
}

func (h *Healing) answer(c Challenge) (HealRequest, error) {
	old, ok := h.Credential.Chain.PrivateKey.(crypto.Signer)
	if !ok {
		return HealRequest{}, errors.New("heal: the key cannot sign")
	}
	csr, err := pki.NewCSR(h.NextKey)
	if err != nil {
		return HealRequest{}, err
	}
	who := h.Credential.Identity.String()
	sig, err := old.Sign(rand.Reader, proof(c.Nonce, h.Exporter, who, csr), crypto.SHA256)
	if err != nil {
		return HealRequest{}, fmt.Errorf("heal: sign the proof: %w", err)
	}
	chain := h.Credential.Chain.Certificate
	return HealRequest{
		Identity: who, Key: h.Credential.Leaf().RawSubjectPublicKeyInfo, Signature: sig, CSR: csr, Capability: Capability,
		Chain: chain[:min(len(chain), 2)],
	}, nil
}

// verifyHealed: the same party, the new key, and a bundle that is not older.
func (r *Reply) verifyHealed(old *pki.Credential, csrDER []byte) error {
	id, err := r.identity()
	if err != nil {
		return err
	}
	if id != old.Identity {
		return fmt.Errorf("certificate of %s, asked for was %s", id, old.Identity)
	}
	if r.BundleVersion < old.Bundle.Version {
		return fmt.Errorf("trust bundle %d, this machine has %d", r.BundleVersion, old.Bundle.Version)
	}
	leaf, err := r.certified(id, csrDER)
	if err != nil {
		return err
	}
	bundle, err := pki.ParseBundle(r.Bundle, r.BundleVersion)
	if err != nil {
		return err
	}
	c := pki.Credential{Identity: id, Bundle: bundle}
	c.Chain.Certificate, c.Chain.Leaf = r.Chain, leaf
	return c.Verify(leaf.NotAfter)
}

// renewLabel names the proof of a renewal over a session. It needs no nonce: the
// request is good for one new key, whose holder alone can use what it brings.
const renewLabel = "tender-renew/1"

// ProveRekey signs, with the key of cred, that its party goes on with the key
// of csrDER. It returns the public key that was signed with and the signature.
func ProveRekey(cred *pki.Credential, csrDER []byte) (key, proof []byte, err error) {
	old, ok := cred.Chain.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("renew certificate: the key cannot sign")
	}
	sig, err := old.Sign(rand.Reader, digest([]byte(renewLabel), []byte(cred.Identity.String()), csrDER), crypto.SHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("renew certificate: sign the proof: %w", err)
	}
	return cred.Leaf().RawSubjectPublicKeyInfo, sig, nil
}

// CheckRekey verifies what ProveRekey made for id, and returns the pins of the
// key proved and of the next one. Without a proof both are that of the request,
// whose own signature proves it.
func CheckRekey(id pki.Identity, csrDER, key, proof []byte) (current, next string, err error) {
	csr, err := pki.CheckCSRFor(csrDER, id)
	if err != nil {
		return "", "", err
	}
	next = KeyPin(csr.RawSubjectPublicKeyInfo)
	if len(key) == 0 {
		return next, next, nil
	}
	if err := verifyBy(key, digest([]byte(renewLabel), []byte(id.String()), csrDER), proof); err != nil {
		return "", "", err
	}
	return KeyPin(key), next, nil
}

// verifyBy checks a signature by a public key that came from the network.
func verifyBy(spki, digest, sig []byte) error {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fmt.Errorf("%w: key: %w", ErrMessage, err)
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return fmt.Errorf("%w: the key is not ECDSA P-256", ErrMessage)
	}
	if !ecdsa.VerifyASN1(key, digest, sig) {
		return fmt.Errorf("%w: the signature is wrong", ErrStranger)
	}
	return nil
}

// Standing is what a key is to an identity.
type Standing int

// The standings of a key.
const (
	// KeyForeign: the identity is not known, or the key was never its.
	KeyForeign Standing = iota
	// KeyHeld: the key is the identity's, or that of its next certificate.
	KeyHeld
	// KeyPast: it was the identity's once. Who has it is a copy of the machine.
	KeyPast
)

// Healer is the replicated side of healing. Both methods are called by many
// requests at once.
type Healer interface {
	// Standing looks at this replica's own copy and blocks on nobody. A replica
	// that does not lead says ErrNotLeader.
	Standing(ctx context.Context, id pki.Identity, keyPin string) (Standing, error)

	// Rekey notes, in one compare-and-set that all replicas see in the same
	// order, that id may go on with r.Next, if r.Key is still its key. Until
	// r.Next is first used r.Key stays good. It fails with ErrRevoked,
	// ErrCloned or ErrStranger.
	Rekey(ctx context.Context, id pki.Identity, r Rekeying) error
}

// Rekeying is one change of a key, by the pins of both; see KeyPin.
type Rekeying struct {
	Key, Next string
	// Remote is where the request came from.
	Remote string
	// NotAfter is the end of the certificate for Key; zero when none was shown
	// that leads to the fleet's roots.
	NotAfter time.Time
}

// What a Healer says about a key that it does not take.
var (
	// ErrStranger marks a party that is not known, or not by this key.
	ErrStranger = errors.New("no such identity, or not with this key")
	// ErrCloned marks a key that the identity has left behind: another copy of
	// the machine goes on with a newer one.
	ErrCloned = errors.New("the identity has gone on with a newer key")
)

// ServeHeal answers the one healing of a connection from remote, as Serve does
// for joining; exporter is the connection's for HealLabel. What it tells a
// stranger is the same whether the identity is unknown, revoked or another
// key's: the log has the reason.
//
// A stranger costs one verified signature and no proposal. The rate per
// identity counts only those who have proved their key, or else anybody could
// use it up for others.
func (s *Server) ServeHeal(ctx context.Context, rw io.ReadWriter, remote string, exporter []byte) error {
	ctx, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	defer bindDeadline(ctx, rw)()

	reply, who, err := s.heal(ctx, rw, remote, exporter)
	if err != nil {
		refusal := healRefusal(err)
		s.cfg.Log.Warn("healing refused", "remote", remote, "identity", who, "code", string(refusal.Code), "error", err)
		reply = Reply{Refusal: refusal}
	} else {
		s.cfg.Log.Info("certificate healed", "remote", remote, "identity", who)
	}
	if werr := writeFrame(rw, reply, MaxReply); werr != nil {
		err = errors.Join(err, fmt.Errorf("send reply to heal: %w", werr))
	}
	return err
}

func (s *Server) heal(ctx context.Context, rw io.ReadWriter, remote string, exporter []byte) (Reply, string, error) {
	if s.cfg.Healer == nil || len(exporter) != exporterLen {
		return Reply{}, "", errors.New("this replica heals nobody")
	}
	if !s.limit.allow(remote, s.cfg.Now()) {
		return Reply{}, "", errBusy
	}
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce) // never fails
	if err := writeFrame(rw, Challenge{Nonce: nonce, Capability: Capability}, MaxRequest); err != nil {
		return Reply{}, "", fmt.Errorf("send challenge: %w", err)
	}
	var req HealRequest
	if err := readFrame(rw, &req, MaxRequest); err != nil {
		return Reply{}, "", err
	}
	if err := req.Check(); err != nil {
		return Reply{}, "", err
	}
	who := cleanText(req.Identity, maxIdentity)
	id, next, err := checkHeal(&req, nonce, exporter)
	if err != nil {
		return Reply{}, who, err
	}
	if err := s.rekey(ctx, id, Rekeying{Key: KeyPin(req.Key), Next: next, Remote: remote, NotAfter: s.ended(&req, id)}); err != nil {
		return Reply{}, who, err
	}
	reply, err := s.sign(ctx, id, &Request{Kind: id.Kind, CSR: req.CSR}, 0, nil)
	return reply, who, err
}

// ended is the end of the certificate that a request shows, if it is the
// asker's, for the key proved, and led to a root of the fleet then.
func (s *Server) ended(req *HealRequest, id pki.Identity) time.Time {
	if len(req.Chain) == 0 {
		return time.Time{}
	}
	leaf, err := x509.ParseCertificate(req.Chain[0])
	if err != nil || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, req.Key) {
		return time.Time{}
	}
	c := pki.Credential{Bundle: s.cfg.Bundle()}
	c.Chain.Certificate, c.Chain.Leaf = req.Chain, leaf
	if got, err := pki.IdentityOf(leaf); err != nil || got != id || c.Verify(leaf.NotAfter) != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// checkHeal verifies all that needs no registry: as much work for a name that
// exists as for one that does not.
func checkHeal(req *HealRequest, nonce, exporter []byte) (pki.Identity, string, error) {
	u, err := url.Parse(req.Identity)
	if err != nil {
		return pki.Identity{}, "", fmt.Errorf("%w: identity: %w", ErrMessage, err)
	}
	id, err := pki.ParseIdentity(u)
	if err != nil {
		return id, "", fmt.Errorf("%w: %w", ErrMessage, err)
	}
	csr, err := pki.CheckCSRFor(req.CSR, id)
	if err != nil {
		return id, "", err
	}
	next := KeyPin(csr.RawSubjectPublicKeyInfo)
	if next == KeyPin(req.Key) {
		return id, "", fmt.Errorf("%w: the new certificate needs a new key", pki.ErrCSR)
	}
	return id, next, verifyBy(req.Key, proof(nonce, exporter, req.Identity, req.CSR), req.Signature)
}

func (s *Server) rekey(ctx context.Context, id pki.Identity, r Rekeying) error {
	ctx, cancel := context.WithTimeout(ctx, registryTime)
	defer cancel()
	standing, err := s.cfg.Healer.Standing(ctx, id, r.Key)
	if err != nil {
		return err
	}
	if standing == KeyForeign && r.NotAfter.IsZero() {
		return ErrStranger
	}
	if !s.healed.allow(id.String(), s.cfg.Now()) {
		return errBusy
	}
	return s.cfg.Healer.Rekey(ctx, id, r)
}

var errBusy = &Refusal{
	Code: CodeBusy, RetryMillis: retryBusy.Milliseconds(),
	Text: "too many machines ask at once; try again in a moment",
}

// ClonedText is for the people on the machine whose identity has moved on.
const ClonedText = "this machine's identity is used by another machine: one of the two is a copy of the other's disk, " +
	"and the other one has gone on with a newer key; to use both, give this one an identity of its own: " +
	"stop the agent, remove its state directory and join it again with a new join line"

// healRefusal tells strangers one thing only.
func healRefusal(err error) *Refusal {
	refusal := refusalOf(err)
	switch {
	case errors.Is(err, ErrCloned):
		return &Refusal{Code: CodeCloned, Text: ClonedText}
	case errors.Is(err, ErrStranger), errors.Is(err, ErrRevoked):
		return &Refusal{Code: CodeNotHealed, Text: "the fleet does not take this machine back: its identity is not known, was revoked, " +
			"or has another key; have an operator look at it (tender agents, tender audit); to come back as a new machine, join again with a new join line"}
	}
	return refusal
}
