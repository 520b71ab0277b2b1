package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

// printAgent says what an agent is available for, or prints it whole as JSON.
func (a *app) printAgent(g client.Agent) error {
	return a.print(g, func(w io.Writer) {
		is := g.Availability
		if is == "" {
			is = g.State
		}
		fmt.Fprintf(w, "%s is %s\n", clean(g.ID), clean(is))
	})
}

func (a *app) agentDrain() *cobra.Command {
	var grace time.Duration
	var in client.StartDrain
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain AGENT",
		Short: "Empty an agent: stop its tasks and offer it no more",
		Long: `Empty an agent: stop its tasks and offer it no more.

Each task has its own grace period between TERM and KILL, or --grace where that
is shorter. An agent that is away stops its tasks when it is back. When the last
one has ended and its framework knows, the agent is drained; it gets no work until
'tender agent reactivate'. A drain cannot be called off before it has ended.

With --wait the command returns when the agent is drained, and says meanwhile how
much is left. Ctrl-C ends the waiting, not the drain.`,
		Example: "  tender agent drain gpu-1 --grace 30s --wait\n  tender agent drain gpu-1 --mark-gone",
		Args:    arity(1, 1, "AGENT"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		if cmd.Flags().Changed("grace") {
			if grace <= 0 {
				return usagef("--grace %v: give a duration above zero", grace)
			}
			d := client.Duration(grace)
			in.MaxGrace = &d
		}
		g, err := c.DrainAgent(ctx, args[0], in)
		if err != nil && wait && in == (client.StartDrain{}) {
			// Somebody waits anew for a drain that is under way.
			if now, e := c.Agent(ctx, args[0]); e == nil && now.Drain != nil && now.Drain.Done.IsZero() {
				g, err = now, nil
			}
		}
		if err == nil && wait {
			g, err = a.awaitDrain(ctx, c, g)
		}
		if err != nil {
			return err
		}
		return a.printAgent(g)
	})
	f := cmd.Flags()
	f.DurationVar(&grace, "grace", 0, "longest time between TERM and KILL (default: each task's own)")
	f.BoolVar(&in.MarkGone, "mark-gone", false, "remove the agent from the fleet for good when it is empty")
	f.BoolVar(&wait, "wait", false, "return when it is drained")
	return cmd
}

// awaitDrain returns the agent when its drain has ended.
func (a *app) awaitDrain(ctx context.Context, c *client.Client, g client.Agent) (client.Agent, error) {
	said := ""
	for g.Drain != nil && g.Drain.Done.IsZero() {
		if text := drainText(g); text != said {
			fmt.Fprintf(a.Err, "%s: %s\n", clean(g.ID), clean(text))
			said = text
		}
		next, err := c.WaitDrain(ctx, g.ID, g.Drain.Revision, pollTime)
		if err != nil {
			return g, hint("the drain goes on; look at it with: tender agent show "+g.ID, "wait for %s to drain: %w", g.ID, err)
		}
		g = next
	}
	return g, nil
}

func drainText(g client.Agent) string {
	parts := []string{}
	if n := g.Drain.TasksLeft; n > 0 {
		parts = append(parts, plural(n, "task")+" left")
	}
	if n := g.Drain.UpdatesLeft; n > 0 {
		parts = append(parts, plural(n, "ended task")+" that a framework has not acknowledged")
	}
	if g.State != client.AgentConnected {
		parts = append(parts, "it is "+g.State+" and stops its tasks when it is back")
	}
	return strings.Join(parts, ", ")
}

func (a *app) agentDeactivate() *cobra.Command {
	return &cobra.Command{
		Use:     "deactivate AGENT",
		Short:   "Offer an agent no more; its tasks go on",
		Example: "  tender agent deactivate gpu-1",
		Args:    arity(1, 1, "AGENT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.DeactivateAgent(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printAgent(g)
		}),
	}
}

func (a *app) agentReactivate() *cobra.Command {
	return &cobra.Command{
		Use:     "reactivate AGENT",
		Short:   "Offer an agent again that was deactivated or drained",
		Example: "  tender agent reactivate gpu-1",
		Args:    arity(1, 1, "AGENT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.ReactivateAgent(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printAgent(g)
		}),
	}
}

