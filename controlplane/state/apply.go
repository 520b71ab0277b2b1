package state

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Apply changes the state by one command and says what came of it. A refused
// command changes nothing. A command without a kind panics: it was written by
// a newer version, and going on without it would split the replicas.
func (s *State) Apply(_ uint64, c Command) Result {
	if c.By == "" {
		return s.apply(&c)
	}
	asked := c // the copy is what goes to the heap: launches need none
	r := s.apply(&asked)
	s.record(&asked, r)
	return r
}

func (s *State) apply(c *Command) Result {
	if n := c.Needs(); n > max(s.Format, 1) {
		s.Format = n
	}
	switch {
	case c.Observe != nil:
		return s.observe(c.Time, c.Observe)
	case c.Launch != nil:
		return s.launch(c.Time, c.Launch)
	case c.Submit != nil:
		return s.submit(c.Time, c.Submit)
	case c.Kill != nil:
		return s.kill(c.Time, c.Kill)
	case c.SetCapacity != nil:
		return s.setCapacity(c.SetCapacity)
	case c.Reach != nil:
		return s.reach(c.Time, c.Reach)
	case c.SetRole != nil:
		return s.setRole(c.SetRole)
	case c.Bootstrap != nil:
		return s.bootstrap(c.Bootstrap)
	case c.PutToken != nil:
		return s.putToken(c.Time, c.PutToken)
	case c.DropToken != nil:
		return s.dropToken(c.DropToken)
	case c.Admit != nil:
		return s.admit(c.Time, c.Admit)
	case c.Certified != nil:
		return s.certified(c.Certified)
	case c.Revoke != nil:
		return s.revoke(c.Time, c.Revoke)
	case c.PutPrincipal != nil:
		return s.putPrincipal(c.Time, c.PutPrincipal)
	case c.PutReplica != nil:
		return s.putReplica(*c.PutReplica)
	case c.NoteReplica != nil:
		return s.note(c.NoteReplica)
	case c.Settle != nil:
		return s.settle(c.Settle)
	case c.DropReplica != nil:
		delete(s.Replicas, c.DropReplica.ID)
		return Result{}
	case c.Acknowledge != nil:
		return s.acknowledge(c.Time, c.Acknowledge)
	case c.LaunchGroup != nil:
		return s.launchGroup(c.Time, c.LaunchGroup)
	case c.PutFramework != nil:
		return s.putFramework(c.Time, c.PutFramework)
	case c.Teardown != nil:
		return s.teardown(c.Time, c.Teardown)
	case c.SetQuota != nil:
		return s.setQuota(c.SetQuota)
	case c.Convert != nil:
		return s.convert(c.Convert)
	case c.DrainAgent != nil:
		return s.drain(c.Time, c.DrainAgent)
	case c.SetActive != nil:
		return s.activate(c.SetActive)
	case c.MarkGone != nil:
		return s.gone(c.Time, c.MarkGone.Agent)
	case c.SetMaintenance != nil:
		return s.maintain(c.SetMaintenance)
	case c.SetBundle != nil:
		return s.setBundle(c.SetBundle)
	case c.Rotate != nil:
		return s.rotate(c.Time, c.Rotate)
	case c.NoteIssuer != nil:
		return s.noteIssuer(c.NoteIssuer)
	case c.Rekey != nil:
		return s.rekey(c.Time, c.Rekey)
	case c.Confirm != nil:
		return s.confirm(c.Confirm)
	case c.Cloned != nil:
		return s.cloned(c.Time, c.Cloned)
	case c.Replace != nil:
		return s.replace(c.Time, c.Replace)
	default:
		return s.applyUpgrade(c)
	}
}

// applyUpgrade applies the commands about upgrades of agents.
func (s *State) applyUpgrade(c *Command) Result {
	switch {
	case c.AdvanceRollout != nil:
		return s.advance(c.Time, c.AdvanceRollout)
	case c.PutReleaseKey != nil:
		return s.putReleaseKey(c.Time, c.PutReleaseKey)
	case c.DropReleaseKey != nil:
		return s.dropReleaseKey(c.DropReleaseKey)
	case c.PutPackage != nil:
		return s.putPackage(c.Time, c.PutPackage)
	case c.DropPackages != nil:
		return s.dropPackages(c.DropPackages)
	case c.StartRollout != nil:
		return s.startRollout(c.Time, c.StartRollout)
	case c.SteerRollout != nil:
		return s.steerRollout(c.Time, c.SteerRollout)
	default:
		panic("state: a command of an unknown kind: it was written by a newer version of tenderd; upgrade this replica")
	}
}

func (s *State) bootstrap(c *Bootstrap) Result {
	if s.TrustDomain != "" {
		return refuse(AlreadyBooted, "the control plane already has the trust domain %s", s.TrustDomain)
	}
	s.TrustDomain, s.Bundle, s.BundleVersion = c.TrustDomain, c.Bundle, 1
	return Result{}
}

