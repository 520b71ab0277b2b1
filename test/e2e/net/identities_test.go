package net_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// certLife is how long agents' certificates hold here.
const certLife = 15 * time.Second

func TestIdentitiesFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--agent-cert-life", certLife.String())
	w.play(t, []scenario{
		{"28 a machine was off until its certificate had ended: it heals itself, its tasks run on", w.lapsed},
		{"28 agents are revoked: their sessions end within 1 s on every replica, and they cannot come back", w.revoked},
		{"29 a disk is copied: the copy is refused and shown, the agent keeps its session", w.copied},
	})
}

func (w *world) lapsed(t *testing.T) {
	a := w.agents[0]
	id, pid := w.run(t, a)
	doc := a.Connected(t)
	a.Process().Kill(t)
	pass(t, time.Until(doc.CertNotAfter)+2*time.Second)
	a.Start(t)
	began := time.Now()
	healed := a.Await(t, "it has healed", func(d client.Agent) bool {
		return d.State == client.AgentConnected && d.CertNotAfter.After(time.Now())
	})
	t.Logf("back with a new certificate after %.2f s", time.Since(began).Seconds())
	if healed.Healed.IsZero() || healed.ID != doc.ID {
		t.Errorf("it is %+v", healed)
	}
	if now := a.Runtime.PID(t, id); now != pid {
		t.Errorf("the task was process %d and is %d", pid, now)
	}
	end(t, a, id)
	w.once(t, a, id)
}

// spare are agents that run nothing.
func (w *world) spare(t *testing.T, n int) (agents []*harness.Agent) {
	t.Helper()
	for range n {
		a := w.Join(t, harness.AgentOptions{Node: "a1"})
		a.Start(t)
		agents = append(agents, a)
	}
	for _, a := range agents {
		a.Connected(t)
	}
	return agents
}

func (w *world) revoked(t *testing.T) {
	agents := w.spare(t, 6)
	at := map[string]int{}
	for _, a := range agents {
		at[a.Connected(t).Replica]++
	}
	if len(at) != len(w.Replicas) {
		t.Fatalf("the sessions are at %v: a replica without one proves nothing", at)
	}
	for _, a := range agents {
		doc, err := w.RevokeAgent(t.Context(), a.ID)
		must(t, err)
		began := time.Now()
		a.Process().Says(t, "identity was revoked")
		took := time.Since(began)
		t.Logf("%s was told after %.2f s", a.ID, took.Seconds())
		if took > time.Second || doc.State != client.AgentRevoked {
			t.Errorf("%s is %s and was told after %v", a.ID, doc.State, took)
		}
	}
	for _, a := range agents {
		a.Process().Kill(t)
		a.Start(t)
		a.Process().Says(t, `msg="no session"`)
		if strings.Contains(a.Process().Log(), "msg=connected") {
			t.Errorf("%s was let in again", a.ID)
		}
		a.Process().Stop(t)
	}
}

// copied starts the copy of an agent's disk on what takes itself for another
// machine: it has a boot id of its own.
func (w *world) copied(t *testing.T) {
	a := w.spare(t, 1)[0]
	copied := filepath.Join(filepath.Dir(a.State), "copy")
	if _, text, code := harness.Run(t, "", "cp", "-a", a.State, copied); code != 0 {
		t.Fatal(text)
	}
	boot := filepath.Join(filepath.Dir(a.State), "boot")
	must(t, os.WriteFile(boot, []byte("11111111-2222-4333-8444-555555555555\n"), 0o600))
	before := a.Connected(t)
	script := fmt.Sprintf("mount --bind %s /proc/sys/kernel/random/boot_id && exec %s run --state %s --containerd %s/none",
		boot, harness.Program("tender-agent"), copied, copied)
	argv := w.bed.Argv("a2", "unshare", "--mount", "sh", "-c", script)
	c := harness.Spawn(t, "copy", argv[0], argv[1:]...)
	noted := a.Await(t, "the copy is noticed", func(d client.Agent) bool { return d.Cloned != nil })
	if noted.Cloned.Text == "" || !strings.HasPrefix(noted.Cloned.Addr, w.bed.Addr("r2").String()) {
		t.Errorf("it is noted that %+v", *noted.Cloned)
	}
	c.Says(t, "is a copy of another's")
	for range 50 {
		now := a.Connected(t)
		if now.Since != before.Since || now.Remote != before.Remote {
			t.Fatalf("the session was from %s since %v and is from %s since %v", before.Remote, before.Since, now.Remote, now.Since)
		}
		pass(t, 100*time.Millisecond)
	}
	c.Stop(t)
	a.Process().Stop(t)
	_, err := w.RevokeAgent(t.Context(), a.ID)
	must(t, err)
}
