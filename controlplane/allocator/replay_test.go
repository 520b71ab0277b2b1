package allocator

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// The rounds of Mesos's allocator, which a leader here does not need: its own
// follow what changed. Scenarios are replayed with them, and a round over
// everything after one over what changed finds nothing.

// Batch runs a round over all agents and clients, as Mesos does at every
// allocation interval.
func (a *Allocator) Batch(now time.Time) []Grant {
	a.expire(now)
	for _, ag := range a.changed {
		ag.changed = false
	}
	a.changed = a.changed[:0]
	a.spareGrew = false
	clear(a.held)
	return a.ran(now, a.round(a.worthTrying(a.agents), nil))
}

// Over runs a round over some agents and all clients. What has changed
// elsewhere waits for the next Allocate or Batch.
func (a *Allocator) Over(now time.Time, ids ...fleet.AgentID) []Grant {
	a.expire(now)
	agents := map[fleet.AgentID]*agent{}
	for _, id := range ids {
		if ag := a.agents[id]; ag != nil {
			agents[id] = ag
		}
	}
	return a.round(a.worthTrying(agents), nil)
}
