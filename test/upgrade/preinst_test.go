package upgrade

import (
	"os"
	"strings"
	"testing"
)

// preinst runs the script that keeps a pair before an upgrade.
func (h *host) preinst(t *testing.T, at dieAt) (said string, killed bool) {
	t.Helper()
	h.put(t, "preinst", []byte(script(t, "scripts/tender-agent.preinst", h.dir)), 0o755)
	_, said, killed = h.exec(t, at, h.path("preinst"), "upgrade", "1.2.2-1", "1.2.3-1")
	return said, killed
}

// kept is the pair that the launcher goes back to when what is installed is
// spoilt, "" if there is none.
func (h *host) kept(t *testing.T) string {
	t.Helper()
	agent := []byte(h.read(agentFile))
	h.put(t, agentFile, []byte("spoilt"), 0o755)
	which, _ := h.start(t, "halt")
	h.put(t, agentFile, agent, 0o755)
	name, ok := strings.CutPrefix(which, "previous ")
	if !ok {
		return ""
	}
	return name
}

// The power goes at each step before an upgrade: the pair that can be gone back
// to is the one before or the one that was good, each of them whole, and the
// agent that was there runs. Done again, the good one is kept.
func TestPowerLossAtEachStepBeforeAnUpgrade(t *testing.T) {
	for _, tc := range []struct {
		name     string
		previous string // what is kept already, "" is nothing
		good     string
		launcher bool // the version before has one
		want     string
	}{
		{"what is good is kept", "zero", "one", true, "one"},
		{"the first that is kept", "", "one", true, "one"},
		{"what has not passed is not kept", "zero", "zero", true, "zero"},
		{"nothing has passed yet", "", "", true, ""},
		{"the same again", "one", "one", true, "one"},
		{"from a version without a launcher", "", "", false, "one"},
		{"half upgraded from a version without a launcher", "zero", "", false, "zero"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			steps := 0
			for at := dieAt(1); ; at++ {
				h := newHost(t)
				h.install(t, "one")
				if tc.previous != "" {
					h.keepByPreinst(t, tc.previous)
				}
				if tc.good != "" {
					h.state(t, "good", digest(t, tc.good)+"\n")
				}
				if !tc.launcher {
					if err := os.Remove(h.path(launcherFile)); err != nil {
						t.Fatal(err)
					}
				}
				said, killed := h.preinst(t, at)
				if !killed && said != "" {
					t.Fatal(said)
				}
				if _, err := os.Stat(h.path(launcherFile)); err == nil {
					if which, _ := h.start(t, "run"); which != "installed one" {
						t.Fatalf("killed at step %d: %s runs", at, which)
					}
				} else if tc.launcher || !killed {
					t.Fatalf("killed at step %d: %v", at, err)
				}
				there := h.read(launcherFile)
				h.launcher(t) // the new package's, in any case
				if got := h.kept(t); got != tc.previous && got != tc.want {
					t.Fatalf("killed at step %d: %q is kept, want %q or %q", at, got, tc.previous, tc.want)
				}
				if h.put(t, launcherFile, []byte(there), 0o755); there == "" {
					_ = os.Remove(h.path(launcherFile))
				}
				if said, _ := h.preinst(t, 0); said != "" {
					t.Fatal(said)
				}
				h.launcher(t)
				if got := h.kept(t); got != tc.want {
					t.Fatalf("killed at step %d and done again: %q is kept, want %q", at, got, tc.want)
				}
				if !killed {
					break
				}
				steps++
			}
			if steps < 3 {
				t.Errorf("only %d steps were cut", steps)
			}
			t.Logf("cut at each of %d steps", steps)
		})
	}
}

// A machine that has no room for both is not upgraded, and nothing has changed.
func TestNoRoomForThePairThatWorks(t *testing.T) {
	h := newHost(t)
	h.install(t, "one")
	h.keepByPreinst(t, "zero")
	h.state(t, "good", digest(t, "one")+"\n")
	h.preset["cp"] = "exit 1"
	h.shims(t)
	if said, _ := h.preinst(t, 0); !strings.Contains(said, "is there room for it?") || !strings.Contains(said, "exit status 1") {
		t.Errorf("the preinst says %q", said)
	}
	if got := h.kept(t); got != "zero" {
		t.Errorf("%q is kept", got)
	}
	if which, mode := h.start(t, "run"); which != "installed one" || mode != "good" {
		t.Errorf("%s runs, %s", which, mode)
	}
}

// A line of upgrades: at each point the one that is kept is the last that has
// passed.
func TestALineOfUpgrades(t *testing.T) {
	h := newHost(t)
	h.install(t, "v1")
	upgrade := func(to string) {
		t.Helper()
		if said, _ := h.preinst(t, 0); said != "" {
			t.Fatal(said)
		}
		h.install(t, to)
	}
	fails := func() (which string) {
		t.Helper()
		for range 4 {
			which, _ = h.start(t, "run")
		}
		return which
	}
	passes := func(v string) { h.state(t, "good", digest(t, v)+"\n") }
	passes("v1")
	upgrade("v2")
	if which := fails(); which != "previous v1" {
		t.Fatalf("v2 fails: %s runs", which)
	}
	upgrade("v3") // v2 is no version to go back to
	if which := fails(); which != "previous v1" {
		t.Fatalf("v3 fails: %s runs", which)
	}
	upgrade("v4")
	passes("v4")
	upgrade("v1") // a downgrade
	if which := fails(); which != "previous v4" {
		t.Fatalf("the downgrade fails: %s runs", which)
	}
	upgrade("v4") // and back
	if which, mode := h.start(t, "run"); which != "installed v4" || mode != "good" {
		t.Fatalf("%s runs, %s", which, mode)
	}
}
