package state

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Framework is an outside scheduler, from its first subscription until it is
// torn down. Built-in schedulers have no record: they are part of the control
// plane.
type Framework struct {
	Info fleet.FrameworkInfo
	// Suppressed are roles in which it wants no offers.
	Suppressed []fleet.Role
	Registered time.Time
	// Ended: it was torn down, and its id never returns.
	Ended time.Time
}

// MaxEndedFrameworks bounds the records of torn-down frameworks (Mesos's
// completed frameworks).
const MaxEndedFrameworks = 50

// MaxPending bounds the updates of one task that its framework has not
// acknowledged. A task has few states; more come only from health checks.
const MaxPending = 128

// Pending is a status that a framework has to acknowledge.
type Pending struct {
	Update fleet.UpdateID
	Status fleet.Status
}

func (s *State) putFramework(now time.Time, c *PutFramework) Result {
	id := c.Info.ID
	if err := fleet.CheckID("framework", string(id)); err != nil {
		return refuse(Invalid, "%v", err)
	}
	for _, r := range c.Info.Roles {
		if err := fleet.CheckRole(r); err != nil {
			return refuse(Invalid, "%v", err)
		}
	}
	f := &Framework{Info: c.Info, Suppressed: c.Suppressed, Registered: now}
	if old := s.Frameworks[id]; old != nil {
		if !old.Ended.IsZero() {
			return refuse(Conflict, "framework %s has been torn down; subscribe without an id", id)
		}
		f.Registered = old.Registered
	}
	s.Frameworks[id] = f
	return Result{}
}

// teardown ends a framework: what waits is ended, what runs is killed.
func (s *State) teardown(now time.Time, c *Teardown) Result {
	old := s.Frameworks[c.ID]
	if old == nil {
		return refuse(NotFound, "no framework %s", c.ID)
	}
	if !old.Ended.IsZero() {
		return Result{Duplicate: true}
	}
	f := *old
	f.Ended = now
	s.Frameworks[c.ID] = &f
	var r Result
	for _, id := range SortedKeys(s.Tasks) {
		if t := s.Tasks[id]; t.Framework == c.ID {
			if len(t.Pending) > 0 { // nobody will acknowledge them
				n := *t
				n.Pending = nil
				s.Tasks[id] = &n
				s.settleDrain(now, t.Agent, &r)
			}
			if !t.State.Terminal() {
				s.killToo(now, id, t.Spec.Grace(), &r)
			}
		}
	}
	s.EndedFrameworks = append(s.EndedFrameworks, c.ID)
	for len(s.EndedFrameworks) > MaxEndedFrameworks {
		delete(s.Frameworks, s.EndedFrameworks[0])
		s.EndedFrameworks = s.EndedFrameworks[1:]
	}
	return r
}

// killToo kills a task as part of a larger command.
func (s *State) killToo(now time.Time, id fleet.TaskID, grace time.Duration, r *Result) {
	if k := s.kill(now, &Kill{ID: id, Grace: grace}); k.Kind == OK && !k.Duplicate {
		r.Killed = append(r.Killed, id)
	}
}

// External reports whether a framework has to acknowledge updates.
func (s *State) External(id fleet.FrameworkID) bool {
	f := s.Frameworks[id]
	return f != nil && f.Ended.IsZero()
}

// await notes an update for its framework.
func (s *State) await(t *Task, u fleet.StatusUpdate) {
	if !s.External(t.Framework) {
		return
	}
	p := t.Pending
	if len(p) >= MaxPending { // the newest but one says least
		p = slices.Delete(slices.Clone(p), MaxPending-2, MaxPending-1)
	}
	t.Pending = append(slices.Clip(p), Pending{u.ID, u.Status})
}

// acknowledge drops the oldest unacknowledged update of a task. Another id
// changes nothing: it was acknowledged before, or never sent (Mesos ignores
// such acknowledgements, too).
func (s *State) acknowledge(now time.Time, c *Acknowledge) Result {
	old := s.Tasks[c.Task]
	if old == nil || old.Framework != c.Framework || len(old.Pending) == 0 || old.Pending[0].Update != c.Update {
		return Result{Duplicate: true}
	}
	t := *old
	t.Pending = t.Pending[1:]
	s.Tasks[t.ID] = &t
	var r Result
	s.settleDrain(now, t.Agent, &r)
	return r
}

// launchGroup puts tasks on one agent, all or none of them.
func (s *State) launchGroup(now time.Time, c *LaunchGroup) Result {
	if len(c.Tasks) == 0 {
		return refuse(Invalid, "a task group without tasks")
	}
	for i := range c.Tasks {
		l := &c.Tasks[i]
		switch {
		case !l.Create || l.Group != c.Tasks[0].Group || l.Group == "" || l.Agent != c.Tasks[0].Agent:
			return refuse(Invalid, "the tasks of a group are new and on one agent")
		case s.Tasks[l.ID] != nil || slices.ContainsFunc(c.Tasks[:i], func(o Launch) bool { return o.ID == l.ID }):
			return refuse(Conflict, "task %s exists", l.ID)
		case s.Agents[l.Agent] == nil || s.Agents[l.Agent].Revoked:
			return refuse(NotFound, "no agent %s", l.Agent)
		}
	}
	var r Result
	for i := range c.Tasks {
		r = s.launch(now, &c.Tasks[i])
	}
	return r
}

// endGroup: when one task of a group fails, all end. One that finished leaves
// the others alone.
func (s *State) endGroup(now time.Time, t *Task, r *Result) {
	if t.Group == "" || t.State == fleet.TaskFinished {
		return
	}
	for _, id := range s.heldBy(t.Agent) {
		if o := s.Tasks[id]; o.Group == t.Group && o.Framework == t.Framework && !o.Kill {
			s.killToo(now, id, o.Spec.Grace(), r)
		}
	}
}
