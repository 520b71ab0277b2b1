package packages

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// What takes minutes on a machine takes seconds here: how often the agent is
// started anew, how long it may take to get ready, and how long its gate looks.
const hasty = `mkdir -p /etc/systemd/system/tender-agent.service.d /etc/tender/agent.conf.d
printf '[Service]\nRestartSec=100ms\nTimeoutStartSec=2s\n' >/etc/systemd/system/tender-agent.service.d/hasty.conf
printf 'gate-steady: 1s\ngate-patience: 3s\n' >/etc/tender/agent.conf.d/hasty.yaml
systemctl daemon-reload`

// Upgrades that fail on a machine that nobody can visit. Whatever is wrong with
// a version, the one before is back by itself, and the task has seen nothing.
func TestUpgradesThatFail(t *testing.T) {
	t.Parallel()
	b := bed.Start(t, bed.Config{Replicas: 1, Sites: []int{1}})
	bin := shortDir(t)
	host(t, "dpkg", "-x", deb(t, "new", "tender-server"), bin)
	s := &site{machine: newMachine(t, b.NetNS("a1"), "", debs(t)), fleet: newTrio(t, b, filepath.Join(bin, "usr/bin"))}
	w := &upgrades{site: s, bench: unpack(t, "new")}
	s.shares["bench"] = w.bench.dir
	t.Cleanup(func() { s.off(t) })
	s.boot(t)
	live(t, []step{
		{"install and join", w.first},
		{"dpkg is killed at each step", w.cutFirst},
		{"and at each of the next upgrade", w.cutNext},
		{"versions that fail", w.fail},
		{"another chance", w.retry},
		{"a version that works, without uplink", w.work},
		{"purge", w.purge},
	})
}

type upgrades struct {
	*site
	bench *bench
}

// dpkg installs a package, whatever becomes of the agent then.
func (w *upgrades) dpkg(t *testing.T, path string) {
	t.Helper()
	w.run(t, "dpkg", "-i", path)
}

// good waits until what is installed has passed its gate.
func (w *upgrades) good(t *testing.T) {
	t.Helper()
	w.prints(t, "it has passed", "sh", "-c", `[ "$(cat /usr/bin/tender-agent /usr/libexec/tender/tender-log | sha256sum | cut -c -64)" = "$(cat /var/lib/tender/agent/start/good)" ] && echo it has passed`)
	w.prints(t, "/usr/bin/tender-agent", "sh", "-c", "readlink /proc/$(systemctl show -P MainPID tender-agent.service)/exe")
	w.untouched(t)
}

func (w *upgrades) untouched(t *testing.T) {
	t.Helper()
	if pid := w.taskPID(t); pid != w.pid {
		t.Fatalf("the task is process %q, before %q", pid, w.pid)
	}
}

// first: the version before knew nothing of all this.
func (w *upgrades) first(t *testing.T) {
	old := w.bench.pack(t, "old", "0.1.0-1", func(root string) {
		host(t, "rm", filepath.Join(root, "usr/libexec/tender/agent-start"), filepath.Join(root, "DEBIAN/preinst"))
		unit := filepath.Join(root, "lib/systemd/system/tender-agent.service")
		data, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(data), "/usr/libexec/tender/agent-start run", "/usr/bin/tender-agent run", 1)
		replace(t, unit, []byte(text), 0o644)
		// Another version is another file.
		agent := filepath.Join(root, "usr/bin/tender-agent")
		if data, err = os.ReadFile(agent); err != nil {
			t.Fatal(err)
		}
		replace(t, agent, append(data, "0.1.0"...), 0o755)
	})
	w.dpkg(t, old)
	w.sh(t, hasty)
	out, err := w.input(w.fleet.line(t, client.CreateToken{Site: "cellar"}), "tender-agent", "join", "--name", "m1", "-")
	if err != nil {
		t.Fatalf("join: %v\n%s", err, out)
	}
	w.agent = onlyID(t, out)
	w.loadImage(t)
	w.task = w.fleet.submit(t, client.Submit{
		Command: []string{"sh", "-c", `trap 'exit 0' TERM; while :; do sleep 1; done`},
		Restart: &client.Restart{Attempts: 9, Interval: client.Duration(time.Hour), Mode: "delay"},
	}, "TASK_RUNNING")
	w.pid = w.taskPID(t)
}

