package rollout_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

const (
	old    = "v0.1.0"
	target = "v0.2.0"
)

// world is a fleet and its leader.
type world struct {
	t    interface{ Fatalf(string, ...any) }
	st   *state.State
	now  time.Time
	seen map[fleet.AgentID]rollout.Seen
	// every is how often the leader looks.
	every time.Duration
}

// begin has a fleet of agents "SITE-NAME" and a rollout over rings.
func begin(t interface{ Fatalf(string, ...any) }, agents []string, change func(*state.Rollout), rings ...string) *world {
	w := &world{t: t, st: state.New(), now: t0, seen: map[fleet.AgentID]rollout.Seen{}, every: time.Second}
	for _, name := range agents {
		site, _, _ := strings.Cut(name, "-")
		id := fleet.AgentID(name)
		w.st.Agents[id] = &fleet.Agent{ID: id, Site: fleet.Site(site), Labels: map[string]string{"site": site}}
		w.seen[id] = rollout.Seen{Version: old, Told: true, Able: true}
	}
	w.st.ReleaseKeys["K"] = &state.ReleaseKey{ID: "K", Key: "k"}
	w.must(state.Command{PutPackage: &state.Package{
		Package: fleet.Package{Arch: "amd64", SHA256: strings.Repeat("0a", 32), Size: 1, Signature: "s"}, Version: target, Key: "K",
	}})
	parsed, err := rollout.ParseRings(rings)
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := state.Rollout{ID: "r1", Version: target, Soak: 10 * time.Minute, Healthy: 100, AtOnce: 10}
	r.Rings = rollout.Fix(r.ID, parsed, w.st.Agents)
	if change != nil {
		change(&r)
	}
	w.must(state.Command{StartRollout: &r})
	return w
}

func (w *world) must(c state.Command) {
	c.Time = w.now
	if res := w.st.Apply(0, c); res.Kind != state.OK {
		w.t.Fatalf("%s: %s", c, res.Text)
	}
}

func (w *world) view() rollout.View { return rollout.Look(w.now, w.st, w.seen) }

// look has the leader look for so long. It begins with no more agents than may
// be in flight; more are only when some come back that were begun with.
func (w *world) look(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(w.every) {
		v := w.view()
		c := rollout.Next(v)
		if c == nil {
			continue
		}
		flight, begun := 0, 0
		for i := range v.Rings {
			flight += v.Rings[i].Count(rollout.InFlight)
		}
		for _, step := range c.Agents {
			if step.To == state.StageBegan {
				begun++
			}
		}
		if begun > 0 && flight+begun > w.st.Rollout.AtOnce {
			w.t.Fatalf("%d agents are begun with, %d are in flight", begun, flight)
		}
		w.must(state.Command{AdvanceRollout: c})
	}
}

// says is what agents tell from now on.
func (w *world) says(state string, ids ...fleet.AgentID) {
	for _, id := range ids {
		s := w.seen[id]
		s.Upgrade = fleet.UpgradeStatus{Rollout: "r1", Version: target, State: state}
		if s.Version = old; state == fleet.UpgradeTrial || state == fleet.UpgradeDone {
			s.Version = target
		}
		if state == fleet.UpgradeRolledBack {
			s.Upgrade.Text = "it did not reach the control plane"
		}
		s.Told, s.Able = true, true
		w.seen[id] = s
	}
}

func (w *world) away(ids ...fleet.AgentID) {
	for _, id := range ids {
		delete(w.seen, id)
		w.must(state.Command{Reach: &state.Reach{Agent: id}})
	}
}

