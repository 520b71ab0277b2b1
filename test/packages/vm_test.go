package packages

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/vm"
)

// virtual is a machine with a kernel of its own.
type virtual struct {
	cfg vm.Config
	*vm.Machine
}

// newVirtual is newMachine for a virtual machine of Debian 13.
func newVirtual(_ *testing.T, netns, hostname, debs string) *machine {
	v := &virtual{cfg: vm.Config{Suite: "trixie", NetNS: netns, Hostname: hostname}}
	return &machine{body: v, unit: "tender-agent*", shares: map[string]string{"debs": debs}}
}

func (v *virtual) start(t *testing.T, shares map[string]string) {
	t.Helper()
	if v.Machine == nil {
		v.cfg.Files = shares
		v.Machine = vm.New(t, v.cfg)
	}
	v.Boot(t)
}

func (v *virtual) run(ctx context.Context, stdin string, argv ...string) (string, error) {
	return v.Run(ctx, stdin, argv...)
}

func (v *virtual) cut(t *testing.T) { t.Helper(); v.Cut(t) }

func (v *virtual) ended() <-chan struct{} { return v.Ended() }

func (v *virtual) bury(*testing.T) {}

// cuts is how often the power is cut in an upgrade; TENDER_POWER_CUTS changes it.
const cuts = 1

// TestVirtualMachineLosesItsPower: Debian's next release as it is, with systemd 257,
// containerd 1.7 and control groups of version 2 with all controllers, on a disk
// that loses what was not synced. Without hardware to help, the machine takes both
// processors: make test-vm runs this, and make test does not.
func TestVirtualMachineLosesItsPower(t *testing.T) {
	rounds := cuts
	if v := os.Getenv("TENDER_POWER_CUTS"); v != "" {
		var err error
		if rounds, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t, 1, newVirtual)
	steps := []step{
		{"install", func(t *testing.T) { s.dpkg(t, "old") }},
		{"join", s.join},
		{"run a task", s.runTask},
		{"limits", s.limits},
	}
	for i := range rounds {
		steps = append(steps, step{fmt.Sprintf("power cut %d", i+1), func(t *testing.T) { s.powerCut(t, i) }})
	}
	live(t, append(steps, step{"upgrade", s.upgradeOnce}))
}

// dpkg installs a build of the agent.
func (s *site) dpkg(t *testing.T, build string) {
	t.Helper()
	s.run(t, "dpkg", "-i", "/debs/"+build+"/"+filepath.Base(deb(t, build, "tender-agent")))
}

// limits: those of a task are the kernel's.
func (s *site) limits(t *testing.T) {
	id := s.fleet.submit(t, client.Submit{
		Command: []string{"sh", "-c", "while :; do sleep 1; done"}, CPUs: "0.5", Mem: "64",
	}, "TASK_RUNNING")
	got := s.sh(t, `cd /sys/fs/cgroup/tender/*`+id+`* && cat cpu.max memory.max memory.swap.max pids.max`)
	if want := "50000 100000\n67108864\n0\n4096"; got != want {
		t.Errorf("the task's limits are %q, want %q", got, want)
	}
}

// powerCut cuts the power while dpkg unpacks another version, and in later rounds
// at any moment of that. The agent of one of the two is back by itself, what ran
// runs again, and the machine's images are whole, an image that was unpacked a
// moment before as well.
func (s *site) powerCut(t *testing.T, round int) {
	kept := s.fleet.submit(t, client.Submit{
		Command: []string{"sh", "-c", `while :; do sleep 1; done`},
		Restart: &client.Restart{Attempts: 2, Interval: client.Duration(time.Hour), Mode: "delay"},
	}, "TASK_RUNNING")
	// The names of files are on the disk after 5 s, what is in them after 30 s.
	fresh := fmt.Sprintf("example.org/tests/fresh-%d:1", round)
	s.loadImageAs(t, fresh) // and containerd unpacks it
	time.Sleep(6 * time.Second)
	build := []string{"new", "old"}[round%2]
	s.run(t, "systemd-run", "--unit=upgrade", "--collect", "-p", "StandardOutput=file:/run/upgrade", "dpkg", "-i", "/debs/"+build+"/"+filepath.Base(deb(t, build, "tender-agent")))
	s.prints(t, "Unpacking tender-agent", "cat", "/run/upgrade")
	if round > 0 {
		wait := rand.N(15 * time.Second)
		t.Logf("the power is cut %v later", wait)
		time.Sleep(wait)
	}
	after := time.Now()
	s.kill(t)
	s.boot(t)
	t.Logf("back after %v with %s", time.Since(after).Round(100*time.Millisecond), s.run(t, "dpkg-query", "-W", "-f", "${Version}, ${Status}", "tender-agent"))
	s.fleet.agent(t, s.agent, "is back", func(a client.Agent) bool { return a.State == client.AgentConnected })
	s.fleet.restarted(t, kept, after, time.Now())
	s.fleet.run(t, "exit 0", "TASK_FINISHED")
	task, err := s.fleet.Submit(t.Context(), harness.Complete(client.Submit{Image: fresh, Command: []string{"true"}}))
	if err != nil {
		t.Fatal(err)
	}
	s.fleet.task(t, task.ID, "TASK_FINISHED")
	if _, err := s.fleet.StopTask(t.Context(), kept, client.Stop{}); err != nil {
		t.Fatal(err)
	}
}

// upgradeOnce: what was cut off is in the way of nothing.
func (s *site) upgradeOnce(t *testing.T) {
	s.dpkg(t, "new")
	if version := s.run(t, "tender-agent", "--version"); !strings.Contains(version, "0.1.2") {
		t.Errorf("upgraded, and it is %q", version)
	}
	if audit := s.run(t, "dpkg", "--audit"); audit != "" {
		t.Errorf("dpkg is not content: %s", audit)
	}
	s.prints(t, "connected to the control plane", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	s.fleet.run(t, "exit 0", "TASK_FINISHED")
	s.sound(t)
}
