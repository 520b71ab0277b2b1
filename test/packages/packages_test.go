package packages

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

const imageName = "example.org/tests/packages:1"

// shortDir is a directory that is gone with the test.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// debs is the directory with the two builds, and the file of a package in one.
func debs(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TENDER_DEBS")
	if dir == "" {
		t.Fatal("TENDER_DEBS names no directory with packages: run make test-packages")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func deb(t *testing.T, build, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(debs(t), build, name+"_*_"+host(t, "dpkg", "--print-architecture")+".deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d files of package %s in %s/%s, want one", len(found), name, debs(t), build)
	}
	return found[0]
}

// What is shipped is clean by Debian's own judge, whose exceptions have a reason
// in the packages.
func TestLintian(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tender", "tender-server", "tender-agent"} {
		host(t, "lintian", "--allow-root", "--fail-on", "error,warning", deb(t, "new", name))
	}
}

// The units stay as closed as they are: systemd's own measure, times ten.
func TestExposure(t *testing.T) {
	for unit, most := range map[string]string{"tenderd": "12", "tenderd-backup": "12", "tender-agent": "16", "tender-agent-shutdown": "15", "tender-agent-join": "42", "tender-agent-install": "20"} {
		host(t, "systemd-analyze", "security", "--offline=true", "--threshold="+most, "../../systemd/"+unit+".service")
	}
}

// site is a machine behind a NAT, its trio, and what the steps hand on.
type site struct {
	*machine
	fleet *trio
	agent string
	task  string
	pid   string
}

// newSite boots a machine at a site of its own, behind a NAT, for a control plane
// of so many.
func newSite(t *testing.T, replicas int, machine func(t *testing.T, netns, hostname, debs string) *machine) *site {
	t.Helper()
	b := bed.Start(t, bed.Config{Replicas: replicas, Sites: []int{1}})
	bin := shortDir(t)
	for _, name := range []string{"tender", "tender-server"} {
		host(t, "dpkg", "-x", deb(t, "new", name), bin)
	}
	s := &site{machine: machine(t, b.NetNS("a1"), "", debs(t)), fleet: newTrio(t, b, filepath.Join(bin, "usr/bin"))}
	t.Cleanup(func() { s.off(t) })
	began := time.Now()
	s.boot(t)
	t.Logf("booted in %v", time.Since(began).Round(10*time.Millisecond))
	return s
}

// step is a part of a machine's life, which needs those before it.
type step struct {
	name string
	do   func(*testing.T)
}

func live(t *testing.T, steps []step) {
	t.Helper()
	for _, step := range steps {
		began := time.Now()
		if !t.Run(step.name, step.do) {
			return
		}
		t.Logf("%s: %v", step.name, time.Since(began).Round(10*time.Millisecond))
	}
}

// Debian's next release has systemd 257, containerd 1.7 and cgroups of version 2.
// With a kernel of its own it is in vm_test.go.
func TestDebian13(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, newDebian13)
	steps := []step{{"install", s.install}, {"join", s.join}}
	if controllers := s.run(t, "cat", "/sys/fs/cgroup/cgroup.controllers"); strings.Contains(controllers, "cpu ") && strings.Contains(controllers, "memory") {
		steps = append(steps, step{"run a task", s.runTask}, step{"restart, upgrade, downgrade", s.upgrade}, step{"containerd restarts", s.restartContainerd})
	} else { // this host uses them by version 1
		steps = append(steps, step{"no controllers", s.withoutControllers}, step{"upgrade, downgrade", s.upgradeIdle})
	}
	live(t, append(steps, step{"purge", s.purge}))
}

// withoutControllers: limits that cannot be kept are no limits, so nothing runs.
func (s *site) withoutControllers(t *testing.T) {
	s.loadImage(t)
	s.task = s.fleet.run(t, "exit 0", "TASK_FAILED")
	task, err := s.fleet.Task(t.Context(), s.task)
	if err != nil || !strings.Contains(task.Message, "this machine cannot limit processor time: its kernel offers containers no cpu controller") {
		t.Errorf("%s, %v", harness.Tell(task), err)
	}
}

// upgradeIdle is upgrade on a machine that runs no task.
func (s *site) upgradeIdle(t *testing.T) {
	for _, build := range []string{"new", "old", "new"} {
		was := s.run(t, "tender-agent", "--version")
		s.apt(t, build)
		if now := s.run(t, "tender-agent", "--version"); now == was {
			t.Errorf("build %s is installed, and still %s", build, now)
		}
		s.prints(t, "connected to the control plane; 0 tasks", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	}
	s.sound(t)
}

// The life of a machine that nobody can visit.
func TestLifeOfAMachine(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3, newMachine)
	live(t, []step{
		{"install", s.install},
		{"join", s.join},
		{"run a task", s.runTask},
		{"restart, upgrade, downgrade", s.upgrade},
		{"broken settings", s.settings},
		{"containerd restarts", s.restartContainerd},
		{"reboot without uplink", s.reboot},
		{"remove and install again", s.remove},
		{"purge", s.purge},
		{"join line in a file", s.claim},
		{"leave", s.leave},
	})
}

