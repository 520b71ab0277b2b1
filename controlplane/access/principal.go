package access

import (
	"context"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// kindLocal is who comes over the socket of a replica; the id is the replica's.
const kindLocal state.IdentityKind = "local"

// Principal is who asks. The zero value is nobody and may do nothing.
type Principal struct {
	Kind state.IdentityKind // operator, framework, reader, or local
	ID   string
	// Roles are those it may act in, each with its descendants in the role
	// tree; AllRoles stands for every role.
	Roles    []fleet.Role
	AllRoles bool
}

// Local is whoever can open the socket of a replica: that machine's root, who
// has everything already.
func Local(replica fleet.ReplicaID) Principal {
	return Principal{Kind: kindLocal, ID: string(replica), AllRoles: true}
}

// String is the name in logs and in Command.By: "framework/marathon".
func (p Principal) String() string {
	if p.Kind == "" {
		return ""
	}
	return string(p.Kind) + "/" + p.ID
}

// MayUse reports whether p may act in a role, or for a reader, look at what is
// in it.
func (p Principal) MayUse(r fleet.Role) bool {
	return p.AllRoles || slices.ContainsFunc(p.Roles, r.Descends)
}

// CheckRole is MayUse with a *Refusal for p.
func (p Principal) CheckRole(r fleet.Role) error {
	if p.MayUse(r) {
		return nil
	}
	return forbid("use one of its roles, or have an operator make a principal with this one: tender principal create",
		"%s may not use role %s; it was given %s", p, r, p.roleList())
}

func (p Principal) roleList() string {
	if len(p.Roles) == 0 {
		return "none"
	}
	words := make([]string, len(p.Roles))
	for i, r := range p.Roles {
		words[i] = string(r)
	}
	return strings.Join(words, ", ")
}

// Right is what a call needs.
type Right int

// The rights, from what everybody has to what few do. Those about tasks and
// the fleet go together with MayUse: they do not say in which role.
const (
	// Look is for what every principal may know: version and replicas.
	Look Right = iota
	// SeeTasks and ActOnTasks are for the tasks of its roles; acting is also
	// what a scheduler does: subscribe, accept, kill.
	SeeTasks
	ActOnTasks
	// SeeFleet is for agents and offers.
	SeeFleet
	// SeeRecords is for join tokens, principals and the audit log.
	SeeRecords
	// Administer is for changing anything but tasks.
	Administer
)

// May returns nil, or a *Refusal that says what p lacks and what to do.
func (p Principal) May(r Right) error {
	operator := p.Kind == kindLocal || p.Kind == state.KindOperator
	reader := p.Kind == state.KindReader
	switch {
	case p.Kind == "":
		return unknown("nobody asks")
	case r == Look, r == SeeTasks:
		return nil
	case reader && (r == ActOnTasks || r == Administer):
		return forbid("ask an operator, or log in as one: tender login", "%s may only look; this changes something", p)
	case r == ActOnTasks:
		return nil
	case r == SeeFleet && (operator || reader):
		return nil
	case !operator && !reader:
		return forbid("ask an operator to do it", "%s may only deal with tasks in its roles", p)
	case !p.AllRoles:
		return forbid("ask an operator of all roles", "%s is limited to %s; this is not about one role", p, p.roleList())
	}
	return nil
}

type key struct{}

// With returns a context that carries who asks.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, key{}, p)
}

// From returns who asks, nobody when the context does not carry that.
func From(ctx context.Context) Principal {
	p, _ := ctx.Value(key{}).(Principal)
	return p
}
