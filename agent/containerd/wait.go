package containerd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Wait blocks until the task has ended.
func (x *Executor) Wait(ctx context.Context, id fleet.TaskID) (executor.Exit, error) {
	name := x.name(id)
	var r *tasks.WaitResponse
	err := settled(ctx, func() (err error) {
		r, err = x.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: name})
		return native(err)
	})
	if err != nil {
		return executor.Exit{}, x.wrap(ctx, "wait for task "+string(id), err)
	}
	return x.exit(name, r.ExitStatus, r.ExitedAt.AsTime()), nil
}

// exit tells the three ways to end apart. containerd reports a signal as 128
// and its number, as a shell does, so a program that exits with such a code
// itself is taken for one that was ended by the signal.
func (x *Executor) exit(name string, status uint32, at time.Time) executor.Exit {
	e := executor.Exit{Code: int(status), Time: at}
	if status > 128 && status <= 128+64 {
		e.Code, e.Signal = -1, int(status-128)
	}
	// A worker that the kernel killed makes its parent exit with a code of its
	// own; the memory limit is still the reason. Not so when the task was asked
	// to end, or survived the loss of the worker.
	if (e.Code > 0 || e.Signal == 9 && !x.stops.killed(name)) && x.outOfMemory(name) {
		e.Code, e.Signal, e.OOM = -1, 0, true
	}
	return e
}

// outOfMemory asks the container's control group, which stays until the task
// is deleted and knows what happened while no agent ran. Where it cannot be
// read, the event decides.
func (x *Executor) outOfMemory(name string) bool {
	if kills, err := x.cgroups.oomKills(filepath.Join(x.cfg.Namespace, name)); err == nil {
		return kills
	}
	return x.ooms.seen(name)
}

// oomKills reports whether the kernel has killed a process of the group.
func (c cgroups) oomKills(group string) (bool, error) {
	file := filepath.Join(c.root, "memory", group, "memory.oom_control")
	if c.unified {
		file = filepath.Join(c.root, group, "memory.events")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0", nil
		}
	}
	return false, os.ErrNotExist // kernels before 4.13
}

// oomEvents remembers which containers ran out of memory.
type oomEvents struct {
	mu    sync.Mutex
	names map[string]struct{}
}

// maxOOMs bounds the memory of events whose containers nobody removes.
const maxOOMs = 4096

func (o *oomEvents) add(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.names == nil || len(o.names) >= maxOOMs {
		o.names = map[string]struct{}{}
	}
	o.names[name] = struct{}{}
}

func (o *oomEvents) seen(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.names[name]
	return ok
}

func (o *oomEvents) forget(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.names, name)
}

// watchOOM keeps one subscription for all containers until Close, renewing it
// after every restart of containerd.
func (x *Executor) watchOOM() {
	filter := `topic=="/tasks/oom",namespace=="` + x.cfg.Namespace + `"`
	for {
		ctx, cancel := context.WithCancel(x.ctx)
		envelopes, errs := x.client.EventService().Subscribe(ctx, filter)
		x.receiveOOM(envelopes, errs)
		cancel()
		select {
		case <-x.ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (x *Executor) receiveOOM(envelopes <-chan *events.Envelope, errs <-chan error) {
	for {
		select {
		case <-x.ctx.Done():
			return
		case <-errs:
			return // containerd is away, which every other call reports
		case e := <-envelopes:
			v, err := typeurl.UnmarshalAny(e.Event)
			if oom, ok := v.(*eventtypes.TaskOOM); ok && err == nil {
				x.ooms.add(oom.ContainerID)
			}
		}
	}
}
