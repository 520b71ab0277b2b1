package wire

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Capability is what this build can do, one integer for the whole protocol.
// It grows when a peer must understand something new.
//
//	1  2026-11  the first: control, renew and logs streams
//	2  2026-11  tasks with checks, a maximum completion time, limits above the request
//	3  2026-11  sessions with any replica, policies for restarts and lost links, byte budgets
const Capability = 3

// MinCapability is the oldest peer that this build speaks to.
const MinCapability = 1

// Message is one of the structs below, by value.
type Message interface{ isMessage() }

// Hello opens a control stream.
type Hello struct {
	Capability int
	Agent      fleet.AgentID
	Version    string // of the program, for people
	Hostname   string
	// BootID changes when the machine restarts.
	BootID   string
	Capacity fleet.Capacity
	// Term and Generation are of the desired set the agent holds.
	Term, Generation uint64
	// BundleVersion is that of the trust bundle the agent has; 0: not told.
	BundleVersion uint64
	// Epoch orders the sessions of one agent: a later one has a greater number,
	// also after a restart. 0 is an agent that does not count them.
	Epoch uint64
	// Beat is how often the agent sends something at least; zero is every
	// Heartbeat of the Welcome. A replica that hears nothing for longer gives it
	// up.
	Beat time.Duration
}

// Welcome answers Hello; only now is the agent connected.
type Welcome struct {
	Capability int
	Term       uint64
	Replica    fleet.ReplicaID
	// Heartbeat is how often the replica wants Readings.
	Heartbeat     time.Duration
	BundleVersion uint64
	// Bundle is the trust bundle in PEM, empty when the agent has this version.
	Bundle []byte
	// Replicas are the addresses an agent may dial.
	Replicas []string
	// Spread is the time over which the agents of this replica are to spread
	// their first tries elsewhere if they lose it.
	Spread time.Duration
}

// RefusalCode says what the refused peer can do about it.
type RefusalCode string

const (
	RefusedWrongIdentity RefusalCode = "wrong_identity" // the certificate names somebody else
	RefusedUnknownAgent  RefusalCode = "unknown_agent"  // join again
	RefusedRevoked       RefusalCode = "revoked"        // do not come back
	RefusedTooOld        RefusalCode = "too_old"        // install a newer version
	RefusedNotLeader     RefusalCode = "not_leader"     // ask Leader
	RefusedDraining      RefusalCode = "draining"       // try another replica
	RefusedBadRequest    RefusalCode = "bad_request"    // the message makes no sense
	RefusedNotFound      RefusalCode = "not_found"      // no such task
	RefusedBusy          RefusalCode = "busy"           // later, after RetryAfter
	RefusedBudget        RefusalCode = "budget"         // the link's owner lets it wait
	// RefusedCloned: another copy of the machine goes on with a newer key.
	RefusedCloned RefusalCode = "cloned"
)

// Refusal answers a request that is not granted. Codes of a newer peer arrive
// as they are: treat one you do not know as bad_request.
type Refusal struct {
	Code       RefusalCode
	Text       string // for people: what is wrong and what to do
	Leader     string // address of the leader, empty when unknown
	RetryAfter time.Duration
}

// Pull asks for what differs from the desired set the agent holds. The
// replica keeps it until something does.
type Pull struct {
	Term, Generation uint64
	Full             bool // the agent lost track: send everything
	// Stamp, when not 0, asks for an answer at once, with Desired.Echo the same:
	// then the agent knows that a leader heard it after it had sent this.
	Stamp uint64
	// CaughtUp: of the updates that had waited for this session, all are
	// acknowledged.
	CaughtUp bool
}

// DesiredSet is what the agent is to hold, or a part of it: see Split.
type DesiredSet struct {
	fleet.Desired
	Part int  // from 0
	More bool // another part follows
}

// Report carries status updates that are not yet acknowledged.
type Report struct{ Updates []fleet.StatusUpdate }