// wanted are the agents that are to run the version now.
func (w *world) wanted() (ids []fleet.AgentID) {
	for _, id := range state.SortedKeys(w.st.Agents) {
		if w.st.UpgradeOf(id).Rollout != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (w *world) want(ids ...fleet.AgentID) {
	if got := w.wanted(); fmt.Sprint(got) != fmt.Sprint(ids) {
		w.t.Fatalf("after %v %v are to be upgraded, want %v; %+v", w.now.Sub(t0), got, ids, w.view())
	}
}

func (w *world) phase(want state.RolloutPhase) {
	if got := w.st.Rollout; got.Phase != want {
		w.t.Fatalf("after %v the rollout is %s (%s), want %s; %+v", w.now.Sub(t0), got.Phase, got.Reason, want, w.view().Rings)
	}
}

func (w *world) waits(ring int, text string) {
	if got := w.view().Rings[ring].Waits; !strings.Contains(got, text) || text == "" && got != "" {
		w.t.Fatalf("ring %d waits for %q, want %q", ring, got, text)
	}
}

func TestRingsOpenOneAfterTheOther(t *testing.T) {
	w := begin(t, []string{"lab-1", "lab-2", "shop-1", "shop-2"}, nil, "canary=site:lab", "rest")
	w.waits(1, "ring canary")
	w.look(3 * time.Second)
	w.want("lab-1", "lab-2")
	w.says(fleet.UpgradeFetching, "lab-1", "lab-2")
	w.look(time.Hour) // a slow link
	w.waits(0, "2 to be upgraded")
	w.says(fleet.UpgradeTrial, "lab-1")
	w.look(time.Hour)
	w.waits(0, "2 to be upgraded")
	tried := w.seen["lab-1"]
	tried.Upgrade.Rollout = "" // a trial is one, whoever began it
	w.seen["lab-1"] = tried
	w.look(time.Hour)
	w.waits(0, "2 to be upgraded")
	w.says(fleet.UpgradeDone, "lab-1", "lab-2")
	w.look(9 * time.Minute)
	w.waits(0, "2 to run it for 10m0s")
	w.want()
	w.look(2 * time.Minute)
	w.waits(0, "")
	w.want("shop-1", "shop-2")
	w.says(fleet.UpgradeDone, "shop-1", "shop-2")
	w.look(11 * time.Minute)
	w.phase(state.RolloutFinished)
	w.want()
}

func TestFailurePauses(t *testing.T) {
	for _, state0 := range []string{fleet.UpgradeRolledBack, fleet.UpgradeRefused} {
		w := begin(t, []string{"lab-1", "shop-1"}, nil, "site:lab", "rest")
		w.look(3 * time.Second)
		w.says(state0, "lab-1")
		w.look(time.Hour)
		w.phase(state.RolloutPaused)
		w.want()
		if got := w.st.Rollout.Reason; !strings.HasPrefix(got, "ring site:lab: lab-1: "+state0) {
			t.Errorf("the reason is %q", got)
		}
		// Resumed all the same, the ring has nothing left to wait for.
		w.must(state.Command{SteerRollout: &state.SteerRollout{ID: "r1", To: state.RolloutRunning}})
		w.look(5 * time.Second)
		w.phase(state.RolloutRunning)
		w.want("shop-1")
	}
}

func TestFailuresAreToleratedUpToABound(t *testing.T) {
	agents := []string{"a-1", "a-2", "a-3", "a-4"}
	w := begin(t, agents, func(r *state.Rollout) { r.MaxFailures = 1 }, "rest")
	w.look(3 * time.Second)
	w.says(fleet.UpgradeRolledBack, "a-1")
	w.look(time.Minute)
	w.phase(state.RolloutRunning)
	w.says(fleet.UpgradeDone, "a-2", "a-3")
	w.says(fleet.UpgradeRolledBack, "a-4")
	w.look(time.Minute)
	w.phase(state.RolloutPaused)
	if got := w.st.Rollout.Reason; !strings.HasSuffix(got, "(and 1 more)") {
		t.Errorf("the reason is %q", got)
	}
}

func TestOfflineAgentsDoNotHoldUpARing(t *testing.T) {
	w := begin(t, []string{"lab-1", "lab-2", "shop-1"}, nil, "site:lab", "rest")
	w.away("lab-2")
	w.look(3 * time.Second)
	w.want("lab-1")
	w.says(fleet.UpgradeDone, "lab-1")
	w.look(11 * time.Minute)
	w.want("shop-1")
	w.says(fleet.UpgradeDone, "shop-1")
	w.look(11 * time.Minute)
	w.phase(state.RolloutFinished)
	// It comes back, and has its turn.
	w.must(state.Command{Reach: &state.Reach{Agent: "lab-2", Reachable: true}})
	w.says("", "lab-2")
	w.look(3 * time.Second)
	w.want("lab-2")
}

// Nothing is known of a canary that is away, so nothing follows from it.
func TestARingOfOfflineAgentsIsNoTest(t *testing.T) {
	w := begin(t, []string{"lab-1", "shop-1"}, nil, "site:lab", "rest")
	w.away("lab-1")
	w.look(time.Hour)
	w.want()
	w.waits(0, "none of the 1")
}

// A leader that was just elected knows nobody, and takes nobody for away.
func TestANewLeaderWaitsForItsAgents(t *testing.T) {
	w := begin(t, []string{"lab-1", "lab-2", "shop-1"}, nil, "site:lab", "rest")
	w.look(3 * time.Second)
	w.says(fleet.UpgradeDone, "lab-1")
	w.look(9 * time.Minute)
	known := maps.Clone(w.seen)
	clear(w.seen)
	w.look(2 * time.Minute)
	w.waits(0, "to be heard of")
	for id, s := range known { // connected, and without a word yet
		w.seen[id] = rollout.Seen{Version: s.Version}
	}
	w.look(2 * time.Minute)
	w.waits(0, "to be heard of")
	w.seen = known
	w.says(fleet.UpgradeDone, "lab-2")
	w.look(11 * time.Minute)
	w.want("shop-1")
}

func TestLostInTheMiddle(t *testing.T) {
	for name, told := range map[string]string{"installing": fleet.UpgradeInstalling, "in its soak": fleet.UpgradeDone} {
		t.Run(name, func(t *testing.T) {
			w := begin(t, []string{"lab-1", "shop-1"}, nil, "site:lab", "rest")
			w.look(3 * time.Second)
			w.says(told, "lab-1")
			w.look(8 * time.Minute)
			w.away("lab-1")
			w.look(rollout.LostAfter - time.Second)
			w.phase(state.RolloutRunning)
			w.look(2 * time.Second)
			w.phase(state.RolloutPaused)
			if !strings.Contains(w.st.Rollout.Reason, "lab-1: lost") {
				t.Errorf("the reason is %q", w.st.Rollout.Reason)
			}
			// It was not lost after all.
			w.must(state.Command{Reach: &state.Reach{Agent: "lab-1", Reachable: true}})
			w.says(fleet.UpgradeDone, "lab-1")
			w.look(time.Minute)
			if v := w.view(); v.Failures != 0 {
				t.Errorf("%d failures are left", v.Failures)
			}
		})
	}
	// Who only fetched when the link broke has lost nothing.
	w := begin(t, []string{"lab-1", "lab-2"}, nil, "rest")
	w.look(3 * time.Second)
	w.says(fleet.UpgradeFetching, "lab-1")
	w.says(fleet.UpgradeDone, "lab-2")
	w.away("lab-1")
	w.look(time.Hour)
	w.phase(state.RolloutFinished)
	w.want("lab-1")
}

func TestAtOnce(t *testing.T) {
	w := begin(t, []string{"a-1", "a-2", "a-3", "a-4", "a-5"}, func(r *state.Rollout) { r.AtOnce = 2 }, "rest")
	w.look(time.Minute)
	w.want("a-1", "a-2")
	w.says(fleet.UpgradeTrial, "a-1")
	w.look(time.Minute)
	w.want("a-1", "a-2")
	w.says(fleet.UpgradeDone, "a-1")
	w.look(time.Minute)
	w.want("a-2", "a-3")
}

func TestHealthyPercent(t *testing.T) {
	w := begin(t, []string{"a-1", "a-2", "a-3", "a-4", "b-1"}, func(r *state.Rollout) { r.Healthy = 75 }, "site:a", "rest")
	w.look(3 * time.Second)
	w.says(fleet.UpgradeDone, "a-1", "a-2")
	w.says(fleet.UpgradeFetching, "a-3", "a-4")
	w.look(11 * time.Minute)
	w.want("a-3", "a-4")
	w.says(fleet.UpgradeDone, "a-3")
	w.look(11 * time.Minute)
	w.want("a-4", "b-1")
}

func TestPauseAndAbort(t *testing.T) {
	steer := func(w *world, to state.RolloutPhase) {
		w.must(state.Command{SteerRollout: &state.SteerRollout{ID: "r1", To: to}})
	}
	w := begin(t, []string{"a-1", "a-2", "a-3"}, func(r *state.Rollout) { r.AtOnce = 2 }, "rest")
	w.look(3 * time.Second)
	w.says(fleet.UpgradeInstalling, "a-1")
	w.says(fleet.UpgradeFetching, "a-2")
	w.look(3 * time.Second)
	steer(w, state.RolloutPaused)
	w.look(time.Minute)
	w.want("a-1") // it cannot be taken back
	w.waits(0, "the rollout is paused")
	steer(w, state.RolloutRunning)
	w.look(time.Minute)
	w.want("a-1", "a-2")
	steer(w, state.RolloutAborted)
	w.says(fleet.UpgradeDone, "a-1")
	w.look(time.Minute)
	w.want()
	if w.st.Upgrades["a-1"].Done.IsZero() {
		t.Error("how it ended is not recorded")
	}
	c := state.Command{Time: w.now, SteerRollout: &state.SteerRollout{ID: "r1", To: state.RolloutRunning}}
	if res := w.st.Apply(0, c); res.Kind != state.Conflict {
		t.Errorf("an aborted rollout is resumed: %+v", res)
	}
}

func TestNewerAndOlderAgents(t *testing.T) {
	w := begin(t, []string{"a-new", "a-old", "a-same"}, nil, "rest")
	w.seen["a-new"] = rollout.Seen{Version: "v0.3.0", Told: true, Able: true}
	w.seen["a-old"] = rollout.Seen{Version: "v0.0.9", Told: true}
	w.seen["a-same"] = rollout.Seen{Version: target, Told: true, Able: true}
	w.look(11 * time.Minute)
	w.want()
	w.phase(state.RolloutFinished)
	v := w.view().Rings[0]
	if v.Count(rollout.Newer) != 1 || v.Count(rollout.Old) != 1 || v.Count(rollout.Healthy) != 1 {
		t.Errorf("%+v", v.Agents)
	}
	w = begin(t, []string{"a-new"}, func(r *state.Rollout) { r.Downgrade = true }, "rest")
	w.seen["a-new"] = rollout.Seen{Version: "v0.3.0", Told: true, Able: true}
	w.look(time.Minute)
	w.want("a-new")
	// Once it is over, who is newer has been brought there by somebody.
	w.says(fleet.UpgradeDone, "a-new")
	w.look(11 * time.Minute)
	w.phase(state.RolloutFinished)
	w.st.Agents["a-later"] = &fleet.Agent{ID: "a-later"}
	w.seen["a-later"] = rollout.Seen{Version: "v0.3.0", Told: true, Able: true}
	w.look(time.Minute)
	w.want()
}

// An agent that runs the version, and then the old one again, has failed:
// somebody has taken it back, or its machine has.
func TestBackAtTheOldVersion(t *testing.T) {
	w := begin(t, []string{"lab-1", "shop-1"}, nil, "site:lab", "rest")
	w.look(3 * time.Second)
	w.says(fleet.UpgradeDone, "lab-1")
	w.look(5 * time.Minute)
	w.seen["lab-1"] = rollout.Seen{Version: old, Told: true, Able: true}
	w.look(time.Minute)
	w.phase(state.RolloutPaused)
	if got := w.st.Rollout.Reason; got != "ring site:lab: lab-1: it runs v0.1.0 again" {
		t.Errorf("the reason is %q", got)
	}
}
