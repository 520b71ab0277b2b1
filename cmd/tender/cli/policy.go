package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

// policyFlags are the flags of `tender run` about crashes and lost links.
type policyFlags struct {
	restart             client.Restart
	interval, delay     time.Duration
	disconnect          client.Disconnect
	stopAfter, lostFrom time.Duration
	exclusive           bool
	flags               *pflag.FlagSet
}

func (p *policyFlags) define(f *pflag.FlagSet) {
	p.flags = f
	f.IntVar(&p.restart.Attempts, "restart-attempts", 0, "how often the agent starts the task again after a crash, within --restart-interval, and after a restart of the machine (default: never)")
	f.DurationVar(&p.interval, "restart-interval", fleet.DefaultRestartInterval, "time in which --restart-attempts are counted")
	f.DurationVar(&p.delay, "restart-delay", fleet.DefaultRestartDelay, "time from a crash to the next start")
	f.StringVar(&p.restart.Mode, "restart-mode", string(fleet.RestartFail), "when the attempts are used up: fail, or delay until the next interval")
	f.DurationVar(&p.stopAfter, "disconnect-stop-after", 0, "the agent stops the task after so long without contact (default: never)")
	f.BoolVar(&p.disconnect.Replace, "disconnect-replace", false, "start a replacement elsewhere when the agent is lost (default: the task stays where it is)")
	f.DurationVar(&p.lostFrom, "disconnect-lost-after", 0, fmt.Sprintf("with --disconnect-replace: time without contact after which the agent is lost to the task, at least %v", fleet.MinLostAfter))
	f.StringVar(&p.disconnect.Reconcile, "disconnect-reconcile", string(fleet.ReconcileBest), "with --disconnect-replace: which one goes on when the agent is back: best, keep_original, keep_replacement or longest_running")
	f.BoolVar(&p.exclusive, "exclusive", false, "the task and a replacement never run at the same time")
}

// read adds what the flags say to a submission. The control plane checks it.
func (p *policyFlags) read(in *client.Submit) error {
	in.Exclusive = p.exclusive
	if p.restart.Attempts != 0 {
		r := p.restart
		r.Interval, r.Delay = client.Duration(p.interval), client.Duration(p.delay)
		in.Restart = &r
	} else {
		for _, name := range []string{"interval", "delay", "mode"} {
			if p.flags.Changed("restart-" + name) {
				return usagef("--restart-%s needs a number of restarts: give --restart-attempts, such as 3", name)
			}
		}
	}
	d := p.disconnect
	d.StopAfter, d.LostAfter = client.Duration(p.stopAfter), client.Duration(p.lostFrom)
	if !d.Replace {
		for _, name := range []string{"lost-after", "reconcile"} {
			if p.flags.Changed("disconnect-" + name) {
				return usagef("--disconnect-%s is about a task that is replaced: give --disconnect-replace, or leave it out", name)
			}
		}
		d.Reconcile = ""
	}
	if d.Replace && d.LostAfter == 0 {
		return usagef("--disconnect-replace needs the time after which the agent is lost: give --disconnect-lost-after, such as 10m")
	}
	if d != (client.Disconnect{}) {
		in.Disconnect = &d
	}
	return nil
}

// restartText says when a task is started again.
func restartText(t client.Task) string {
	r := t.Restart
	if r == nil {
		return ""
	}
	text := fmt.Sprintf("%s in %v, each after %v, then %s", plural(r.Attempts, "time"), time.Duration(r.Interval), time.Duration(r.Delay), r.Mode)
	if t.Restarts > 0 {
		text += fmt.Sprintf("; %d so far", t.Restarts)
	}
	return text
}

// disconnectText says what a lost link means to a task, where that is more than
// that it stays and goes on.
func disconnectText(t client.Task) string {
	var parts []string
	if d := t.Disconnect; d != nil {
		if d.StopAfter > 0 {
			parts = append(parts, fmt.Sprintf("its agent stops it after %v", time.Duration(d.StopAfter)))
		}
		if d.Replace {
			parts = append(parts, fmt.Sprintf("replaced after %v, then %s", time.Duration(d.LostAfter), d.Reconcile))
		}
	}
	if t.Exclusive {
		parts = append(parts, "never runs twice at once")
	}
	return strings.Join(parts, "; ")
}
