package state

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// State is everything replicated. Its exported fields are encoded into
// snapshots; the maps are read-only for everybody but Apply.
type State struct {
	TrustDomain string
	// Bundle holds the trust roots as PEM, BundleVersion grows with each change.
	Bundle        []byte
	BundleVersion uint64

	Agents     map[fleet.AgentID]*fleet.Agent
	Tasks      map[fleet.TaskID]*Task
	Roles      map[fleet.Role]*Role
	Frameworks map[fleet.FrameworkID]*Framework
	Replicas   map[fleet.ReplicaID]*Replica
	// Principals are those who may use the API, by their ids.
	Principals map[string]*Principal
	// Tokens is keyed by the hash of the secret; the secret itself is nowhere.
	Tokens map[string]*Token
	// Revoked is keyed by the identity's URI.
	Revoked map[string]time.Time
	// Ended lists tasks that have ended, oldest first; beyond MaxEnded the
	// oldest are forgotten.
	Ended []fleet.TaskID
	// EndedFrameworks lists those that were torn down, oldest first.
	EndedFrameworks []fleet.FrameworkID
	// Audit says who asked for what.
	Audit AuditLog
	// Format is the capability that a replica needs to read this state: the
	// highest that any command needed. Zero is 1.
	Format uint64 `cbor:",omitempty"`
	// Epoch counts the histories of this fleet: a restored state begins a new
	// one. Terms and generations are comparable only within an epoch; see Fence.
	Epoch uint64 `cbor:",omitempty"`
	// Unsettled are the agents of a restored state that may run tasks of which it
	// does not know: see Restored.
	Unsettled map[fleet.AgentID]bool `cbor:",omitempty"`
	// Rotation is the last one of the fleet's authorities, nil before the first.
	Rotation *Rotation `cbor:",omitempty"`
	// ReleaseKeys are keyed by their ID, Packages by their SHA-256.
	ReleaseKeys map[string]*ReleaseKey `cbor:",omitempty"`
	Packages    map[string]*Package    `cbor:",omitempty"`
	// Rollout is the last one, nil before the first; Upgrades says how far it is
	// with each agent that it has begun with.
	Rollout  *Rollout                        `cbor:",omitempty"`
	Upgrades map[fleet.AgentID]*AgentUpgrade `cbor:",omitempty"`
}

// MaxEnded bounds the ended tasks that are kept.
const MaxEnded = 10000

// MaxHistory bounds the statuses kept per task: the oldest results of checks
// are dropped, then other passing news but the first, then the first statuses.
// What an agent keeps of a task while it is alone (package reports) has room.
const MaxHistory = 64

// Task is one task from its submission to the end of its record.
//
// A task of the built-in framework that waits for an offer is staging and has
// no Agent yet.
type Task struct {
	ID        fleet.TaskID
	Framework fleet.FrameworkID
	Role      fleet.Role
	Spec      fleet.TaskSpec
	Need      fleet.Need
	Agent     fleet.AgentID
	Resources fleet.Resources
	// State is what the control plane holds true; Status is what the agent
	// reported last. They differ while the agent is unreachable.
	State  fleet.TaskState
	Status fleet.Status
	// Seq is the number of the last update committed.
	Seq uint64
	// Generation is the one of its agent at the last change of what is desired.
	Generation uint64
	Kill       bool
	KillGrace  time.Duration
	Submitted  time.Time
	Launched   time.Time
	Ended      time.Time
	History    []fleet.Status
	Standing   fleet.Standing
	// Preempted says for what the task was ended, when it was for another's sake.
	Preempted string
	// Foreign is what an outside framework calls it; ids here are unique in the
	// whole fleet.
	Foreign string
	// Group names the tasks that end together when one of them fails.
	Group string
	// Running is when the control plane first saw it running, by its own clock.
	Running time.Time `cbor:",omitzero"`
	// Replaces and ReplacedBy tie a task and its replacement together. Instance
	// counts them: 0 is the original.
	Replaces   fleet.TaskID `cbor:",omitempty"`
	ReplacedBy fleet.TaskID `cbor:",omitempty"`
	Instance   int          `cbor:",omitempty"`
	// Superseded is the task of its kind that was kept when this one was ended.
	Superseded fleet.TaskID `cbor:",omitempty"`
	// Pending are the updates that its framework has not acknowledged, oldest
	// first.
	Pending []Pending
	// Restored: updates of it may have been acknowledged in a history that is
	// lost, so the next one may have any higher number.
	Restored bool `cbor:",omitempty"`
}

