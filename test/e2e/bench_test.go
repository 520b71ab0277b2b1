package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

const (
	benchTasks = 100
	// atATime is how many containers run at once, on either way: what the
	// machine's processors allow, and more to hide the waiting.
	atATime = 8
)

// BenchmarkContainers runs 100 short containers through the whole path (API,
// trio, offers, session, agent, containerd, status, logs kept), 100 of the very
// same containers by a bare containerd client on the same daemon, which keeps
// their output in the same way, and 100 plain ones, which have none of a task's
// confinement: no seccomp filter, no limits. They take turns in halves, so that
// what else the machine does hits all three; the ratios are what counts.
//
//	go test ./test/e2e -run - -bench Containers -benchtime 5x
func BenchmarkContainers(b *testing.B) {
	f, a := withAgentOf(b, harness.AgentOptions{Args: []string{"--offer-cpus", fmt.Sprint(atATime)}})
	same := taskSpec(b, f, a.Runtime)
	var whole, bare, plain time.Duration
	var first []time.Duration
	for b.Loop() {
		for range 2 {
			d, ran := wholePath(b, f, benchTasks/2)
			whole += d
			first = append(first, ran)
			bare += barePath(b, a.Runtime, benchTasks/2, same)
			plain += barePath(b, a.Runtime, benchTasks/2, oci.WithProcessArgs("true"))
		}
	}
	n := float64(b.N * benchTasks)
	b.ReportMetric(n/whole.Seconds(), "tender/s")
	b.ReportMetric(n/bare.Seconds(), "bare/s")
	b.ReportMetric(n/plain.Seconds(), "plain/s")
	b.ReportMetric(bare.Seconds()/whole.Seconds(), "tender:bare")
	b.ReportMetric(plain.Seconds()/whole.Seconds(), "tender:plain")
	slices.Sort(first)
	b.ReportMetric(first[len(first)/2].Seconds(), "s-to-first-of-50")
}

// taskSpec makes any container the same as a task's.
func taskSpec(b *testing.B, f *harness.Fleet, rt *harness.Runtime) oci.SpecOpts {
	b.Helper()
	id := f.Submit(b, client.Submit{Command: untilTouched(), CPUs: "1"})
	f.Running(b, id)
	box, err := rt.Client.LoadContainer(b.Context(), id)
	if err != nil {
		b.Fatal(err)
	}
	spec, err := box.Spec(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	touch(b, rt.PID(b, id))
	f.End(b, id)
	text, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context, _ oci.Client, c *containers.Container, s *oci.Spec) error {
		*s = oci.Spec{}
		if err := json.Unmarshal(text, s); err != nil {
			return err
		}
		s.Process.Args, s.Hostname = []string{"true"}, c.ID
		s.Linux.CgroupsPath = path.Join("/", rt.Namespace, c.ID)
		return nil
	}
}

// BenchmarkFirstRunning is the time from a submission to an idle fleet until
// the task runs, as the agent dates it.
func BenchmarkFirstRunning(b *testing.B) {
	f, _ := withAgentOf(b, harness.AgentOptions{})
	f.End(b, f.Submit(b, client.Submit{Command: []string{"true"}}))
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		task := f.End(b, f.Submit(b, client.Submit{Command: []string{"true"}}))
		took = append(took, runningAt(b, task).Sub(began))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds(), "s-to-running")
	b.ReportMetric(took[len(took)-1].Seconds(), "s-to-running-max")
}

func withAgentOf(b *testing.B, o harness.AgentOptions) (*harness.Fleet, *harness.Agent) {
	b.Helper()
	f := harness.NewFleet(b, 3)
	o.Runtime = harness.NewRuntime(b)
	a := f.Join(b, o)
	a.Start(b)
	a.Connected(b)
	return f, a
}

// runningAt is when the agent saw the task run: both clocks are this machine's.
func runningAt(b *testing.B, task client.Task) time.Time {
	b.Helper()
	for _, h := range task.History {
		if h.State == "TASK_RUNNING" {
			return h.Time
		}
	}
	b.Fatalf("it never ran: %s", harness.Tell(task))
	return time.Time{}
}

// wholePath submits n tasks, as many at a time as the bare client starts, each
// of which takes one of atATime processors, and waits until all have ended.
// first is when the first one ran.
func wholePath(b *testing.B, f *harness.Fleet, n int) (took, first time.Duration) {
	b.Helper()
	began := time.Now()
	ids := make([]string, n)
	var g errgroup.Group
	g.SetLimit(atATime)
	for i := range ids {
		g.Go(func() error {
			task, err := f.Client.Submit(b.Context(), harness.Complete(client.Submit{Command: []string{"true"}, CPUs: "1"}))
			ids[i] = task.ID
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	for {
		list, err := f.Tasks(b.Context(), client.TaskFilter{Limit: 1})
		if err != nil {
			b.Fatal(err)
		}
		if len(list.Tasks) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	took, first = time.Since(began), time.Hour
	for _, id := range ids {
		task, err := f.Task(b.Context(), id)
		if err != nil || task.State != "TASK_FINISHED" {
			b.Fatalf("%s: %v", harness.Tell(task), err)
		}
		first = min(first, runningAt(b, task).Sub(began))
	}
	return took, first
}

// barePath does what containerd's own guide does, and keeps the output by the
// program that the agent keeps it by.
func barePath(b *testing.B, rt *harness.Runtime, n int, spec oci.SpecOpts) time.Duration {
	b.Helper()
	logs := b.TempDir()
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(atATime)
	for i := range n {
		g.Go(func() error { return bareOne(b.Context(), rt.Client, fmt.Sprintf("bare-%d", i), logs, spec) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

func bareOne(ctx context.Context, c *containerd.Client, id, logs string, spec oci.SpecOpts) error {
	img, err := c.GetImage(ctx, harness.Image)
	if err != nil {
		return err
	}
	box, err := c.NewContainer(ctx, id, containerd.WithNewSnapshot(id, img),
		containerd.WithNewSpec(oci.WithImageConfig(img), spec))
	if err != nil {
		return err
	}
	p, err := box.NewTask(ctx, cio.BinaryIO(harness.Program("tender-log"), map[string]string{
		"log": tasklog.Writer(logs+"/"+id, tasklog.DefaultMaxBytes),
	}))
	if err != nil {
		return err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	<-exit
	if _, err := p.Delete(ctx); err != nil {
		return err
	}
	return box.Delete(ctx, containerd.WithSnapshotCleanup)
}
