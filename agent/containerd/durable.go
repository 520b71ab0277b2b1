package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/tenderfleet/tender/agent/capacity"
)

// durableLabel is on an unpacked layer whose files are on the disk for good.
// containerd syncs its record of a layer, not the layer's files: a machine that
// loses its power within half a minute of an unpacking has the layer and empty
// files in it (seen with containerd 1.7.24 on ext4), and every task of the image
// fails from then on.
const durableLabel = "tender.durable"

// errInUse keeps a layer that should be unpacked again.
var errInUse = errors.New("a running task uses it")

// durable reports whether all of an image's layers are there for good.
func (x *Executor) durable(ctx context.Context, chain []digest.Digest) (bool, error) {
	for _, layer := range chain {
		info, err := x.snaps.Stat(ctx, layer.String())
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil || info.Labels[durableLabel] == "" {
			return false, err
		}
	}
	return true, nil
}

// keep puts what was unpacked in this life of the machine on the disk, and says
// so on the layers. Sync is the machine's: the agent has no access to the file
// system of the layers alone.
func (x *Executor) keep(ctx context.Context, chain []digest.Digest) error {
	unix.Sync()
	for _, layer := range chain {
		info, err := x.snaps.Stat(ctx, layer.String())
		if err == nil && !x.doubtful(info) {
			info.Labels = map[string]string{durableLabel: "1"}
			_, err = x.snaps.Update(ctx, info, "labels."+durableLabel)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// doubtful: a layer was unpacked in an earlier life of the machine, and nobody has
// seen to it that its files outlive that. A time to come is a wrong clock's.
func (x *Executor) doubtful(info snapshots.Info) bool {
	return info.Labels[durableLabel] == "" && (info.Created.Before(x.booted()) || info.Created.After(time.Now()))
}

// booted is when this machine has started, by its clock as it goes now.
func booted() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{} // no such kernel is supported
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

// discard removes the doubtful layers of an image, with everything above them: the
// image is unpacked again from its blobs, which containerd does sync. What a
// task runs on stays as it is.
func (x *Executor) discard(ctx context.Context, chain []digest.Digest) error {
	unlock, err := x.discarding.lock(ctx, "")
	if err != nil {
		return err
	}
	defer unlock()
	above := map[string][]snapshots.Info{}
	var lowest snapshots.Info
	found := map[string]snapshots.Info{}
	err = x.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		found[info.Name] = info
		above[info.Parent] = append(above[info.Parent], info)
		return nil
	})
	if err != nil {
		return err
	}
	for _, layer := range chain {
		if info, ok := found[layer.String()]; ok && x.doubtful(info) {
			lowest = info
			break
		}
	}
	if lowest.Name == "" {
		return nil
	}
	var topFirst []snapshots.Info
	var collect func(snapshots.Info)
	collect = func(info snapshots.Info) {
		for _, child := range above[info.Name] {
			collect(child)
		}
		topFirst = append(topFirst, info)
	}
	collect(lowest)
	for _, info := range topFirst {
		switch err := x.idle(ctx, info); {
		case errors.Is(err, errInUse):
			x.log.WarnContext(ctx, "layers may lack files since the machine lost its power, and are not unpacked again", "layer", info.Name, "cause", err)
			return nil
		case err != nil:
			return err
		}
	}
	x.log.InfoContext(ctx, "layers are unpacked again: nothing shows that they were on the disk when the machine went down", "layer", lowest.Name)
	held := false
	for _, info := range topFirst {
		switch err := x.snaps.Remove(ctx, info.Name); {
		case errdefs.IsFailedPrecondition(err):
			held = true
		case err != nil && !errdefs.IsNotFound(err):
			return fmt.Errorf("remove layer %s: %w", info.Name, err)
		}
	}
	if held {
		return x.collect(ctx, topFirst)
	}
	return nil
}

// collect has containerd's garbage collector remove layers. It has to where it has
// removed what lay on them before: then containerd holds them for what is no more.
func (x *Executor) collect(ctx context.Context, layers []snapshots.Info) error {
	doomed := map[string]bool{}
	for _, l := range layers {
		doomed[l.Name] = true
	}
	store, label := x.client.ContentStore(), "containerd.io/gc.ref.snapshot."+x.cfg.Snapshotter
	var refer []digest.Digest
	err := store.Walk(ctx, func(info content.Info) error {
		if doomed[info.Labels[label]] {
			refer = append(refer, info.Digest)
		}
		return nil
	}, `labels."`+label+`"`)
	for _, d := range refer {
		if err == nil {
			_, err = store.Update(ctx, content.Info{Digest: d, Labels: map[string]string{label: ""}}, "labels."+label)
		}
	}
	if err != nil {
		return fmt.Errorf("give up layers: %w", err)
	}
	service, lease := x.client.LeasesService(), leases.Lease{ID: "tender-" + randomName()}
	if _, err = service.Create(ctx, leases.WithID(lease.ID), leases.WithExpiration(time.Hour)); err == nil {
		err = service.Delete(ctx, lease, leases.SynchronousDelete) // and what nothing refers to
	}
	if err != nil {
		return fmt.Errorf("collect layers: %w", err)
	}
	return nil
}

// idle fails where a task of this life of the machine runs on a layer.
func (x *Executor) idle(ctx context.Context, info snapshots.Info) error {
	if info.Kind == snapshots.KindCommitted {
		return nil
	}
	c, err := x.client.ContainerService().Get(ctx, info.Name)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err == nil && c.Labels[bootLabel] == capacity.BootID():
		return errInUse
	}
	return err
}
