package agent

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/tenderfleet/tender/agent/capacity"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// lookEvery is how often totals, devices and the runtime are looked at.
const lookEvery = 5 * time.Second

// watch keeps what the agent declares true: at start, at each event of the
// driver, and by looking again now and then.
func (a *Agent) watch(ctx context.Context) error {
	events := a.cfg.Devices.Events(ctx)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	for {
		a.look(ctx)
		a.leaving(time.Now())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case o := <-a.cfg.Offers:
			a.mu.Lock()
			a.cfg.Offer = o
			a.mu.Unlock()
			a.log.Info("what is offered has changed")
		case now := <-sweep.C:
			a.sweepLogs(now)
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			level := slog.LevelWarn
			if e.UUID == "" { // about the driver as a whole: told by Inventory, too
				level = slog.LevelDebug
			}
			a.log.Log(ctx, level, "GPU event", "gpu", e.UUID, "xid", e.XID, "health", e.Health.String(), "reason", e.Reason)
		}
	}
}

// keepLogs is how long the output of an ended task is kept: Mesos's sandboxes
// go after a week as well.
const keepLogs = 7 * 24 * time.Hour

// sweepLogs removes the output of tasks that are not held any more and were
// silent for keepLogs.
func (a *Agent) sweepLogs(now time.Time) {
	entries, err := os.ReadDir(string(a.cfg.Logs))
	if err != nil {
		return // no task has printed anything yet
	}
	for _, e := range entries {
		id := fleet.TaskID(e.Name())
		if now.Sub(lastWrite(a.cfg.Logs.Path(id))) < keepLogs {
			continue
		}
		a.mu.Lock()
		_, held := a.ended[id]
		a.mu.Unlock()
		if held {
			continue
		}
		if err := a.cfg.Logs.Remove(id); err != nil {
			a.log.Warn("old logs not removed", "task", id, "error", err)
		}
	}
}

// lastWrite is when a file of the directory was last written to.
func lastWrite(dir string) time.Time {
	var last time.Time
	files, _ := os.ReadDir(dir) // none: there is nothing to keep
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// look declares nothing while the container runtime does not answer: what is
// offered could not be used.
func (a *Agent) look(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	_, err := a.cfg.Executor.List(callCtx)
	if ctx.Err() != nil {
		return
	}
	a.setRuntime(err)
	var c fleet.Capacity
	devices, devErr := a.cfg.Devices.Inventory(callCtx)
	if devErr != nil {
		a.log.Warn("GPUs not read", "error", devErr)
		a.mu.Lock()
		devices = a.devices // what was known; health says the rest
		a.mu.Unlock()
	} else {
		a.seen.Do(func() { close(a.looked) })
	}
	devices = slices.Clone(devices)
	slices.SortFunc(devices, func(x, y gpu.Device) int { return cmp.Compare(x.UUID, y.UUID) })
	c.Devices = devices
	if err == nil {
		c.Total = a.total(devices)
	}
	a.mu.Lock()
	changed := !c.Equal(a.capacity)
	a.capacity, a.devices = c, devices
	l := a.link
	a.mu.Unlock()
	if changed {
		a.log.Info("capacity", "total", c.Total.String(), "gpus", len(devices))
		if l != nil {
			l.queue(c)
		}
	}
}

func (a *Agent) total(devices []gpu.Device) fleet.Resources {
	r, err := capacity.Machine(a.cfg.StateDir)
	if err != nil {
		a.log.Error("machine not read; nothing is offered", "error", err)
		return fleet.Resources{}
	}
	a.mu.Lock()
	o := a.cfg.Offer
	a.mu.Unlock()
	for _, lim := range []struct {
		have *fleet.Scalar
		want *fleet.Scalar
	}{{&r.CPUs, o.CPUs}, {&r.Mem, o.Mem}, {&r.Disk, o.Disk}} {
		if lim.want != nil {
			*lim.have = *lim.want
		}
	}
	for _, d := range devices {
		if d.Health == gpu.Healthy && !o.NoGPUs {
			r.GPUs = append(r.GPUs, d.UUID)
		}
	}
	fleet.SortGPUs(r.GPUs)
	r.Ports, r.Custom = o.Ports, o.Custom
	return reserve(r, o.Reserve)
}

// reserve sets parts of the machine aside. Of the GPUs each role gets the first
// ones that nobody has, so that it keeps the same ones from start to start.
func reserve(r fleet.Resources, list []Reservation) fleet.Resources {
	for _, res := range list {
		want := res.Resources
		want.GPUs = r.GPUs[:min(res.GPUs, len(r.GPUs))]
		part := r.Flat().Overlap(want)
		r = r.Sub(part).Add(part.In(fleet.Class{Reserved: []fleet.Reservation{{Role: res.Role}}}))
	}
	return r
}

// setRuntime notes whether the container runtime answers, and says so once.
func (a *Agent) setRuntime(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	a.tell(called(err))
	a.mu.Lock()
	was := a.runtime
	a.runtime = text
	a.mu.Unlock()
	switch {
	case was == "" && text != "":
		a.log.Error("the container runtime does not answer; nothing is offered until it does", "error", text)
	case was != "" && text == "":
		a.log.Info("the container runtime answers again")
	}
}

// readings are the momentary state, sent when they have changed.
func (a *Agent) readings(ctx context.Context) wire.Readings {
	r := fleet.Readings{Time: a.now(), ClockOff: a.clockOff(), Bundle: a.cred.Get().Bundle.Version}
	a.cfg.Meter(a.cfg.StateDir, &r)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if g, err := a.cfg.Devices.Readings(ctx); err == nil {
		r.GPUs = g
	}
	a.mu.Lock()
	r.Tasks, r.Spooled, r.Runtime = a.running, a.spooled, a.runtime
	a.mu.Unlock()
	r.Upgrade = a.upgrade.told()
	_, r.Link = a.cfg.Account.look(r.Time)
	if a.cfg.Settings != nil {
		r.Settings = a.cfg.Settings()
	}
	return wire.Readings{Readings: r}
}
