package nvml

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/gpu"
)

const (
	firstPause = 200 * time.Millisecond
	mostPause  = 30 * time.Second
	mostStuck  = 2 // children that outlived SIGKILL
)

// errRescan ends a child in good health, so that the next one sees the cards
// that there are now.
var errRescan = errors.New("rescan")

// run keeps a child going until ctx is done. It is the one goroutine that talks
// to children, and it answers the calls.
func (d *Driver) run(ctx context.Context) {
	defer close(d.done)
	if !supported {
		d.absent = true
		d.setReason("this build of the agent has no NVML support; install one built for Linux with cgo")
	}
	pause := firstPause
	for supported && ctx.Err() == nil {
		began := time.Now()
		err := d.child(ctx)
		if errors.Is(err, errRescan) || ctx.Err() != nil {
			pause = firstPause
			continue
		}
		if time.Since(began) > time.Minute {
			pause = firstPause
		}
		d.down(err.Error(), false)
		d.rest(ctx, time.After(pause))
		pause = min(2*pause, mostPause)
	}
	d.rest(ctx, nil)
}

// child runs one child from start to end and says why it ended.
func (d *Driver) child(ctx context.Context) error {
	d.stuck = alive(d.stuck)
	if len(d.stuck) >= mostStuck {
		return fmt.Errorf("%d GPU probes hang in the driver and cannot be killed; reboot this machine", len(d.stuck))
	}
	seen := d.fingerprint()
	c, err := startChild(d.cfg)
	if err != nil {
		return err
	}
	reason, err := d.converse(ctx, c, seen)
	gently := err == nil || errors.Is(err, errRescan) || ctx.Err() != nil
	if !c.stop(gently) {
		d.stuck = append(d.stuck, c)
	}
	if err != nil || reason == "" {
		return err
	}
	// No driver: no child is needed until something changes.
	d.down(reason, true)
	return d.wait(ctx, seen)
}

func alive(list []*child) []*child {
	return slices.DeleteFunc(list, func(c *child) bool {
		select {
		case <-c.exited:
			return true
		default:
			return false
		}
	})
}

// converse opens NVML in the child and serves from it. A reason means that
// there is no driver.
func (d *Driver) converse(ctx context.Context, c *child, seen string) (reason string, err error) {
	args := openArgs{Library: d.cfg.Library, DriverRoot: d.cfg.DriverRoot, DevRoot: d.cfg.DevRoot}
	r, err := d.exchange(ctx, c, request{Op: opOpen, Open: &args})
	if err != nil {
		return "", err
	}
	if r.Reason != "" {
		return r.Reason, nil
	}
	if err := refused(r); err != nil {
		return "", err
	}
	if err := d.look(ctx, c); err != nil {
		return "", err
	}
	if d.Reason() != "" {
		d.setReason("")
		d.publish(gpu.Event{Time: time.Now(), Health: gpu.Healthy})
	}
	d.absent = false
	return "", d.serve(ctx, c, seen)
}

func refused(r reply) error {
	if r.Error == "" {
		return nil
	}
	return errors.New(r.Error)
}

// serve answers calls from the child until it fails, or should start afresh.
func (d *Driver) serve(ctx context.Context, c *child, seen string) error {
	poll := time.NewTicker(d.cfg.Poll)
	defer poll.Stop()
	fresh := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case q := <-d.calls:
			a, err := d.answer(ctx, c, q)
			if ctx.Err() != nil {
				return ctx.Err() // the caller sees that the watch is closed
			}
			if err != nil {
				// The caller gets what can be said without a child.
				d.down(err.Error(), false)
				q.answer <- d.offline(q)
				return err
			}
			q.answer <- a
		case r, ok := <-c.replies:
			if !ok {
				return c.death(nil)
			}
			if err := d.heard(r); err != nil {
				return err
			}
		case <-poll.C:
			if err := d.look(ctx, c); err != nil {
				return err
			}
			if d.fingerprint() != seen || d.health.broken() && time.Since(fresh) >= d.cfg.Rescan {
				return errRescan
			}
		}
	}
}

