package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/notify"
)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Run the agent in the foreground", Args: cobra.NoArgs,
		Long: "Run the agent in the foreground. On HUP it reads its settings again; what is\n" +
			"offered and the log level change at once, and the log names what needs a restart.\n" +
			"Where the files of settings are broken, those that held last are used.",
		Example: "  tender-agent run\n  tender-agent run --state /srv/tender --offer-cpus 6 --offer-mem 12288",
	}
	load := settings.Bind(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		t := newTrial(parseStart(os.Getenv("AGENT_START")))
		defer func() { t.end(err) }()
		s, broken, err := load.LoadOrLast()
		if err != nil {
			return err
		}
		l := &live{trial: t, load: load.Load, begun: s, notify: notify.Open(os.Getenv), offers: make(chan agent.Offer, 1)}
		l.log = conf.LeveledLogger(cmd.ErrOrStderr(), &l.level)
		if err := l.setLevel(s); err != nil {
			return err
		}
		if broken != nil {
			l.complain(broken)
		}
		t.begin(gate.Limits{Steady: s.GetDuration("gate-steady"), Patience: s.GetDuration("gate-patience")}, l.log)
		cfg, closeAll, err := runConfig(s, l.log)
		if err != nil {
			return err
		}
		if broken == nil {
			l.keep(s)
		}
		cfg.Turn, cfg.Offers, cfg.Settings = l.supervised(), l.offers, l.trouble
		cfg.Watch, cfg.Upgrade = t.watch, t.upgrade
		if cfg.Upgrades != nil {
			cfg.Upgrades.Again = t.again
		}
		err = l.run(cmd.Context(), cfg)
		l.notify.Stopping()
		if errors.Is(err, agent.ErrLeft) {
			l.log.Info("this machine has left the fleet; to have it join one: tender-agent join LINE")
			err = nil
		}
		return errors.Join(err, closeAll())
	}
	return cmd
}

// live are the settings of a running agent.
type live struct {
	trial  *trial
	load   func() (*conf.Settings, error)
	begun  *conf.Settings // those that it was started with
	level  slog.LevelVar
	log    *slog.Logger
	notify *notify.Notifier
	offers chan agent.Offer
	broken atomic.Pointer[string]
}

// run is agent.Run, with the settings read anew at each HUP, until ctx ends or
// this version has failed on trial.
func (l *live) run(ctx context.Context, cfg agent.Config) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-hup:
				l.reload()
			case <-ctx.Done():
				return
			}
		}
	})
	var failed error
	wg.Go(func() {
		if failed = l.trial.run(ctx); failed != nil {
			cancel()
		}
	})
	err := agent.Run(ctx, cfg)
	cancel()
	wg.Wait()
	return errors.Join(failed, err)
}

// applied are the settings that a running agent takes over.
var applied = map[string]bool{
	"log-level": true, "offer-cpus": true, "offer-mem": true, "offer-disk": true, "offer-ports": true,
	"offer-custom": true, "reserve": true, "no-gpus": true,
}

// reload takes over what can be, names the rest, and changes nothing when
// anything is wrong.
func (l *live) reload() {
	l.notify.Reloading()
	defer l.notify.Ready()
	s, err := l.load()
	if err != nil {
		l.complain(fmt.Errorf("%w; the settings stay as they are", err))
		return
	}
	o, err := offer(s.Viper)
	if err == nil {
		err = l.setLevel(s)
	}
	if err != nil {
		l.complain(err) // the check has missed it
		return
	}
	select { // an offer that nobody took yet is out of date
	case <-l.offers:
	default:
	}
	l.offers <- o
	l.broken.Store(nil)
	l.keep(s)
	var later []string
	for _, k := range conf.Changed(l.begun, s) {
		if !applied[k] {
			later = append(later, k)
		}
	}
	l.log.Info("settings read again")
	if len(later) > 0 {
		l.log.Warn("these settings need a restart: systemctl restart tender-agent (tasks go on)", "settings", strings.Join(later, ", "))
	}
}

func (l *live) setLevel(s *conf.Settings) error {
	level, err := conf.ParseLevel(s.GetString("log-level"))
	if err == nil {
		l.level.Set(level)
	}
	return err
}

// complain makes broken settings known: in the log and to the operators.
func (l *live) complain(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	l.broken.Store(&text)
	l.log.Error("the settings are broken; tender-agent config check tells more", "error", text)
}

func (l *live) trouble() string {
	if p := l.broken.Load(); p != nil {
		return *p
	}
	return ""
}

func (l *live) keep(s *conf.Settings) {
	if err := s.Keep(); err != nil {
		l.log.Warn("should the files of settings break, these could not be used", "error", err)
	}
}

// supervised tells the service manager how the agent fares. The agent is ready
// when its loop turns: a site without an uplink must not fail its unit.
func (l *live) supervised() func(agent.Sign) {
	var once sync.Once
	n := l.notify
	return func(s agent.Sign) {
		n.Status(signText(s) + l.trial.text())
		once.Do(n.Ready)
		n.Alive()
	}
}

// signText is the status line that systemctl shows.
func signText(s agent.Sign) string {
	tasks := fmt.Sprintf("%d tasks", s.Tasks)
	if s.Tasks == 1 {
		tasks = "1 task"
	}
	text := "connected to the control plane; " + tasks
	if !s.Connected {
		text = "cut off from the control plane; " + tasks + " here"
		if s.Spooled > 0 {
			text += fmt.Sprintf(", %d updates wait", s.Spooled)
		}
	}
	if s.Runtime != "" {
		text += "; the container runtime does not answer"
	}
	return text
}
