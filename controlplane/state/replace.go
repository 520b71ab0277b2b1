package state

import (
	"fmt"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// CutOff reports whether the task has no agent that it could go on with, so
// that its disconnect policy may have it replaced: the agent does not answer,
// was removed for good, or has stopped the task for want of contact.
func (t *Task) CutOff() bool {
	switch {
	case !t.Spec.Disconnect.Replace || t.ReplacedBy != "" || t.Kill:
		return false
	case t.State == fleet.TaskUnreachable:
		return true
	default:
		return t.State == fleet.TaskGoneByOperator && t.Status.Reason == fleet.ReasonAgentRemoved ||
			t.State == fleet.TaskKilled && t.Status.Reason == fleet.ReasonCutOff
	}
}

// Replaceable reports whether a task is one that could be replaced some time.
func (t *Task) Replaceable() bool {
	return t.Spec.Disconnect.Replace && t.ReplacedBy == "" && (!t.State.Terminal() || t.CutOff())
}

// replace submits a task like another one, in its place. Both go on until the
// agent of the first is back, and then it is decided between them. An exclusive
// one is not to go on: where its agent never heard of it, or put its start off,
// it must not begin now.
func (s *State) replace(now time.Time, c *Replace) Result {
	old := s.Tasks[c.Task]
	switch {
	case old == nil:
		return refuse(NotFound, "no task %s", c.Task)
	case old.ReplacedBy != "":
		return Result{Duplicate: true, ID: string(old.ReplacedBy)}
	case !old.CutOff():
		return refuse(Conflict, "task %s is not to be replaced: it is %v", old.ID, old.State)
	}
	t := &Task{
		Framework: old.Framework, Role: old.Role, Spec: old.Spec, Need: old.Need, Standing: old.Standing,
		State: fleet.TaskStaging, Submitted: now, Replaces: old.ID, Instance: old.Instance + 1,
	}
	t.ID = s.instanceID(old, t.Instance)
	t.Status = fleet.Status{
		Task: t.ID, State: fleet.TaskStaging, Time: now, ExitCode: -1, Message: "waiting for an offer, in place of " + string(old.ID),
	}
	t.History = []fleet.Status{t.Status}
	s.Tasks[t.ID] = t
	o := *old
	o.ReplacedBy = t.ID
	o.History = appendHistory(o.History, fleet.Status{
		Task: o.ID, State: o.State, Time: now, ExitCode: o.Status.ExitCode, Signal: o.Status.Signal, OOM: o.Status.OOM,
		Reason: fleet.ReasonReplaced, Message: "replaced by " + string(t.ID),
	})
	if o.Spec.Exclusive && o.Held() {
		o.Kill, o.KillGrace, o.Superseded = true, o.Spec.Grace(), t.ID
		o.Generation = s.bump(o.Agent)
	}
	s.Tasks[o.ID] = &o
	return Result{ID: string(t.ID)}
}

// instanceID is the original's id and a number, "train-1.2" for the first
// replacement, that is nobody's. After a restore the epoch follows, since the
// history that is lost may have used the number: "train-1.2-6936b2f0".
func (s *State) instanceID(old *Task, instance int) fleet.TaskID {
	root := old
	for root.Replaces != "" && s.Tasks[root.Replaces] != nil {
		root = s.Tasks[root.Replaces]
	}
	base := string(root.ID)
	if root.Replaces != "" { // the original is forgotten
		base, _ = strings.CutSuffix(base, s.historyWord())
		base = strings.TrimSuffix(base, fmt.Sprintf(".%d", root.Instance+1))
	}
	for n := instance + 1; ; n++ {
		number := fmt.Sprintf(".%d%s", n, s.historyWord())
		id := fleet.TaskID(base[:min(len(base), fleet.MaxIDLen-len(number))] + number)
		if s.Tasks[id] == nil {
			return id
		}
	}
}

// historyWord tells ids that are made here from those of earlier histories.
func (s *State) historyWord() string {
	if s.Epoch == 0 {
		return ""
	}
	return fmt.Sprintf("-%x", s.Epoch)
}

// Instances lists a task and all that came before and after it in its place,
// the oldest first, as far as they are known.
func (s *State) Instances(id fleet.TaskID) []*Task {
	t := s.Tasks[id]
	if t == nil {
		return nil
	}
	for t.Replaces != "" && s.Tasks[t.Replaces] != nil {
		t = s.Tasks[t.Replaces]
	}
	out := []*Task{t}
	for t.ReplacedBy != "" && s.Tasks[t.ReplacedBy] != nil {
		t = s.Tasks[t.ReplacedBy]
		out = append(out, t)
	}
	return out
}

func (c *Kill) reason() fleet.Reason {
	if c.Superseded != "" {
		return fleet.ReasonReplaced
	}
	return ""
}

// supersede notes for whom a task is killed.
func (s *State) supersede(c *Kill) {
	if c.Superseded == "" {
		return
	}
	t := *s.Tasks[c.ID]
	t.Superseded = c.Superseded
	s.Tasks[t.ID] = &t
}

// awayText says what becomes of a task whose agent does not answer.
func (t *Task) awayText() string {
	switch d := t.Spec.Disconnect; {
	case t.Kill:
		return "the agent does not answer; it stops the task when it is back"
	case d.Replace && t.ReplacedBy == "":
		return fmt.Sprintf("the agent does not answer; the task is replaced when that lasts for %v", d.LostAfter)
	case d.StopAfter > 0:
		return fmt.Sprintf("the agent does not answer; the task stays there, and is stopped by its agent when that lasts for %v", d.StopAfter)
	default:
		return "the agent does not answer; the task stays there and may still run"
	}
}

// Away says the same of an unreachable task, and since when it is one.
func (t *Task) Away() (text string, since time.Time) {
	for _, st := range t.History {
		if st.State == fleet.TaskUnreachable && st.Reason == fleet.ReasonAgentLost {
			since = st.Time
		}
	}
	if t.ReplacedBy != "" {
		return "the agent does not answer; replaced by " + string(t.ReplacedBy), since
	}
	return t.awayText(), since
}