// Waiting reports whether the task still waits to be placed.
func (t *Task) Waiting() bool { return t.Agent == "" && !t.State.Terminal() }

// Held reports whether the task holds resources of its agent.
func (t *Task) Held() bool { return t.Agent != "" && !t.State.Terminal() }

// Assignment is the task as its agent is to hold it.
func (t *Task) Assignment() fleet.Assignment {
	return fleet.Assignment{
		Task: t.ID, Spec: t.Spec, Resources: t.Resources,
		Seq: t.Seq, Kill: t.Kill, KillGrace: t.KillGrace,
	}
}

// Role is a share holder's settings.
type Role struct {
	// Weight in thousandths; 1000 is the default weight of 1.
	Weight fleet.Scalar
	Quota  fleet.Quota
}

// Replica is one member of the control plane as agents and people know it.
type Replica struct {
	ID   fleet.ReplicaID
	Addr string
	// Intermediate is the certificate (DER) of the replica's issuing authority.
	Intermediate []byte
	Joined       time.Time
	// Version and Capability are what it said last that it runs; zero means that
	// it has not said so.
	Version    string `cbor:",omitempty"`
	Capability uint64 `cbor:",omitempty"`
	// Cross is the old root's signature (DER) of the authority's key, for those
	// who were away while roots changed; Round is the rotation that it was made
	// for, 0 for none.
	Cross []byte `cbor:",omitempty"`
	Round uint64 `cbor:",omitempty"`
	// RootKey: a root key lay there when one was last heard of.
	RootKey bool `cbor:",omitempty"`
}

// New returns the empty state.
func New() *State {
	return &State{
		Agents:     map[fleet.AgentID]*fleet.Agent{},
		Tasks:      map[fleet.TaskID]*Task{},
		Roles:      map[fleet.Role]*Role{},
		Frameworks: map[fleet.FrameworkID]*Framework{},
		Replicas:   map[fleet.ReplicaID]*Replica{},
		Principals: map[string]*Principal{},
		Tokens:     map[string]*Token{},
		Revoked:    map[string]time.Time{},
		Unsettled:  map[fleet.AgentID]bool{},

		ReleaseKeys: map[string]*ReleaseKey{},
		Packages:    map[string]*Package{},
		Upgrades:    map[fleet.AgentID]*AgentUpgrade{},
	}
}

// Clone returns a copy that shares the records. It costs a copy of the maps.
func (s *State) Clone() *State {
	c := *s
	c.Agents = maps.Clone(s.Agents)
	c.Tasks = maps.Clone(s.Tasks)
	c.Roles = maps.Clone(s.Roles)
	c.Frameworks = maps.Clone(s.Frameworks)
	c.Replicas = maps.Clone(s.Replicas)
	c.Principals = maps.Clone(s.Principals)
	c.Tokens = maps.Clone(s.Tokens)
	c.Revoked = maps.Clone(s.Revoked)
	c.Ended = slices.Clone(s.Ended)
	c.EndedFrameworks = slices.Clone(s.EndedFrameworks)
	c.Audit = s.Audit.clone()
	c.Unsettled = maps.Clone(s.Unsettled)
	c.ReleaseKeys = maps.Clone(s.ReleaseKeys)
	c.Packages = maps.Clone(s.Packages)
	c.Upgrades = maps.Clone(s.Upgrades)
	return &c
}

// Normalize makes nil maps of a decoded snapshot usable.
func (s *State) Normalize() {
	e := New()
	fill(&s.Agents, e.Agents)
	fill(&s.Tasks, e.Tasks)
	fill(&s.Roles, e.Roles)
	fill(&s.Frameworks, e.Frameworks)
	fill(&s.Replicas, e.Replicas)
	fill(&s.Principals, e.Principals)
	fill(&s.Tokens, e.Tokens)
	fill(&s.Revoked, e.Revoked)
	fill(&s.Unsettled, e.Unsettled)
	fill(&s.ReleaseKeys, e.ReleaseKeys)
	fill(&s.Packages, e.Packages)
	fill(&s.Upgrades, e.Upgrades)
}

func fill[K comparable, V any](m *map[K]V, empty map[K]V) {
	if *m == nil {
		*m = empty
	}
}

// Weight returns a role's weight in thousandths.
func (s *State) Weight(r fleet.Role) fleet.Scalar {
	if c := s.Roles[r]; c != nil {
		return c.Weight
	}
	return fleet.Whole(1)
}

// SortedKeys returns a map's keys in order: the only way the core walks a map.
func SortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
