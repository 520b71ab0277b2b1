package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Restart says what an agent does with a task that crashed: one that exited
// with a code other than 0, was ended by a signal, ran out of memory, failed
// its health check too often, or could not be started. The words and their
// meaning are those of Nomad's restart block. The zero value: never, a crash
// is the end.
//
// A task with Attempts is started again after a restart of its machine, too.
// That is not the task's failure and is not counted. A task that was asked to
// end, that ran for its maximum completion time, or that exited with code 0 is
// never started again.
type Restart struct {
	// Attempts is how many restarts there may be within one Interval, which
	// begins with the first of them.
	Attempts int
	// Interval and Delay are the defaults where they are 0. Delay is the time
	// from the crash to the start.
	Interval, Delay time.Duration
	// Mode says what comes when the attempts are used up; empty is RestartFail.
	Mode RestartMode
}

// RestartMode is what happens when the attempts of an interval are used up.
type RestartMode string

const (
	// RestartFail ends the task as its last crash says.
	RestartFail RestartMode = "fail"
	// RestartDelay waits for the next interval and goes on.
	RestartDelay RestartMode = "delay"
)

// Nomad's defaults for services, and the bounds of what may be asked for.
const (
	DefaultRestartInterval = 30 * time.Minute
	DefaultRestartDelay    = 15 * time.Second
	MaxRestartAttempts     = 1000
	maxRestartTime         = 7 * 24 * time.Hour
)

// Within is the interval in which attempts are counted.
func (r Restart) Within() time.Duration { return cmp.Or(r.Interval, DefaultRestartInterval) }

// After is the time from a crash to the next start.
func (r Restart) After() time.Duration { return cmp.Or(r.Delay, DefaultRestartDelay) }

func (r Restart) valid() error {
	if r.Attempts < 0 || r.Attempts > MaxRestartAttempts {
		return fmt.Errorf("%d attempts: use 0 to %d", r.Attempts, MaxRestartAttempts)
	}
	switch r.Mode {
	case "", RestartFail, RestartDelay:
	default:
		return fmt.Errorf("mode %.20q: use %q or %q", string(r.Mode), RestartFail, RestartDelay)
	}
	if r.Attempts == 0 && r != (Restart{}) {
		return errors.New("an interval, a delay or a mode is given, but no number of attempts; give one, such as 3")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"interval", r.Interval}, {"delay", r.Delay}} {
		if d.value != 0 && (d.value < time.Second || d.value > maxRestartTime) {
			return fmt.Errorf("%s %v: use 1s to %v", d.name, d.value, maxRestartTime)
		}
	}
	return nil
}

// Disconnect says what it means to a task that its agent and the control plane
// have no contact. The words are those of Nomad's disconnect block. The zero
// value: nothing. The task stays where it is and goes on, however long it
// takes: what site-bound work wants.
type Disconnect struct {
	// StopAfter, when not 0, is after how long without contact the agent stops
	// the task by itself.
	StopAfter time.Duration
	// Replace: after LostAfter without contact, at least MinLostAfter, the control
	// plane starts a replacement elsewhere.
	Replace   bool
	LostAfter time.Duration
	// Reconcile says which one goes on when the agent is back and both could;
	// empty is ReconcileBest.
	Reconcile Reconcile
}

// Reconcile chooses between a task whose agent is back and its replacement,
// once the agent has told all that happened meanwhile. A task that has ended
// otherwise than by finishing is never the one to keep, nor is one that still
// waits for its place while another has one.
type Reconcile string

const (
	// ReconcileBest keeps the one that has finished, else the healthier one,
	// else the one that is further on its way (running, starting), else the one
	// that the control plane saw running first.
	ReconcileBest Reconcile = "best"
	// ReconcileOriginal and ReconcileReplacement keep the one that they name.
	ReconcileOriginal    Reconcile = "keep_original"
	ReconcileReplacement Reconcile = "keep_replacement"
	// ReconcileLongest keeps the one that the control plane saw running first.
	ReconcileLongest Reconcile = "longest_running"
)

// MinStopAfter is the shortest StopAfter: a change of leader and a new session
// take a part of it even where nothing is wrong.
const MinStopAfter = 30 * time.Second

