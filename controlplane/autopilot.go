package controlplane

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// When a replica counts as healthy (the figures are Nomad's), and when it counts
// as dead: longer than a restart of its program takes.
const (
	healthyContact = 200 * time.Millisecond
	healthyLag     = 250 // entries
	stableFor      = 10 * time.Second
	deadAfter      = time.Minute
	// fewestVoters is what the autopilot never goes below by itself.
	fewestVoters = 3
	// handOverPause is how long a leader with a bad disk waits between attempts.
	handOverPause = 10 * time.Second
)

// observed is one replica as the leader sees it at one instant.
type observed struct {
	ID   fleet.ReplicaID
	Addr string
	// Self is the leader. Known: the state has a record of it. Member and Voter
	// are Raft's view.
	Self, Known, Member, Voter bool
	// Answers: it can be reached and is who it should be. Asked of strangers to
	// Raft only.
	Answers bool
	// Contact is how long ago it answered last, Lag how many entries it lacks.
	Contact time.Duration
	Lag     uint64
	// BadDisk: its disk is full, or nearly so.
	BadDisk bool
}

// What the autopilot may want done about a replica.
const (
	addLearner = "add"
	promote    = "promote"
	remove     = "remove" // its record is gone, or it is dead and replaced
	handOver   = "hand over"
)

// change is one thing to do about the members, and why.
type change struct {
	do   string
	id   fleet.ReplicaID
	addr string
	why  string
}

// autopilot keeps the trio at strength: newcomers get the log first and a vote
// when they are healthy, and a dead voter goes when its replacement has come. It
// is values in, values out, and belongs to the leader's loop; a new leader
// begins with a new one.
type autopilot struct {
	// patience multiplies the times.
	patience time.Duration
	// healthy and dead say since when a replica has been that.
	healthy, dead map[fleet.ReplicaID]time.Time
	handedOver    time.Time
}

func newAutopilot(patience int) *autopilot {
	return &autopilot{
		patience: time.Duration(max(1, patience)),
		healthy:  map[fleet.ReplicaID]time.Time{}, dead: map[fleet.ReplicaID]time.Time{},
	}
}

// step takes how the replicas are at one instant and returns the one thing to
// do next; nil when all is as it should be.
func (a *autopilot) step(now time.Time, all []observed) *change {
	a.watch(now, all)
	voters, healthy := 0, 0
	for _, o := range all {
		if o.Voter {
			voters++
			if a.isHealthy(o) {
				healthy++
			}
		}
	}
	if c := a.relief(now, all); c != nil {
		return c
	}
	for _, o := range all {
		_, stable := a.stableSince(now, o.ID)
		switch {
		case o.Self:
		case o.Member && !o.Known:
			return &change{remove, o.ID, o.Addr, "it was removed"}
		case o.Known && !o.Member && o.Answers:
			return &change{addLearner, o.ID, o.Addr, "it has joined"}
		// Fewer than three have no fault to tolerate: there is nothing to wait for.
		case o.Member && !o.Voter && a.isHealthy(o) && (stable || voters < fewestVoters):
			return &change{promote, o.ID, o.Addr, "it follows"}
		}
	}
	// A dead one is replaced, never just dropped: an even number says that the
	// replacement is a voter already. The rest must be a majority without it.
	rest := voters - 1
	if voters%2 != 0 || rest < fewestVoters || healthy <= rest/2 {
		return nil
	}
	for _, o := range all {
		if at, dead := a.dead[o.ID]; o.Voter && dead && now.Sub(at) >= a.patience*deadAfter {
			return &change{remove, o.ID, o.Addr, "it is dead and has been replaced"}
		}
	}
	return nil
}

// relief has a leader with a bad disk go, when there is somebody better.
func (a *autopilot) relief(now time.Time, all []observed) *change {
	self := slices.IndexFunc(all, func(o observed) bool { return o.Self })
	if self < 0 || !all[self].BadDisk || now.Sub(a.handedOver) < handOverPause {
		return nil
	}
	for _, o := range all {
		if !o.Self && o.Voter && !o.BadDisk && a.isHealthy(o) {
			a.handedOver = now
			return &change{handOver, o.ID, o.Addr, "the leader's disk is nearly full"}
		}
	}
	return nil
}

// watch notes who is healthy, who is dead, and since when.
func (a *autopilot) watch(now time.Time, all []observed) {
	for _, o := range all {
		switch {
		case a.isHealthy(o):
			delete(a.dead, o.ID)
			if a.healthy[o.ID].IsZero() {
				a.healthy[o.ID] = now
			}
		case o.Member:
			delete(a.healthy, o.ID)
			if a.dead[o.ID].IsZero() {
				a.dead[o.ID] = now
			}
			if o.Contact <= a.patience*healthyContact { // it lags
				delete(a.dead, o.ID)
			}
		default:
			delete(a.healthy, o.ID)
			delete(a.dead, o.ID)
		}
	}
}

func (a *autopilot) isHealthy(o observed) bool {
	return o.Self || o.Member && o.Contact <= a.patience*healthyContact && o.Lag <= healthyLag
}

// stableSince is since when a replica has been healthy, and whether that is
// long enough to rely on it.
func (a *autopilot) stableSince(now time.Time, id fleet.ReplicaID) (time.Time, bool) {
	at := a.healthy[id]
	return at, !at.IsZero() && now.Sub(at) >= a.patience*stableFor
}
