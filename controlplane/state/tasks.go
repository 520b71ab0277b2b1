package state

import (
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

func (s *State) submit(now time.Time, c *Submit) Result {
	if s.Tasks[c.ID] != nil {
		return refuse(Conflict, "task %s exists", c.ID)
	}
	st := fleet.Status{Task: c.ID, State: fleet.TaskStaging, Time: now, ExitCode: -1, Message: "waiting for an offer"}
	s.Tasks[c.ID] = &Task{
		ID: c.ID, Framework: c.Framework, Role: c.Role, Spec: c.Spec, Need: c.Need, Standing: c.Standing,
		State: fleet.TaskStaging, Status: st, Submitted: now, History: []fleet.Status{st},
	}
	return Result{}
}

func (s *State) launch(now time.Time, c *Launch) Result {
	agent := s.Agents[c.Agent]
	if agent == nil || agent.Revoked {
		return refuse(NotFound, "no agent %s", c.Agent)
	}
	old := s.Tasks[c.ID]
	var t Task
	switch {
	case c.Create && old != nil:
		return refuse(Conflict, "task %s exists", c.ID)
	case c.Create:
		t = Task{ID: c.ID, Framework: c.Framework, Role: c.Role, Spec: c.Spec, Submitted: now, Foreign: c.Foreign, Group: c.Group, Standing: c.Standing}
	case old == nil || !old.Waiting() || old.Framework != c.Framework:
		return refuse(Conflict, "task %s does not wait to be placed", c.ID)
	default:
		t = *old
	}
	t.Agent, t.Resources, t.State, t.Launched = c.Agent, c.Resources, fleet.TaskStaging, now
	t.Status = fleet.Status{Task: c.ID, State: fleet.TaskStaging, Time: now, ExitCode: -1, Message: "assigned to agent " + string(c.Agent)}
	t.History = appendHistory(t.History, t.Status)
	t.Generation = s.bump(c.Agent)
	s.Tasks[c.ID] = &t
	return Result{Generation: t.Generation}
}

// bump starts a new generation of an agent's desired set.
func (s *State) bump(id fleet.AgentID) uint64 {
	old := s.Agents[id]
	if old == nil {
		return 0
	}
	a := *old
	a.Generation++
	s.Agents[id] = &a
	return a.Generation
}

func (s *State) kill(now time.Time, c *Kill) Result {
	old := s.Tasks[c.ID]
	switch {
	case old == nil:
		return refuse(NotFound, "no task %s; list them with: tender ps --all", c.ID)
	case old.State.Terminal():
		return Result{Duplicate: true}
	case old.Agent == "":
		s.end(now, c.ID, fleet.Status{
			Task: c.ID, State: fleet.TaskKilled, Time: now, ExitCode: -1,
			Message: "stopped before it was placed", Reason: c.reason(),
		})
		s.supersede(c)
		return Result{}
	case old.Kill && old.KillGrace <= c.Grace:
		return Result{Duplicate: true}
	}
	t := *old
	if !t.Kill {
		t.Preempted = c.For
	}
	t.Kill, t.KillGrace = true, c.Grace
	t.Generation = s.bump(t.Agent)
	s.Tasks[c.ID] = &t
	s.supersede(c)
	return Result{Generation: t.Generation}
}

func (s *State) observe(now time.Time, c *Observe) Result {
	u := c.Update
	old := s.Tasks[u.Status.Task]
	switch {
	case old == nil:
		return refuse(NotFound, "no task %s", u.Status.Task)
	case old.Agent != c.Agent:
		return refuse(Conflict, "task %s is not agent %s's", old.ID, c.Agent)
	case u.Seq <= old.Seq:
		return Result{Duplicate: true, Generation: old.Generation}
	case u.Seq > old.Seq+1 && !old.Restored:
		return refuse(OutOfOrder, "update %d of task %s came after %d", u.Seq, old.ID, old.Seq)
	}
	t := *old
	t.Seq = u.Seq
	if u.Status.State == fleet.TaskKilled && t.Preempted != "" {
		// The agent does not know whose room it made.
		u.Status.Reason, u.Status.Message = fleet.ReasonPreempted, "preempted for "+t.Preempted
	}
	if u.Status.State == fleet.TaskKilled && t.Superseded != "" && t.Preempted == "" {
		u.Status.Reason, u.Status.Message = fleet.ReasonReplaced, "stopped: "+string(t.Superseded)+" was kept in its place"
	}
	if u.Status.State == fleet.TaskRunning && t.Running.IsZero() {
		t.Running = now
	}
	if !u.Status.CanFollow(t.State, t.Status) {
		// The control plane knows better, or says the same: the update is
		// acknowledged and changes nothing but the count.
		s.Tasks[t.ID] = &t
		return Result{Duplicate: true, Generation: t.Generation}
	}
	s.await(&t, u)
	if u.Status.State.Terminal() {
		s.Tasks[t.ID] = &t
		var r Result
		s.end(now, t.ID, u.Status)
		s.endGroup(now, s.Tasks[t.ID], &r)
		s.settleDrain(now, t.Agent, &r)
		r.Generation = s.Tasks[t.ID].Generation
		return r
	}
	t.State, t.Status = u.Status.State, u.Status
	t.History = appendHistory(t.History, u.Status)
	s.Tasks[t.ID] = &t
	return Result{Generation: t.Generation}
}

// end makes a task terminal and frees what it held. The agent's generation
// moves on, so that no message from before can start the task again.
func (s *State) end(now time.Time, id fleet.TaskID, st fleet.Status) {
	t := *s.Tasks[id]
	t.State, t.Status, t.Ended = st.State, st, now
	t.History = appendHistory(t.History, st)
	if t.Agent != "" {
		t.Generation = s.bump(t.Agent)
	}
	s.Tasks[id] = &t
	s.Ended = append(s.Ended, id)
	for len(s.Ended) > MaxEnded {
		delete(s.Tasks, s.Ended[0])
		s.Ended = s.Ended[1:]
	}
}

// appendHistory never writes into the shared backing array of an old record.
// When there are too many, the oldest result of a check goes first, then the
// second oldest of other passing news: how a task came to run is worth more.
func appendHistory(h []fleet.Status, st fleet.Status) []fleet.Status {
	out := append(make([]fleet.Status, 0, len(h)+1), h...)
	for len(out) >= MaxHistory {
		i := slices.IndexFunc(out, fleet.Status.Checked)
		if first := slices.IndexFunc(out, fleet.Status.Passing); i < 0 && first >= 0 {
			if i = slices.IndexFunc(out[first+1:], fleet.Status.Passing); i >= 0 {
				i += first + 1
			}
		}
		i = max(i, 0)
		out = slices.Delete(out, i, i+1)
	}
	return append(out, st)
}
