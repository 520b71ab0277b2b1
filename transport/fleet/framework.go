package fleet

import (
	"slices"
	"time"
)

// Capability is something a framework says it can handle; the names are
// Mesos's.
type Capability string

const (
	// CapGPU: the framework may be offered agents that have GPUs.
	CapGPU Capability = "GPU_RESOURCES"
	// CapRevocable: it may be offered what can be taken back at any time.
	CapRevocable Capability = "REVOCABLE_RESOURCES"
	// CapRefinement: it understands reservations that refine another.
	CapRefinement Capability = "RESERVATION_REFINEMENT"
	// CapPartitionAware: it is told TASK_UNREACHABLE, TASK_GONE and so on;
	// others hear TASK_LOST.
	CapPartitionAware Capability = "PARTITION_AWARE"
	// CapKillingState: it is told TASK_KILLING.
	CapKillingState Capability = "TASK_KILLING_STATE"
)

// FrameworkInfo is how a framework describes itself when it subscribes.
type FrameworkInfo struct {
	ID   FrameworkID
	Name string
	// User is whom its tasks run as where they do not say.
	User      string
	Principal string // who subscribed it
	Hostname  string
	WebUI     string // URL; for people
	// Roles it acts in, sorted.
	Roles        []Role
	Capabilities []Capability
	Labels       []Label
	// FailoverTimeout is how long its tasks live on without it.
	FailoverTimeout time.Duration
	// Min replaces the least offer worth making, by role: one of the
	// alternatives must be met, in all its names. A role that is present with
	// no alternatives takes anything.
	Min map[Role][]Quantities
	// Constraints say, by role, on which agents offers are of use.
	Constraints map[Role]OfferConstraints
}

// DefaultFailoverTimeout is a week. Mesos's default of 0 ends every task as
// soon as the scheduler's connection breaks (MESOS-4659).
const DefaultFailoverTimeout = 7 * 24 * time.Hour

// Can reports whether the framework has a capability.
func (f *FrameworkInfo) Can(c Capability) bool { return slices.Contains(f.Capabilities, c) }

// Quantities are amounts by name, sorted: "cpus", "mem", "disk", "gpus" and
// custom names. They say how much, not which.
type Quantities []Amount

// Quota is what a role is guaranteed and what it must not exceed, by name.
// What has no limit is unlimited; a limit of 0 forbids the name.
type Quota struct {
	Guarantee Quantities
	Limit     Quantities
}

// OfferConstraints is an OR of groups, each an AND of constraints. None at all
// admits every agent.
type OfferConstraints [][]Constraint

// Constraint is one predicate on one attribute of an agent.
type Constraint struct {
	// Attribute is the name of a label, or empty for the agent's host name.
	Attribute string
	Predicate Predicate
	// Value is a text, or a regular expression (RE2) that must match it whole.
	Value string
}

// Predicate is what a constraint asks; the names are Mesos's.
type Predicate string

const (
	Exists         Predicate = "exists"
	NotExists      Predicate = "not_exists"
	TextEquals     Predicate = "text_equals"
	TextNotEquals  Predicate = "text_not_equals"
	TextMatches    Predicate = "text_matches"
	TextNotMatches Predicate = "text_not_matches"
)

// Unavailability is when an agent will be down for maintenance.
type Unavailability struct {
	Start    time.Time
	Duration time.Duration // 0: without end
}
