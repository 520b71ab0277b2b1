package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// A machine is taken back by its owner, in order: its tasks end, the control
// plane knows, and nothing of the fleet stays on it.
func TestAMachineLeavesItsFleet(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	began := time.Now()
	stdout, stderr, code := harness.Run(t, "", harness.Program("tender-agent"), "leave", "--state", a.State, "--grace", "1s", "--timeout", "1m")
	if code != 0 || stdout != "this machine has left the fleet\n" {
		t.Fatalf("leave: code %d, %q, %s", code, stdout, stderr)
	}
	t.Logf("left after %.1f s", time.Since(began).Seconds())
	for _, want := range []string{"waiting for tasks to end: 1\n", "next: apt purge tender-agent"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not say %q: %s", want, stderr)
		}
	}
	<-a.Process().Ended()
	if task := f.End(t, id); task.State != "TASK_KILLED" {
		t.Error(harness.Tell(task))
	}
	agents, err := f.Agents(t.Context())
	if err != nil || len(agents) != 1 || agents[0].State != client.AgentGone {
		t.Errorf("the control plane has %+v, %v; want it gone", agents, err)
	}
	if containers, err := a.Runtime.Containers(t.Context()); err != nil || len(containers) != 0 {
		t.Errorf("containers: %v, %v", containers, err)
	}
	if _, err := os.Stat(filepath.Join(a.State, "pki")); !os.IsNotExist(err) {
		t.Errorf("its identity: %v", err)
	}
	_, stderr, code = harness.Run(t, "", harness.Program("tender-agent"), "leave", "--state", a.State)
	if code == 0 || !strings.Contains(stderr, "this machine belongs to no fleet: there is nothing to leave") {
		t.Errorf("a second time: code %d, %s", code, stderr)
	}
	b := f.Join(t, harness.AgentOptions{Runtime: a.Runtime})
	b.Start(t)
	b.Connected(t)
	if b.ID == a.ID {
		t.Errorf("it is %s again, which was gone for good", b.ID)
	}
}

// The control plane is no more: a machine can leave it all the same.
func TestAMachineLeavesAlone(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	f.Replicas[0].Kill(t)
	args := []string{"leave", "--state", a.State, "--containerd", a.Runtime.Address, "--namespace", a.Runtime.Namespace}
	_, stderr, code := harness.Run(t, "", harness.Program("tender-agent"), append(args, "--timeout", "7s")...)
	if code == 0 || !strings.Contains(stderr, "not left after 7s: waiting for ") || !strings.Contains(stderr, "tender-agent leave --force") {
		t.Errorf("without the control plane: code %d, %s", code, stderr)
	}
	if len(a.Runtime.Shims(id)) != 1 {
		t.Error("its task has ended")
	}
	a.Process().Stop(t)
	stdout, stderr, code := harness.Run(t, "", harness.Program("tender-agent"), append(args, "--force", "--grace", "1s")...)
	if code != 0 || !strings.Contains(stdout, "has left the fleet, which does not know") || !strings.Contains(stderr, "tender agent gone "+a.ID) {
		t.Fatalf("leave --force: code %d, %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(filepath.Join(a.State, "pki")); !os.IsNotExist(err) {
		t.Errorf("its identity: %v", err)
	}
	if containers, err := a.Runtime.Containers(t.Context()); err != nil || len(containers) != 0 {
		t.Errorf("containers: %v, %v", containers, err)
	}
}
