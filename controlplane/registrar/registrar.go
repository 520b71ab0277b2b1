package registrar

import (
	"errors"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Limits of one log entry, and so of the commands of one Propose. They keep a
// proposal well below what one beat of the transport carries.
const (
	MaxCommands = 1024
	MaxBytes    = 1 << 20
)

// Leadership says whether this replica leads. A new Term with Leading true
// means that leadership was lost and won again in between.
type Leadership struct {
	Leading bool
	Term    uint64
}

// Entry is one committed log entry. Commands and Results have the same length.
// What they point at is shared: read only.
type Entry struct {
	Index    uint64
	Commands []state.Command
	Results  []state.Result
}

// Replica is one member of the Raft configuration as this replica sees it.
type Replica struct {
	ID     fleet.ReplicaID
	Addr   string
	Voter  bool
	Leader bool
	// LastContact is when this replica last heard from that one, as far as it
	// knows: the leader knows about all, another replica about the leader. Zero
	// means not known.
	LastContact time.Time
	// Lag is how many entries it lacks, as far as the leader knows; 0 elsewhere.
	Lag uint64
}

// Kinds of errors. Propose and Read wrap them with what happened.
var (
	// ErrNotLeader: nothing was changed; ask the leader. It is always wrapped
	// in a *NotLeaderError.
	ErrNotLeader = errors.New("not the leader")
	// ErrTimeout: the outcome is unknown. The commands may be committed, now or
	// later; look before proposing them again.
	ErrTimeout = errors.New("the outcome is not known")
	// ErrClosed: the registrar is closed.
	ErrClosed = errors.New("registrar closed")
	// ErrRejected: the commands cannot be written as one log entry; nothing was
	// changed and trying again does not help.
	ErrRejected = errors.New("commands rejected")
	// ErrTooNew: a voter is known to run a version that could not apply the
	// commands; nothing was changed. It goes away when all are upgraded.
	ErrTooNew = errors.New("not every replica is new enough")
	// ErrDiskFull: this replica's log cannot be written for want of space; nothing
	// was changed. It comes with an ErrNotLeader: another one may lead now.
	ErrDiskFull = errors.New("no space left on the disk of this replica")
	// ErrForgotten: see Config.Member.
	ErrForgotten = errors.New("the log of this replica is gone")
)

// NotLeaderError names the leader, when one is known.
type NotLeaderError struct {
	Leader fleet.ReplicaID
	Addr   string
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "no replica is known to lead: an election is under way, or a majority of the replicas does not answer; try again shortly"
	}
	return fmt.Sprintf("this replica does not lead; replica %s at %s does", e.Leader, e.Addr)
}

// Is makes errors.Is(err, ErrNotLeader) hold.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }
