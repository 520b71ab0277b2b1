package net_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

func TestClocksAndAuthorities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lone := harness.NewRuntime(t)
	w.play(t, []scenario{
		{"27 an agent's clock is 26 years behind, then 14 ahead: it joins, works, tells true times, and is shown", w.wrongClock(lone)},
		{"28 the root is replaced: sessions and tasks go on, who was away for all of it comes back by itself", w.newRoot},
	})
}

const year = 365 * 24 * time.Hour

// wrongClock has an agent on a machine that has no battery, and whose clock is
// then set by hand, wrongly, and in the end rightly.
func (w *world) wrongClock(rt *harness.Runtime) func(*testing.T) {
	return func(t *testing.T) {
		a := w.Join(t, harness.AgentOptions{Node: "a1", Runtime: rt, Clock: -26 * year})
		if want := "this machine's clock is 26 years behind"; !strings.Contains(a.Told, want) || !strings.Contains(a.Told, "timedatectl set-ntp true") {
			t.Errorf("joining said %q", a.Told)
		}
		stays := ""
		for _, c := range []struct {
			ahead time.Duration
			note  string
		}{{-26 * year, "behind"}, {14 * year, "ahead"}, {0, ""}} {
			a.SetClock(c.ahead)
			a.Start(t)
			doc := a.Await(t, "it is connected, and its clock is known to be off", func(d client.Agent) bool {
				off := time.Duration(d.ClockOff) + c.ahead
				return d.State == client.AgentConnected && d.Total.CPUs != "0" && off > -time.Minute && off < time.Minute
			})
			if d := time.Since(doc.LastSeen); d < -time.Minute || d > time.Minute {
				t.Errorf("%v ahead: last seen at %v", c.ahead, doc.LastSeen)
			}
			began := time.Now()
			task := w.End(t, w.Submit(t, client.Submit{Command: []string{"true"}, Agent: a.ID}))
			if task.State != "TASK_FINISHED" {
				t.Error(harness.Tell(task))
			}
			for _, h := range task.History {
				if h.Time.Before(began.Add(-2*time.Second)) || h.Time.After(time.Now().Add(2*time.Second)) {
					t.Errorf("%v ahead: %s at %v, which it was not", c.ahead, h.State, h.Time)
				}
			}
			if stays == "" {
				stays, _ = w.run(t, a)
			}
			_, notes, code := w.tender(t, "agents")
			if want := a.ID + ": its machine's clock is "; code != 0 || strings.Contains(notes, want) != (c.note != "") || !strings.Contains(notes, c.note) {
				t.Errorf("%v ahead: tender agents says %q", c.ahead, notes)
			}
			a.Process().Kill(t)
		}
		a.Start(t)
		a.Connected(t)
		end(t, a, stays)
		w.once(t, a, stays)
		harness.Eventually(t, "its containers are removed", func() bool {
			left, err := rt.Containers(t.Context())
			return err == nil && len(left) == 0
		})
		a.Process().Stop(t)
		_, err := w.RevokeAgent(t.Context(), a.ID)
		must(t, err)
	}
}

// tender runs the command at the leader.
func (w *world) tender(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return harness.Run(t, "", harness.Program("tender"), append([]string{"--socket", w.Leader(t).Socket}, args...)...)
}

// authorities is what `tender ca show` tells.
func (w *world) authorities(t *testing.T) (ca client.CA) {
	t.Helper()
	out, text, code := w.tender(t, "ca", "show", "-o", "json")
	if code != 0 {
		t.Fatal(text)
	}
	must(t, json.Unmarshal([]byte(out), &ca))
	return ca
}

func (w *world) newRoot(t *testing.T) {
	here, away := w.agents[0], w.agents[1]
	session := here.Connected(t)
	away.Process().Stop(t)
	old := w.authorities(t)
	line := w.Token(t, client.CreateToken{})
	if out, text, code := w.tender(t, "ca", "rotate", "--yes"); code != 0 {
		t.Fatal(out, text)
	}
	began := time.Now()
	var now client.CA
	for done := false; !done; pass(t, 500*time.Millisecond) {
		// Agents take up to a minute, not to come all at once.
		if now = w.authorities(t); time.Since(began) > 3*time.Minute {
			t.Fatalf("after 3 minutes: %+v", now.Rotation)
		}
		r := now.Rotation
		done = r != nil && r.Phase == "renewing" && len(r.Agents)+len(r.Replicas)+len(r.Silent) == 0
	}
	t.Logf("all but who is away have renewed after %.0f s", time.Since(began).Seconds())
	if !slices.Equal(now.Rotation.Away, []string{away.ID}) {
		t.Errorf("away with the old root are %v", now.Rotation.Away)
	}
	if _, text, code := w.tender(t, "ca", "rotate", "--finish", "--yes"); code == 0 || !strings.Contains(text, "agent "+away.ID) || !strings.Contains(text, "--force") {
		t.Errorf("finished without who is away: %q", text)
	}
	if _, text, code := w.tender(t, "ca", "rotate", "--finish", "--force", "--yes"); code != 0 {
		t.Fatal(text)
	}
	now = w.authorities(t)
	if len(now.Roots) != 1 || now.Roots[0].Pin == old.Roots[0].Pin || now.Rotation.Phase != "finished" {
		t.Errorf("trusted are %+v, the rotation is %s", now.Roots, now.Rotation.Phase)
	}
	for _, i := range now.Issuers {
		if i.Root != now.Roots[0].Pin {
			t.Errorf("%s issues below %q", i.Replica, i.Root)
		}
	}
	for _, r := range w.Replicas {
		c := w.ClientOf(t, r)
		harness.Eventually(t, r.ID+" takes no certificate of the old root, an operator's neither", func() bool {
			_, err := c.Agents(t.Context())
			return err != nil
		})
	}
	w.Login(t)
	if doc := here.Connected(t); doc.Since != session.Since || doc.Remote != session.Remote {
		t.Errorf("the session was from %s since %v and is from %s since %v", session.Remote, session.Since, doc.Remote, doc.Since)
	}
	late := filepath.Join(t.TempDir(), "late")
	argv := w.bed.Argv("a1", harness.Program("tender-agent"), "join", "--state", late, "--timeout", "5s", "-")
	if _, text, code := harness.Run(t, line, argv[0], argv[1:]...); code == 0 || !strings.Contains(text, "join line") {
		t.Errorf("a join line of the old root: %d %q", code, text)
	}

	away.Start(t)
	began = time.Now()
	away.Connected(t)
	t.Logf("who was away is back after %.1f s", time.Since(began).Seconds())
	for _, a := range w.agents { // who was away has proved its key
		harness.Eventually(t, a.ID+" trusts the new root alone and is certified under it", func() bool {
			cred, err := pki.LoadDir(filepath.Join(a.State, "pki"))
			return err == nil && slices.Equal(cred.Bundle.Pins(), []string{now.Roots[0].Pin}) && cred.Verify(time.Now()) == nil
		})
	}
	fresh := w.spare(t, 1)[0]
	fresh.Process().Stop(t)
	_, err := w.RevokeAgent(t.Context(), fresh.ID)
	must(t, err)
}