// cutFirst: the version before had no launcher.
func (w *upgrades) cutFirst(t *testing.T) {
	w.bench.compile(t, "powercut.so", powercut, "-shared", "-fPIC")
	w.cut(t, w.bench.pack(t, "new", "0.1.2-1", func(string) {}), "0.1.2-1", func() {})
}

// cutNext: every upgrade after that. What is half installed is on trial, too: it
// works, so it passes.
func (w *upgrades) cutNext(t *testing.T) {
	next := w.bench.pack(t, "next", "0.1.4-1", func(root string) {
		for _, name := range []string{"usr/bin/tender-agent", "usr/libexec/tender/tender-log"} {
			path := filepath.Join(root, name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, path, append(data, "0.1.4"...), 0o755)
		}
	})
	w.cut(t, next, "0.1.4-1", func() { w.good(t) })
}

// cut: the power goes at each step of dpkg that changes what runs. Two times the
// machine is really gone and boots again; else its systemd starts the agent as a
// boot would, from the files that are there.
func (w *upgrades) cut(t *testing.T, path, version string, then func()) {
	steps := 0
	for at := 1; ; at++ {
		w.sh(t, "rm -f /run/steps")
		out, err := w.try("setsid", "env", fmt.Sprintf("KILL_AT=%d", at), "LD_PRELOAD=/bench/powercut.so", "dpkg", "-i", path)
		if err == nil {
			break
		}
		if at > 60 {
			t.Fatalf("dpkg does not come to an end: %s", out)
		}
		steps++
		if at%6 == 3 {
			w.kill(t)
			w.boot(t)
			harness.Eventually(t, "the task runs again", func() bool { w.pid = w.taskPID(t); return w.pid != "" })
		} else {
			w.sh(t, "systemctl daemon-reload; systemctl restart tender-agent.service")
		}
		w.prints(t, "connected to the control plane; 1 task", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
		w.untouched(t)
		then()
	}
	t.Logf("cut at each of %d steps", steps)
	if steps < 8 {
		t.Errorf("only %d steps were cut", steps)
	}
	w.good(t)
	if got := w.run(t, "dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Version}", "tender-agent"); got != "ii "+version {
		t.Errorf("in the end the package is %s", got)
	}
}

// agentIs replaces the agent by another program of this host, as no version is
// the same file as another.
func (w *upgrades) agentIs(t *testing.T, path string) func(string) {
	return func(root string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(root, "usr/bin/tender-agent"), append(data, root...), 0o755)
	}
}

// rolledBack waits until the previous agent is back and has said so.
func (w *upgrades) rolledBack(t *testing.T, version, why string) {
	t.Helper()
	w.prints(t, "/usr/libexec/tender/previous.", "sh", "-c", "readlink /proc/$(systemctl show -P MainPID tender-agent.service)/exe")
	w.prints(t, "active", "systemctl", "is-active", "tender-agent.service")
	w.fleet.agent(t, w.agent, "is connected", func(a client.Agent) bool { return a.State == client.AgentConnected })
	w.untouched(t)
	if got := w.run(t, "cat", "/var/lib/tender/agent/start/rollback"); !strings.Contains(got, "\n"+version+"\n"+why) {
		t.Errorf("of the rollback is written down %q, want %s and %q", got, version, why)
	}
	w.prints(t, "agent-start: the previous agent runs", "journalctl", "-b", "-u", "tender-agent.service", "-o", "cat")
}

// told waits until the agent and the control plane say that a version was rolled
// back.
func (w *upgrades) told(t *testing.T, version, why string) {
	t.Helper()
	w.prints(t, version+" was rolled back: "+why, "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	w.fleet.agent(t, w.agent, "says that "+version+" was rolled back", func(a client.Agent) bool {
		u := client.AgentUpgrade{}
		if a.Readings != nil && a.Readings.Upgrade != nil {
			u = *a.Readings.Upgrade
		}
		return u.Version == version && u.State == "rolled back" && strings.HasPrefix(u.Text, why)
	})
}