func (a *app) agentGone() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "gone AGENT",
		Short: "Say that an agent will never be back",
		Long: `Say that an agent will never be back.

Its tasks become TASK_GONE_BY_OPERATOR, so that schedulers start them elsewhere,
and its identity is banned: the id is not given out again. There is no way back;
the machine may join again as a new agent. Where its tasks may still run and must
not run twice, make sure that the machine is off.`,
		Example: "  tender agent gone gpu-1\n  tender agent gone gpu-1 --yes",
		Args:    arity(1, 1, "AGENT"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		if !yes {
			g, err := c.Agent(ctx, args[0])
			if err != nil {
				return err
			}
			what := fmt.Sprintf("Agent %s will be gone for good, with %s.", g.ID, plural(len(g.Tasks), "task"))
			if err := a.confirm(what, g.ID); err != nil {
				return err
			}
		}
		g, err := c.MarkAgentGone(ctx, args[0])
		if err != nil {
			return err
		}
		return a.printAgent(g)
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

// confirm asks to type a name before something that cannot be undone.
func (a *app) confirm(what, name string) error {
	fmt.Fprintf(a.Err, "%s\nType %s to go on: ", clean(what), clean(name))
	s := bufio.NewScanner(io.LimitReader(a.In, 4096))
	if s.Scan() && strings.TrimSpace(s.Text()) == name {
		return nil
	}
	fmt.Fprintln(a.Err)
	return hint("repeat it and type "+name+", or give --yes", "not confirmed; nothing was changed")
}

func (a *app) maintenanceCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "maintenance",
		Short: "Announce when agents will be down",
		Long: `Announce when agents will be down.

Frameworks that hold something on such an agent get an inverse offer: they are
asked to give it back before the window begins. Nothing is taken from them, and
the agent is still offered; to empty it: tender agent drain.`,
		Example: "  tender maintenance set gpu-1 gpu-2 --start 2026-03-01T08:00:00Z --duration 2h",
	}, a.maintenanceSet(), a.maintenanceClear(), a.maintenanceList())
}

func (a *app) maintenanceSet() *cobra.Command {
	var start string
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "set AGENT...",
		Short: "Announce a window of maintenance, in the place of an earlier one",
		Long: `Announce a window of maintenance, in the place of an earlier one.

--start is an instant (2026-03-01T08:00:00Z, or with another offset in the place
of Z), a time from now (90m), or "now". Without --duration there is no end.`,
		Example: `  tender maintenance set gpu-1 gpu-2 --start 2026-03-01T08:00:00+01:00 --duration 2h
  tender maintenance set gpu-1 --start 90m --duration 30m`,
		Args: arity(1, -1, "AGENT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			at, err := a.instant(start)
			if err != nil {
				return err
			}
			list, err := c.SetMaintenance(ctx, client.SetMaintenance{Agents: args, Start: at, Duration: client.Duration(duration)})
			if err != nil {
				return err
			}
			return a.printWindows(list)
		}),
	}
	cmd.Flags().StringVar(&start, "start", "", "when it begins: an instant, a time from now, or now")
	cmd.Flags().DurationVar(&duration, "duration", 0, "how long it takes (default: without end)")
	return cmd
}

// instant reads a time that is given absolutely or from now.
func (a *app) instant(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, usagef("--start is missing: write an instant, a time from now, or now")
	}
	if s == "now" {
		return a.now(), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return a.now().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usagef("--start %q: write 2026-03-01T08:00:00Z, a time from now such as 90m, or now", s)
	}
	return t, nil
}

func (a *app) printWindows(list []client.Window) error {
	return a.print(list, func(w io.Writer) {
		var rows [][]string
		for _, m := range list {
			end, now := "", "announced"
			if m.Duration > 0 {
				end = m.Start.Add(time.Duration(m.Duration)).UTC().Format(time.RFC3339)
			}
			switch {
			case m.Now:
				now = "now"
			case !m.Start.After(a.now()):
				now = "over"
			}
			rows = append(rows, []string{m.Agent, now, m.Start.UTC().Format(time.RFC3339), end})
		}
		table(w, "AGENT WINDOW START END", rows)
	})
}

func (a *app) maintenanceClear() *cobra.Command {
	return &cobra.Command{
		Use:     "clear AGENT...",
		Short:   "Take announcements back",
		Example: "  tender maintenance clear gpu-1",
		Args:    arity(1, -1, "AGENT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			list, err := c.ClearMaintenance(ctx, args)
			if err != nil {
				return err
			}
			return a.printWindows(list)
		}),
	}
}

func (a *app) maintenanceList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the windows that are announced",
		Example: "  tender maintenance list",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Maintenance(ctx)
			if err != nil {
				return err
			}
			return a.printWindows(list)
		}),
	}
}