func (s *State) setRole(c *SetRole) Result {
	if err := fleet.CheckRole(c.Role); err != nil {
		return refuse(Invalid, "%v", err)
	}
	if c.Weight <= 0 || c.Weight > fleet.Whole(1_000_000) {
		return refuse(Invalid, "weight %v of role %s: use more than 0 and at most 1000000", c.Weight, c.Role)
	}
	n := Role{Weight: c.Weight}
	if old := s.Roles[c.Role]; old != nil {
		n.Quota = old.Quota
	}
	s.putRole(c.Role, n)
	return Result{}
}

// putRole keeps what is set of a role, as long as something is.
func (s *State) putRole(r fleet.Role, n Role) {
	if n.Weight == fleet.Whole(1) && len(n.Quota.Guarantee)+len(n.Quota.Limit) == 0 {
		delete(s.Roles, r)
		return
	}
	s.Roles[r] = &n
}

func (s *State) putToken(now time.Time, t *Token) Result {
	if t.Hash == "" || t.Uses < 1 || !t.Expires.After(now) {
		return refuse(Invalid, "a join token needs at least one use and an expiry in the future")
	}
	if err := CheckRoles(t.Kind, t.Roles, t.AllRoles); err != nil {
		return refuse(Invalid, "%v", err)
	}
	for h, old := range s.Tokens { // forget what no longer opens anything
		if old.Expires.Add(24 * time.Hour).Before(now) {
			delete(s.Tokens, h)
		}
	}
	c := *t
	c.Created, c.AllRoles = now, allRoles(t.Kind, t.Roles, t.AllRoles)
	s.Tokens[t.Hash] = &c
	return Result{}
}

func (s *State) dropToken(c *DropToken) Result {
	if s.Tokens[c.Hash] == nil {
		return refuse(NotFound, "no such join token; list them with: tender token list")
	}
	delete(s.Tokens, c.Hash)
	return Result{}
}

// CheckToken says whether a token could admit an identity of that kind now,
// without using it: the cheap refusal before anything is proposed.
func (s *State) CheckToken(now time.Time, hash string, kind IdentityKind) Result {
	t := s.Tokens[hash]
	switch {
	case t == nil:
		return refuse(TokenUnknown, "the control plane does not know this join token; make a new one with: tender token create")
	case t.Kind != kind:
		return refuse(TokenKind, "this join token admits a %s, not a %s", t.Kind, kind)
	case !now.Before(t.Expires):
		return refuse(TokenExpired, "this join token expired at %s; make a new one with: tender token create", t.Expires.UTC().Format(time.RFC3339))
	case t.Uses < 1:
		return refuse(TokenUsed, "this join token has been used up; make a new one with: tender token create")
	}
	return Result{}
}

func (s *State) admit(now time.Time, c *Admit) Result {
	if t := s.Tokens[c.Hash]; t != nil && t.Kind == c.Kind && now.Before(t.Expires) && t.Admitted[c.KeyHash] != "" {
		return s.admitAgain(t, c)
	}
	if r := s.CheckToken(now, c.Hash, c.Kind); r.Kind != OK {
		return r
	}
	id := c.Name
	if fleet.CheckID(string(c.Kind), id) != nil {
		return refuse(Invalid, "%v", fleet.CheckID(string(c.Kind), id))
	}
	tok := *s.Tokens[c.Hash]
	if s.taken(c.Kind, id) {
		id = fmt.Sprintf("%.*s-%s", fleet.MaxIDLen-1-len(c.Suffix), c.Name, c.Suffix)
		if c.Suffix == "" || s.taken(c.Kind, id) {
			return refuse(Conflict, "the %s id %s is taken", c.Kind, id)
		}
	}
	switch c.Kind {
	case KindAgent:
		s.Agents[fleet.AgentID(id)] = &fleet.Agent{
			ID: fleet.AgentID(id), Site: tok.Site, Labels: tok.Labels,
			Hostname: c.Hostname, KeyHash: c.KeyHash, Joined: now,
		}
	case KindReplica:
		s.Replicas[fleet.ReplicaID(id)] = &Replica{ID: fleet.ReplicaID(id), Addr: c.Addr, Joined: now}
	case KindOperator, KindFramework, KindReader:
		p := &Principal{ID: id, Kind: c.Kind, Roles: tok.Roles, AllRoles: allRoles(c.Kind, tok.Roles, tok.AllRoles), Created: now}
		if r := s.addPrincipal(now, p); r.Kind != OK {
			return r
		}
	default:
		return refuse(Invalid, "a join token cannot admit a %s", c.Kind)
	}
	tok.Uses--
	if c.KeyHash != "" {
		tok.Admitted = maps.Clone(tok.Admitted)
		if tok.Admitted == nil {
			tok.Admitted = map[string]string{}
		}
		tok.Admitted[c.KeyHash] = id
	}
	s.Tokens[c.Hash] = &tok
	return Result{ID: id}
}

