package enroll

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/tenderfleet/tender/pki"
)

const (
	// serveTime bounds one connection, registryTime the part of it in which
	// the replicas agree, so that a refusal can still be sent.
	serveTime    = 10 * time.Second
	registryTime = 6 * time.Second
	// maxSkew is how far a joining machine's clock may be off: certificates
	// are backdated by as much.
	maxSkew   = pki.Backdate
	retryBusy = time.Second
)

// SignAuthority signs the authority of a replica, whom a join line has admitted,
// with the root key.
type SignAuthority func(ctx context.Context, id pki.Identity, csrDER []byte) (*x509.Certificate, error)

// Config is what a Server needs. All but RootKey, ReleaseKeys, Healer, Key,
// MinCapability, Now and Log must be set.
type Config struct {
	Registry Registry
	Signer   Signer
	// Bundle and Replicas are asked for each reply.
	Bundle   func() *pki.Bundle
	Replicas func() []string
	// RootKey finds who can sign a new replica's authority now. It is called
	// before a join line is used up; where nobody can, its error is best a
	// *Refusal with CodeNoRootKey that says so. Nil admits no replicas.
	RootKey func(ctx context.Context) (SignAuthority, error)
	// ReleaseKeys returns the keys that agents pin; nil is none.
	ReleaseKeys func() []string
	// Healer lets parties whose certificate has ended have a new one; nil heals
	// nobody.
	Healer Healer
	// Key returns the replica's own key, which signs the time that it tells; nil
	// tells nobody.
	Key func() crypto.Signer
	// MinCapability refuses older joiners.
	MinCapability int
	// Rate bounds the requests per second from all addresses together; zero is
	// DefaultRate.
	Rate float64
	Now  func() time.Time
	Log  *slog.Logger
}

// Server answers enrol/1. It is safe for concurrent use.
type Server struct {
	cfg    Config
	limit  *limiter
	healed *limiter // by identity
}

// NewServer returns a server.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Registry == nil || cfg.Signer == nil || cfg.Bundle == nil || cfg.Replicas == nil {
		return nil, errors.New("enrolment server: registry, signer, bundle or replicas is missing")
	}
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, limit: newLimiter(cfg.Rate, addrRate, addrBurst, bucketKey),
		healed: newLimiter(cfg.Rate, healRate, healBurst, nil),
	}, nil
}

// Serve answers the one request of a connection from remote. It returns when
// the reply is written, and never later than ten seconds after the call if rw
// has SetDeadline. The error is what the asker was refused for, or why it could
// not be told; it has been logged. Serve does not close rw.
func (s *Server) Serve(ctx context.Context, rw io.ReadWriter, remote string) error {
	ctx, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	defer bindDeadline(ctx, rw)()

	reply, err := s.answer(ctx, rw, remote)
	if err != nil {
		refusal := refusalOf(err)
		s.cfg.Log.Warn("enrolment refused", "remote", remote, "code", string(refusal.Code), "error", err)
		reply = Reply{Refusal: refusal}
	} else {
		s.cfg.Log.Info("enrolment admitted", "remote", remote, "identity", reply.Identity)
	}
	if werr := writeFrame(rw, reply, MaxReply); werr != nil {
		err = errors.Join(err, fmt.Errorf("send enrolment reply: %w", werr))
	}
	return err
}

// answer goes from cheap to dear; see the package comment.
func (s *Server) answer(ctx context.Context, rw io.Reader, remote string) (Reply, error) {
	now := s.cfg.Now()
	if !s.limit.allow(remote, now) {
		return Reply{}, errBusy
	}
	req, err := readRequest(rw)
	if err != nil {
		return Reply{}, err
	}
	keyPin, err := checkCSRs(&req)
	if err != nil {
		return Reply{}, err
	}
	if err := s.checkAsker(&req, now); err != nil {
		return Reply{}, err
	}
	hash := pki.HashSecret(req.Secret)
	grant, err := s.cfg.Registry.Lookup(ctx, hash)
	if err != nil {
		return Reply{}, err
	}
	if err := s.checkGrant(&grant, &req, keyPin, now); err != nil {
		return Reply{}, err
	}
	authority, err := s.rootKey(ctx, &grant, &req, keyPin)
	if err != nil {
		return Reply{}, err
	}
	regCtx, cancel := context.WithTimeout(ctx, registryTime)
	defer cancel()
	id, err := s.cfg.Registry.Consume(regCtx, hash, Admission{
		Kind: req.Kind, Name: req.Name, Hostname: req.Hostname, Labels: req.Labels, Addr: req.Addr,
		Remote: remote, KeyPin: keyPin, Capability: req.Capability, At: now,
	})
	if err != nil {
		return Reply{}, err
	}
	return s.sign(ctx, id, &req, grant.Life, authority)
}

// rootKey finds who signs a replica's authority. One that the line has admitted
// already, and that only its certificates are wanting for, shall ask again: with
// another key the line would be used up.
func (s *Server) rootKey(ctx context.Context, g *Grant, req *Request, keyPin string) (SignAuthority, error) {
	if req.Kind != pki.KindReplica {
		return nil, nil
	}
	if s.cfg.RootKey == nil {
		return nil, &Refusal{Code: CodeNoRootKey, Text: "no replicas are admitted here; the join line is still good"}
	}
	sign, err := s.cfg.RootKey(ctx)
	if refusal, ok := errors.AsType[*Refusal](err); ok && slices.Contains(g.Admitted, keyPin) {
		return nil, &Refusal{Code: CodeUnavailable, Text: refusal.Text, RetryMillis: retryBusy.Milliseconds()}
	}
	return sign, err
}

