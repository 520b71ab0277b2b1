package enroll

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tenderfleet/tender/pki"
)

// ClockLabel names what a replica signs when it tells the time, and what is
// exported from the connection.
const ClockLabel = "tender-clock/1"

// maxAge bounds the exchange: what took longer says too little of now.
const maxAge = 5 * time.Second

// ClockRequest asks for the time.
type ClockRequest struct {
	Nonce      []byte `json:"nonce"`
	Capability int    `json:"capability"`
}

// Check reports whether r is well formed.
func (r *ClockRequest) Check() error {
	if len(r.Nonce) != nonceLen || r.Capability < 1 {
		return fmt.Errorf("%w: nonce of %d bytes, capability %d", ErrMessage, len(r.Nonce), r.Capability)
	}
	return nil
}

// ClockReply is the time of a replica in milliseconds since 1970, UTC, signed
// by its key; or a refusal.
type ClockReply struct {
	Millis    int64    `json:"millis,omitempty"`
	Signature []byte   `json:"signature,omitempty"`
	Refusal   *Refusal `json:"refusal,omitempty"`
}

// Check reports whether r is well formed.
func (r *ClockReply) Check() error {
	if r.Refusal != nil {
		return r.Refusal.check()
	}
	if r.Millis <= 0 || len(r.Signature) == 0 || len(r.Signature) > maxProof {
		return fmt.Errorf("%w: time %d, signature of %d bytes", ErrMessage, r.Millis, len(r.Signature))
	}
	return nil
}

func clockProof(nonce, exporter []byte, millis int64) []byte {
	return digest([]byte(ClockLabel), nonce, exporter, binary.BigEndian.AppendUint64(nil, uint64(millis)))
}

// Told is what one replica said the time was.
type Told struct {
	Replica pki.Identity
	// Offset is what to add to this machine's clock to have the replica's.
	Offset time.Duration
}

// AskClock asks the replica that showed chain for the time, over rw, an enrol/1
// stream; exporter is the connection's, for ClockLabel, and now this machine's
// clock.
//
// The answer is believed only if judge finds that the chain holds at the very
// time told. So a replica's key that was stolen and whose certificate has ended
// can tell no time later than that end: it cannot make itself valid. What it
// could still do is tell its own past, to a machine that cannot know better;
// see Agree for that.
func AskClock(ctx context.Context, rw io.ReadWriter, chain []*x509.Certificate, exporter []byte, judge pki.Judge, now func() time.Time) (Told, error) {
	defer bindDeadline(ctx, rw)()
	req := ClockRequest{Nonce: make([]byte, nonceLen), Capability: Capability}
	_, _ = rand.Read(req.Nonce) // never fails
	sent := now()
	if err := writeFrame(rw, req, MaxRequest); err != nil {
		return Told{}, fmt.Errorf("ask for the time: %w", err)
	}
	var reply ClockReply
	if err := readFrame(rw, &reply, MaxRequest); err != nil {
		return Told{}, fmt.Errorf("read the time: %w", err)
	}
	took := now().Sub(sent)
	if err := reply.Check(); err != nil {
		return Told{}, err
	}
	switch {
	case reply.Refusal != nil:
		return Told{}, reply.Refusal
	case took < 0 || took > maxAge:
		return Told{}, fmt.Errorf("ask for the time: the answer took %v", took)
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, clockProof(req.Nonce, exporter, reply.Millis), reply.Signature) {
		return Told{}, fmt.Errorf("%w: the time is not signed by the replica's key", ErrMessage)
	}
	at := time.UnixMilli(reply.Millis)
	id, err := judge(chain, at)
	if err != nil {
		return Told{}, fmt.Errorf("the replica says that it is %s: %w", at.UTC().Format(time.RFC3339), err)
	}
	return Told{Replica: id, Offset: at.Sub(sent.Add(took / 2))}, nil
}

// ErrNoTime: too few replicas agree on the time.
var ErrNoTime = errors.New("the time is not known")

// agreeWithin is how far replicas' clocks may be apart that agree: certificates
// are backdated by as much.
const agreeWithin = pki.Backdate

// Agree returns the offset that most replicas tell, of a fleet of which known
// addresses are known.
//
// A majority has to agree, as it has to for anything else in the fleet. One
// replica is not enough: a certificate's end protects from whoever stole the
// key of a replica in the past, and a machine that took the time from a single
// one could be led back to when that key was good. A thief then needs the keys
// of a majority, from about the same time; with as many he could have the fleet
// itself. The price is that a machine with a wrong clock needs a majority in
// reach, which a fleet that decides anything has.
func Agree(told []Told, known int) (time.Duration, error) {
	byReplica := make(map[pki.Identity]time.Duration, len(told))
	for _, t := range told {
		byReplica[t.Replica] = t.Offset // two addresses may lead to one replica
	}
	offsets := make([]time.Duration, 0, len(byReplica))
	for _, o := range byReplica {
		offsets = append(offsets, o)
	}
	slices.Sort(offsets)
	need := known/2 + 1
	for i := 0; i+need <= len(offsets); i++ {
		if group := offsets[i : i+need]; group[need-1]-group[0] <= agreeWithin {
			return group[need/2], nil
		}
	}
	return 0, fmt.Errorf("%w: %d of %d replicas have to agree on it, and %d answered", ErrNoTime, need, known, len(offsets))
}

// ServeClock tells one asker the time. It needs no agreement of the replicas
// and costs one signature.
func (s *Server) ServeClock(ctx context.Context, rw io.ReadWriter, remote string, exporter []byte) error {
	ctx, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	defer bindDeadline(ctx, rw)()

	reply, err := s.clock(rw, remote, exporter)
	if err != nil {
		s.cfg.Log.Warn("time not told", "remote", remote, "error", err)
		reply = ClockReply{Refusal: refusalOf(err)}
	}
	if werr := writeFrame(rw, reply, MaxRequest); werr != nil {
		err = errors.Join(err, fmt.Errorf("send the time: %w", werr))
	}
	return err
}

func (s *Server) clock(rw io.Reader, remote string, exporter []byte) (ClockReply, error) {
	if s.cfg.Key == nil || len(exporter) != exporterLen {
		return ClockReply{}, errors.New("this replica tells nobody the time")
	}
	if !s.limit.allow(remote, s.cfg.Now()) {
		return ClockReply{}, errBusy
	}
	var req ClockRequest
	if err := readFrame(rw, &req, MaxRequest); err != nil {
		return ClockReply{}, err
	}
	if err := req.Check(); err != nil {
		return ClockReply{}, err
	}
	millis := s.cfg.Now().UnixMilli()
	sig, err := s.cfg.Key().Sign(rand.Reader, clockProof(req.Nonce, exporter, millis), crypto.SHA256)
	if err != nil {
		return ClockReply{}, fmt.Errorf("sign the time: %w", err)
	}
	return ClockReply{Millis: millis, Signature: sig}, nil
}