// apt installs a build of the agent.
func (s *site) apt(t *testing.T, build string) {
	t.Helper()
	s.run(t, "apt-get", "install", "-y", "-q", "--allow-downgrades", "--reinstall", "/debs/"+build+"/"+filepath.Base(deb(t, build, "tender-agent")))
}

// unit is a property of the agent's unit.
func (s *site) unit(t *testing.T, property string) string {
	t.Helper()
	return s.run(t, "systemctl", "show", "-P", property, "tender-agent.service")
}

func (s *site) install(t *testing.T) {
	s.apt(t, "old")
	if got := s.run(t, "systemctl", "is-enabled", "tender-agent.service", "tender-agent-join.path", "tender-agent-install.path", "tender-agent-shutdown.service"); got != "enabled\nenabled\nenabled\nenabled" {
		t.Errorf("units: %s", got)
	}
	// Not joined: quiet, and nothing is wrong with the machine.
	if state, restarts := s.unit(t, "ActiveState"), s.unit(t, "NRestarts"); state != "inactive" || restarts != "0" {
		t.Errorf("before it joins the agent is %s, with %s restarts", state, restarts)
	}
	s.sound(t)
	s.run(t, "tender-agent", "config", "check")
	if got, _ := s.try("man", "-w", "tender-agent"); strings.Contains(got, "No manual") {
		t.Error(got)
	}
}

