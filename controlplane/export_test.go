package controlplane

import "github.com/tenderfleet/tender/controlplane/leader"

// Inject hands the leader an event, as a framework's connection does.
func (r *Replica) Inject(ev leader.Event) {
	t := r.lead.Load()
	t.queries <- func(*leader.Leader) { t.step(ev) }
}
