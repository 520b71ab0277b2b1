package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

// watchEvery is how often --watch looks.
const watchEvery = 2 * time.Second

func (a *app) upgradeStart() *cobra.Command {
	var o client.StartRollout
	var soak time.Duration
	cmd := &cobra.Command{
		Use:   "start VERSION",
		Short: "Begin to bring a version to the fleet",
		Long: `Begin to bring a version to the fleet.

Each --ring is [NAME=]SELECTOR, and they open in their order. A selector is

  site:NAME        the agents of a site
  label:KEY=VALUE  those with a label
  agent:ID,ID      these
  10%              so many of all, those of the rings before included, drawn by
                   chance for each rollout; at least one
  rest             all others

An agent is in the first ring that chooses it; one that none chooses is left as it
is. A ring opens when the one before has passed: when its connected agents have run
the version for the soak. Agents that are offline do not hold it up, and are
upgraded when they are back. When agents fail, go back to the version before, refuse
the package, or are lost in the middle, the rollout pauses.

Agents that run a newer version keep it, unless --allow-downgrade is given, and
allow-downgrade: true stands in the agent.yaml of their machine.`,
		Example: `  tender upgrade start 0.2.0 --ring canary=site:lab --ring 10% --ring rest
  tender upgrade start 0.2.0 --ring agent:m1 --ring rest --soak 1h --at-once 3
  tender upgrade start 0.1.0 --ring rest --allow-downgrade`,
		Args: arity(1, 1, "VERSION"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		if len(o.Rings) == 0 {
			return usagef("--ring is missing: say which agents are first, such as --ring canary=site:lab --ring rest")
		}
		o.Version, o.Soak = args[0], client.Duration(soak)
		u, err := c.StartRollout(ctx, o)
		return a.printRollout(u, err)
	})
	f := cmd.Flags()
	f.StringArrayVar(&o.Rings, "ring", nil, "a ring, as [NAME=]SELECTOR; give it once for each, in their order")
	f.DurationVar(&soak, "soak", 10*time.Minute, "how long a ring runs the version before the next one opens")
	f.IntVar(&o.Healthy, "healthy", 100, "percent of a ring's connected agents that have to")
	f.IntVar(&o.MaxFailures, "max-failures", 0, "agents that may fail before the rollout pauses")
	f.IntVar(&o.AtOnce, "at-once", 10, "agents that are upgraded at a time, to spare the control plane's uplink")
	f.BoolVar(&o.AllowDowngrade, "allow-downgrade", false, "also bring agents that run a newer version to this one")
	return cmd
}

func (a *app) upgradeSteer(verb, short, long string) *cobra.Command {
	return &cobra.Command{
		Use:     verb,
		Short:   short,
		Long:    long,
		Example: "  tender upgrade " + verb,
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			u, err := c.SteerRollout(ctx, verb)
			return a.printRollout(u, err)
		}),
	}
}

func (a *app) upgradeStatus() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far the last rollout is, and what it waits for",
		Long: `Show how far the last rollout is, and what it waits for.

Of each ring's agents, DONE have run the version for the soak, SOAKING run it,
UPGRADING are on their way to it. OTHERS run a newer version, or one so old that
it takes no upgrades from here: install those with the machine's package manager.

With --watch it is shown again whenever something has changed, until the rollout
does not run any more; the exit code is then 0 if it has finished.`,
		Example: "  tender upgrade status\n  tender upgrade status --watch\n  tender upgrade status -o json",
		Args:    arity(0, 0, ""),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
		if watch {
			return a.watchRollout(ctx, c)
		}
		u, err := c.Upgrade(ctx)
		return a.printRollout(u, err)
	})
	cmd.Flags().BoolVar(&watch, "watch", false, "show it until the rollout does not run any more")
	return cmd
}

func (a *app) watchRollout(ctx context.Context, c *client.Client) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := ""
	for {
		u, err := c.Upgrade(ctx)
		if err != nil {
			return err
		}
		if now := progressOf(u.Rollout); now != last {
			if last != "" && !a.settings.json {
				fmt.Fprintln(a.Out)
			}
			last = now
			if err := a.printRollout(u, nil); err != nil {
				return err
			}
		}
		switch r := u.Rollout; {
		case r == nil || r.Phase == "finished":
			return nil
		case r.Phase != "running":
			return hint("see why: tender upgrade status", "the rollout of %s is %s", r.Version, r.Phase)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// progressOf is all of a rollout that is news when it changes.
func progressOf(r *client.Rollout) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *r)
}

