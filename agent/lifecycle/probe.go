package lifecycle

import (
	"cmp"
	"fmt"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Verdict is how a task ends that the agent itself decides to stop.
type Verdict struct {
	State  fleet.TaskState
	Reason fleet.Reason
	Text   string
}

// asking is where one of a task's checks stands. It is not durable: after a
// restart of the agent, failures are counted from 0 again.
type asking struct {
	next   time.Time
	asked  bool // a Probe is being performed
	failed int  // in a row
}

// watch begins, or goes on, to look after a running task.
func (t *task) watch(now time.Time) {
	if t.Running.IsZero() {
		t.Running = now
	}
	if t.Since.IsZero() {
		t.Since = now
		if t.Restarts == 0 {
			t.Since = t.Running // a record from before there was Since
		}
	}
	spec := &t.Assignment.Spec
	if spec.Health != nil {
		t.health = asking{next: t.Since.Add(spec.Health.Delay)}
	}
	if spec.Check != nil {
		t.check = asking{next: t.Since.Add(spec.Check.Delay)}
		t.Checked.Kind = spec.Check.Kind
	}
}

// live does what is due for a running task that nobody stops.
func (t *task) live(a *Agent, now time.Time) {
	spec := &t.Assignment.Spec
	t.ask(a, now, &t.health, spec.Health, true)
	t.ask(a, now, &t.check, spec.Check, false)
}

func (t *task) ask(a *Agent, now time.Time, k *asking, check *fleet.Check, health bool) {
	if check != nil && !k.asked && !now.Before(k.next) {
		k.asked = true
		a.do(Probe{Task: t.id(), Health: health, Check: *check})
	}
}

// sentence stops the task by the agent's own decision.
func (t *task) sentence(a *Agent, now time.Time, v Verdict) {
	t.Verdict = v
	t.kill(a, now, grace(t.Assignment.Spec))
}

// probed takes a result. A task that is being stopped is not asked any more,
// and what it answers on its way is no news.
func (t *task) probed(a *Agent, now time.Time, ev Probed) {
	k, check := &t.check, t.Assignment.Spec.Check
	if ev.Health {
		k, check = &t.health, t.Assignment.Spec.Health
	}
	if t.Phase != Running || !k.asked {
		return
	}
	k.asked, k.next = false, now.Add(check.Every())
	if t.Assignment.Kill || t.Ailing != "" || ev.Unable {
		return
	}
	ev.Result.Kind = check.Kind
	switch {
	case !ev.Health && ev.Result != t.Checked:
		t.Checked = ev.Result
		t.reportCheck(now, fleet.ReasonCheckUpdated, "check: "+cmp.Or(ev.Text, ev.Result.String()))
	case !ev.Health:
	case check.Passed(ev.Result):
		t.healthy(now)
	default:
		t.unhealthy(a, now, check, cmp.Or(ev.Text, ev.Result.String()))
	}
}

func (t *task) reportCheck(now time.Time, r fleet.Reason, message string) {
	st := t.status(now, fleet.TaskRunning, message)
	st.Reason = r
	t.report(st)
}

func (t *task) healthy(now time.Time) {
	t.health.failed = 0
	if t.Health != fleet.TaskHealthy {
		t.Health = fleet.TaskHealthy
		t.reportCheck(now, fleet.ReasonHealthUpdated, "healthy")
	}
}

// unhealthy counts a failure, unless the task has not been healthy yet and may
// still be starting up. Too many are a crash to the restart policy; without one
// the task is KILLED, as in Mesos's executors.
func (t *task) unhealthy(a *Agent, now time.Time, check *fleet.Check, cause string) {
	if t.Health == fleet.TaskHealthUnknown && now.Sub(t.Since) < check.Grace {
		return
	}
	t.health.failed++
	if t.Health != fleet.TaskUnhealthy {
		t.Health = fleet.TaskUnhealthy
		t.reportCheck(now, fleet.ReasonHealthUpdated, "unhealthy: "+cause)
	}
	if n := check.ConsecutiveFailures; n > 0 && t.health.failed >= n {
		times := "once"
		if n > 1 {
			times = fmt.Sprintf("%d times in a row", t.health.failed)
		}
		t.ail(a, now, fmt.Sprintf("its health check failed %s, at last: %s", times, cause))
	}
}
