package containerd

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/transport/fleet"
)

// batch is how many containers one turn of BenchmarkStart runs.
const batch = 20

// BenchmarkStart runs short containers from start to removal, four at a time,
// in turns: with the executor, with a bare client that throws the output away,
// and with one that keeps it as the executor does. Turns are short, so that
// whatever else the machine does hits all three; the ratio is what counts.
//
//	go test -run - -bench Start -benchtime 10x ./agent/containerd
func BenchmarkStart(b *testing.B) {
	w := newWorld(b, ctrd.Debian(b))
	x := w.open(b)
	logs := cio.BinaryIO(x.cfg.LogBinary[0], map[string]string{
		x.cfg.LogBinary[1]: tasklog.Writer(x.Logs().Path("bare"), tasklog.DefaultMaxBytes),
	})
	run(b, x, task("unpacks-the-image", []string{"true"}))
	took := map[string]time.Duration{}
	n := 0
	for b.Loop() {
		for name, one := range map[string]func(id string) error{
			"executor":       func(id string) error { return withExecutor(b.Context(), x, fleet.TaskID(id)) },
			"bare":           func(id string) error { return bare(b.Context(), x.client, id, cio.NullIO) },
			"bare-with-logs": func(id string) error { return bare(b.Context(), x.client, id, logs) },
		} {
			began := time.Now()
			fourAtATime(b, func(i int) error { return one(fmt.Sprintf("bench-%d-%d", n, i)) })
			took[name] += time.Since(began)
			n++
		}
	}
	for name, d := range took {
		b.ReportMetric(float64(b.N*batch)/d.Seconds(), name+"/s")
	}
	b.ReportMetric(float64(took["bare"])/float64(took["executor"]), "executor:bare")
	w.checkClean(b)
}

func fourAtATime(b *testing.B, one func(i int) error) {
	var g errgroup.Group
	g.SetLimit(4)
	for i := range batch {
		g.Go(func() error { return one(i) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

func withExecutor(ctx context.Context, x *Executor, id fleet.TaskID) error {
	t := task(id, []string{"true"})
	t.Resources.CPUs = fleet.Whole(1)
	if err := x.Start(ctx, t); err != nil {
		return err
	}
	if _, err := x.Wait(ctx, id); err != nil {
		return err
	}
	return x.Remove(ctx, id)
}

// bare is what containerd's own guide does.
func bare(ctx context.Context, c *client.Client, id string, io cio.Creator) error {
	img, err := c.GetImage(ctx, busybox)
	if err != nil {
		return err
	}
	container, err := c.NewContainer(ctx, id, client.WithNewSnapshot(id, img),
		client.WithNewSpec(oci.WithImageConfig(img), oci.WithProcessArgs("true")))
	if err != nil {
		return err
	}
	task, err := container.NewTask(ctx, io)
	if err != nil {
		return err
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	<-exit
	if _, err := task.Delete(ctx); err != nil {
		return err
	}
	return container.Delete(ctx, client.WithSnapshotCleanup)
}