func (w *upgrades) fail(t *testing.T) {
	w.strangerState(t)
	for i, tc := range []struct {
		name string
		edit func(root string)
		why  string
	}{
		{"ends at once", w.agentIs(t, "/bin/false"), "it ended or hung 3 times"},
		{"does not load", func(root string) {
			replace(t, filepath.Join(root, "usr/bin/tender-agent"), []byte("\x80\x00no program\n\xff"), 0o755)
		}, "it is no program for this machine"},
		{"hangs", w.agentIs(t, w.bench.compile(t, "hangs", hangs, "-static")), "it ended or hung 3 times"},
		{"gets no session, though a replica answers", func(root string) {
			host(t, "mv", filepath.Join(root, "usr/bin/tender-agent"), filepath.Join(root, "usr/libexec/tender/agent-real"))
			w.agentIs(t, w.bench.compile(t, "stranger", stranger, "-static"))(root)
		}, "this version has not passed its health gate: replicas answer, and in 3s no session came of it: "},
	} {
		version := fmt.Sprintf("0.2.%d", i)
		began := time.Now()
		w.dpkg(t, w.bench.pack(t, "bad"+version, version+"-1", tc.edit))
		w.rolledBack(t, "v"+version, tc.why)
		w.told(t, "v"+version, tc.why)
		t.Logf("%s: the previous one is back after %v", tc.name, time.Since(began).Round(10*time.Millisecond))
	}
}

// strangerState makes a state directory that knows the same tasks and has the
// identity of another fleet.
func (w *upgrades) strangerState(t *testing.T) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.SaveDir(dir, pkitest.New(t, "packages.test").Credential(t, pki.KindAgent, w.agent)); err != nil {
		t.Fatal(err)
	}
	w.run(t, "systemctl", "stop", "tender-agent.service")
	host(t, "sh", "-ec", `cd "$1/var/lib/tender/agent"; mkdir stranger; cp -a agent.json agent.db logs stranger; cp -r "$2" stranger`, "sh", w.disk, dir)
	w.sh(t, "chown -R tender-agent:tender-agent /var/lib/tender/agent/stranger; systemctl start tender-agent.service")
	w.good(t)
}

// retry: the version was not to blame, and gets another chance.
func (w *upgrades) retry(t *testing.T) {
	if got := w.run(t, "tender-agent", "retry"); !strings.Contains(got, "v0.2.3 was rolled back: this version has not passed") {
		t.Errorf("retry says %s", got)
	}
	if got := w.sh(t, "ls /var/lib/tender/agent/start; find /var/lib/tender/agent/start ! -user tender-agent"); got != "good" {
		t.Errorf("after a retry there is %s", got)
	}
	w.sh(t, "rm -r /var/lib/tender/agent/stranger/pki; cp -a /var/lib/tender/agent/pki /var/lib/tender/agent/stranger; systemctl restart tender-agent.service")
	if got := w.run(t, "tender-agent", "--version"); !strings.Contains(got, "v0.1.2") {
		t.Errorf("for people, the installed version is %s", got)
	}
	w.prints(t, "agent-real", "sh", "-c", "readlink /proc/$(systemctl show -P MainPID tender-agent.service)/exe")
	if got, err := w.try("tender-agent", "retry"); err == nil || !strings.Contains(got, "nothing was rolled back") {
		t.Errorf("a second retry: %v\n%s", err, got)
	}
}

// work: a version that works is kept, at a site that nobody can reach.
func (w *upgrades) work(t *testing.T) {
	if err := w.fleet.bed.Cut(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	w.sh(t, "sed -i 's/patience: .*/patience: 30s/' /etc/tender/agent.conf.d/hasty.yaml") // to find out that nobody answers takes 3 s
	w.dpkg(t, "/debs/old/"+filepath.Base(deb(t, "old", "tender-agent")))
	w.good(t)
	w.prints(t, "cut off from the control plane; 1 task here", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	if err := w.fleet.bed.Restore(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	w.fleet.agent(t, w.agent, "is connected", func(a client.Agent) bool { return a.State == client.AgentConnected })
}

func (w *upgrades) purge(t *testing.T) {
	w.run(t, "dpkg", "--purge", "tender-agent")
	if left := w.sh(t, "find /usr /lib /var/lib -path '*tender*' ! -path '/var/lib/dpkg/*' ! -path '/var/lib/systemd/*'"); left != "" {
		t.Errorf("left:\n%s", left)
	}
}