func (a *app) printRollout(u client.Upgrade, err error) error {
	if err != nil {
		return err
	}
	if u.Rollout == nil && !a.settings.json {
		fmt.Fprintln(a.Err, "There never was a rollout. Begin one with: tender upgrade start VERSION --ring ...")
		return nil
	}
	return a.print(u.Rollout, func(w io.Writer) { a.rolloutTable(w, u.Rollout) })
}

func (a *app) rolloutTable(w io.Writer, r *client.Rollout) {
	fields(w, "Rollout", r.ID, "Version", r.Version, "Phase", r.Phase+", since "+ago(a.now(), r.Since), "Because", r.Reason,
		"Began", ago(a.now(), r.Began), "Soak", time.Duration(r.Soak).String(), "Gate", gateText(r), "At once", strconv.Itoa(r.AtOnce),
		"Outside all rings", map[bool]string{true: plural(r.Outside, "agent")}[r.Outside > 0])
	fmt.Fprintln(w)
	var rows, flight, failed [][]string
	for _, g := range r.Rings {
		rows = append(rows, []string{
			g.Name, g.Selector, strconv.Itoa(g.Agents), count(g.Healthy), count(g.Soaking), count(g.Upgrading), count(g.Waiting),
			count(g.Failed), count(g.Offline), count(g.Newer + g.TooOld), a.ringText(g),
		})
		for _, x := range g.InFlight {
			flight = append(flight, []string{x.Agent, g.Name, flightText(x)})
		}
		for _, x := range g.Failures {
			text := x.Text
			if x.Forgiven {
				text += " (resumed since)"
			}
			failed = append(failed, []string{x.Agent, g.Name, text})
		}
	}
	table(w, "RING SELECTOR AGENTS DONE SOAKING UPGRADING WAITING FAILED OFFLINE OTHERS STATE", rows)
	for _, part := range []struct {
		head string
		rows [][]string
	}{{"UPGRADING RING STATE", flight}, {"FAILED RING CAUSE", failed}} {
		if len(part.rows) == 0 {
			continue
		}
		fmt.Fprintln(w)
		more := len(part.rows) - maxNamed
		table(w, part.head, part.rows[:min(len(part.rows), maxNamed)])
		if more > 0 {
			fmt.Fprintf(w, "and %d more\n", more)
		}
	}
	if next := rolloutNext(r); next != "" {
		fmt.Fprintf(w, "\n%s\n", next)
	}
}

func gateText(r *client.Rollout) string {
	return fmt.Sprintf("%d%% healthy, %s tolerated", r.Healthy, plural(r.MaxFailures, "failure"))
}

// count leaves out what is not there.
func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (a *app) ringText(g client.RolloutRing) string {
	switch {
	case !g.Passed.IsZero():
		return "passed " + ago(a.now(), g.Passed)
	case g.Opened.IsZero():
		return "closed, waits for " + g.WaitsFor
	case g.WaitsFor == "":
		return "open, passes now"
	default:
		return "open, waits for " + g.WaitsFor
	}
}

func flightText(x client.RolloutAgent) string {
	text := x.State
	if text == "" {
		text = "told"
	}
	if x.Text != "" {
		text += ": " + x.Text
	}
	if !x.Connected {
		text += "; away"
	}
	return text
}

// rolloutNext is what the operator can do, empty for nothing.
func rolloutNext(r *client.Rollout) string {
	switch {
	case r.Phase == "paused":
		return "It is paused. Go on with: tender upgrade resume; or end it with: tender upgrade abort"
	case r.Phase == "finished" && offline(r) > 0:
		return fmt.Sprintf("%s offline, and will be upgraded when back.", are(offline(r)))
	}
	return ""
}

func offline(r *client.Rollout) (n int) {
	for _, g := range r.Rings {
		n += g.Offline
	}
	return n
}

func are(n int) string {
	if n == 1 {
		return "1 agent is"
	}
	return plural(n, "agent") + " are"
}

// upgradeText is what an agent tells of an upgrade.
func upgradeText(g client.Agent) string {
	if g.Readings == nil || g.Readings.Upgrade == nil {
		return ""
	}
	u := g.Readings.Upgrade
	text := strings.TrimSpace(u.Version + " " + u.State)
	if u.Text != "" {
		text += ": " + u.Text
	}
	return text
}

// failedUpgrade reports whether an agent's last upgrade went wrong.
func failedUpgrade(g client.Agent) bool {
	return g.Readings != nil && g.Readings.Upgrade != nil && (g.Readings.Upgrade.State == "rolled back" || g.Readings.Upgrade.State == "refused")
}
