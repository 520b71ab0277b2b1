package state

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// RolloutPhase is how a rollout is.
type RolloutPhase string

// The phases of a rollout. A finished one still brings the version to agents
// that were away; an aborted one does nothing any more.
const (
	RolloutRunning  RolloutPhase = "running"
	RolloutPaused   RolloutPhase = "paused"
	RolloutAborted  RolloutPhase = "aborted"
	RolloutFinished RolloutPhase = "finished"
)

// Bounds of a rollout.
const (
	MaxRings   = 16
	MaxSoak    = 30 * 24 * time.Hour
	maxRollout = 256 // characters of a name, members of a list
)

// Rollout brings a version of tender-agent to the fleet, one ring of agents
// after the other. There is one at a time.
type Rollout struct {
	ID      fleet.RolloutID
	Version string
	// Rings are in the order in which they open. An agent is of the first that
	// chooses it.
	Rings []Ring
	// Soak is how long the agents of a ring run the version before the next ring
	// opens; Healthy percent of those that are connected have to.
	Soak    time.Duration
	Healthy int
	// MaxFailures is how many agents may fail before the rollout pauses, AtOnce
	// how many are upgraded at a time.
	MaxFailures, AtOnce int
	// Downgrade: agents that run a newer version are to run this one, too.
	Downgrade bool
	Phase     RolloutPhase
	// Reason is why it paused by itself.
	Reason string
	// Began is when it began, Since when its phase did.
	Began, Since time.Time
	// Revision grows with each change of what any agent is to run.
	Revision uint64
}

// Ring is a part of the fleet: exactly one of Site, Label, Agents, Percent and
// Rest says which.
type Ring struct {
	Name   string
	Site   fleet.Site      `cbor:",omitempty"`
	Label  string          `cbor:",omitempty"` // KEY=VALUE
	Agents []fleet.AgentID `cbor:",omitempty"`
	// Percent of the agents are those with the least digests up to Upto, which
	// was found when the rollout began: see package rollout.
	Percent int    `cbor:",omitempty"`
	Upto    uint64 `cbor:",omitempty"`
	Rest    bool   `cbor:",omitempty"`
	// Opened and Passed are when the ring's agents began to be upgraded, and
	// when they had passed its gate; zero before.
	Opened, Passed time.Time
}

// AgentUpgrade is how far the last rollout is with an agent; times are zero
// until then.
type AgentUpgrade struct {
	Ring  int
	Began time.Time
	// Installing is when it was first seen beyond what can be taken back.
	Installing time.Time
	// Done is when it was first seen to run the version, Healthy when it had done
	// so for the soak.
	Done, Healthy time.Time
	// Failed is when it was seen to have failed, Text how. Forgiven: an operator
	// resumed the rollout all the same.
	Failed   time.Time
	Text     string
	Forgiven bool
}

// Active reports whether the rollout is under way; that of nil is not.
func (r *Rollout) Active() bool {
	return r != nil && (r.Phase == RolloutRunning || r.Phase == RolloutPaused)
}

type (
	// SteerRollout takes the rollout into another phase, as an operator wants.
	SteerRollout struct {
		ID fleet.RolloutID
		To RolloutPhase
	}
	// AdvanceRollout records what the leader saw of a rollout and goes on with
	// it: Open and Pass are numbers of rings plus one, 0 for none.
	AdvanceRollout struct {
		ID         fleet.RolloutID
		Agents     []AgentStep
		Open, Pass int
		// Pause is why the rollout is to pause, empty: it is not. Finish: every
		// ring has passed.
		Pause  string
		Finish bool
	}
	// AgentStep is what became of an agent.
	AgentStep struct {
		Agent fleet.AgentID
		Ring  int
		To    AgentStage
		Text  string `cbor:",omitempty"`
	}
)

// AgentStage is what an AgentStep records.
type AgentStage string

// The stages of an agent's upgrade.
const (
	StageBegan      AgentStage = "began"
	StageInstalling AgentStage = "installing"
	StageDone       AgentStage = "done"
	StageHealthy    AgentStage = "healthy"
	StageFailed     AgentStage = "failed"
)

