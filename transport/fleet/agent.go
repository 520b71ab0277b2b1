package fleet

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/gpu"
)

// Capacity is what an agent declares: its totals and its devices. It changes
// rarely and is replicated.
type Capacity struct {
	// Total is what the agent offers to the pool; Total.GPUs lists the healthy
	// devices only.
	Total Resources
	// Devices describes every GPU, healthy or not, ordered by UUID.
	Devices []gpu.Device
}

// Equal reports whether two capacities are the same.
func (c Capacity) Equal(o Capacity) bool {
	return c.Total.Equal(o.Total) && slices.Equal(c.Devices, o.Devices)
}

// Agent is an admitted agent as the control plane keeps it.
type Agent struct {
	ID     AgentID
	Site   Site
	Labels map[string]string
	// Hostname is what the agent calls its machine; for people.
	Hostname string
	Capacity Capacity
	// Generation numbers the agent's desired set; it grows with each change.
	Generation uint64
	// KeyHash is the SHA-256 of the public key (SubjectPublicKeyInfo) that it
	// was last seen to use. A certificate for any other key is a copy's.
	KeyHash string
	// NextKey is the hash of the key of a certificate that was signed for it and
	// that it has not used yet; empty when there is none. Until it does KeyHash
	// stays good: the certificate may have been lost on its way.
	NextKey string `cbor:",omitempty"`
	// PastKeys are the hashes that KeyHash had before, the newest first, at most
	// MaxPastKeys.
	PastKeys []string `cbor:",omitempty"`
	// Healed is when it last had a new certificate in the place of one that had
	// ended; zero when it never did.
	Healed time.Time `cbor:",omitempty"`
	// Cloned is the last time that a copy of the machine was noticed, nil when
	// none ever was.
	Cloned *Cloned `cbor:",omitempty"`
	// CertNotAfter is the end of the newest certificate issued to it.
	CertNotAfter time.Time
	// CertRoot is the pin of the root that it leads to; empty is not told.
	CertRoot string `cbor:",omitempty"`
	Joined   time.Time
	Revoked  bool
	// Unreachable since that time; zero while it is not.
	Unreachable time.Time
	// Dynamic are the reservations that calls have made; see Total.
	Dynamic []Part
	// Deactivated: it gets no offers; its tasks stay.
	Deactivated bool
	// Drain is set from the start of a drain until the agent is reactivated.
	Drain *Drain
	// Window is when it will be down for maintenance; nil when nothing is planned.
	Window *Unavailability
	// Gone since that time, by an operator's word; zero while it is not.
	Gone time.Time
}

// MaxPastKeys bounds Agent.PastKeys: with a renewal twice a week they are those
// of some weeks.
const MaxPastKeys = 8

// Cloned is what is known of a copy of an agent's machine.
type Cloned struct {
	At time.Time
	// Addr is where it came from, HOST:PORT; Text says how it was noticed.
	Addr, Text string
	// Times counts how often one was noticed.
	Times int
}

// Drain is how an agent is emptied.
type Drain struct {
	Started time.Time
	// MaxGrace shortens the grace periods of tasks; 0: each has its own.
	MaxGrace time.Duration
	// MarkGone removes the agent from the fleet when it is empty.
	MarkGone bool
	// Done is when the last task had ended and was acknowledged; zero before.
	Done time.Time
}

// Total is what the agent offers to the pool: what it declares, with dynamic
// reservations in place. Where it has shrunk below them, they go as far as it
// reaches.
func (a *Agent) Total() Resources {
	total := a.Capacity.Total
	for _, p := range a.Dynamic {
		base := p.Class
		for n := len(base.Reserved); n > 0 && base.Reserved[n-1].Dynamic; n-- {
			base.Reserved = base.Reserved[:n-1]
		}
		there := total.Part(base).Overlap(p.Resources)
		total = total.Sub(there.In(base)).Add(there.In(p.Class))
	}
	return total
}

// Readings is an agent's momentary state: soft, coalesced, never replicated.
type Readings struct {
	Time time.Time
	// CPUPercent is the machine's use in percent of all its processors.
	CPUPercent int
	// FreeMemMB and FreeDiskMB are what the operating system calls available.
	FreeMemMB, FreeDiskMB int64
	// Tasks counts running tasks, Spooled the updates not yet acknowledged.
	Tasks, Spooled int
	GPUs           []gpu.Reading
	// Runtime is empty when the container runtime works, else what is wrong.
	Runtime string
	Link    LinkUse
	// Settings is empty when the agent's files of settings are sound, else what
	// is wrong with them; the agent then runs with those that held last.
	Settings string
	// ClockOff is what the agent adds to its machine's clock to have the fleet's
	// time; 0 while it takes its own for right.
	ClockOff time.Duration
	// Bundle is the version of the trust bundle that it has on disk.
	Bundle  uint64
	Upgrade UpgradeStatus
}

// LinkUse is what an agent's link has carried in a month, in bytes of payload
// on the socket, both ways, by purpose.
type LinkUse struct {
	Month string // "2026-12", of UTC
	// Keepalive is beats, headers, acknowledgements and handshakes; Images has
	// packages of the agent, too.
	Keepalive, Readings, Updates, Images, Logs int64
	// Budget is what the month may use; 0 is no bound.
	Budget int64
	// State is empty, or why only states and kills travel now: "quiet hours" or
	// "over budget".
	State string
}

// Total is everything that counts against the budget.
func (u LinkUse) Total() int64 { return u.Keepalive + u.Readings + u.Updates + u.Images + u.Logs }

// Offer is a lease on resources of one agent for one framework in one role.
// Its resources count as allocated until it is accepted, declined, rescinded
// or expired.
type Offer struct {
	ID        OfferID
	Framework FrameworkID
	Role      Role
	Agent     AgentID
	Site      Site
	Hostname  string
	Labels    map[string]string
	Resources Resources
	// Devices describes Resources.GPUs, in the same order.
	Devices []gpu.Device
	Expires time.Time
}

// Demand is what a framework waits for: Count units of Need in Role.
type Demand struct {
	// Name tells the framework's demands apart; an answer to "why is it
	// waiting?" is given by this name.
	Name  string
	Role  Role
	Need  Need
	Count int
	// Priority: the higher one of a framework's demands is served first.
	Priority int
}

// Filters go with a decline.
type Filters struct {
	// Refuse is how long the declined resources of that agent are not offered
	// to the same framework and role again. Mesos's default is 5 s.
	Refuse time.Duration
}

// DefaultRefuse is Mesos's default of Filters.refuse_seconds.
const DefaultRefuse = 5 * time.Second

// Launch is one task put on the resources of accepted offers.
type Launch struct {
	Task      TaskID
	Spec      TaskSpec
	Resources Resources
	// Foreign is what an outside framework calls the task.
	Foreign  string
	Standing Standing
	// Invalid, when not empty, is what its reader found wrong with it: the task
	// becomes TASK_ERROR.
	Invalid string
}
