package rollout_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestParseRings(t *testing.T) {
	for text, want := range map[string]string{
		"canary=site:lab":       "canary site:lab",
		"site:lab":              "site:lab site:lab",
		"label:env=test":        "label:env=test label:env=test",
		"first=label:env=test":  "first label:env=test",
		"agent:m1,m2":           "agent:m1,m2 agent:m1,m2",
		"5%":                    "5% 5%",
		"rest":                  "rest rest",
		"all=rest":              "all rest",
		"":                      "invalid ring",
		"lab":                   "invalid ring",
		"site:":                 "invalid ring",
		"label:env":             "invalid ring",
		"agent:":                "invalid ring",
		"agent:m1,":             "invalid ring",
		"0%":                    "invalid ring",
		"101%":                  "invalid ring",
		"=rest":                 "invalid ring",
		"rest,site:lab":         "put it last",
		"50%,5%":                "write a greater one",
		"site:lab,site:lab":     "two rings are called",
		"a=site:lab,b=site:lab": "a site:lab b site:lab",
	} {
		texts := []string{text}
		if !strings.HasPrefix(text, "agent") {
			texts = strings.Split(text, ",")
		}
		var got []string
		rings, err := rollout.ParseRings(texts)
		if err != nil {
			got = []string{err.Error()}
		}
		for _, r := range rings {
			got = append(got, r.Name, rollout.Selector(r))
		}
		if g := strings.Join(got, " "); g != want && (err == nil || !strings.Contains(g, want)) {
			t.Errorf("%q: %q, want %q", text, g, want)
		}
	}
}

func TestCompare(t *testing.T) {
	ascending := []string{"", "v0.1.0~2026.gabc", "v0.1.0~rc1", "v0.1.0", "0.1.0+5.gabc1234", "v0.1.1", "0.2.0", "v0.10.0", "v1.0a", "v1.0+"}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i != j {
				want = map[bool]int{true: -1, false: 1}[i < j]
			}
			if got := rollout.Compare(a, b); got != want {
				t.Errorf("%q and %q: %d, want %d", a, b, got, want)
			}
		}
	}
}

// Whatever the fleet, a percentage is at least one agent and at most what it
// says, rounded up; and the rings divide the fleet.
func TestPercentages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "agents")
		p := rapid.IntRange(1, 99).Draw(t, "percent")
		id := fleet.RolloutID(rapid.StringMatching(`[a-z]{3}`).Draw(t, "id"))
		agents := map[fleet.AgentID]*fleet.Agent{}
		for i := range n {
			a := fleet.AgentID(fmt.Sprint("a", i))
			agents[a] = &fleet.Agent{ID: a}
		}
		rings, err := rollout.ParseRings([]string{fmt.Sprint(p, "%"), "rest"})
		if err != nil {
			t.Fatal(err)
		}
		r := &state.Rollout{ID: id, Rings: rollout.Fix(id, rings, agents)}
		first := 0
		for _, a := range agents {
			switch rollout.RingOf(r, a) {
			case 0:
				first++
			case -1:
				t.Fatalf("%s is in no ring", a.ID)
			}
		}
		if want := (n*p + 99) / 100; first != want {
			t.Fatalf("%d of %d agents are in the ring of %d%%, want %d", first, n, p, want)
		}
	})
}

// Whatever agents do, and however often leaders change: no ring opens before
// the one before it has passed, no more are in flight than may be, nobody is
// sent anything while it is paused unless it installs already, and a rollout
// that nothing holds up ends.
func TestRollouts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "agents")
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("%s-%d", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "site"), i))
		}
		atOnce := rapid.IntRange(1, 3).Draw(t, "at once")
		w := begin(t, names, func(r *state.Rollout) { r.AtOnce = atOnce }, "site:a", "50%", "rest")
		w.every = 15 * time.Second
		check := func() {
			for i, ring := range w.st.Rollout.Rings {
				if i > 0 && !ring.Opened.IsZero() && w.st.Rollout.Rings[i-1].Passed.IsZero() {
					t.Fatalf("ring %d is open, and the one before has not passed", i)
				}
			}
			for _, id := range w.wanted() {
				if w.st.Rollout.Phase == state.RolloutPaused && w.st.Upgrades[id].Installing.IsZero() {
					t.Fatalf("%s is sent an upgrade while the rollout is paused", id)
				}
			}
		}
		agent := func() fleet.AgentID { return fleet.AgentID(rapid.SampledFrom(names).Draw(t, "agent")) }
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch id := agent(); rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				if w.st.UpgradeOf(id).Rollout != "" && w.seen[id].Told {
					w.says(rapid.SampledFrom([]string{fleet.UpgradeFetching, fleet.UpgradeInstalling, fleet.UpgradeTrial, fleet.UpgradeDone, fleet.UpgradeRolledBack}).Draw(t, "state"), id)
				}
			case 1:
				w.away(id)
			case 2:
				w.must(state.Command{Reach: &state.Reach{Agent: id, Reachable: true}})
				w.says("", id)
			case 3:
				clear(w.seen) // another leader
			default:
			}
			w.look(time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second)
			check()
		}
		// All is well from now on.
		for range 4 * n {
			for _, name := range names {
				id := fleet.AgentID(name)
				w.must(state.Command{Reach: &state.Reach{Agent: id, Reachable: true}})
				if u := w.st.Upgrades[id]; w.st.UpgradeOf(id).Rollout != "" || u != nil && !u.Done.IsZero() {
					w.says(fleet.UpgradeDone, id)
				} else if u == nil || u.Failed.IsZero() {
					w.says("", id)
				}
			}
			if w.st.Rollout.Phase == state.RolloutPaused {
				w.must(state.Command{SteerRollout: &state.SteerRollout{ID: "r1", To: state.RolloutRunning}})
			}
			w.look(11 * time.Minute)
			check()
		}
		w.phase(state.RolloutFinished)
	})
}
