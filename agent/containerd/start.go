package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/tenderfleet/tender/agent/capacity"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/transport/fleet"
)

// taskLabel marks Tender's containers; its value is the task id.
const taskLabel = "tender.task"

// bootLabel says which life of the machine a container was made in.
const bootLabel = "tender.boot"

// graceLabel says how long the task has between TERM and KILL, to those who have
// the container alone.
const graceLabel = "tender.grace"

// launchTimeout bounds what Start does once it has the image, none of which
// takes more than moments on a machine that is well.
const launchTimeout = 2 * time.Minute

// cleanupTimeout bounds what is done after the caller's context has ended.
const cleanupTimeout = 30 * time.Second

// Start creates and starts the task's container.
func (x *Executor) Start(ctx context.Context, t executor.Task) error {
	op := "start task " + string(t.ID)
	if err := fleet.CheckID("task id", string(t.ID)); err != nil {
		return invalid("%w", err)
	}
	unlock, err := x.starting.lock(ctx, containerName(t.ID))
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer unlock()
	err = x.start(ctx, t, x.name(t.ID))
	if errors.Is(err, errRemains) && x.name(t.ID) == containerName(t.ID) {
		x.seconds.set(t.ID, true)
		err = x.start(ctx, t, secondName(t.ID))
	}
	return x.wrap(ctx, op, err)
}

// start starts the task in a container of that name.
func (x *Executor) start(ctx context.Context, t executor.Task, name string) (err error) {
	img, record, err := x.describe(ctx, name, t)
	if err != nil {
		// A task that runs is not disturbed by an image that was removed since.
		if exists, existsErr := x.exists(ctx, name); existsErr == nil && exists {
			return nil
		}
		return err
	}
	select {
	case x.launching <- struct{}{}:
		defer func() { <-x.launching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// From here on the caller is heeded between the steps only. A shim whose
	// creation is cancelled leaves a directory that bars its name until
	// containerd is restarted, and a cancelled call may have had its effect.
	launch, cancel := context.WithTimeout(context.WithoutCancel(ctx), launchTimeout)
	defer cancel()
	exists, remains, err := x.create(launch, record)
	if err != nil || exists {
		return err
	}
	logs := x.Logs().Path(t.ID)
	_, statErr := os.Stat(logs)
	if err = x.launch(launch, ctx, t, name, img); errors.Is(err, errNotCreated) && (remains || errors.Is(err, errRemains)) {
		err = x.launchOverRemains(launch, ctx, t, name, img, err)
	}
	if err != nil {
		x.abandon(ctx, name)
		if errors.Is(statErr, fs.ErrNotExist) {
			_ = os.RemoveAll(logs)
		}
	}
	return err
}

// create stores the container's record, unless the task exists already. There
// are remains when an earlier start was cut short.
func (x *Executor) create(ctx context.Context, record containers.Container) (exists, remains bool, err error) {
	_, err = x.client.ContainerService().Create(ctx, record)
	if !errdefs.IsAlreadyExists(err) {
		return false, false, err
	}
	exists, err = x.exists(ctx, record.ID)
	if err != nil || exists {
		return exists, false, err
	}
	if err := x.sameBoot(ctx, record); err != nil {
		return false, true, err
	}
	if err := x.remove(ctx, record.ID); err != nil {
		return false, true, err
	}
	_, err = x.client.ContainerService().Create(ctx, record)
	return false, true, err
}

// sameBoot refuses to replace a container from before a restart of the
// machine: its task may have run, and what may have run is not run again.
func (x *Executor) sameBoot(ctx context.Context, record containers.Container) error {
	old, err := x.client.ContainerService().Get(ctx, record.ID)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case old.Labels[bootLabel] != record.Labels[bootLabel]:
		return invalid("the machine was restarted while the task was being started; whether it ran is not known, so it is not started a second time")
	}
	return nil
}

// describe finds the image and makes the container's record.
func (x *Executor) describe(ctx context.Context, name string, t executor.Task) (*image, containers.Container, error) {
	img, err := x.image(ctx, t.Spec.Image)
	if err != nil {
		return nil, containers.Container{}, err
	}
	spec, err := x.spec(ctx, t, name, img)
	if err != nil {
		return nil, containers.Container{}, err
	}
	specAny, err := typeurl.MarshalAny(spec)
	return img, containers.Container{
		ID:      name,
		Labels:  map[string]string{taskLabel: string(t.ID), bootLabel: capacity.BootID(), graceLabel: t.Spec.Grace().String()},
		Image:   t.Spec.Image,
		Runtime: containers.RuntimeInfo{Name: plugins.RuntimeRuncV2, Options: x.runtime},
		Spec:    specAny,
		// Naming the snapshot before it exists keeps the garbage collector from
		// it, so no lease is needed.
		Snapshotter: x.cfg.Snapshotter,
		SnapshotKey: name,
	}, err
}

// exists reports whether a started task has the container; what was created
// and never started does not count.
func (x *Executor) exists(ctx context.Context, name string) (bool, error) {
	var r *tasks.GetResponse
	err := settled(ctx, func() (err error) {
		r, err = x.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: name})
		return native(err)
	})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return r.Process.Status != tasktypes.Status_CREATED, nil
}

