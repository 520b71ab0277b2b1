package packages

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// Versions of the agent that the control plane brings to a machine that nobody
// can visit: one that works, one that does not, and what is no business of it.
func TestRollouts(t *testing.T) {
	t.Parallel()
	b := bed.Start(t, bed.Config{Replicas: 1, Sites: []int{1}})
	bin := shortDir(t)
	host(t, "dpkg", "-x", deb(t, "new", "tender-server"), bin)
	s := &site{machine: newMachine(t, b.NetNS("a1"), "", debs(t)), fleet: newTrio(t, b, filepath.Join(bin, "usr/bin"))}
	r := &rollouts{upgrades: &upgrades{site: s, bench: unpack(t, "new")}}
	t.Cleanup(func() { s.off(t) })
	s.boot(t)
	live(t, []step{
		{"join, and pin the keys", r.pin},
		{"a version that works", r.works},
		{"a version that does not", r.broken},
		{"a package that another has signed", r.stranger},
		{"the version after that", r.next},
		{"purge", r.gone},
	})
}

type rollouts struct {
	*upgrades
	key minisign.PrivateKey
}

// trust makes a key that the control plane takes.
func (r *rollouts) trust(t *testing.T) minisign.PrivateKey {
	t.Helper()
	public, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.fleet.AddReleaseKey(t.Context(), client.AddReleaseKey{Key: public.String()}); err != nil {
		t.Fatal(err)
	}
	return key
}

