package containerd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Halt stops every task that runs, all at once, each with its own grace period
// but none with more than most, and returns when they have ended, with their
// number. Containers stay: whoever knows the tasks learns how they ended.
func (x *Executor) Halt(ctx context.Context, most time.Duration) (int, error) {
	cs, err := x.client.ContainerService().List(ctx, `labels."`+taskLabel+`"`)
	if err != nil {
		return 0, x.wrap(ctx, "list containers", err)
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		n    int
		errs []error
	)
	for _, c := range cs {
		if _, err := x.pid(ctx, c.ID); err != nil {
			continue // it does not run
		}
		grace, err := time.ParseDuration(c.Labels[graceLabel])
		if err != nil { // made by an earlier version
			grace = fleet.DefaultKillGrace
		}
		n++
		wg.Go(func() {
			id := fleet.TaskID(c.Labels[taskLabel])
			err := x.Stop(ctx, id, min(grace, most))
			if err == nil {
				_, err = x.Wait(ctx, id)
			}
			if err != nil && !errors.Is(err, executor.ErrNotFound) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return n, errors.Join(errs...)
}