// MinLostAfter is the shortest LostAfter: from its last word until then an agent
// is not given up (Mesos's 5 pings of 15 s). A link that is lost takes up to 30 s
// to be noticed, a fleet that connects anew as long, so anything shorter would
// replace tasks whose agents are there.
const MinLostAfter = 75 * time.Second

// maxDisconnect bounds the times of a Disconnect.
const maxDisconnect = 365 * 24 * time.Hour

// ExclusiveMargin is what has to lie between the end of an exclusive task on
// its agent and its replacement elsewhere, besides the grace period: 30 s for
// messages of a leader that was paused or replaced and did not know it yet, and
// for the delivery of the signal; and a thousandth of the time that is counted,
// as much as the two clocks may drift apart meanwhile.
func ExclusiveMargin(stopAfter time.Duration) time.Duration {
	return 30*time.Second + stopAfter/1000
}

func (s *TaskSpec) checkDisconnect() error {
	d := s.Disconnect
	switch d.Reconcile {
	case "", ReconcileBest, ReconcileOriginal, ReconcileReplacement, ReconcileLongest:
	default:
		return fmt.Errorf("reconcile %.20q: use %q, %q, %q or %q", string(d.Reconcile),
			ReconcileBest, ReconcileOriginal, ReconcileReplacement, ReconcileLongest)
	}
	switch {
	case d.StopAfter != 0 && (d.StopAfter < MinStopAfter || d.StopAfter > maxDisconnect):
		return fmt.Errorf("stop_after %v: use %v to %v, or leave it out to let the task go on", d.StopAfter, MinStopAfter, maxDisconnect)
	case d.LostAfter < 0 || d.LostAfter > maxDisconnect:
		return fmt.Errorf("lost_after %v: use more than 0 and at most %v", d.LostAfter, maxDisconnect)
	case d.Replace && d.LostAfter == 0:
		return errors.New("the task is to be replaced, but lost_after is missing; give the time without contact after which it is, such as 10m")
	case !d.Replace && d.LostAfter != 0:
		return errors.New("lost_after is when a task is replaced, and this one is not to be; ask for replace, or leave it out")
	case !d.Replace && d.Reconcile != "":
		return errors.New("reconcile chooses between a task and its replacement, and this one is not to be replaced; ask for replace, or leave it out")
	case !s.Exclusive || !d.Replace:
		return nil
	case d.StopAfter == 0:
		return fmt.Errorf("an exclusive task never runs twice at once, so it can be replaced only after its own agent has stopped it, "+
			"and stop_after is missing; give one of at most %v less than lost_after", s.Grace()+ExclusiveMargin(d.LostAfter))
	}
	if least := d.StopAfter + s.Grace() + ExclusiveMargin(d.StopAfter); d.LostAfter < least {
		return fmt.Errorf("an exclusive task never runs twice at once: its agent stops it after stop_after (%v) and the grace period (%v), "+
			"so with a margin of %v for clocks and messages lost_after must be at least %v, and is %v; make lost_after longer or stop_after shorter",
			d.StopAfter, s.Grace(), ExclusiveMargin(d.StopAfter), least, d.LostAfter)
	}
	return nil
}

// CheckPolicy reports what is wrong with a new task's policy beside what CheckSpec
// says: it does not go with where the task may run, or cannot be kept.
func CheckPolicy(s TaskSpec, n Need) error {
	d := s.Disconnect
	switch {
	case d.Replace && n.Agent != "":
		return fmt.Errorf("the task is bound to agent %s and is to be replaced elsewhere when that agent is lost; leave one of the two out", n.Agent)
	case d.Replace && d.LostAfter < MinLostAfter:
		return fmt.Errorf("an agent is given up %v after its last word, and a task is not replaced before; lost_after must be at least %v, and is %v",
			MinLostAfter, MinLostAfter, d.LostAfter)
	}
	return nil
}

// Policies reports whether s says anything about crashes or lost links.
func (s *TaskSpec) Policies() bool {
	return s.Restart != (Restart{}) || s.Disconnect != (Disconnect{}) || s.Exclusive
}
