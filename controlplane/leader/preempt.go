package leader

import (
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/state"
)

// preemptHold is how long what was preempted is kept for whom it was: the
// longest grace period of the victims and this.
const preemptHold = time.Minute

// preempt ends revocable tasks for demands that take precedence and wait.
func (l *Leader) preempt(now time.Time) {
	if l.cfg.Patience < 0 {
		return
	}
	for _, p := range l.alloc.Preempt(now, l.cfg.Patience, preemptHold, l.victims) {
		what := fmt.Sprintf("work of role %s with priority %d", p.Role, p.Priority)
		if p.Guarantee {
			what = "the guarantee of role " + string(p.Role)
		}
		for _, id := range p.Victims {
			t := l.st.Tasks[id]
			l.preempting[id] = true
			l.propose(now, state.Command{Kill: &state.Kill{ID: id, Grace: t.Spec.Grace(), For: what}})
		}
	}
}

// victims are the tasks that may be preempted, in no order: the allocator has
// its own.
func (l *Leader) victims() []allocator.Victim {
	var out []allocator.Victim
	for _, a := range l.agents {
		if a.session == 0 {
			continue // it would not hear of it
		}
		for id := range a.tasks {
			if t := l.st.Tasks[id]; t.Standing.Revocable && !t.Kill && !l.preempting[id] {
				out = append(out, allocator.Victim{
					Task: id, Agent: t.Agent, Role: t.Role, Resources: t.Resources,
					Priority: t.Standing.Priority, Launched: t.Launched,
				})
			}
		}
	}
	return out
}
