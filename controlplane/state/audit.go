package state

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// MaxAudit bounds each part of the audit log: the oldest entries are dropped.
const MaxAudit = 4096

// maxAuditText bounds a text in an entry; a refusal may quote what was asked.
const maxAuditText = 256

// AuditLog is what was asked of the control plane, by whom. What is done by the
// thousand is kept apart, or a busy framework would push out who was let in.
type AuditLog struct {
	// Seq is the number of the newest entry; they count from 1.
	Seq uint64
	// Admin holds changes of the fleet, Routine the rest: tasks, and commands
	// that changed nothing because they had been applied. The oldest is first.
	Admin, Routine []AuditEntry
}

// AuditEntry is one command that somebody asked for.
type AuditEntry struct {
	Seq  uint64
	Time time.Time
	// By is who asked: "operator/alice", "local/r1" for the socket of replica
	// r1, "token/3f6c21aa90b2" for who joins by that token.
	By string
	// Action is a stable word such as "token.create"; Target is what it was
	// done to, Detail what else is worth keeping.
	Action, Target, Detail string
	// Refused is why the state did not do it, empty when it did.
	Refused string
}

// audited is a command that can say what it does in the audit log's words.
// Every kind of command is one.
type audited interface {
	audit(r Result) (action, target, detail string)
}

// record keeps a command that somebody asked for. Those of the leader itself
// have no By and do not come here: this is not on the way of launches.
func (s *State) record(c *Command, r Result) {
	e := AuditEntry{Time: c.Time, By: clip(c.By), Refused: clip(r.Text)}
	if what, ok := c.payload().(audited); ok {
		action, target, detail := what.audit(r)
		e.Action, e.Target, e.Detail = action, clip(target), clip(detail)
	}
	s.Audit.Seq++
	e.Seq = s.Audit.Seq
	part := &s.Audit.Admin
	if r.Duplicate || strings.HasPrefix(e.Action, "task.") {
		part = &s.Audit.Routine
	}
	*part = append(*part, e)
	if len(*part) > MaxAudit {
		*part = (*part)[1:]
	}
}

func clip(s string) string { return s[:min(len(s), maxAuditText)] }

// payload returns the one pointer that is set.
func (c *Command) payload() any {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			return f.Interface()
		}
	}
	return nil
}

// clone shares the entries. An append to the copy goes elsewhere; one to the
// original goes behind what the copy sees.
func (l AuditLog) clone() AuditLog {
	l.Admin, l.Routine = slices.Clip(l.Admin), slices.Clip(l.Routine)
	return l
}

// Last returns the newest n of the entries that keep wants, the oldest first,
// and how many older ones it wants as well.
func (l AuditLog) Last(n int, keep func(AuditEntry) bool) (entries []AuditEntry, more int) {
	a, b := l.Admin, l.Routine
	for len(a)+len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[len(b)-1].Seq > a[len(a)-1].Seq {
			from = &b
		}
		e := (*from)[len(*from)-1]
		*from = (*from)[:len(*from)-1]
		switch {
		case !keep(e):
		case len(entries) < n:
			entries = append(entries, e)
		default:
			more++
		}
	}
	slices.Reverse(entries)
	return entries, more
}

// tokenIDLen digits of a hash tell the few join tokens of a fleet apart.
const tokenIDLen = 12

// TokenID is what people call a join token by its hash.
func TokenID(hash string) string { return hash[:min(tokenIDLen, len(hash))] }

func identityWord(kind IdentityKind, id string) string { return string(kind) + "/" + id }

// identityAction is "principal.revoke" or "agent.revoke".
func identityAction(kind IdentityKind, verb string) string {
	if kind.IsPrincipal() {
		return "principal." + verb
	}
	return string(kind) + "." + verb
}

func (c *Bootstrap) audit(Result) (action, target, detail string) {
	return "fleet.bootstrap", c.TrustDomain, ""
}

func (t *Token) audit(Result) (action, target, detail string) {
	detail = "admits " + string(t.Kind)
	if t.Kind.IsPrincipal() {
		detail += ", " + roleWords(t.Kind, t.Roles, t.AllRoles)
	}
	return "token.create", TokenID(t.Hash), detail
}

func (c *DropToken) audit(Result) (action, target, detail string) {
	return "token.delete", TokenID(c.Hash), ""
}

func (c *Admit) audit(r Result) (action, target, detail string) {
	id := c.Name
	if r.ID != "" {
		id = r.ID
	}
	return identityAction(c.Kind, "join"), identityWord(c.Kind, id), ""
}

func (c *Certified) audit(Result) (action, target, detail string) {
	return "certificate.issue", identityWord(c.Kind, c.ID), ""
}

func (c *Revoke) audit(Result) (action, target, detail string) {
	return identityAction(c.Kind, "revoke"), identityWord(c.Kind, c.ID), ""
}

func (p *Principal) audit(Result) (action, target, detail string) {
	return "principal.create", identityWord(p.Kind, p.ID), roleWords(p.Kind, p.Roles, p.AllRoles)
}

func (r *Replica) audit(Result) (action, target, detail string) {
	return "replica.update", identityWord(KindReplica, string(r.ID)), r.Addr
}

func (c *DropReplica) audit(Result) (action, target, detail string) {
	return "replica.remove", identityWord(KindReplica, string(c.ID)), ""
}

func (c *NoteReplica) audit(Result) (action, target, detail string) {
	return "replica.note", identityWord(KindReplica, string(c.ID)), c.Version
}

func (c *Settle) audit(Result) (action, target, detail string) {
	return "agent.settle", identityWord(KindAgent, string(c.Agent)), ""
}

func (c *SetCapacity) audit(Result) (action, target, detail string) {
	return "agent.declare", identityWord(KindAgent, string(c.Agent)), ""
}

func (c *Reach) audit(Result) (action, target, detail string) {
	return "agent.reach", identityWord(KindAgent, string(c.Agent)), ""
}

func (c *SetRole) audit(Result) (action, target, detail string) {
	return "role.weight", string(c.Role), c.Weight.String()
}

func (c *Submit) audit(Result) (action, target, detail string) {
	return "task.submit", string(c.ID), "role " + string(c.Role)
}

func (c *Launch) audit(Result) (action, target, detail string) {
	return "task.launch", string(c.ID), "role " + string(c.Role)
}

func (c *Kill) audit(Result) (action, target, detail string) {
	return "task.stop", string(c.ID), ""
}

func (c *Observe) audit(Result) (action, target, detail string) {
	return "task.update", string(c.Update.Status.Task), c.Update.Status.State.String()
}
