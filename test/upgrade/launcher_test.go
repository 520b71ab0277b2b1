package upgrade

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever the files say, and whatever is installed, a program runs that works
// if there is one.
func TestWhichAgentRuns(t *testing.T) {
	old, next := digest(t, "old"), digest(t, "new")
	garbage := bytes.Repeat([]byte{0x80, 'x', 0, '\n', 0xff}, 4000)
	for _, tc := range []struct {
		name                      string
		installed, previous       string // "" is none
		agent                     []byte // replaces the installed agent
		spoil                     func(t *testing.T, h *host)
		good, trial, rollback     string
		arg                       string
		which, mode, tries, given string // given: what is written down of a rollback
	}{
		{name: "first installation", installed: "new", which: "installed new", mode: "alone"},
		{name: "first upgrade", installed: "new", previous: "old", which: "installed new", mode: "trial", tries: "1"},
		{name: "good", installed: "new", previous: "old", good: next, which: "installed new", mode: "good"},
		{name: "passed, and then the power went", installed: "new", previous: "old", good: next, trial: next + " 3", rollback: next + "\nv1\nx\n", which: "installed new", mode: "good", tries: "3", given: next + "\nv1\nx\n"},
		{name: "a retry, and then the power went", installed: "new", previous: "old", good: old, rollback: next + "\nv1\nx\n", which: "installed new", mode: "trial", tries: "1", given: next + "\nv1\nx\n"},
		{name: "upgrade", installed: "new", previous: "old", good: old, which: "installed new", mode: "trial", tries: "1"},
		{name: "third try", installed: "new", previous: "old", good: old, trial: next + " 2", which: "installed new", mode: "trial", tries: "3"},
		{
			name: "fourth try", installed: "new", previous: "old", good: old, trial: next + " 3", which: "previous old", mode: "rollback", tries: "3",
			given: next + "\nv1.2.3\nit ended or hung 3 times before it had passed its health gate\n",
		},
		{name: "rolled back", installed: "new", previous: "old", good: old, trial: next + " 3", rollback: next + "\nv1\nx\n", which: "previous old", mode: "rollback", tries: "3", given: next + "\nv1\nx\n"},
		{name: "another version after a rollback", installed: "third", previous: "old", good: old, trial: next + " 3", rollback: next + "\nv1\nx\n", which: "installed third", mode: "trial", tries: "1", given: next + "\nv1\nx\n"},
		{name: "the old one again", installed: "old", previous: "old", good: old, trial: next + " 3", which: "installed old", mode: "good", tries: "3"},
		{
			name: "no program", installed: "new", previous: "old", agent: garbage, good: old, which: "previous old", mode: "rollback",
			given: "*\nv1.2.3\nit is no program for this machine\n",
		},
		{name: "an empty file", installed: "new", previous: "old", agent: []byte{}, good: old, which: "previous old", mode: "rollback", given: "*\nv1.2.3\nit is no program for this machine\n"},
		{name: "a program that is not there", installed: "", previous: "old", good: old, which: "previous old", mode: "rollback", given: "unreadable\nv1.2.3\nit is no program for this machine\n"},
		{name: "good, it says, and it is not there", installed: "", previous: "old", good: "unreadable", which: "previous old", mode: "rollback", given: "unreadable\nv1.2.3\nit is no program for this machine\n"},
		{name: "no program, and no other", installed: "new", agent: garbage, which: "none"},
		{name: "nothing is there", which: "none"},
		{name: "garbage in all files", installed: "new", previous: "old", good: string(garbage), trial: string(garbage), rollback: string(garbage), which: "installed new", mode: "trial", tries: "1", given: string(garbage)},
		{name: "files that are empty", installed: "new", previous: "old", good: "\n", trial: "\n", rollback: "\n", which: "installed new", mode: "trial", tries: "1", given: "\n"},
		{name: "files that are cut off", installed: "new", previous: "old", good: next[:30], trial: next, which: "installed new", mode: "trial", tries: "1"},
		{name: "a count of rubbish", installed: "new", previous: "old", good: old, trial: next + " 10", which: "installed new", mode: "trial", tries: "1"},
		{name: "a count of words", installed: "new", previous: "old", good: old, trial: next + " $(reboot)", which: "installed new", mode: "trial", tries: "1"},
		{name: "directories instead of files", installed: "new", previous: "old", spoil: func(t *testing.T, h *host) {
			for _, f := range []string{"good", "rollback"} {
				if err := os.MkdirAll(h.path(filepath.Join(startDir, f)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}, which: "installed new", mode: "trial", tries: "1"},
		{name: "no room for a try", installed: "new", previous: "old", good: old, spoil: full, which: "previous old", mode: "held"},
		{name: "no room, and it is good", installed: "new", previous: "old", good: next, spoil: full, which: "installed new", mode: "good"},
		{name: "no room, and no other", installed: "new", spoil: full, which: "installed new", mode: "alone"},
		{name: "no room for the rollback", installed: "new", previous: "old", good: old, trial: next + " 3", spoil: full, which: "previous old", mode: "rollback", tries: "3"},
		{name: "a previous pair that was cut off", installed: "new", previous: "old", good: old, spoil: func(t *testing.T, h *host) {
			h.put(t, previousDir+"/tender-log", fake(t, "old")[:5000], 0o755)
		}, which: "installed new", mode: "alone"},
		{name: "a previous pair without a digest", installed: "new", previous: "old", good: old, spoil: func(t *testing.T, h *host) {
			h.put(t, previousDir+"/digest", nil, 0o644)
		}, which: "installed new", mode: "alone"},
		{name: "another unit, good", installed: "new", previous: "old", good: next, arg: "halt", which: "installed new"},
		{name: "another unit, on trial", installed: "new", previous: "old", good: old, arg: "halt", which: "previous old"},
		{name: "another unit, rolled back", installed: "new", previous: "old", good: old, trial: next + " 3", arg: "halt", which: "previous old", tries: "3"},
		{name: "another unit, nothing known", installed: "new", arg: "halt", which: "installed new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			if tc.installed != "" {
				h.install(t, tc.installed)
			}
			if tc.agent != nil {
				h.put(t, agentFile, tc.agent, 0o755)
			}
			if tc.previous != "" {
				h.keep(t, tc.previous)
			}
			for name, text := range map[string]string{"good": tc.good, "trial": tc.trial, "rollback": tc.rollback} {
				if text != "" {
					h.state(t, name, text)
				}
			}
			if tc.spoil != nil {
				tc.spoil(t, h)
			}
			arg := "run"
			if tc.arg != "" {
				arg = tc.arg
			}
			which, mode := h.start(t, arg)
			if got, _, _ := strings.Cut(which, ":"); got != tc.which || mode != tc.mode {
				t.Errorf("runs %s, mode %q; want %s, mode %q", which, mode, tc.which, tc.mode)
			}
			trial := h.read(startDir + "/trial")
			if got := strings.TrimPrefix(strings.TrimSpace(trial), digest(t, "third")+" "); tc.tries != "" && strings.TrimPrefix(got, next+" ") != tc.tries {
				t.Errorf("trial is %q, want %s tries", trial, tc.tries)
			} else if tc.tries == "" && trial != "" {
				t.Errorf("trial is %q, want none", trial)
			}
			given := h.read(startDir + "/rollback")
			if _, rest, _ := strings.Cut(given, "\n"); given != tc.given && "*\n"+rest != tc.given {
				t.Errorf("of the rollback is written down %q, want %q", given, tc.given)
			}
		})
	}
}

// full makes the disk one that nothing can be written to.
func full(t *testing.T, h *host) {
	t.Helper()
	h.preset["sync"] = "exit 1"
	h.shims(t)
}

// What the agent has said is the reason, when it was that agent.
func TestReasonOfARollback(t *testing.T) {
	for said, want := range map[string]string{
		digest(t, "new") + " replicas answer":   "replicas answer",
		digest(t, "other") + " replicas answer": "it ended or hung 3 times before it had passed its health gate",
	} {
		h := newHost(t)
		h.install(t, "new")
		h.keep(t, "old")
		h.state(t, "trial", digest(t, "new")+" 3\n")
		h.state(t, "why", said+"\n")
		h.start(t, "run")
		if got := h.read(startDir + "/rollback"); got != digest(t, "new")+"\nv1.2.3\n"+want+"\n" {
			t.Errorf("after %q: %q", said, got)
		}
	}
}

// The power goes at each step of a start. Some agent always runs at the next one,
// and what never passes is given up after three tries, however it was counted.
func TestPowerLossAtEachStepOfAStart(t *testing.T) {
	for _, tc := range []struct {
		name, good, tries string
		ends              string
		most              int // starts of what never passes, afterwards
	}{
		{"on trial", "old", "0", "previous old", 3},
		{"at the last try", "old", "2", "previous old", 1},
		{"to be rolled back", "old", "3", "previous old", 0},
		{"good is rubbish", "rubbish", "1", "previous old", 2},
		{"good", "new", "0", "installed new", 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			steps := 0
			for at := dieAt(1); ; at++ {
				h := newHost(t)
				h.install(t, "new")
				h.keep(t, "old")
				h.state(t, "good", digest(t, tc.good)+"\n")
				h.state(t, "trial", digest(t, "new")+" "+tc.tries+"\n")
				_, said, killed := h.exec(t, at, h.path(launcherFile), "run")
				if !killed && said != "" && strings.Contains(said, "not found") {
					t.Fatal(said)
				}
				// It ends, and is started again, and again.
				var ran []string
				for range 5 {
					which, _ := h.start(t, "run")
					ran = append(ran, which)
					if which == "previous old" {
						break
					}
				}
				last := ran[len(ran)-1]
				if last != tc.ends || len(ran)-1 > tc.most {
					t.Fatalf("killed at step %d, then %q: want %s after %d starts at most", at, ran, tc.ends, tc.most)
				}
				for _, which := range ran[:len(ran)-1] {
					if which != "installed new" {
						t.Fatalf("killed at step %d: %q", at, ran)
					}
				}
				if again, _ := h.start(t, "run"); again != last {
					t.Fatalf("killed at step %d: after %q runs %s", at, ran, again)
				}
				if !killed {
					break
				}
				steps++
			}
			if steps < 3 {
				t.Fatalf("only %d steps were cut", steps)
			}
			t.Logf("cut at each of %d steps", steps)
		})
	}
}
