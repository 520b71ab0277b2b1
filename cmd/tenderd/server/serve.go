package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/cmd/internal/notify"
	"github.com/tenderfleet/tender/controlplane"
)

// lookEvery is how often a replica is asked how it fares, where no watchdog
// wants it oftener.
const lookEvery = 10 * time.Second

// serve runs a replica under a service manager.
func serve(ctx context.Context, cfg controlplane.Config, n *notify.Notifier) error {
	cfg.Ready = n.Ready
	r, err := controlplane.Open(cfg)
	if err != nil {
		return err
	}
	watchCtx, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { watch(watchCtx, r, n, cfg.Log); return nil })
	err = r.Serve(ctx)
	n.Stopping()
	stop()
	return errors.Join(err, g.Wait())
}

// alive is what watch asks of a replica.
type alive interface {
	Alive(ctx context.Context) (string, error)
}

// watch gives signs of life while the replica answers in time, until ctx ends.
func watch(ctx context.Context, r alive, n *notify.Notifier, log *slog.Logger) {
	every := lookEvery
	if w := n.Watchdog(); w > 0 {
		every = min(every, w)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		askCtx, cancel := context.WithTimeout(ctx, every)
		text, err := r.Alive(askCtx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("this replica hangs; the service manager restarts it unless it recovers", "error", err)
		default:
			n.Status(text)
			n.Alive()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
