package state

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// An agent's key says which copy of its machine is which: a copy takes the key
// along, and every certificate that is signed afterwards is for a new one. (A
// serial number would tell the same, but only of who shows a certificate; who
// heals has none that holds.) The keys change in two steps, so that a crash or
// a lost answer at any point leaves the agent with a key that is good:
//
//	Rekey    KeyHash stays, NextKey is noted; the certificate is signed and sent
//	Confirm  NextKey was used: it becomes KeyHash, the old one is past
//
// A Rekey that never came to its Confirm is overwritten by the next one.
//
// Where this state was restored from a snapshot, agents may be ahead of it. A
// key that it does not know is good all the same if its certificate ends later
// than any that the state knows of: it was signed after the snapshot, while a
// copy's certificates are older than the agent's newest one.
type (
	// Rekey lets an agent go on with another key, if Key is still its own.
	Rekey struct {
		Agent     fleet.AgentID
		Key, Next string
		// Addr is where the request came from. Heal: the certificate had ended.
		Addr string
		Heal bool
		// NotAfter is the end of the certificate for Key, zero where none was
		// shown and verified.
		NotAfter time.Time
	}
	// Confirm records that an agent has used Key, the next one that was noted
	// for it.
	Confirm struct {
		Agent fleet.AgentID
		Key   string
		// NotAfter is as for Rekey.
		NotAfter time.Time
	}
	// Cloned records that a second machine uses an agent's identity. With a Key
	// it says that this one is neither the agent's own nor its next one; where
	// that is not true the command is refused with Conflict.
	Cloned struct {
		Agent      fleet.AgentID
		Key        string
		Addr, Text string
	}
)

// rekey is the compare-and-set of renewals and healing.
func (s *State) rekey(now time.Time, c *Rekey) Result {
	old, r := s.keyed(c.Agent)
	switch {
	case r.Kind != OK:
		return r
	case c.Key == "" || c.Next == "":
		return refuse(Invalid, "a key is missing")
	case c.Key == old.KeyHash || c.Key == old.NextKey || ahead(old, c.Key, c.NotAfter):
	case c.Heal, old.KeyHash != "" && s.Epoch == 0, slices.Contains(old.PastKeys, c.Key):
		return s.strange(old, c.Key)
	default:
		// Over a session, which a certificate has opened: of an agent whose key
		// was never kept, or that is ahead of a restored state.
	}
	a := *old
	if c.Key != a.KeyHash {
		a.NextKey = c.Key
		a = promoted(a) // who signs with a key has it
	}
	if a.NextKey = c.Next; c.Next == a.KeyHash {
		a.NextKey = "" // an agent of an older version keeps its key
	}
	if c.Heal {
		a.Healed = now
	}
	s.Agents[a.ID] = &a
	return Result{ID: string(a.ID)}
}

// Key is what a key is to an agent.
type Key int

// The standings of a key.
const (
	KeyForeign Key = iota // not this agent's, and never was; or no such agent
	KeyCurrent
	KeyNext
	KeyPast
)

// KeyOf says what a key is to an agent.
func (s *State) KeyOf(id fleet.AgentID, key string) Key {
	a := s.Agents[id]
	switch {
	case a == nil || key == "":
		return KeyForeign
	case key == a.KeyHash:
		return KeyCurrent
	case key == a.NextKey:
		return KeyNext
	case slices.Contains(a.PastKeys, key):
		return KeyPast
	}
	return KeyForeign
}

// ahead reports whether a key that is not the agent's came after all that this
// state knows.
func ahead(a *fleet.Agent, key string, notAfter time.Time) bool {
	return !slices.Contains(a.PastKeys, key) && a.CertNotAfter.Before(notAfter)
}

// strange says what a key is that is not the agent's.
func (s *State) strange(a *fleet.Agent, key string) Result {
	if slices.Contains(a.PastKeys, key) {
		return refuse(PastKey, "agent %s has gone on with a newer key: this is a copy of its machine", a.ID)
	}
	return refuse(Foreign, "this is not the key of agent %s", a.ID)
}

// keyed returns an agent whose keys count.
func (s *State) keyed(id fleet.AgentID) (*fleet.Agent, Result) {
	a := s.Agents[id]
	if a == nil {
		return nil, refuse(NotFound, "no agent %s; list them with: tender agents", id)
	}
	if _, banned := s.Revoked[s.uri(KindAgent, string(id))]; banned || a.Revoked || !a.Gone.IsZero() {
		return nil, refuse(RevokedID, "agent %s has been revoked", id)
	}
	return a, Result{}
}

func promoted(a fleet.Agent) fleet.Agent {
	if a.KeyHash != "" {
		past := append([]string{a.KeyHash}, a.PastKeys...)
		a.PastKeys = past[:min(len(past), fleet.MaxPastKeys)]
	}
	a.KeyHash, a.NextKey = a.NextKey, ""
	return a
}

func (s *State) confirm(c *Confirm) Result {
	old, r := s.keyed(c.Agent)
	switch {
	case r.Kind != OK:
		return r
	case c.Key != "" && c.Key == old.KeyHash:
		return Result{Duplicate: true}
	case c.Key == "" || c.Key != old.NextKey && !ahead(old, c.Key, c.NotAfter):
		return s.strange(old, c.Key)
	}
	a := *old
	a.NextKey = c.Key
	a = promoted(a)
	if c.NotAfter.After(a.CertNotAfter) {
		a.CertNotAfter = c.NotAfter
	}
	s.Agents[a.ID] = &a
	return Result{ID: string(a.ID)}
}

// clonedAgain is how long a copy that keeps coming is one event.
const clonedAgain = 10 * time.Minute

func (s *State) cloned(now time.Time, c *Cloned) Result {
	old, r := s.keyed(c.Agent)
	switch {
	case r.Kind != OK:
		return r
	case c.Key != "" && (old.KeyHash == "" || c.Key == old.KeyHash || c.Key == old.NextKey):
		return refuse(Conflict, "this is the key of agent %s", c.Agent)
	case c.Key != "" && s.Unsettled[c.Agent] && !slices.Contains(old.PastKeys, c.Key):
		return refuse(Conflict, "agent %s may be ahead of the state, which was restored", c.Agent)
	}
	if old.Cloned != nil && now.Sub(old.Cloned.At) < clonedAgain {
		return Result{ID: string(old.ID), Duplicate: true}
	}
	a := *old
	n := fleet.Cloned{At: now, Addr: clip(c.Addr), Text: clip(c.Text), Times: 1}
	if a.Cloned != nil {
		n.Times += a.Cloned.Times
	}
	a.Cloned = &n
	s.Agents[a.ID] = &a
	return Result{ID: string(a.ID)}
}

func (c *Rekey) audit(Result) (action, target, detail string) {
	action = "agent.renew"
	if c.Heal {
		action = "agent.heal"
	}
	return action, identityWord(KindAgent, string(c.Agent)), "from " + c.Addr
}

func (c *Confirm) audit(Result) (action, target, detail string) {
	return "agent.confirm", identityWord(KindAgent, string(c.Agent)), ""
}

func (c *Cloned) audit(Result) (action, target, detail string) {
	return "agent.cloned", identityWord(KindAgent, string(c.Agent)), c.Text + ", from " + c.Addr
}
