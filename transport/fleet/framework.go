package fleet

import (
	"errors"
	"fmt"
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

// Get returns the amount of a name and whether there is one.
func (q Quantities) Get(name string) (Scalar, bool) {
	for _, a := range q {
		if a.Name == name {
			return a.Amount, true
		}
	}
	return 0, false
}

// Quantity is how much r has of a name, parts left out: a GPU is one, a disk
// that is given whole counts as disk.
func (r Resources) Quantity(name string) Scalar {
	switch name {
	case "cpus":
		return r.CPUs
	case "mem":
		return r.Mem
	case "disk":
		n := r.Disk
		for _, m := range r.Mounts {
			n += m.Size
		}
		return n
	case "gpus":
		return Whole(int64(len(r.GPUs)))
	default:
		return r.Amount(name)
	}
}

// CheckQuota reports whether a quota is sound by itself: known names, each
// once and in order, no guarantee above the limit.
func CheckQuota(q Quota) error {
	for _, list := range []Quantities{q.Guarantee, q.Limit} {
		for i, a := range list {
			switch a.Name {
			case "cpus", "mem", "disk", "gpus":
			default:
				if err := CheckCustomName(a.Name); err != nil {
					return err
				}
			}
			if a.Amount < 0 || a.Amount > MaxScalar {
				return fmt.Errorf("%s %v is out of range", a.Name, a.Amount)
			}
			if a.Name == "gpus" && a.Amount%1000 != 0 {
				return errors.New("gpus: only whole ones exist")
			}
			if i > 0 && list[i-1].Name >= a.Name {
				return fmt.Errorf("%s is named twice, or the names are not in order", a.Name)
			}
		}
	}
	for _, g := range q.Guarantee {
		if limit, ok := q.Limit.Get(g.Name); ok && g.Amount > limit {
			return fmt.Errorf("%v %s are guaranteed and the limit is %v", g.Amount, g.Name, limit)
		}
	}
	return nil
}
