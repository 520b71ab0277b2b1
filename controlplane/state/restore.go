package state

import (
	"maps"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// A fence is an epoch in its upper bits and a count within it: a Raft term or a
// generation. Epochs are seconds since 1970 (33 bits hold them for 200 years),
// which leaves room for a billion of either. Agents that have been settled count
// in the upper half of the room for generations.
const (
	fenceBits = 30
	settled   = 1 << (fenceBits - 1)
)

// Fence makes a number of n that is above all of earlier epochs. Without a
// restore it is n itself.
func (s *State) Fence(n uint64) uint64 { return s.Epoch<<fenceBits + n }

// Base is the least generation from which an agent can go on with changes. One
// that holds an older one holds what another history wanted of it, or was
// settled since; only a new set can be right then.
func (s *State) Base(a *fleet.Agent) uint64 {
	for _, base := range []uint64{s.Fence(settled), s.Fence(0)} {
		if s.Epoch > 0 && a.Generation >= base {
			return base
		}
	}
	return 0
}

// Restore makes the state of a snapshot ready to be lived in again, while
// current is the one that it replaces, nil on a new control plane.
//
// What came after the snapshot is lost here and not on the agents. So:
//   - a new epoch begins, above those of both states: agents refuse whoever
//     still speaks for the lost history, and ask this one anew;
//   - no task starts a second time: one that was launched counts as having run,
//     so an agent without a record of it says that it is lost; one that waited
//     may have been launched since, so it is lost here;
//   - an agent gets no offers, and nothing it runs is killed, until an operator
//     has settled it: it may hold resources for tasks that nobody here knows;
//   - join tokens are void, since their uses may be spent, and what current has
//     banned stays banned;
//   - trust roots and their rotation are current's, where those are newer;
//   - a rollout pauses; packages and release keys are current's, where it has any:
//     the files are those;
//   - replicas are current's: those of the snapshot may be long gone; so is the
//     audit log, where that goes on further. Its last entry names who did this.
func (s *State) Restore(now time.Time, current *State, by string) {
	epoch := s.Epoch
	s.Tokens = map[string]*Token{}
	s.Replicas = map[fleet.ReplicaID]*Replica{}
	if current != nil {
		epoch = max(epoch, current.Epoch)
		s.Replicas = maps.Clone(current.Replicas)
		for _, uri := range SortedKeys(current.Revoked) {
			s.ban(uri, current)
		}
		// Everybody holds the newer bundle by now, and takes no older one.
		if current.BundleVersion >= s.BundleVersion {
			s.Bundle, s.BundleVersion, s.Rotation = current.Bundle, current.BundleVersion, current.Rotation
		}
		if current.Audit.Seq > s.Audit.Seq {
			s.Audit = current.Audit.clone()
		}
	}
	s.restoredRollout(now, current)
	s.Audit.Seq++
	s.Audit.Admin = append(s.Audit.Admin, AuditEntry{Seq: s.Audit.Seq, Time: now, By: clip(by), Action: "fleet.restore", Target: s.TrustDomain})
	s.Epoch = max(epoch+1, uint64(max(now.Unix(), 0))) //nolint:gosec // not negative
	s.Format = max(s.Format, 2)
	s.Unsettled = map[fleet.AgentID]bool{}
	for _, id := range SortedKeys(s.Agents) {
		a := *s.Agents[id]
		a.Generation = s.Fence(0)
		s.Agents[id] = &a
		if !a.Revoked {
			s.Unsettled[id] = true
		}
	}
	for _, id := range SortedKeys(s.Tasks) {
		switch old := s.Tasks[id]; {
		case old.Held():
			t := *old
			t.Restored, t.Seq, t.Generation = true, max(t.Seq, 1), s.Fence(0)
			s.Tasks[id] = &t
		case old.Waiting():
			s.end(now, id, fleet.Status{
				Task: id, State: fleet.TaskLost, Time: now, ExitCode: -1, Reason: fleet.ReasonReconciliation,
				Message: "it waited when the snapshot was made, and may have run since; submit it again if it is to run",
			})
		}
	}
}

// ban carries over what another state has revoked.
func (s *State) ban(uri string, from *State) {
	if _, done := s.Revoked[uri]; done {
		return
	}
	at := from.Revoked[uri]
	for id, a := range s.Agents {
		if s.uri(KindAgent, string(id)) == uri && !a.Revoked {
			s.revoke(at, &Revoke{URI: uri, Kind: KindAgent, ID: string(id)})
			return
		}
	}
	for id, p := range s.Principals {
		if s.uri(p.Kind, id) == uri && p.Revoked.IsZero() {
			s.revoke(at, &Revoke{URI: uri, Kind: p.Kind, ID: id})
			return
		}
	}
	s.Revoked[uri] = at
}

// settle ends an agent's time between two histories: its next desired set is
// whole, and what is not in it ends there.
func (s *State) settle(c *Settle) Result {
	if _, r := s.live(c.Agent); r.Kind != OK {
		return r
	}
	if !s.Unsettled[c.Agent] {
		return Result{Duplicate: true, Generation: s.Agents[c.Agent].Generation}
	}
	a := *s.Agents[c.Agent]
	a.Generation = s.Fence(settled)
	s.Agents[a.ID] = &a
	delete(s.Unsettled, a.ID)
	return Result{Generation: a.Generation}
}