// admitAgain answers a machine that asks a second time with the same key.
func (s *State) admitAgain(t *Token, c *Admit) Result {
	id := t.Admitted[c.KeyHash]
	if _, revoked := s.Revoked[s.uri(c.Kind, id)]; revoked {
		return refuse(RevokedID, "%s %s has been revoked; join with a new key and a new token", c.Kind, id)
	}
	return Result{ID: id, Duplicate: true}
}

func (s *State) uri(kind IdentityKind, id string) string {
	return "spiffe://" + s.TrustDomain + "/" + string(kind) + "/" + id
}

// taken reports whether an id is or ever was somebody's: revoked ids are never
// given out again, or the ban would fall on the newcomer.
func (s *State) taken(kind IdentityKind, id string) bool {
	if _, revoked := s.Revoked[s.uri(kind, id)]; revoked {
		return true
	}
	switch kind {
	case KindAgent:
		return s.Agents[fleet.AgentID(id)] != nil
	case KindReplica:
		return s.Replicas[fleet.ReplicaID(id)] != nil
	default:
		return s.Principals[id] != nil
	}
}

func (s *State) certified(c *Certified) Result {
	switch c.Kind {
	case KindAgent:
		old := s.Agents[fleet.AgentID(c.ID)]
		if old == nil || old.Revoked {
			return refuse(NotFound, "no agent %s", c.ID)
		}
		a := *old
		a.CertNotAfter = c.NotAfter
		if c.Root != "" {
			a.CertRoot = c.Root
		}
		if c.KeyHash != "" {
			a.KeyHash = c.KeyHash
		}
		s.Agents[a.ID] = &a
	case KindOperator, KindFramework, KindReader:
		old := s.Principals[c.ID]
		if old == nil || old.Kind != c.Kind || !old.Revoked.IsZero() {
			return refuse(NotFound, "no %s %s", c.Kind, c.ID)
		}
		p := *old
		p.CertNotAfter = c.NotAfter
		s.Principals[p.ID] = &p
	default: // replicas need no record of their certificate
	}
	return Result{}
}

func (s *State) revoke(now time.Time, c *Revoke) Result {
	if _, done := s.Revoked[c.URI]; done {
		return Result{Duplicate: true}
	}
	if c.Kind.IsPrincipal() {
		if r := s.endPrincipal(now, c); r.Kind != OK {
			return r
		}
	}
	if c.Kind == KindAgent {
		old := s.Agents[fleet.AgentID(c.ID)]
		if old == nil {
			return refuse(NotFound, "no agent %s; list them with: tender agents", c.ID)
		}
		a := *old
		a.Revoked = true
		s.Agents[a.ID] = &a
		for _, id := range s.heldBy(a.ID) {
			s.end(now, id, fleet.Status{
				Task: id, State: fleet.TaskGoneByOperator, Time: now,
				Message: "its agent was revoked", Reason: fleet.ReasonAgentRemoved, ExitCode: -1,
			})
		}
	}
	s.Revoked[c.URI] = now
	return Result{}
}

// heldBy lists the tasks that hold resources of an agent, in order. It walks
// all tasks: agents are lost far more rarely than tasks change.
func (s *State) heldBy(a fleet.AgentID) []fleet.TaskID {
	var out []fleet.TaskID
	for id, t := range s.Tasks {
		if t.Agent == a && t.Held() {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func (s *State) setCapacity(c *SetCapacity) Result {
	old := s.Agents[c.Agent]
	if old == nil {
		return refuse(NotFound, "no agent %s", c.Agent)
	}
	a := *old
	a.Capacity, a.Hostname = c.Capacity, c.Hostname
	s.Agents[a.ID] = &a
	return Result{Generation: a.Generation}
}

func (s *State) reach(now time.Time, c *Reach) Result {
	old := s.Agents[c.Agent]
	if old == nil {
		return refuse(NotFound, "no agent %s", c.Agent)
	}
	if c.Reachable == old.Unreachable.IsZero() {
		return Result{Generation: old.Generation, Duplicate: true}
	}
	a := *old
	a.Unreachable = now
	if c.Reachable {
		a.Unreachable = time.Time{}
	}
	s.Agents[a.ID] = &a
	for _, id := range s.heldBy(a.ID) {
		t := *s.Tasks[id]
		if c.Reachable {
			// What the agent saw last is true again until it says otherwise.
			t.State = t.Status.State
		} else {
			t.State = fleet.TaskUnreachable
			t.History = appendHistory(t.History, fleet.Status{
				Task: id, State: fleet.TaskUnreachable, Time: now, ExitCode: -1,
				Message: t.awayText(), Reason: fleet.ReasonAgentLost,
			})
		}
		s.Tasks[id] = &t
	}
	return Result{Generation: a.Generation}
}
