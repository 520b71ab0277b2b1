package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/notify"
	"github.com/tenderfleet/tender/controlplane"
)

// lookEvery is how often a replica is asked how it fares, where no watchdog
// wants it oftener.
const lookEvery = 10 * time.Second

// live are the settings of a running replica.
type live struct {
	load   func() (*conf.Settings, error)
	begun  *conf.Settings // those that it was started with
	level  slog.LevelVar
	log    *slog.Logger
	notify *notify.Notifier
}

// begin takes the settings over, which are those that held last when broken says
// why the files' are not.
func (l *live) begin(s *conf.Settings, broken error) error {
	level, err := conf.ParseLevel(s.GetString("log-level"))
	if err != nil {
		return err
	}
	l.level.Set(level)
	if broken != nil {
		l.complain(broken)
		return nil
	}
	if err := s.Keep(); err != nil {
		l.log.Warn("should the files of settings break, these could not be used", "error", err)
	}
	return nil
}

// reload takes over the log level, names what else has changed, and changes
// nothing when anything is wrong.
func (l *live) reload() {
	l.notify.Reloading()
	defer l.notify.Ready()
	s, err := l.load()
	if err == nil {
		err = l.begin(s, nil)
	}
	if err != nil {
		l.complain(fmt.Errorf("%w; the settings stay as they are", err))
		return
	}
	later := slices.DeleteFunc(conf.Changed(l.begun, s), func(k string) bool { return k == "log-level" })
	l.log.Info("settings read again")
	if len(later) > 0 {
		l.log.Warn("these settings need a restart: systemctl restart tenderd", "settings", strings.Join(later, ", "))
	}
}

func (l *live) complain(err error) {
	l.log.Error("the settings are broken; tenderd config check tells more", "error", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// serve runs a replica under a service manager, and serveFiles beside it.
func (l *live) serve(ctx context.Context, serveFiles func(context.Context), cfg controlplane.Config) error {
	n := l.notify
	cfg.Ready = n.Ready
	checkBuffers(l.log)
	r, err := controlplane.Open(cfg)
	if err != nil {
		return err
	}
	watchCtx, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { watch(watchCtx, r, n, cfg.Log); return nil })
	g.Go(func() error { serveFiles(watchCtx); return nil })
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	g.Go(func() error {
		for {
			select {
			case <-hup:
				l.reload()
			case <-watchCtx.Done():
				return nil
			}
		}
	})
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