// remainsTime is how long containerd may take to clear up after a start that
// ended with its caller's connection. It is done in a second, or never.
const remainsTime = 10 * time.Second

// launchOverRemains launches again while an earlier start is being cleared up:
// that of an agent that was killed a moment ago. Clearing up takes directories,
// mounts and runc's record away by name, from under the new start as well, so
// that no failure to create the task tells anything about the task.
func (x *Executor) launchOverRemains(ctx, caller context.Context, t executor.Task, name string, img *image, err error) error {
	for end := time.Now().Add(remainsTime); errors.Is(err, errNotCreated) && time.Now().Before(end); {
		select {
		case <-time.After(remainsPause):
		case <-caller.Done():
			return err
		}
		// What the killed agent had asked for may have been done since.
		exists, existsErr := x.exists(ctx, name)
		if existsErr != nil || exists {
			return existsErr
		}
		if err := x.deleteTask(ctx, name); err != nil {
			return err
		}
		err = x.launch(ctx, caller, t, name, img)
	}
	return err
}

// remainsPause is between two tries.
const remainsPause = 250 * time.Millisecond

// launch makes the container's snapshot, its shim and its process, unless the
// caller gives up in between.
func (x *Executor) launch(ctx, caller context.Context, t executor.Task, name string, img *image) error {
	logs := x.Logs().Path(t.ID)
	// The writer is root, as the shim that starts it is; this process need not be.
	if err := x.Logs().Make(t.ID); err != nil {
		return err
	}
	mounts, err := x.prepare(ctx, name, t, img)
	if err != nil {
		return err
	}
	uri, err := cio.LogURIGenerator("binary", x.cfg.LogBinary[0], map[string]string{
		x.cfg.LogBinary[1]: tasklog.Writer(logs, x.cfg.MaxLogBytes),
	})
	if err != nil {
		return err
	}
	req := &tasks.CreateTaskRequest{ContainerID: name, Stdout: uri.String(), Stderr: uri.String()}
	for _, m := range mounts {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if caller.Err() != nil {
		return caller.Err()
	}
	if _, err := x.client.TaskService().Create(ctx, req); err != nil {
		return fmt.Errorf("%w%w", errNotCreated, launchError(native(err)))
	}
	// The shim takes a writer that died at once for one that is ready.
	if _, err := os.Stat(filepath.Join(logs, "stdout.log")); err != nil {
		return fmt.Errorf("the log writer %s %s did not open its files: %w", x.cfg.LogBinary[0], x.cfg.LogBinary[1], err)
	}
	if caller.Err() != nil {
		return caller.Err()
	}
	_, err = x.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: name})
	if err != nil {
		return launchError(native(err))
	}
	return nil
}

// prepare makes the container's own layer on top of the image's. When someone
// has removed those since they were last seen, they are unpacked again.
func (x *Executor) prepare(ctx context.Context, name string, t executor.Task, img *image) ([]mount.Mount, error) {
	mounts, err := x.snaps.Prepare(ctx, name, img.parent)
	switch {
	case errdefs.IsAlreadyExists(err): // left by a removal that was cut short
		if err := x.snaps.Remove(ctx, name); err != nil {
			return nil, err
		}
	case errdefs.IsNotFound(err):
		x.images.drop(img.target)
		if img, err = x.image(ctx, t.Spec.Image); err != nil {
			return nil, err
		}
	default:
		return mounts, err
	}
	return x.snaps.Prepare(ctx, name, img.parent)
}

// abandon removes what a failed start has made, also when the caller has given
// up. What cannot be removed now is found by List, or by the next Start.
func (x *Executor) abandon(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := x.remove(ctx, name); err != nil {
		x.log.WarnContext(ctx, "cannot clean up after a failed start", "container", name, "error", err)
	}
}
