package rollout

import (
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// LostAfter is how long an agent may be away in the middle of its upgrade
// before it counts as lost: longer than the trial of a new version and the way
// back to the old one take. Its ring waits until then.
const LostAfter = 5 * time.Minute

// Seen is what the leader sees of a connected agent.
type Seen struct {
	Version string
	// Told: it has sent readings in this session. Able: its version takes
	// upgrades from the control plane.
	Told, Able bool
	Upgrade    fleet.UpgradeStatus
}

// Standing is where an agent stands in a rollout.
type Standing string

// The standings of an agent; the first three are left to be done.
const (
	Waiting  Standing = "waiting" // its turn has not come
	Unheard  Standing = "unheard" // a leader that is new has not heard of it
	InFlight Standing = "upgrading"
	Soaking  Standing = "soaking" // it runs the version, not for long enough
	Healthy  Standing = "healthy" // it has for the soak
	Failed   Standing = "failed"
	Away     Standing = "away"  // not connected, and not in the middle of it
	Newer    Standing = "newer" // it runs a newer version, and is left at that
	Old      Standing = "old"   // its version takes no upgrades from here
)

// AgentView is one agent in a rollout.
type AgentView struct {
	ID        fleet.AgentID
	Standing  Standing
	Connected bool
	// State and Text are what it says of the upgrade, or how it failed.
	State, Text string
	// Forgiven: it failed, and an operator resumed all the same.
	Forgiven bool
	step     *state.AgentStep // what is to be recorded of it
}

// RingView is one ring in a rollout.
type RingView struct {
	state.Ring
	Agents []AgentView
	// Waits is what the ring waits for, empty when it has passed.
	Waits string
}

// Count is the number of agents that stand so.
func (r *RingView) Count(standings ...Standing) int {
	n := 0
	for i := range r.Agents {
		for _, s := range standings {
			if r.Agents[i].Standing == s {
				n++
			}
		}
	}
	return n
}

// View is what decides about the next step.
type View struct {
	Rollout *state.Rollout // nil: there never was one
	Rings   []RingView
	// Outside are the agents that no ring chooses.
	Outside int
	// Failures counts those that were not forgiven.
	Failures int
}

// Look makes a View. Agents that are not in seen are not connected.
func Look(now time.Time, st *state.State, seen map[fleet.AgentID]Seen) View {
	r := st.Rollout
	v := View{Rollout: r}
	if r == nil {
		return v
	}
	v.Rings = make([]RingView, len(r.Rings))
	for i := range r.Rings {
		v.Rings[i].Ring = r.Rings[i]
	}
	for _, id := range state.SortedKeys(st.Agents) {
		a := st.Agents[id]
		if !counts(a) {
			continue
		}
		n := RingOf(r, a)
		if n < 0 {
			v.Outside++
			continue
		}
		s, connected := seen[id]
		av := look(now, r, a, st.Upgrades[id], s, connected)
		if av.step != nil {
			av.step.Ring = n
		}
		if av.Standing == Failed && !av.Forgiven {
			v.Failures++
		}
		v.Rings[n].Agents = append(v.Rings[n].Agents, av)
	}
	for i := range v.Rings {
		v.Rings[i].Waits = v.waits(i)
	}
	return v
}

// look says where an agent stands, and what of that is news.
func look(now time.Time, r *state.Rollout, a *fleet.Agent, u *state.AgentUpgrade, s Seen, connected bool) AgentView {
	v := AgentView{ID: a.ID, Connected: connected}
	if u == nil {
		u = &state.AgentUpgrade{}
	}
	if connected && s.Upgrade.Rollout == r.ID {
		v.State, v.Text = s.Upgrade.State, s.Upgrade.Text
	}
	news := func(to state.AgentStage, text string) {
		v.step = &state.AgentStep{Agent: a.ID, To: to, Text: text}
	}
	failed := func(text string) AgentView {
		v.Standing, v.Text, v.Forgiven = Failed, text, u.Forgiven
		if u.Failed.IsZero() {
			news(state.StageFailed, text)
		}
		return v
	}
	// A trial holds whoever began it: the machine may not say for which rollout.
	runs := connected && s.Told && s.Version == r.Version && s.Upgrade.State != fleet.UpgradeTrial
	ended := v.State == fleet.UpgradeRolledBack || v.State == fleet.UpgradeRefused
	switch {
	case !u.Healthy.IsZero():
		v.Standing = Healthy
	case ended && !u.Began.IsZero():
		return failed(join(v.State, v.Text))
	case runs && (u.Done.IsZero() || !u.Failed.IsZero()):
		v.Standing = Soaking
		if opened(r, a) {
			news(state.StageDone, "")
		}
	case !u.Failed.IsZero():
		return failed(u.Text)
	case runs && now.Sub(u.Done) >= r.Soak:
		v.Standing = Healthy
		news(state.StageHealthy, "")
	case runs:
		v.Standing = Soaking
	case !connected:
		return lookAway(now, a, u, v, failed)
	case !s.Told:
		v.Standing = Unheard
	case !u.Done.IsZero() && s.Version != r.Version:
		return failed("it runs " + s.Version + " again")
	case !u.Began.IsZero():
		v.Standing = InFlight
		if u.Installing.IsZero() && (v.State == fleet.UpgradeInstalling || v.State == fleet.UpgradeTrial) {
			news(state.StageInstalling, "")
		}
	case Compare(s.Version, r.Version) > 0 && (!r.Downgrade || r.Phase == state.RolloutFinished):
		v.Standing = Newer
	case !s.Able:
		v.Standing = Old
	default:
		v.Standing = Waiting
	}
	return v
}

// lookAway is about an agent without a session. Until the trio holds it to be
// unreachable it may be on its way back.
func lookAway(now time.Time, a *fleet.Agent, u *state.AgentUpgrade, v AgentView, failed func(string) AgentView) AgentView {
	middle := !u.Installing.IsZero() || !u.Done.IsZero()
	switch {
	case a.Unreachable.IsZero():
		v.Standing = Unheard
	case !middle:
		v.Standing = Away
	case now.Sub(a.Unreachable) >= LostAfter:
		return failed("lost: not heard of since " + a.Unreachable.UTC().Format(time.RFC3339) + ", in the middle of its upgrade")
	case !u.Done.IsZero():
		v.Standing = Soaking
	default:
		v.Standing = InFlight
	}
	return v
}

func opened(r *state.Rollout, a *fleet.Agent) bool {
	return !r.Rings[RingOf(r, a)].Opened.IsZero()
}

func join(state, text string) string {
	if text == "" {
		return state
	}
	return state + ": " + text
}

// Next is what is to be recorded and done now; nil for nothing.
func Next(v View) *state.AdvanceRollout {
	r := v.Rollout
	if r == nil {
		return nil
	}
	c := &state.AdvanceRollout{ID: r.ID}
	slots := r.AtOnce
	for i := range v.Rings {
		slots -= v.Rings[i].Count(InFlight)
		for _, a := range v.Rings[i].Agents {
			if a.step != nil && len(c.Agents) < maxSteps {
				c.Agents = append(c.Agents, *a.step)
			}
		}
	}
	if r.Phase == state.RolloutRunning && v.Failures > r.MaxFailures {
		c.Pause = v.why()
	} else if r.Phase == state.RolloutRunning || r.Phase == state.RolloutFinished {
		v.goOn(c, slots)
	}
	if len(c.Agents) == 0 && c.Open == 0 && c.Pass == 0 && c.Pause == "" && !c.Finish {
		return nil
	}
	return c
}

// maxSteps bounds the agents of one command.
const maxSteps = 256

// goOn begins with agents, and opens and passes one ring.
func (v *View) goOn(c *state.AdvanceRollout, slots int) {
	for i := range v.Rings {
		ring := &v.Rings[i]
		if ring.Opened.IsZero() {
			c.Open = i + 1
			return
		}
		for _, a := range ring.Agents {
			if a.Standing == Waiting && slots > 0 && len(c.Agents) < maxSteps {
				c.Agents = append(c.Agents, state.AgentStep{Agent: a.ID, Ring: i, To: state.StageBegan})
				slots--
			}
		}
		if ring.Passed.IsZero() {
			if ring.Waits == "" {
				c.Pass = i + 1
				c.Finish = i == len(v.Rings)-1
			}
			return
		}
	}
}

// why is the reason to pause.
func (v *View) why() string {
	for i := range v.Rings {
		for _, a := range v.Rings[i].Agents {
			if a.Standing == Failed && !a.Forgiven {
				text := fmt.Sprintf("ring %s: %s: %s", v.Rings[i].Name, a.ID, a.Text)
				if v.Failures > 1 {
					text += fmt.Sprintf(" (and %d more)", v.Failures-1)
				}
				return text
			}
		}
	}
	return ""
}

// waits says what a ring waits for.
func (v *View) waits(i int) string {
	ring, r := &v.Rings[i], v.Rollout
	switch {
	case !ring.Passed.IsZero():
		return ""
	case r.Phase == state.RolloutAborted:
		return "nothing: the rollout was aborted"
	case ring.Opened.IsZero() && i > 0 && v.Rings[i-1].Passed.IsZero():
		return "ring " + v.Rings[i-1].Name
	case ring.Opened.IsZero():
		return "its turn"
	}
	todo := ring.Count(Waiting, Unheard, InFlight, Soaking)
	healthy := 0
	for _, a := range ring.Agents {
		if a.Standing == Healthy && a.Connected {
			healthy++
		}
	}
	switch {
	case todo == 0 && ring.Count(Healthy) == 0 && ring.Count(Away) > 0:
		return fmt.Sprintf("an agent: none of the %d that are left is connected", ring.Count(Away))
	case healthy*100 >= r.Healthy*(healthy+todo):
		return ""
	}
	return pending(ring, r)
}

func pending(ring *RingView, r *state.Rollout) string {
	text := ""
	for _, part := range []struct {
		n    int
		what string
	}{
		{ring.Count(Waiting), "to begin"},
		{ring.Count(InFlight), "to be upgraded"},
		{ring.Count(Unheard), "to be heard of"},
		{ring.Count(Soaking), "to run it for " + r.Soak.String()},
	} {
		if part.n == 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%d %s", part.n, part.what)
	}
	if r.Phase == state.RolloutPaused {
		text += "; the rollout is paused"
	}
	return text
}
