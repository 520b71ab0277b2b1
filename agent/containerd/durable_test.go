package containerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
)

// A machine loses its power soon after an image was unpacked: containerd has the
// layers, and the files in them are empty. That this happens is shown where power
// can be cut, in test/packages.
func TestLayersThatWereNotOnTheDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	ctx := t.Context()
	pulled := func(name string) images.Image {
		t.Helper()
		ref := w.registry.push(t, name, false, testimage.Options{Files: map[string]testimage.File{"/" + name: {}}})
		img, err := x.client.Pull(ctx, ref, client.WithResolver(x.resolver()), client.WithPullUnpack)
		if err != nil {
			t.Fatal(err)
		}
		return img.Metadata()
	}
	layer := func(img images.Image) string {
		t.Helper()
		ids, err := client.NewImage(x.client, img).RootFS(ctx)
		if err != nil || len(ids) != 1 {
			t.Fatalf("%v, %v: the test wants an image of one layer", ids, err)
		}
		return ids[0].String()
	}
	empty := func(img images.Image) {
		t.Helper()
		mounts, err := x.snaps.View(ctx, "look", layer(img), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "1"}))
		if err == nil {
			err = errors.Join(os.Truncate(filepath.Join(mounts[0].Source, "bin/busybox"), 0), x.snaps.Remove(ctx, "look"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	says := func(img images.Image) executor.Task {
		task := task("says", sh("echo fine"))
		task.Spec.Image = img.Name
		return task
	}

	t.Run("are unpacked again", func(t *testing.T) {
		img := pulled("unsynced")
		empty(img)
		// Something lay on it that the garbage collector has taken away.
		if _, err := x.snaps.Prepare(ctx, "orphan", layer(img)); err != nil {
			t.Fatal(err)
		}
		if err := x.collect(ctx, nil); err != nil {
			t.Fatal(err)
		}
		// What ran then is dead, and its container is there yet.
		if _, err := x.client.ContainerService().Create(ctx, containers.Container{
			ID: "dead", Snapshotter: x.cfg.Snapshotter, SnapshotKey: "dead", Labels: map[string]string{bootLabel: "another"},
			Runtime: containers.RuntimeInfo{Name: plugins.RuntimeRuncV2}, Spec: x.runtime,
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := x.snaps.Prepare(ctx, "dead", layer(img)); err != nil {
			t.Fatal(err)
		}
		next := w.lives(t)
		wantPrinted(t, next, says(img), "fine\n")
		if ok, err := next.durable(ctx, []digest.Digest{digest.Digest(layer(img))}); !ok {
			t.Errorf("the new layer is not known to be durable; error %v", err)
		}
		if _, err := x.snaps.Stat(ctx, "dead"); !errdefs.IsNotFound(err) {
			t.Errorf("the dead container's own layer: %v", err)
		}
		if err := x.remove(ctx, "dead"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("unless they were seen to", func(t *testing.T) {
		img := pulled("synced")
		wantPrinted(t, x, says(img), "fine\n")
		before, err := x.snaps.Stat(ctx, layer(img))
		if err != nil || before.Labels[durableLabel] == "" {
			t.Fatalf("the layer's labels are %v, error %v", before.Labels, err)
		}
		wantPrinted(t, w.lives(t), says(img), "fine\n")
		if after, err := x.snaps.Stat(ctx, layer(img)); err != nil || !after.Created.Equal(before.Created) {
			t.Errorf("the layer is of %v, before %v; error %v", after.Created, before.Created, err)
		}
	})
	t.Run("or a task runs on them", func(t *testing.T) {
		img := pulled("used")
		runs := task("runs", sh("sleep 1000"))
		runs.Spec.Image = img.Name
		if err := x.Start(ctx, runs); err != nil {
			t.Fatal(err)
		}
		// As an agent left it that knew nothing of all this.
		used, err := x.snaps.Stat(ctx, layer(img))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.snaps.Update(ctx, snapshots.Info{Name: layer(img)}, "labels."+durableLabel); err != nil {
			t.Fatal(err)
		}
		next := w.lives(t)
		wantPrinted(t, next, says(img), "fine\n")
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if e, err := next.Wait(short, runs.ID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the task that ran: %v, %v", e, err)
		}
		if info, err := x.snaps.Stat(ctx, layer(img)); err != nil || !info.Created.Equal(used.Created) || info.Labels[durableLabel] != "" {
			t.Errorf("the layer is of %v with the labels %v, before %v; error %v", info.Created, info.Labels, used.Created, err)
		}
		if err := x.Remove(ctx, runs.ID); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, w.lives(t), says(img), "fine\n")
		if info, err := x.snaps.Stat(ctx, layer(img)); err != nil || info.Created.Equal(used.Created) || info.Labels[durableLabel] == "" {
			t.Errorf("later the layer is of %v, before %v, with the labels %v; error %v", info.Created, used.Created, info.Labels, err)
		}
	})
	w.checkClean(t)
}

// lives is the executor of the machine's next life.
func (w *world) lives(t *testing.T) *Executor {
	t.Helper()
	x, now := w.open(t), time.Now()
	x.booted = func() time.Time { return now }
	return x
}