func (s *State) startRollout(now time.Time, c *Rollout) Result {
	switch {
	case s.Rollout.Active():
		return refuse(Conflict, "the rollout of %s is %s; see how far it is: tender upgrade status; end it: tender upgrade abort", s.Rollout.Version, s.Rollout.Phase)
	case s.Rollout != nil && s.Rollout.ID == c.ID:
		return Result{Duplicate: true}
	case len(s.PackagesOf(c.Version)) == 0:
		return refuse(NotFound, "there is no package of version %.40s; add one with: tender upgrade add FILE.deb", c.Version)
	case c.ID == "" || len(c.ID) > maxRollout || len(c.Rings) == 0 || len(c.Rings) > MaxRings:
		return refuse(Invalid, "a rollout has 1 to %d rings, not %d", MaxRings, len(c.Rings))
	case c.Soak < 0 || c.Soak > MaxSoak || c.Healthy < 1 || c.Healthy > 100 || c.MaxFailures < 0 || c.AtOnce < 1:
		return refuse(Invalid, "a rollout soaks for 0 to 30 days, wants 1 to 100 percent healthy, and upgrades one agent at a time or more")
	}
	r := *c
	r.Rings = slices.Clone(c.Rings)
	names := map[string]bool{}
	for i := range r.Rings {
		ring := &r.Rings[i]
		if res := ring.check(); res.Kind != OK {
			return res
		}
		if names[ring.Name] {
			return refuse(Invalid, "two rings are called %q; name one: --ring NAME=SELECTOR", ring.Name)
		}
		names[ring.Name] = true
		ring.Opened, ring.Passed = time.Time{}, time.Time{}
	}
	r.Phase, r.Reason, r.Began, r.Since, r.Revision = RolloutRunning, "", now, now, 1
	if s.Rollout != nil {
		r.Revision = s.Rollout.Revision + 1
	}
	s.Rollout, s.Upgrades = &r, map[fleet.AgentID]*AgentUpgrade{}
	return Result{}
}

func (r *Ring) check() Result {
	selectors := 0
	for _, has := range []bool{r.Site != "", r.Label != "", len(r.Agents) > 0, r.Percent != 0, r.Rest} {
		if has {
			selectors++
		}
	}
	switch {
	case r.Name == "" || len(r.Name) > maxRollout || len(r.Site) > maxRollout || len(r.Label) > maxRollout || len(r.Agents) > maxRollout:
		return refuse(Invalid, "a ring without a name, or too long: %.40q", r.Name)
	case selectors != 1 || r.Percent < 0 || r.Percent > 100 || r.Label != "" && !strings.Contains(r.Label, "="):
		return refuse(Invalid, "the ring %.40q: choose agents by site:NAME, label:KEY=VALUE, agent:ID,ID, a percentage, or rest", r.Name)
	}
	return Result{}
}

func (s *State) steerRollout(now time.Time, c *SteerRollout) Result {
	if s.Rollout == nil || s.Rollout.ID != c.ID {
		return refuse(Conflict, "another rollout has begun meanwhile; look at it: tender upgrade status")
	}
	r := *s.Rollout
	switch {
	case r.Phase == c.To:
		return Result{Duplicate: true}
	case r.Phase == RolloutAborted:
		return refuse(Conflict, "the rollout of %s was aborted; begin one with: tender upgrade start", r.Version)
	case c.To == RolloutRunning && len(s.PackagesOf(r.Version)) == 0:
		return refuse(Conflict, "there is no package of version %s any more; add it with: tender upgrade add FILE.deb", r.Version)
	case c.To == RolloutRunning && r.Phase == RolloutPaused:
		for _, id := range SortedKeys(s.Upgrades) {
			if u := *s.Upgrades[id]; !u.Failed.IsZero() && !u.Forgiven {
				u.Forgiven = true
				s.Upgrades[id] = &u
			}
		}
	case c.To == RolloutPaused && r.Phase == RolloutRunning, c.To == RolloutAborted:
	default:
		return refuse(Conflict, "the rollout of %s is %s", r.Version, r.Phase)
	}
	r.Phase, r.Reason, r.Since = c.To, "", now
	r.Revision++
	s.Rollout = &r
	return Result{}
}

