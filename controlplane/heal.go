package controlplane

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// healer is healing's view of the replicated keys. Only agents heal: people
// and programs log in again, and replicas sign for themselves.
type healer struct{ r *Replica }

// Standing reads this replica's own copy. Only the leader's is new enough to
// say no by.
func (h healer) Standing(_ context.Context, id pki.Identity, pin string) (enroll.Standing, error) {
	if leader, addr := h.r.raft.Leader(); leader != h.r.self.ID {
		return enroll.KeyForeign, enroll.ErrNotLeader{Addr: addr}
	}
	if id.Kind != pki.KindAgent || id.TrustDomain != h.r.self.TrustDomain {
		return enroll.KeyForeign, nil
	}
	switch h.r.standing(fleet.AgentID(id.ID), pin) {
	case state.KeyCurrent, state.KeyNext:
		return enroll.KeyHeld, nil
	case state.KeyPast:
		return enroll.KeyPast, nil
	default:
		return enroll.KeyForeign, nil
	}
}

// Rekey proposes; what the state refuses is in the audit log, since whoever
// comes here has proved a key that is or was the agent's.
func (h healer) Rekey(ctx context.Context, id pki.Identity, r enroll.Rekeying) error {
	agent := fleet.AgentID(id.ID)
	results, err := h.r.raft.Propose(ctx, state.Command{Time: time.Now(), By: id.Short(), Rekey: &state.Rekey{
		Agent: agent, Key: r.Key, Next: r.Next, Addr: r.Remote, Heal: true, NotAfter: r.NotAfter,
	}})
	if err != nil {
		return elsewhere(err)
	}
	switch res := results[0]; res.Kind {
	case state.OK:
		return nil
	case state.RevokedID:
		return fmt.Errorf("%w: %s", enroll.ErrRevoked, res.Text)
	case state.PastKey:
		_, err := h.r.noteClone(ctx, agent, r.Key, r.Remote, "it asked for a new certificate with a key that the agent has left behind")
		return errors.Join(enroll.ErrCloned, err)
	default:
		return fmt.Errorf("%w: %s", enroll.ErrStranger, res.Text)
	}
}

// elsewhere turns Raft's word for "ask the leader" into enrol's.
func elsewhere(err error) error {
	if not, ok := errors.AsType[*registrar.NotLeaderError](err); ok {
		return enroll.ErrNotLeader{Addr: not.Addr}
	}
	return err
}

// noteClone has the trio decide whether a key is a copy's. It is one that the
// agent has neither now nor next; this replica's own copy of the state may be
// too old to know.
func (r *Replica) noteClone(ctx context.Context, id fleet.AgentID, key, addr, text string) (cloned bool, err error) {
	results, err := r.raft.Propose(ctx, state.Command{Time: time.Now(), By: "replica/" + string(r.self.ID), Cloned: &state.Cloned{
		Agent: id, Key: key, Addr: addr, Text: text,
	}})
	if err != nil {
		return false, err
	}
	if results[0].Kind != state.OK {
		return false, nil
	}
	r.log.Warn("a copy of an agent's machine was refused", "agent", id, "remote", addr, "how", text)
	return true, nil
}

// keyPin is the pin of the key that the other side has shown; empty where it
// has shown none, as in memory.
func keyPin(conn transport.Session) string {
	if chain := transport.PeerChain(conn); len(chain) > 0 {
		return enroll.KeyPin(chain[0].RawSubjectPublicKeyInfo)
	}
	return ""
}

// keyTime bounds what a session waits for before its Welcome.
const keyTime = 5 * time.Second

// admitKey decides on the key of an agent's certificate, which has been
// verified, before the agent is welcome: one that is neither its own nor its
// next one is a copy's. A replica that does not lead and is not sure sends the
// agent to the leader. The leader's first word of a session with the next key
// makes that the only one; see package leader.
func (r *Replica) admitKey(ctx context.Context, conn transport.Session) (string, *wire.Refusal) {
	ctx, cancel := context.WithTimeout(ctx, keyTime)
	defer cancel()
	id, key := fleet.AgentID(conn.Peer().ID), keyPin(conn)
	if k := r.standing(id, key); k == state.KeyCurrent || k == state.KeyNext {
		return key, nil
	}
	// After a restore the agent may be ahead of the state; see package state.
	if rec := r.agentRecord(id); rec != nil && key != "" {
		notAfter := transport.PeerChain(conn)[0].NotAfter
		if err := r.confirmKey(ctx, state.Confirm{Agent: id, Key: key, NotAfter: notAfter}); err == nil {
			r.log.Warn("an agent's key is newer than the state, which was restored; it is taken", "agent", id)
			return key, nil
		}
	}
	cloned, err := r.noteClone(ctx, id, key, transport.RemoteAddr(conn), "its certificate is for a key that the agent has left behind")
	switch {
	case err != nil:
		return "", r.refusalTo(err)
	case cloned:
		return "", &wire.Refusal{Code: wire.RefusedCloned, Text: enroll.ClonedText}
	}
	// The trio knew better: the key is the agent's, or the agent is not part of
	// the fleet, which is decided elsewhere.
	return key, nil
}