// checkCSRs reports whether everything that shall be signed can be, and
// returns the pin of the asker's key. Who the asker will be is not known yet,
// so a request that names somebody could only turn out wrong after the token
// is used.
func checkCSRs(req *Request) (string, error) {
	ders := [][]byte{req.CSR}
	if req.Kind == pki.KindReplica {
		ders = append(ders, req.IntermediateCSR)
	}
	var pins []string
	for _, der := range ders {
		csr, err := pki.CheckCSR(der)
		if err != nil {
			return "", err
		}
		if len(csr.URIs) != 0 || csr.Subject.CommonName != "" {
			return "", fmt.Errorf("%w: it names somebody; the fleet decides on names", pki.ErrCSR)
		}
		pins = append(pins, KeyPin(csr.RawSubjectPublicKeyInfo))
	}
	if len(pins) == 2 && pins[0] == pins[1] {
		return "", fmt.Errorf("%w: a replica's own key and its authority's are the same", pki.ErrCSR)
	}
	return pins[0], nil
}

func (s *Server) checkAsker(req *Request, now time.Time) error {
	if req.Capability < s.cfg.MinCapability {
		return &Refusal{Code: CodeTooOld, Text: fmt.Sprintf(
			"this program is too old for the fleet (capability %d, needed is %d); install the fleet's version", req.Capability, s.cfg.MinCapability)}
	}
	if req.Clock == 0 {
		return nil
	}
	theirs := time.Unix(req.Clock, 0)
	if off := theirs.Sub(now); off < -maxSkew || off > maxSkew {
		const layout = "2006-01-02 15:04:05Z"
		return &Refusal{Code: CodeClock, Text: fmt.Sprintf(
			"this machine's clock says %s, the fleet's says %s; set the clock (timedatectl set-ntp true) and try again; the join line is still good",
			theirs.UTC().Format(layout), now.UTC().Format(layout))}
	}
	return nil
}

// checkGrant refuses what Consume would refuse too, without a proposal.
func (s *Server) checkGrant(g *Grant, req *Request, keyPin string, now time.Time) error {
	switch {
	case g.Kind != req.Kind:
		return ErrTokenWrongKind
	case !now.Before(g.Expires):
		return ErrTokenExpired
	case g.UsesLeft <= 0 && !slices.Contains(g.Admitted, keyPin):
		return ErrTokenUsed
	}
	return nil
}

func (s *Server) sign(ctx context.Context, id pki.Identity, req *Request, life time.Duration, authority SignAuthority) (Reply, error) {
	if id.Kind != req.Kind {
		return Reply{}, fmt.Errorf("the registry admitted %s for a request of kind %s", id.Short(), req.Kind)
	}
	chain, err := s.cfg.Signer.Sign(ctx, id, req.CSR, life)
	if err != nil {
		return Reply{}, err
	}
	bundle := s.cfg.Bundle()
	reply := Reply{
		Identity: id.String(), Chain: chain,
		Bundle: bundle.PEM(), BundleVersion: bundle.Version, Replicas: s.cfg.Replicas(),
	}
	if len(reply.Replicas) > maxReplicas {
		reply.Replicas = reply.Replicas[:maxReplicas]
	}
	if req.Kind == pki.KindAgent && req.Capability >= 3 && s.cfg.ReleaseKeys != nil {
		reply.ReleaseKeys = s.cfg.ReleaseKeys()
	}
	if authority != nil {
		inter, err := authority(ctx, id, req.IntermediateCSR)
		if err != nil {
			return Reply{}, fmt.Errorf("sign authority of %s: %w", id.Short(), err)
		}
		reply.Intermediate = [][]byte{inter.Raw}
	}
	return reply, nil
}

const askOperator = "; ask an operator for a new join line"

// refusalOf turns an error into what the asker is told. Whether a token was
// used or has expired is told only to who has its secret; of anything
// unforeseen the details stay in the log.
func refusalOf(err error) *Refusal {
	var refusal *Refusal
	var elsewhere ErrNotLeader
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.As(err, &elsewhere):
		return &Refusal{Code: CodeNotLeader, Text: elsewhere.Error(), Leader: elsewhere.Addr}
	case errors.Is(err, ErrTokenUnknown):
		return &Refusal{Code: CodeTokenUnknown, Text: "this fleet does not know the join line: it may be of another fleet, or withdrawn" + askOperator}
	case errors.Is(err, ErrTokenUsed):
		return &Refusal{Code: CodeTokenUsed, Text: "the join line has been used already" + askOperator}
	case errors.Is(err, ErrTokenExpired):
		return &Refusal{Code: CodeTokenExpired, Text: "the join line has expired" + askOperator}
	case errors.Is(err, ErrTokenWrongKind):
		return &Refusal{Code: CodeWrongKind, Text: "the join line is for another kind of party (agent, operator, replica, framework, reader)" + askOperator}
	case errors.Is(err, ErrRevoked):
		return &Refusal{Code: CodeRevoked, Text: "the identity that this join line admitted has been revoked" + askOperator}
	case errors.Is(err, pki.ErrCSR), errors.Is(err, ErrMessage), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Refusal{Code: CodeBadRequest, Text: cleanText(err.Error(), maxText)}
	}
	return &Refusal{
		Code: CodeUnavailable, RetryMillis: retryBusy.Milliseconds(),
		Text: "the fleet cannot admit anybody at the moment; the replica's log says why",
	}
}

// bindDeadline makes the end of ctx end reads and writes on rw, if it can.
func bindDeadline(ctx context.Context, rw io.ReadWriter) (release func()) {
	d, ok := rw.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return func() {}
	}
	if t, ok := ctx.Deadline(); ok {
		// A stream that cannot is as good as one without deadlines.
		_ = d.SetDeadline(t)
	}
	stop := context.AfterFunc(ctx, func() { _ = d.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
