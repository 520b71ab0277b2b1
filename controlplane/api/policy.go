package api

import (
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// policiesOf reads what a document says about crashes and lost links.
func policiesOf(in client.Submit, s *fleet.TaskSpec) {
	if r := in.Restart; r != nil {
		s.Restart = fleet.Restart{
			Attempts: r.Attempts, Interval: time.Duration(r.Interval), Delay: time.Duration(r.Delay), Mode: fleet.RestartMode(r.Mode),
		}
	}
	if d := in.Disconnect; d != nil {
		s.Disconnect = fleet.Disconnect{
			StopAfter: time.Duration(d.StopAfter), Replace: d.Replace, LostAfter: time.Duration(d.LostAfter), Reconcile: fleet.Reconcile(d.Reconcile),
		}
	}
	s.Exclusive = in.Exclusive
}

// policyDocs shows the policies as they are, defaults included, and what came
// of them.
func policyDocs(t *state.Task, d *client.Task) {
	s := &t.Spec
	if r := s.Restart; r.Attempts > 0 {
		mode := r.Mode
		if mode == "" {
			mode = fleet.RestartFail
		}
		d.Restart = &client.Restart{
			Attempts: r.Attempts, Interval: client.Duration(r.Within()), Delay: client.Duration(r.After()), Mode: string(mode),
		}
	}
	if c := s.Disconnect; c != (fleet.Disconnect{}) {
		d.Disconnect = &client.Disconnect{
			StopAfter: client.Duration(c.StopAfter), Replace: c.Replace, LostAfter: client.Duration(c.LostAfter), Reconcile: string(c.Reconcile),
		}
		if c.Replace && c.Reconcile == "" {
			d.Disconnect.Reconcile = string(fleet.ReconcileBest)
		}
	}
	d.Exclusive, d.Restarts = s.Exclusive, t.Status.Restarts
	d.Replaces, d.ReplacedBy = string(t.Replaces), string(t.ReplacedBy)
	if t.State == fleet.TaskUnreachable {
		d.Message, d.UnreachableSince = t.Away()
		d.Reason = string(fleet.ReasonAgentLost)
	}
	if t.State.Terminal() && t.ReplacedBy != "" {
		d.Message = fmt.Sprintf("%s; replaced by %s", d.Message, t.ReplacedBy)
	}
}
