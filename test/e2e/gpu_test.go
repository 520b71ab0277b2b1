package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/fakenvml"
)

// withGPUs is a control plane with one agent whose driver and cards are
// stand-ins.
func withGPUs(t *testing.T, n int) (*harness.Fleet, *harness.Agent) {
	t.Helper()
	root, err := fakenvml.DriverRoot(t.TempDir(), fakenvml.NewWorld(n, "NVIDIA RTX A6000", 49140))
	if err != nil {
		t.Fatal(err)
	}
	f := harness.NewFleet(t, 1)
	a := f.Join(t, harness.AgentOptions{
		Runtime: harness.NewRuntime(t),
		Args:    []string{"--driver-root", root.Dir, "--dev-root", root.Dir, "--nvml", root.Library},
	})
	a.Start(t)
	a.Await(t, "it shows its GPUs", func(d client.Agent) bool { return len(d.Total.GPUs) == n })
	return f, a
}

func TestATaskHasItsOwnGPUsAndNoOthers(t *testing.T) {
	t.Parallel()
	f, a := withGPUs(t, 2)

	t.Run("the agent shows model and memory", func(t *testing.T) {
		doc := a.Connected(t)
		for i, g := range doc.GPUs {
			if g.UUID != fakenvml.UUID(i) || g.Model != "NVIDIA RTX A6000" || g.Memory != 49140 || g.Compute != "8.6" || g.Health != "healthy" {
				t.Errorf("GPU %d is shown as %+v", i, g)
			}
		}
	})

	t.Run("a model and a size that nobody has", func(t *testing.T) {
		waits(t, f, client.Submit{GPUs: "1", GPUModel: "H100"}, "1 agent: not enough GPUs with model H100: needs 1, has 0")
		waits(t, f, client.Submit{GPUs: "1", GPUMemory: "80G"}, "1 agent: not enough GPUs with 81920 MiB or more: needs 1, has 0")
		waits(t, f, client.Submit{GPUs: "3"}, "1 agent: not enough GPUs: needs 3, has 2")
	})

	const look = "cd /dev; ls -d nvidia[0-9]* | tr '\\n' ' '; echo $NVIDIA_VISIBLE_DEVICES; until [ -e /tmp/end ]; do sleep 0.05; done"
	submit := func() string {
		return f.Submit(t, client.Submit{Command: sh(look), GPUs: "1", GPUModel: "a6000", GPUMemory: "40G"})
	}
	var ids []string
	var uuids, nodes []string
	for range 2 {
		id := submit()
		task := f.Running(t, id)
		harness.Eventually(t, "the task has looked around", func() bool {
			out, _ := f.Output(t, id)
			return strings.HasSuffix(out, "\n")
		})
		out, _ := f.Output(t, id)
		fields := strings.Fields(out)
		if len(task.Resources.GPUs) != 1 || len(fields) != 2 || fields[1] != "void" {
			t.Fatalf("a task with %v printed %q, want one node and \"void\"", task.Resources.GPUs, out)
		}
		ids, uuids, nodes = append(ids, id), append(uuids, task.Resources.GPUs[0]), append(nodes, fields[0])
	}
	for i, uuid := range uuids {
		for n := range 2 {
			if uuid == fakenvml.UUID(n) && nodes[i] != fmt.Sprintf("nvidia%d", n) {
				t.Errorf("the task with %s has the node %s", uuid, nodes[i])
			}
		}
	}
	if uuids[0] == uuids[1] {
		t.Errorf("both tasks have %s", uuids[0])
	}

	third := submit()
	f.Await(t, third, "it waits, with a reason", func(task client.Task) bool {
		return task.Waiting != nil && !task.Waiting.Never &&
			strings.Contains(task.Waiting.Reason, "not enough GPUs: needs 1, has 0: the rest is in use")
	})
	none := f.Submit(t, client.Submit{Command: sh("ls -d /dev/nvidia* 2>/dev/null; echo $NVIDIA_VISIBLE_DEVICES")})
	f.End(t, none)
	if out, _ := f.Output(t, none); out != "void\n" {
		t.Errorf("a task without GPUs sees %q", out)
	}
	end(t, a.Runtime, ids[0])
	f.End(t, ids[0])
	if task := f.Running(t, third); !slices.Equal(task.Resources.GPUs, uuids[:1]) {
		t.Errorf("the third task has %v, want the one that became free, %s", task.Resources.GPUs, uuids[0])
	}
	for _, id := range []string{ids[1], third} {
		end(t, a.Runtime, id)
		if task := f.End(t, id); task.State != "TASK_FINISHED" {
			t.Error(harness.Tell(task))
		}
	}
}