// advance refuses what another leader, or an operator, has made untrue.
func (s *State) advance(now time.Time, c *AdvanceRollout) Result {
	if s.Rollout == nil || s.Rollout.ID != c.ID {
		return refuse(Conflict, "another rollout has begun meanwhile")
	}
	r := *s.Rollout
	r.Rings = slices.Clone(r.Rings)
	going := r.Phase == RolloutRunning || r.Phase == RolloutFinished
	for _, step := range c.Agents {
		if step.To != StageBegan || going {
			s.stepAgent(now, step)
		}
	}
	if going && c.Open > 0 && c.Open <= len(r.Rings) && r.Rings[c.Open-1].Opened.IsZero() {
		r.Rings[c.Open-1].Opened = now
	}
	if going && c.Pass > 0 && c.Pass <= len(r.Rings) && r.Rings[c.Pass-1].Passed.IsZero() {
		r.Rings[c.Pass-1].Passed = now
	}
	switch {
	case c.Pause != "" && r.Phase == RolloutRunning:
		r.Phase, r.Reason, r.Since = RolloutPaused, c.Pause, now
	case c.Finish && r.Phase == RolloutRunning:
		r.Phase, r.Since = RolloutFinished, now
	}
	r.Revision++
	s.Rollout = &r
	return Result{}
}

func (s *State) stepAgent(now time.Time, step AgentStep) {
	var u AgentUpgrade
	if old := s.Upgrades[step.Agent]; old != nil {
		u = *old
	} else if s.Agents[step.Agent] == nil {
		return
	}
	first := func(t *time.Time) {
		if t.IsZero() {
			*t = now
		}
	}
	u.Ring = step.Ring
	first(&u.Began)
	switch step.To {
	case StageBegan:
	case StageInstalling:
		first(&u.Installing)
	case StageDone: // whatever was taken for a failure before
		u.Failed, u.Text, u.Forgiven = time.Time{}, "", false
		first(&u.Done)
	case StageHealthy:
		first(&u.Healthy)
	case StageFailed:
		u.Text = clip(step.Text)
		first(&u.Failed)
	}
	s.Upgrades[step.Agent] = &u
}

// UpgradeOf is what an agent is to run instead of what it runs now; the zero
// value for nothing. What is installing already is wanted until it is over.
func (s *State) UpgradeOf(id fleet.AgentID) fleet.Upgrade {
	r, u, a := s.Rollout, s.Upgrades[id], s.Agents[id]
	if r == nil || u == nil || a == nil || a.Revoked || !u.Done.IsZero() || !u.Failed.IsZero() {
		return fleet.Upgrade{}
	}
	if (r.Phase == RolloutPaused || r.Phase == RolloutAborted) && u.Installing.IsZero() {
		return fleet.Upgrade{}
	}
	if packages := s.PackagesOf(r.Version); len(packages) > 0 {
		return fleet.Upgrade{Rollout: r.ID, Version: r.Version, Packages: packages}
	}
	return fleet.Upgrade{} // of a finished one they may have been removed
}

// restoredRollout: what happened since the snapshot is not known, so a person
// looks first.
func (s *State) restoredRollout(now time.Time, current *State) {
	if current != nil && len(current.Packages) > 0 { // their files are there
		s.Packages = maps.Clone(current.Packages)
	}
	if current != nil && len(current.ReleaseKeys) > 0 {
		s.ReleaseKeys = maps.Clone(current.ReleaseKeys)
	}
	if s.Rollout == nil {
		return
	}
	r := *s.Rollout
	if current != nil && current.Rollout != nil {
		r.Revision = max(r.Revision, current.Rollout.Revision)
	}
	r.Revision++
	if r.Phase == RolloutRunning {
		r.Phase, r.Since, r.Reason = RolloutPaused, now, "the state of the fleet was restored from a snapshot"
	}
	s.Rollout = &r
}

func (r *Rollout) audit(Result) (action, target, detail string) {
	names := make([]string, len(r.Rings))
	for i := range r.Rings {
		names[i] = r.Rings[i].Name
	}
	return "rollout.start", r.Version, "rings " + strings.Join(names, ", ")
}

func (c *SteerRollout) audit(Result) (action, target, detail string) {
	words := map[RolloutPhase]string{RolloutRunning: "resume", RolloutPaused: "pause", RolloutAborted: "abort"}
	if word := words[c.To]; word != "" {
		return "rollout." + word, string(c.ID), ""
	}
	return "rollout.steer", string(c.ID), string(c.To)
}

func (c *AdvanceRollout) audit(Result) (action, target, detail string) {
	return "rollout.advance", string(c.ID), strconv.Itoa(len(c.Agents)) + " agents"
}