// answer serves one call. An error is the child's end; what concerns the caller
// alone is in the answer.
func (d *Driver) answer(ctx context.Context, c *child, q call) (answer, error) {
	if q.ctx.Err() != nil {
		return answer{err: q.ctx.Err()}, nil //nolint:nilerr // it is the caller's, not the child's
	}
	switch q.op {
	case opClear, opInventory:
		if q.op == opClear {
			d.health.clear(q.gpus[0])
		}
		if err := d.look(ctx, c); err != nil {
			return answer{}, err
		}
		return answer{devices: d.health.list()}, nil
	default:
		r, err := d.exchange(ctx, c, request{Op: q.op, GPUs: q.gpus})
		if err != nil {
			return answer{}, err
		}
		slices.SortFunc(r.Readings, func(a, b gpu.Reading) int { return cmp.Compare(a.UUID, b.UUID) })
		a := answer{readings: r.Readings, spec: r.Spec, minors: r.Minors, err: refused(r)}
		if q.op == opCDI && a.err == nil && a.spec == nil {
			return answer{}, errors.New("the GPU probe answered without a specification")
		}
		return a, nil
	}
}

// look takes an inventory. One that fails as a whole ends the child.
func (d *Driver) look(ctx context.Context, c *child) error {
	r, err := d.exchange(ctx, c, request{Op: opInventory})
	if err != nil {
		return err
	}
	if err := refused(r); err != nil {
		return err
	}
	if r.Inventory == nil {
		return errors.New("the GPU probe answered without an inventory")
	}
	events := d.health.update(time.Now(), r.Inventory)
	for _, e := range events {
		d.cfg.Log.Warn("GPU health changed", "gpu", e.UUID, "health", e.Health.String(), "reason", e.Reason)
	}
	d.publish(events...)
	return nil
}

// heard takes in what the child said unasked.
func (d *Driver) heard(r reply) error {
	switch {
	case r.Event == nil:
		return fmt.Errorf("the GPU probe answered request %d, which nobody made", r.ID)
	case r.Event.Error != "":
		d.cfg.Log.Warn("GPU events interrupted", "error", r.Event.Error)
	default:
		events := d.health.xid(time.Now(), *r.Event)
		for _, e := range events {
			d.cfg.Log.Warn("GPU reported an XID", "gpu", e.UUID, "xid", e.XID, "health", e.Health.String())
		}
		d.publish(events...)
	}
	return nil
}

// exchange sends one request and waits for its reply. Events on the way are
// taken in. An error ends the child.
func (d *Driver) exchange(ctx context.Context, c *child, q request) (reply, error) {
	id, err := c.send(q)
	if err != nil {
		return reply{}, err
	}
	deadline := time.NewTimer(d.cfg.Timeout)
	defer deadline.Stop()
	for {
		select {
		case <-ctx.Done():
			return reply{}, ctx.Err()
		case <-deadline.C:
			return reply{}, fmt.Errorf("%w (%s took over %v); a GPU may be failing: look at `dmesg` for NVRM lines", errHang, q.Op, d.cfg.Timeout)
		case r, ok := <-c.replies:
			switch {
			case !ok:
				return reply{}, c.death(nil)
			case r.ID == id:
				return r, nil
			}
			if err := d.heard(r); err != nil {
				return reply{}, err
			}
		}
	}
}

// down notes why there is no child.
func (d *Driver) down(reason string, absent bool) {
	d.absent = absent
	if d.Reason() == reason {
		return
	}
	d.setReason(reason)
	if absent {
		d.cfg.Log.Info("no GPUs", "reason", reason)
	} else {
		d.cfg.Log.Warn("GPUs cannot be watched", "reason", reason)
	}
	d.publish(gpu.Event{Time: time.Now(), Health: gpu.HealthUnknown, Reason: reason})
}

// rest answers calls without a child until the pause is over.
func (d *Driver) rest(ctx context.Context, pause <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause:
			return
		case q := <-d.calls:
			q.answer <- d.offline(q)
		}
	}
}

// wait rests until a driver may have come.
func (d *Driver) wait(ctx context.Context, seen string) error {
	for began := time.Now(); time.Since(began) < d.cfg.Rescan; {
		d.rest(ctx, time.After(d.cfg.Poll))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.fingerprint() != seen {
			break
		}
	}
	return errRescan
}

// offline is the answer that needs no child.
func (d *Driver) offline(q call) answer {
	reason := d.Reason()
	if q.op == opClear {
		d.health.clear(q.gpus[0])
		return answer{}
	}
	if q.op == opInventory {
		if list := d.health.unknown(reason); len(list) > 0 || d.absent {
			return answer{devices: list}
		}
	}
	if q.op == opReadings && d.absent {
		return answer{readings: []gpu.Reading{}}
	}
	return answer{err: errors.New(reason)}
}