// add gives the control plane a signed package.
func (r *rollouts) add(t *testing.T, path string, key minisign.PrivateKey) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	signed := minisign.NewReader(bytes.NewReader(data))
	if _, err := io.Copy(io.Discard, signed); err != nil {
		t.Fatal(err)
	}
	_, err = r.fleet.AddPackage(t.Context(), int64(len(data)), signed.Sign(key), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// start begins a rollout, in place of the last.
func (r *rollouts) start(t *testing.T, version string) {
	t.Helper()
	if u, err := r.fleet.Upgrade(t.Context()); err == nil && u.Rollout != nil && u.Rollout.Phase == "paused" {
		if _, err := r.fleet.SteerRollout(t.Context(), "abort"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.fleet.StartRollout(t.Context(), client.StartRollout{
		Version: version, Rings: []string{"rest"}, Soak: client.Duration(time.Second), Healthy: 100, AtOnce: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// phase waits until the rollout is in one.
func (r *rollouts) phase(t *testing.T, want string) client.Rollout {
	t.Helper()
	var last client.Upgrade
	defer func() {
		if t.Failed() {
			t.Logf("rollout: %s\nagent: %s", fmt.Sprintf("%+v", last.Rollout), r.sh(t, "systemctl show -P StatusText tender-agent; cat /var/lib/tender/install/answer; journalctl -b -u 'tender-agent*' -n 60 --no-pager -o short-precise"))
		}
	}()
	harness.Eventually(t, "the rollout is "+want, func() bool {
		var err error
		last, err = r.fleet.Upgrade(t.Context())
		return err == nil && last.Rollout != nil && last.Rollout.Phase == want
	})
	return *last.Rollout
}

func (r *rollouts) pin(t *testing.T) {
	r.key = r.trust(t)
	r.dpkg(t, "/debs/old/"+filepath.Base(deb(t, "old", "tender-agent")))
	r.sh(t, hasty)
	out, err := r.input(r.fleet.line(t, client.CreateToken{Site: "cellar"}), "tender-agent", "join", "--name", "m1", "-")
	if err != nil || !strings.Contains(out, "are trusted by the keys in /etc/tender/release.pub") {
		t.Fatalf("join: %v\n%s", err, out)
	}
	r.agent = onlyID(t, out)
	public, err := minisign.PublicKeyFromFile(filepath.Join(r.disk, "etc/tender/release.pub"))
	if err != nil || !public.Equal(r.key.Public()) {
		t.Errorf("pinned is %v, %v", public, err)
	}
	if got := r.run(t, "stat", "-c", "%U:%G %a", "/etc/tender/release.pub"); got != "root:root 644" {
		t.Errorf("the keys are %s", got)
	}
	r.loadImage(t)
	r.task = r.fleet.run(t, "while :; do sleep 1; done", "TASK_RUNNING")
	r.pid = r.taskPID(t)
	r.good(t)
}

// runs checks that a version runs, has passed, and that nothing else has changed.
func (r *rollouts) runs(t *testing.T, version string) {
	t.Helper()
	r.phase(t, "finished")
	r.good(t)
	r.fleet.agent(t, r.agent, "runs "+version, func(a client.Agent) bool { return a.State == client.AgentConnected && a.Version == version })
	if got := r.run(t, "dpkg-query", "-W", "-f", "${db:Status-Abbrev} v${Version}", "tender-agent"); got != "ii  "+version+"-1" {
		t.Errorf("the package is %s", got)
	}
	r.prints(t, "inactive", "systemctl", "show", "-P", "ActiveState", "tender-agent-install.service")
	if left := r.sh(t, "ls /var/lib/tender/agent/install /var/lib/tender/install; systemctl is-active tender-agent-install.path"); left !=
		"/var/lib/tender/agent/install:\n\n/var/lib/tender/install:\nanswer\nlock\nactive" {
		t.Errorf("after the installation: %s", left)
	}
	r.sound(t)
}

func (r *rollouts) works(t *testing.T) {
	r.add(t, deb(t, "new", "tender-agent"), r.key)
	r.start(t, "v0.1.2")
	r.runs(t, "v0.1.2")
}

// failed waits until the rollout has paused because of this agent.
func (r *rollouts) failed(t *testing.T, state, text string) {
	t.Helper()
	p := r.phase(t, "paused")
	if f := p.Rings[0].Failures; len(f) != 1 || f[0].Agent != r.agent || f[0].State != state || !strings.Contains(f[0].Text, text) {
		t.Errorf("failures: %s", fmt.Sprintf("%+v", p))
	}
	r.untouched(t)
}

func (r *rollouts) repack(t *testing.T, version string, edit func(string)) string {
	t.Helper()
	r.bench.pack(t, version, version+"-1", edit)
	return filepath.Join(r.bench.dir, version+".deb")
}

func (r *rollouts) broken(t *testing.T) {
	r.add(t, r.repack(t, "0.1.3", r.agentIs(t, "/bin/false")), r.key)
	r.start(t, "v0.1.3")
	r.failed(t, "rolled back", "it ended or hung 3 times")
	r.rolledBack(t, "v0.1.3", "it ended or hung 3 times")
}

func (r *rollouts) stranger(t *testing.T) {
	r.add(t, r.repack(t, "0.1.4", func(string) {}), r.trust(t)) // after the join
	r.start(t, "v0.1.4")
	r.failed(t, "refused", "not signed by a trusted release key")
	if got := r.run(t, "dpkg-query", "-W", "-f", "${Version}", "tender-agent"); got != "0.1.3-1" {
		t.Errorf("the package is %s", got)
	}
}

// next is installed by the version before the last: the last does not run.
func (r *rollouts) next(t *testing.T) {
	r.add(t, r.repack(t, "0.1.5", func(root string) {
		agent := filepath.Join(root, "usr/bin/tender-agent")
		data, err := os.ReadFile(agent)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, agent, bytes.ReplaceAll(data, []byte("v0.1.2"), []byte("v0.1.5")), 0o755)
	}), r.key)
	// Nobody is there to install it; then somebody is, and is killed over it, with
	// dpkg and all.
	r.sh(t, `systemctl stop tender-agent-install.path
mkdir /etc/systemd/system/tender-agent-install.service.d
printf '[Service]\nRestartSec=100ms\n' >/etc/systemd/system/tender-agent-install.service.d/hasty.conf
systemctl daemon-reload
echo 'pre-invoke=while [ ! -e /run/go ]; do sleep 0.1; done' >/etc/dpkg/dpkg.cfg.d/slow`)
	r.start(t, "v0.1.5")
	r.prints(t, "v0.1.5", "cat", "/var/lib/tender/agent/install/request")
	r.run(t, "systemctl", "start", "tender-agent-install.path")
	r.prints(t, "/usr/bin/dpkg", "pgrep", "-af", "^/usr/bin/dpkg --force-confold --install")
	r.run(t, "systemctl", "kill", "-s", "KILL", "tender-agent-install.service")
	r.prints(t, `"tries":2`, "cat", "/var/lib/tender/install/answer")
	r.sh(t, "touch /run/go")
	r.runs(t, "v0.1.5")
	r.sh(t, "rm /etc/dpkg/dpkg.cfg.d/slow")
	r.fleet.task(t, r.task, "TASK_RUNNING")
}

func (r *rollouts) gone(t *testing.T) {
	r.run(t, "dpkg", "--purge", "tender-agent")
	if left := r.sh(t, "find /etc /usr /lib /var/lib -path '*tender*' ! -path '/var/lib/dpkg/*' ! -path '/etc/systemd/*' ! -path '/var/lib/systemd/*' ! -path /etc/tender/agent.conf.d/hasty.yaml"); left != "" {
		t.Errorf("left:\n%s", left)
	}
}
