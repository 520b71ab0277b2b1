package state

import (
	"fmt"
	"reflect"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Command is one change of the state: exactly one of the pointers is set.
type Command struct {
	// Time is the proposer's clock when it proposed; the state has none.
	Time time.Time
	// By is who asked for it, for the audit log: "operator/alice". What the
	// leader proposes by itself has none and leaves no entry there.
	By string

	Bootstrap   *Bootstrap
	PutToken    *Token
	DropToken   *DropToken
	Admit       *Admit
	Certified   *Certified
	Revoke      *Revoke
	PutReplica  *Replica
	DropReplica *DropReplica
	SetCapacity *SetCapacity
	Reach       *Reach
	SetRole     *SetRole
	Submit      *Submit
	Launch      *Launch
	Kill        *Kill
	Observe     *Observe

	PutFramework   *PutFramework
	Teardown       *Teardown
	LaunchGroup    *LaunchGroup
	Acknowledge    *Acknowledge
	SetQuota       *SetQuota
	Convert        *Convert
	DrainAgent     *DrainAgent
	SetActive      *SetActive
	MarkGone       *MarkGone
	SetMaintenance *SetMaintenance
	Replace        *Replace
	// PutPrincipal adds a principal; Revoke ends it.
	PutPrincipal *Principal

	NoteReplica *NoteReplica
	Settle      *Settle
	Rekey       *Rekey
	Confirm     *Confirm
	Cloned      *Cloned
	// SetBundle replaces the trust roots.
	SetBundle  *SetBundle
	Rotate     *Rotate
	NoteIssuer *NoteIssuer

	PutReleaseKey  *ReleaseKey
	DropReleaseKey *DropReleaseKey
	PutPackage     *Package
	DropPackages   *DropPackages
	// StartRollout begins a rollout; its phase and times are set then.
	StartRollout   *Rollout
	SteerRollout   *SteerRollout
	AdvanceRollout *AdvanceRollout
}

type (
	// Bootstrap sets the trust domain and roots, once.
	Bootstrap struct {
		TrustDomain string
		Bundle      []byte
	}
	// DropToken deletes a join token by hash.
	DropToken struct{ Hash string }
	// Admit consumes one use of a token and admits an identity: the
	// compare-and-set that comes before any signature.
	Admit struct {
		Hash string
		Kind IdentityKind
		// Name is what the newcomer asks to be called; Suffix (drawn by the
		// proposer) is added when that id is taken.
		Name, Suffix string
		Hostname     string
		KeyHash      string
		Addr         string // replicas: where they are reached
	}
	// Certified records the newest certificate of an identity.
	Certified struct {
		URI      string
		Kind     IdentityKind
		ID       string
		KeyHash  string
		NotAfter time.Time
		// Root is the pin of the root that it leads to, told since the first
		// rotation.
		Root string `cbor:",omitempty"`
	}
	// Revoke bans an identity for good.
	Revoke struct {
		URI  string
		Kind IdentityKind
		ID   string
	}
	// DropReplica forgets a replica that was removed from the trio.
	DropReplica struct{ ID fleet.ReplicaID }
	// NoteReplica records what a replica says that it runs.
	NoteReplica struct {
		ID         fleet.ReplicaID
		Version    string
		Capability uint64
	}
	// Settle says that what an agent runs beyond a restored state is to end.
	Settle struct{ Agent fleet.AgentID }
	// SetCapacity records what an agent declares.
	SetCapacity struct {
		Agent    fleet.AgentID
		Hostname string
		Capacity fleet.Capacity
	}
	// Reach records that an agent stopped answering (Reachable false), or that
	// it is back.
	Reach struct {
		Agent     fleet.AgentID
		Reachable bool
	}
	// SetRole sets a role's weight.
	SetRole struct {
		Role   fleet.Role
		Weight fleet.Scalar
	}
	// Submit queues a task for the built-in framework.
	Submit struct {
		ID        fleet.TaskID
		Framework fleet.FrameworkID
		Role      fleet.Role
		Spec      fleet.TaskSpec
		Need      fleet.Need
		Standing  fleet.Standing
	}
	// Launch puts one task on an agent. With Create the task is new (outside
	// frameworks), else it must have been submitted and still wait: that is
	// what makes a submitted task run once.
	Launch struct {
		ID        fleet.TaskID
		Framework fleet.FrameworkID
		Role      fleet.Role
		Agent     fleet.AgentID
		Resources fleet.Resources
		Spec      fleet.TaskSpec
		Create    bool
		// Foreign and Group are the new task's; see Task.
		Foreign  string
		Group    string
		Standing fleet.Standing
	}
	// Kill asks for the end of a task. A second Kill may only shorten the
	// grace period.
	Kill struct {
		ID    fleet.TaskID
		Grace time.Duration
		// For, when not empty, says for what the task is preempted.
		For string
		// Superseded, when not empty, is the task of its kind that goes on.
		Superseded fleet.TaskID
	}
	// Replace submits a replacement for a task whose agent is lost to it.
	Replace struct{ Task fleet.TaskID }
	// Observe is a status update reported by an agent.
	Observe struct {
		Agent  fleet.AgentID
		Update fleet.StatusUpdate
	}
	// PutFramework admits an outside framework or updates what it says of
	// itself.
	PutFramework struct {
		Info       fleet.FrameworkInfo
		Suppressed []fleet.Role
	}
	// Teardown ends an outside framework and all its tasks.
	Teardown struct{ ID fleet.FrameworkID }
	// LaunchGroup launches new tasks on one agent, all or none of them.
	LaunchGroup struct{ Tasks []Launch }
	// Acknowledge: the framework has the oldest pending update of a task.
	Acknowledge struct {
		Framework fleet.FrameworkID
		Task      fleet.TaskID
		Update    fleet.UpdateID
	}
	// SetQuota replaces the quota of roles, all or none. Force sets guarantees
	// beyond what the fleet has.
	SetQuota struct {
		Quotas []RoleQuota
		Force  bool
	}
	// RoleQuota is one role's quota.
	RoleQuota struct {
		Role  fleet.Role
		Quota fleet.Quota
	}
	// Convert makes or ends dynamic reservations: From becomes To. Framework and
	// Role are who holds the resources meanwhile, empty for an operator.
	Convert struct {
		Agent     fleet.AgentID
		Framework fleet.FrameworkID
		Role      fleet.Role
		From, To  fleet.Resources
	}
	// DrainAgent empties an agent.
	DrainAgent struct {
		Agent    fleet.AgentID
		MaxGrace time.Duration
		MarkGone bool
	}
	// SetActive lets an agent have offers, or not.
	SetActive struct {
		Agent  fleet.AgentID
		Active bool
	}
	// MarkGone says that an agent will never be back.
	MarkGone struct{ Agent fleet.AgentID }
	// SetMaintenance announces when agents will be down; nil takes it back.
	SetMaintenance struct {
		Agents []fleet.AgentID
		Window *fleet.Unavailability
	}
)

// Token is a join token's policy. Only the hash of its secret is known.
type Token struct {
	Hash    string
	Kind    IdentityKind
	Site    fleet.Site
	Labels  map[string]string
	Uses    int // left
	Expires time.Time
	// Roles and AllRoles are those of the principals that it admits.
	Roles    []fleet.Role
	AllRoles bool
	// Admitted are the ids it has admitted, by the hash of their keys: a machine
	// that lost the answer may ask again with the same key.
	Admitted map[string]string
	Created  time.Time
}

// IdentityKind says what an identity is for; the values are those of pki.Kind,
// which the core cannot import.
type IdentityKind string

// The kinds that a join token can admit.
const (
	KindAgent     IdentityKind = "agent"
	KindReplica   IdentityKind = "replica"
	KindOperator  IdentityKind = "operator"
	KindFramework IdentityKind = "framework"
	KindReader    IdentityKind = "reader"
)

// Kind tells refusals apart for callers that act on them.
type Kind string

const (
	OK            Kind = ""
	NotFound      Kind = "not_found"
	Conflict      Kind = "conflict"
	Foreign       Kind = "foreign_key" // a key that is not the agent's, and never was
	PastKey       Kind = "past_key"    // one that it has left behind
	Invalid       Kind = "invalid"
	TokenUnknown  Kind = "token_unknown"
	TokenUsed     Kind = "token_used"
	TokenExpired  Kind = "token_expired"
	TokenKind     Kind = "token_kind"
	RevokedID     Kind = "revoked"
	OutOfOrder    Kind = "out_of_order"
	AlreadyBooted Kind = "already_bootstrapped"
)

// Result is what one command came to.
type Result struct {
	Kind Kind
	Text string
	// ID is the id given by Admit.
	ID string
	// Generation is the agent's generation after the command, where it has one.
	Generation uint64
	// Duplicate: the command changed nothing because it had been applied.
	Duplicate bool
	// Killed are other tasks that are to end because of the command: those of a
	// group, an agent or a framework.
	Killed []fleet.TaskID
	// Gone is an agent that has left the fleet because of it.
	Gone fleet.AgentID
}

// Error is a refusal by the state.
type Error struct {
	Kind Kind
	Text string
}

func (e *Error) Error() string { return e.Text }

// Err returns nil for success, else an *Error.
func (r Result) Err() error {
	if r.Kind == OK {
		return nil
	}
	return &Error{Kind: r.Kind, Text: r.Text}
}

func refuse(k Kind, format string, args ...any) Result {
	return Result{Kind: k, Text: fmt.Sprintf(format, args...)}
}

// String prints the kind and contents, for traces.
func (c Command) String() string {
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			return fmt.Sprintf("%s%+v", v.Type().Field(i).Name, f.Elem().Interface())
		}
	}
	return "nothing"
}