func (s *site) join(t *testing.T) {
	line := s.fleet.line(t, client.CreateToken{Site: "cellar"})
	out, err := s.input(line, "tender-agent", "join", "--name", "m1", "-")
	if err != nil {
		t.Fatalf("join: %v\n%s", err, out)
	}
	s.agent = onlyID(t, out)
	s.fleet.agent(t, s.agent, "is connected and has something to offer", func(a client.Agent) bool {
		return a.State == client.AgentConnected && a.Total.CPUs != "0" && a.Total.CPUs != ""
	})
	s.prints(t, "connected to the control plane; 0 tasks", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	if got := s.run(t, "ps", "-o", "user:20=", "-p", s.unit(t, "MainPID")); got != "tender-agent" {
		t.Errorf("the agent runs as %s", got)
	}
	if got := s.sh(t, "find /var/lib/tender/agent ! -user tender-agent"); got != "" {
		t.Errorf("of another user: %s", got)
	}
	// Whoever tries again is told, and nothing is lost.
	out, err = s.input(s.fleet.line(t, client.CreateToken{Site: "cellar"}), "tender-agent", "join", "-")
	if err == nil || !strings.Contains(out, "has joined already as "+s.agent) {
		t.Errorf("a second join: %v\n%s", err, out)
	}
}

func (s *site) runTask(t *testing.T) {
	s.loadImage(t)
	s.task = s.fleet.run(t, `trap '' TERM; id -u; while :; do sleep 1; done`, "TASK_RUNNING")
	s.pid = s.taskPID(t)
	harness.Eventually(t, "the task's output is here", func() bool {
		var out bytes.Buffer
		err := s.fleet.Logs(t.Context(), s.task, client.LogOptions{Tail: -1, Stdout: true}, func(_ bool, data []byte) error {
			out.Write(data)
			return nil
		})
		return err == nil && out.String() == "1000\n"
	})
}

func (s *site) upgrade(t *testing.T) {
	version := func() string { return s.run(t, "tender-agent", "--version") }
	old := version()
	check := func(what string) {
		t.Helper()
		if pid := s.taskPID(t); pid != s.pid {
			t.Fatalf("after %s the task is process %q, before %q", what, pid, s.pid)
		}
		s.prints(t, "connected to the control plane; 1 task", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	}
	// A secret that only root can read reaches the agent, by the unit.
	s.sh(t, `umask 077; echo '{"auths": {"registry.example": {"auth": "YTpi"}}}' >/etc/tender/registries.json`)
	s.run(t, "systemctl", "restart", "tender-agent.service")
	if got := s.run(t, "setpriv", "--reuid=tender-agent", "--clear-groups", "cat", "/run/credentials/tender-agent.service/registries.json"); !strings.Contains(got, "YTpi") {
		t.Errorf("the agent reads %q", got)
	}
	check("a restart")
	s.sh(t, "kill -9 $(systemctl show -P MainPID tender-agent.service)")
	s.prints(t, "1", "systemctl", "show", "-P", "NRestarts", "tender-agent.service")
	check("a crash")
	s.sh(t, "echo '# mine' >>/etc/tender/agent.yaml")
	s.apt(t, "new")
	if now := version(); now == old {
		t.Errorf("upgraded, and still %s", now)
	}
	check("an upgrade")
	running := s.run(t, "readlink", "/proc/"+s.unit(t, "MainPID")+"/exe")
	if running != "/usr/bin/tender-agent" {
		t.Errorf("the agent that runs is %s", running)
	}
	s.apt(t, "old")
	if now := version(); now != old {
		t.Errorf("downgraded to %s, want %s", now, old)
	}
	check("a downgrade")
	if got := s.run(t, "tail", "-n", "1", "/etc/tender/agent.yaml"); got != "# mine" {
		t.Errorf("the administrator's edit is gone: %s", got)
	}
	s.fleet.task(t, s.task, "TASK_RUNNING")
	s.apt(t, "new")
}

func (s *site) settings(t *testing.T) {
	s.sh(t, "echo 'offer-cpus: 1' >/etc/tender/agent.conf.d/10-cpus.yaml; systemctl reload tender-agent.service")
	s.fleet.agent(t, s.agent, "offers one processor", func(a client.Agent) bool { return a.Total.CPUs == "1" })
	s.sh(t, "echo 'offer-cpu: 2' >/etc/tender/agent.conf.d/10-cpus.yaml; systemctl restart tender-agent.service")
	a := s.fleet.agent(t, s.agent, "complains of its settings", func(a client.Agent) bool { return a.Readings != nil && a.Readings.Settings != "" })
	for _, want := range []string{"10-cpus.yaml:1", `did you mean "offer-cpus"?`, "held last"} {
		if !strings.Contains(a.Readings.Settings, want) {
			t.Errorf("%q is not in %s", want, a.Readings.Settings)
		}
	}
	if a.Total.CPUs != "1" {
		t.Errorf("with broken settings it offers %s processors", a.Total.CPUs)
	}
	s.prints(t, "the settings are broken", "journalctl", "-b", "-u", "tender-agent.service", "-o", "cat")
	s.sh(t, "rm /etc/tender/agent.conf.d/10-cpus.yaml; systemctl reload tender-agent.service")
	s.fleet.agent(t, s.agent, "is sound again", func(a client.Agent) bool {
		return a.Readings != nil && a.Readings.Settings == "" && a.Total.CPUs != "1"
	})
}

func (s *site) restartContainerd(t *testing.T) {
	s.run(t, "systemctl", "restart", "containerd.service")
	if got := s.run(t, "stat", "-c", "%U:%G %a", "/run/containerd/containerd.sock"); got != "root:containerd 660" {
		t.Errorf("containerd's socket is %s", got)
	}
	if pid := s.taskPID(t); pid != s.pid {
		t.Errorf("the task is process %q, before %q", pid, s.pid)
	}
	s.fleet.run(t, "exit 0", "TASK_FINISHED")
}

// boundRunning is how long after its boot a machine runs its tasks again, with
// nobody to ask. The container's own start comes on top.
const boundRunning = 30 * time.Second

// reboot: a task ignores TERM, another has a restart policy, and the machine
// comes back at a site that is cut off.
func (s *site) reboot(t *testing.T) {
	kept := s.fleet.submit(t, client.Submit{
		Command: []string{"sh", "-c", `trap 'exit 0' TERM; echo up; while :; do sleep 1; done`},
		Restart: &client.Restart{Attempts: 2, Interval: client.Duration(time.Hour), Mode: "delay"},
	}, "TASK_RUNNING")
	if err := s.fleet.bed.Cut(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	if took := s.down(t, "reboot"); took > boundDown {
		t.Errorf("a task that ignores TERM held the reboot for %v", took)
	} else {
		t.Logf("down in %v", took.Round(100*time.Millisecond))
	}
	began := time.Now()
	s.boot(t)
	booted := time.Since(began)
	harness.Eventually(t, "one task runs again", func() bool { s.pid = s.taskPID(t); return s.pid != "" })
	if took := time.Since(began); took > boundRunning {
		t.Errorf("without an uplink its task ran %v after the boot, want at most %v", took, boundRunning)
	} else {
		t.Logf("booted in %v, the task ran after %v", booted.Round(100*time.Millisecond), took.Round(100*time.Millisecond))
	}
	if got := s.sh(t, "ctr -n tender tasks ls -q"); !strings.Contains(got, kept) {
		t.Errorf("what runs again is %s, want task %s", got, kept)
	}
	if got := s.unit(t, "ActiveState"); got != "active" {
		t.Errorf("without an uplink the agent is %s", got)
	}
	s.prints(t, "cut off from the control plane", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	s.sound(t)
	restored := time.Now()
	if err := s.fleet.bed.Restore(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	s.fleet.agent(t, s.agent, "is back", func(a client.Agent) bool { return a.State == client.AgentConnected })
	s.fleet.restarted(t, kept, began, restored)
	// What ended with the machine is told, as the agent saw it.
	harness.Eventually(t, "the task without a policy is known to have ended", func() bool {
		task, err := s.fleet.Task(t.Context(), s.task)
		return err == nil && task.Terminal()
	})
	s.task = kept
	if pid := s.taskPID(t); pid != s.pid {
		t.Errorf("with an uplink again, the tasks are processes %q, before %q", pid, s.pid)
	}
}

func (s *site) remove(t *testing.T) {
	out := s.run(t, "apt-get", "remove", "-y", "-q", "tender-agent")
	if !strings.Contains(out, "1 tasks go on under containerd") {
		t.Errorf("apt does not say what becomes of tasks:\n%s", out)
	}
	if pid := s.taskPID(t); pid != s.pid {
		t.Fatalf("after the removal the task is process %q, before %q", pid, s.pid)
	}
	s.apt(t, "new")
	s.fleet.agent(t, s.agent, "is back as what it was", func(a client.Agent) bool { return a.State == client.AgentConnected })
	s.prints(t, "connected to the control plane; 1 task", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	if pid := s.taskPID(t); pid != s.pid {
		t.Errorf("after the installation the task is process %q, before %q", pid, s.pid)
	}
}

func (s *site) purge(t *testing.T) {
	s.run(t, "apt-get", "purge", "-y", "-q", "tender-agent")
	for what, script := range map[string]string{
		"users and groups": "getent passwd tender-agent tender || true; getent group tender-agent containerd || true",
		"files": "find / -xdev \\( -path /proc -o -path /debs -o -path /sys -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache \\) -prune -o " +
			"\\( -iname '*tender*' -o -path '*/tender/*' \\) -print; find /run /var/lib/containerd -iname '*tender*' ! -path /run/systemd/system/tender-agent.service.d", // which is nsinit's
		"mounts":     "grep -e k8s.io -e /tender/ /proc/self/mountinfo || true",
		"cgroups":    "find /sys/fs/cgroup -type d -iname '*tender*' 2>/dev/null || true",
		"containers": "ctr namespaces ls -q; ls /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots",
		"processes":  "pgrep -a tender || true; pgrep -a containerd-shim || true",
		"units":      "systemctl list-units --all --no-legend 'tender*'",
	} {
		if left := s.sh(t, script); left != "" {
			t.Errorf("left of %s:\n%s", what, left)
		}
	}
	s.sound(t)
	if got := s.run(t, "stat", "-c", "%U:%G", "/run/containerd/containerd.sock"); got != "root:root" {
		t.Errorf("containerd's socket is %s", got)
	}
}

// claim: an image of the machine has a join line, and the uplink comes later.
func (s *site) claim(t *testing.T) {
	line := s.fleet.line(t, client.CreateToken{Site: "attic"})
	if err := s.fleet.bed.Cut(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	s.apt(t, "new")
	if out, err := s.input(line, "sh", "-ec", "umask 077; cat >/etc/tender/.claim; mv /etc/tender/.claim /etc/tender/join/claim"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s.prints(t, "activating", "systemctl", "show", "-P", "ActiveState", "tender-agent-join.service")
	if err := s.fleet.bed.Restore(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the machine has joined by the file", func() bool {
		agents, err := s.fleet.Agents(t.Context())
		return err == nil && slices.ContainsFunc(agents, func(a client.Agent) bool { return a.Site == "attic" && a.State == client.AgentConnected })
	})
	s.prints(t, "inactive", "systemctl", "show", "-P", "ActiveState", "tender-agent-join.service")
	if left := s.run(t, "ls", "-A", "/etc/tender/join"); left != "" {
		t.Errorf("the join line stays: %s", left)
	}
	if journal := s.run(t, "journalctl", "-b", "-o", "cat"); strings.Contains(journal, line) {
		t.Error("the join line is in the journal")
	}
}

// leave: the machine is taken back in order, and stays quiet.
func (s *site) leave(t *testing.T) {
	s.loadImage(t) // the last one went with the purge
	task := s.fleet.run(t, `while :; do sleep 1; done`, "TASK_RUNNING")
	out := s.run(t, "tender-agent", "leave", "--grace", "1s")
	for _, want := range []string{"this machine has left the fleet", "waiting for tasks to end: 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in: %s", want, out)
		}
	}
	s.fleet.task(t, task, "TASK_KILLED")
	s.prints(t, "inactive", "systemctl", "show", "-P", "ActiveState", "tender-agent.service")
	s.sound(t)
	if left := s.run(t, "ctr", "-n", "tender", "containers", "ls", "-q"); left != "" {
		t.Errorf("containers: %s", left)
	}
}