// Acks name the updates that the control plane has committed.
type Acks struct{ Acks []Ack }

// Ack is one committed update.
type Ack struct {
	Task       fleet.TaskID
	Update     fleet.UpdateID
	Generation uint64
}

// CapacityChanged replaces the capacity told by Hello.
type CapacityChanged struct{ fleet.Capacity }

// Readings are the agent's soft state and its heartbeat. The frame is never
// shorter than MinBeat, so that a replica that restarted answers it with a
// stateless reset.
type Readings struct{ fleet.Readings }

// Beat is the agent's sign of life when it has nothing else to say. Its frame
// is long enough, just, for a replica that restarted to answer it with a
// stateless reset: see MinSignal.
type Beat struct {
	// Every is the time between two from now on; zero: as before.
	Every time.Duration
}

// Observed tells the agent that its messages come from another address now.
type Observed struct{ Addr string }

// Goaway asks the agent to move to another replica.
type Goaway struct{ Text, Leader string }

// RenewRequest opens a renew stream. An agent that asks for a new key proves the
// one it has; see enroll.ProveRekey.
type RenewRequest struct {
	CSR        []byte // DER
	Key, Proof []byte // the public key it has, and a signature by that
}

// Certificate is the new chain: leaf, intermediate, root.
type Certificate struct {
	Chain         [][]byte // DER
	Bundle        []byte   // PEM, empty when it has not changed
	BundleVersion uint64
}

// KeyStored says, on a renew stream, that the agent has stored its certificate
// and new key; the leader says it back once the trio counts on that key. On a
// control stream it tells the replica that the key shown is the one before.
type KeyStored struct{}

// Bundle is a newer trust bundle. The agent stores it and says so in Readings.
type Bundle struct {
	Version uint64
	Roots   []byte // PEM
	// Renew asks for a renewal before its time: certificates come from another
	// root now.
	Renew bool
}

// LogsRequest opens a logs stream.
type LogsRequest struct {
	Task   fleet.TaskID
	Follow bool
	// Tail is the number of last lines to begin with; -1 means all.
	Tail           int
	Stdout, Stderr bool
}

// LogChunk is a piece of a task's output, at most MaxLogChunk.
type LogChunk struct {
	Stderr bool
	Data   []byte
}

// LogEnd says that the output is complete.
type LogEnd struct{}

// Leave says that the agent's machine leaves the fleet: its tasks are to end,
// each with its own grace period or Grace where that is shorter and not zero,
// and then the agent is to be gone for good.
type Leave struct{ Grace time.Duration }

// Upgrade is the version that the agent is to run; the zero value takes back
// what was asked before, where that has not begun.
type Upgrade struct{ fleet.Upgrade }

// PackageRequest opens a package stream. The answer is the file from Offset on,
// in chunks, and the end of the stream.
type PackageRequest struct {
	SHA256 string // in hex
	Offset int64
}

// PackageChunk is a piece of the file, at most MaxPackageChunk.
type PackageChunk struct{ Data []byte }

func (Hello) isMessage()           {}
func (Welcome) isMessage()         {}
func (Refusal) isMessage()         {}
func (Pull) isMessage()            {}
func (DesiredSet) isMessage()      {}
func (Report) isMessage()          {}
func (Acks) isMessage()            {}
func (CapacityChanged) isMessage() {}
func (Readings) isMessage()        {}
func (Beat) isMessage()            {}
func (Observed) isMessage()        {}
func (Goaway) isMessage()          {}
func (RenewRequest) isMessage()    {}
func (Certificate) isMessage()     {}
func (LogsRequest) isMessage()     {}
func (LogChunk) isMessage()        {}
func (LogEnd) isMessage()          {}
func (KeyStored) isMessage()       {}
func (Bundle) isMessage()          {}
func (Leave) isMessage()           {}
func (Upgrade) isMessage()         {}
func (PackageRequest) isMessage()  {}
func (PackageChunk) isMessage()    {}
