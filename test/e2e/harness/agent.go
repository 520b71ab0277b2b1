package harness

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
)

// AgentOptions describe an agent.
type AgentOptions struct {
	// Runtime is its containerd; without one the agent finds none.
	Runtime *Runtime
	Site    string
	Labels  map[string]string
	// Node is the node of the bed that it runs on.
	Node string
	// Clock is by how much its machine's clock is ahead.
	Clock time.Duration
	// Args go to `tender-agent run`.
	Args []string
}

// Agent is one tender-agent.
type Agent struct {
	ID, State string
	// Told is what joining said to the person at the machine.
	Told    string
	Runtime *Runtime
	Node    string
	fleet   *Fleet
	args    []string
	boot    string // a file with the machine's boot id; empty is the real one
	proc    *Process
}

// Join admits an agent by a new token. It does not run yet.
func (f *Fleet) Join(t testing.TB, o AgentOptions) *Agent {
	t.Helper()
	line := f.Token(t, client.CreateToken{Site: o.Site, Labels: o.Labels})
	f.agents++
	name := fmt.Sprintf("a%d", f.agents)
	a := &Agent{State: filepath.Join(f.dir, "agent-"+name), Runtime: o.Runtime, Node: o.Node, fleet: f}
	path, argv := f.on(a.Node, "tender-agent", "join", "--state", a.State, "--name", name, "--clock-offset", o.Clock.String(), "-")
	stdout, stderr, code := Run(t, line, path, argv...)
	if code != 0 {
		t.Fatalf("tender-agent join: %s", stderr)
	}
	fields := strings.Fields(stdout)
	a.ID, a.Told = fields[len(fields)-1], stderr
	a.args = []string{"run", "--state", a.State, "--log-level", logLevel(t), "--containerd"}
	if o.Runtime != nil {
		a.args = append(a.args, o.Runtime.Address, "--namespace", o.Runtime.Namespace)
	} else {
		a.args = append(a.args, filepath.Join(f.dir, "no-containerd.sock"))
	}
	a.args = append(a.args, o.Args...)
	a.SetClock(o.Clock)
	return a
}

// SetClock sets by how much its machine's clock is ahead, from the next start on.
func (a *Agent) SetClock(ahead time.Duration) {
	const flag = "--clock-offset="
	a.args = append(slices.DeleteFunc(a.args, func(s string) bool { return strings.HasPrefix(s, flag) }), flag+ahead.String())
}

// Start runs the agent, for the first time or again.
func (a *Agent) Start(t testing.TB) {
	t.Helper()
	path, args := a.fleet.on(a.Node, "tender-agent", a.args...)
	if a.boot != "" {
		const bind = `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`
		args = append([]string{"-m", "sh", "-c", bind, a.boot, path}, args...)
		path = "/usr/bin/unshare"
	}
	a.proc = spawn(a.fleet.owner, t, a.ID, path, args...)
	if a.Runtime != nil {
		a.proc.killed = &a.Runtime.cut
		// Before the agent is stopped it gets the time to clean up.
		a.fleet.owner.Cleanup(func() { a.Runtime.settle(a.fleet.owner) })
	}
}

// Reboot cuts the agent's machine from its power and starts it again: agent,
// containerd and tasks end at once, and the next agent finds another boot id.
func (a *Agent) Reboot(t testing.TB) {
	t.Helper()
	a.proc.Kill(t)
	a.boot = a.State + ".boot_id"
	err := errors.Join(a.Runtime.PowerOff(), os.WriteFile(a.boot, []byte(strings.ToLower(rand.Text())+"\n"), 0o600), a.Runtime.Run())
	if err != nil {
		t.Fatal(err)
	}
	a.Start(t)
}

// Process is the running agent, or the last one.
func (a *Agent) Process() *Process { return a.proc }

// Connected waits until the control plane sees the agent and has recorded what
// it said of itself: its machine's name and, if it has a container runtime, its
// capacity.
func (a *Agent) Connected(t testing.TB) client.Agent {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return a.Await(t, "it is connected", func(d client.Agent) bool {
		return d.State == client.AgentConnected && d.Hostname == host && (a.Runtime == nil || d.Total.CPUs != "0")
	})
}

// Await waits until the control plane sees the agent as wanted.
func (a *Agent) Await(t testing.TB, what string, ok func(client.Agent) bool) client.Agent {
	t.Helper()
	var doc client.Agent
	Eventually(t, "agent "+a.ID+": "+what, func() bool {
		var err error
		doc, err = a.fleet.Agent(t.Context(), a.ID)
		return err == nil && ok(doc)
	})
	return doc
}

// RSS is the memory that the running agent holds, in bytes.
func (a *Agent) RSS(t testing.TB) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.proc.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	t.Fatalf("no VmRSS in %s", data)
	return 0
}

// Reorder returns a join line that names another replica first.
func Reorder(t testing.TB, line string, first int) string {
	t.Helper()
	l, err := pki.ParseJoinLine(line)
	if err != nil {
		t.Fatal(err)
	}
	l.Addrs = append(slices.Clone(l.Addrs[first:]), l.Addrs[:first]...)
	return l.String()
}
