package leader

import (
	"slices"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Bounds of what is remembered of one agent's unknown tasks.
const (
	maxOrphans       = 1024
	maxOrphanUpdates = 64
)

// unknown notes an update of a task that the restored state does not know. It
// is not acknowledged, so that the agent tells the next leader as well.
func (l *Leader) unknown(id fleet.AgentID, u fleet.StatusUpdate) {
	a := l.agents[id]
	if a.orphans == nil {
		a.orphans = map[fleet.TaskID][]fleet.StatusUpdate{}
	}
	task := u.Status.Task
	held := a.orphans[task]
	known := slices.ContainsFunc(held, func(o fleet.StatusUpdate) bool { return o.ID == u.ID })
	if known || len(held) >= maxOrphanUpdates || held == nil && len(a.orphans) >= maxOrphans {
		return
	}
	a.orphans[task] = append(held, u)
}

// Orphans lists what an agent has said of tasks that the restored state does
// not know, the newest status of each, in the order of the tasks. Tasks of
// which nothing has changed since the restore are not among them.
func (l *Leader) Orphans(id fleet.AgentID) []fleet.Status {
	a := l.agents[id]
	if a == nil {
		return nil
	}
	var out []fleet.Status
	for _, t := range state.SortedKeys(a.orphans) {
		updates := a.orphans[t]
		out = append(out, updates[len(updates)-1].Status)
	}
	return out
}

// settled follows an operator's word that what the state does not know is to
// end: the agent gets the whole set, and is offered again.
func (l *Leader) settled(id fleet.AgentID) {
	a := l.agents[id]
	for _, t := range state.SortedKeys(a.orphans) {
		for _, u := range a.orphans[t] {
			if a.session != 0 {
				l.do(Ack{id, a.session, t, u.ID, 0})
			}
		}
	}
	a.orphans, l.off.settled = nil, l.now
	l.changed[id] = true
	l.refreshAgent(id)
}