// standing is what this replica's own copy of the state says of a key.
func (r *Replica) standing(id fleet.AgentID, key string) (k state.Key) {
	if key == "" {
		return state.KeyCurrent // a session in memory shows none
	}
	r.raft.Stale(func(s *state.State) { k = s.KeyOf(id, key) })
	return k
}

// confirmKey commits that an agent uses its next key.
func (r *Replica) confirmKey(ctx context.Context, c state.Confirm) error {
	results, err := r.raft.Propose(ctx, state.Command{Time: time.Now(), Confirm: &c})
	if err != nil {
		return err
	}
	return results[0].Err()
}

// refusalTo is what an agent is told whose key could not be decided on.
func (r *Replica) refusalTo(err error) *wire.Refusal {
	if err == nil {
		return nil
	}
	if not, ok := errors.AsType[*registrar.NotLeaderError](err); ok {
		return &wire.Refusal{Code: wire.RefusedNotLeader, Text: "the leader has to decide on the agent's key", Leader: not.Addr, RetryAfter: 500 * time.Millisecond}
	}
	if refused, ok := errors.AsType[*state.Error](err); ok && refused.Kind == state.RevokedID {
		return &wire.Refusal{Code: wire.RefusedRevoked, Text: refused.Text}
	}
	r.log.Warn("agent's key not decided on", "error", err)
	return &wire.Refusal{Code: wire.RefusedBusy, Text: "the replicas do not agree at the moment; try again", RetryAfter: time.Second}
}

// renew answers an agent's renewal over its own session, for the key that the
// request proves. An agent of an older version proves none and asks for the key
// that it has. The pin of the new key is returned.
func (r *Replica) renew(ctx context.Context, peer pki.Identity, req wire.RenewRequest) (wire.Certificate, string, error) {
	key, next, err := enroll.CheckRekey(peer, req.CSR, req.Key, req.Proof)
	if err == nil && (key != next || r.standing(fleet.AgentID(peer.ID), key) != state.KeyCurrent) {
		err = r.rekey(ctx, state.Rekey{Agent: fleet.AgentID(peer.ID), Key: key, Next: next})
	}
	if err != nil {
		return wire.Certificate{}, "", fmt.Errorf("renew certificate: %w", err)
	}
	chain, err := enroll.SignRenewal(ctx, recordingSigner{r}, peer, req.CSR)
	if err != nil {
		return wire.Certificate{}, "", err
	}
	b := r.bundle()
	return wire.Certificate{Chain: chain, Bundle: b.PEM(), BundleVersion: b.Version}, next, nil
}

func (r *Replica) rekey(ctx context.Context, c state.Rekey) error {
	results, err := r.raft.Propose(ctx, state.Command{Time: time.Now(), Rekey: &c})
	if err != nil {
		return err
	}
	return results[0].Err()
}

// stored commits what the agent says after a renewal: that it has the new
// certificate and its key on disk.
func (r *Replica) stored(ctx context.Context, peer pki.Identity, next string) error {
	return r.confirmKey(ctx, state.Confirm{Agent: fleet.AgentID(peer.ID), Key: next})
}

// answer serves the one exchange of an enrol/1 connection, and reports whether
// it was of a kind that this version knows. What went wrong has been logged.
func (r *Replica) answer(ctx context.Context, s transport.Session, st transport.Stream) bool {
	remote := transport.RemoteAddr(s)
	switch st.Kind() {
	case transport.StreamEnrol:
		_ = r.enrol.Serve(ctx, st, remote)
	case transport.StreamHeal:
		_ = r.enrol.ServeHeal(ctx, st, remote, exported(s, enroll.HealLabel))
	case transport.StreamClock:
		_ = r.enrol.ServeClock(ctx, st, remote, exported(s, enroll.ClockLabel))
	default:
		return false
	}
	return true
}

// exported is nil where the connection has nothing to bind a proof to; it is
// refused then.
func exported(s transport.Session, label string) []byte {
	const proofLen = 32
	out, err := transport.Exporter(s, label, proofLen)
	if err != nil {
		return nil
	}
	return out
}

// ownKey signs the time that this replica tells.
func (r *Replica) ownKey() crypto.Signer {
	key, ok := r.cred.Get().Chain.PrivateKey.(crypto.Signer)
	if !ok {
		panic("controlplane: the replica's own key cannot sign")
	}
	return key
}
