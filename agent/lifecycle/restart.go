package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// imagePatience is how long a connected agent goes on trying to fetch an image:
// longer than it takes to notice that the link is gone.
const imagePatience = 30 * time.Second

// attempt asks the restart policy whether the task may be started again after
// a crash, and when. As in Nomad, an interval begins with its first restart.
func (t *task) attempt(a *Agent, now time.Time) (at time.Time, ok bool) {
	p := t.Assignment.Spec.Restart
	if p.Attempts == 0 {
		return now, false
	}
	if t.Window.IsZero() || now.Before(t.Window) || now.Sub(t.Window) >= p.Within() {
		t.Window, t.Tried = now, 0
	}
	at = now.Add(p.After())
	if t.Tried >= p.Attempts {
		if p.Mode != fleet.RestartDelay {
			return now, false
		}
		next := t.Window.Add(p.Within())
		if next.After(at) {
			at = next
		}
		t.Window, t.Tried = next, 0
	}
	t.Tried++
	if slow := now.Add(slowRestart); a.full() && slow.After(at) {
		at = slow
	}
	return at, true
}

// crashed decides what becomes of a task that ended by itself, and not well. st
// is how it ends when the policy does not start it again.
func (t *task) crashed(a *Agent, now time.Time, st fleet.Status) {
	at, ok := t.attempt(a, now)
	p := t.Assignment.Spec.Restart
	switch {
	case ok:
		wait := at.Sub(now).Round(time.Second)
		t.again(a, now, at, fmt.Sprintf("%s; started again in %v (restart %d of %d in %v)", st.Message, wait, t.Tried, p.Attempts, p.Within()))
		return
	case p.Attempts > 0:
		st.Message += fmt.Sprintf("; not started again: that was tried %s in %v", times(p.Attempts), p.Within())
	}
	t.end(a, now, st)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// again makes durable that the task is to be started once more, tells of it,
// and then clears away what is left of the last run.
func (t *task) again(a *Agent, now, at time.Time, message string) {
	t.Phase, t.Restarts, t.Next, t.Since, t.Ailing = Restarting, t.Restarts+1, at, time.Time{}, ""
	t.inFlight, t.killBy, t.wait, t.noImage = false, time.Time{}, 0, time.Time{}
	t.Health, t.Checked = fleet.TaskHealthUnknown, fleet.CheckResult{Kind: t.Checked.Kind}
	st := t.status(now, t.told(), message)
	st.Reason = fleet.ReasonRestarted
	t.report(st)
	t.dirty = false
	a.do(Save{t.Record})
	t.clear(a, now)
}

// clear removes what is left of the last run, one call at a time: a second one
// could hit the next run.
func (t *task) clear(a *Agent, now time.Time) {
	t.cleared, t.clearing, t.removing = false, true, now
	a.do(Remove{t.id()})
}

// removed: nothing is left of the container, or it is to be tried again.
func (t *task) removed(a *Agent, now time.Time, failed bool) {
	t.clearing = false
	switch {
	case failed:
	case t.Phase == Restarting:
		t.cleared = true
		t.resume(a, now)
	case t.Phase == Ended:
		t.Freed, t.dirty = true, true
		t.forget(a)
	}
}

// resume starts the task again once that is due and its container is gone.
func (t *task) resume(a *Agent, now time.Time) {
	if t.cleared && !now.Before(t.Next) {
		t.start(a, now)
	}
}

// ail stops a task whose health check failed, in order to start it again if the
// policy will let it, else for good.
func (t *task) ail(a *Agent, now time.Time, cause string) {
	p := t.Assignment.Spec.Restart
	used := t.Tried >= p.Attempts && now.Sub(t.Window) < p.Within()
	if p.Attempts == 0 || used && p.Mode != fleet.RestartDelay {
		t.sentence(a, now, Verdict{fleet.TaskKilled, fleet.ReasonHealthUpdated, cause})
		return
	}
	grace := t.Assignment.Spec.Grace()
	t.Ailing, t.dirty, t.killBy, t.stopped = cause, true, now.Add(grace), now
	t.dirty = false
	a.do(Save{t.Record})
	a.do(Stop{t.id(), grace})
}

// rebooted decides about a task that had, or may have had, a process when the
// machine went down. That is not its failure, so the attempts are not counted.
func (t *task) rebooted(a *Agent, now time.Time) {
	const cause = "the machine restarted"
	switch {
	case t.Assignment.Kill:
		v := t.Verdict
		if v == (Verdict{}) {
			v = asked
		}
		st := t.status(now, v.State, v.Text+"; "+cause)
		st.Reason = v.Reason
		t.end(a, now, st)
	case t.Assignment.Spec.Restart.Attempts > 0:
		text := cause + "; started again"
		if a.holdsBack(t) {
			text = cause + "; started again once the control plane is heard of: the task is exclusive and may run elsewhere by now"
		}
		t.again(a, now, now, text)
	case t.Phase == Starting:
		t.start(a, now) // whether anything was made, the executor knows
	default:
		st := t.status(now, fleet.TaskLost, cause+", and the task has no restart policy")
		st.Reason = fleet.ReasonAgentRestarted
		t.end(a, now, st)
	}
}

// excuse tells, once, why a start is put off.
func (t *task) excuse(now time.Time, text string) {
	if t.putOff || text == "" {
		return
	}
	t.putOff = true
	st := t.status(now, t.told(), "start put off: "+text)
	st.Reason = fleet.ReasonPutOff
	t.report(st)
}

// impatient reports whether an image has been out of reach for too long for an
// agent that has an uplink.
func (t *task) impatient(a *Agent, now time.Time) bool {
	switch {
	case !a.connected:
		t.noImage = time.Time{}
	case t.noImage.IsZero():
		t.noImage = now
	default:
		return now.Sub(t.noImage) >= imagePatience
	}
	return false
}

// limit ends a task that has run for its time, or whose agent was without
// contact for too long.
func (t *task) limit(a *Agent, now time.Time) {
	spec := &t.Assignment.Spec
	switch most := spec.MaxCompletion; {
	case t.Phase == Ended || t.Assignment.Kill:
	case most > 0 && !t.Running.IsZero() && now.Sub(t.Running) >= most:
		t.sentence(a, now, Verdict{
			fleet.TaskFailed, fleet.ReasonMaxCompletion, fmt.Sprintf("it ran for its maximum completion time of %v", most),
		})
	case a.cutOff(now, spec):
		t.sentence(a, now, Verdict{
			fleet.TaskKilled, fleet.ReasonCutOff,
			fmt.Sprintf("no contact with the control plane for %v: stopped, as the task's disconnect policy says", spec.Disconnect.StopAfter),
		})
	}
}

// maxMessage bounds the text of one status, which may quote an error at length.
const maxMessage = 1 << 10

func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage-3], "") + "..."
}
