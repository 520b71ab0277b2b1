package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) frameworkCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "framework",
		Aliases: []string{"frameworks"},
		Short:   "List, show and tear down the schedulers of the fleet",
		Example: "  tender framework list\n  tender framework show marathon-1",
	}, a.frameworkList(), a.frameworkShow(), a.frameworkTeardown())
}

func (a *app) frameworkList() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List frameworks, the built-in ones too",
		Long: `List frameworks, the built-in ones too.

OFFERS counts those that are out to it. A framework that is not connected is torn
down, with its tasks, when its failover time-out is over.`,
		Example: "  tender framework list\n  tender framework list --all -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Frameworks(ctx, all)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				var rows [][]string
				for _, f := range list {
					rows = append(rows, []string{
						f.ID, f.Name, f.Principal, strings.Join(f.Roles, ","), frameworkState(f), a.frameworkSince(f),
						strconv.Itoa(f.Offers), taskCounts(f.Tasks, false),
					})
				}
				table(w, "FRAMEWORK NAME PRINCIPAL ROLES STATE SINCE OFFERS TASKS", rows)
			})
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list frameworks that were torn down too")
	return cmd
}

func frameworkState(f client.Framework) string {
	s := strings.ReplaceAll(f.State, "_", " ")
	if f.FailoverLeft != nil {
		s += ", ends in " + span(time.Duration(*f.FailoverLeft))
	}
	return s
}

func (a *app) frameworkSince(f client.Framework) string {
	for _, t := range []time.Time{f.TornDown, f.Since, f.Away} {
		if !t.IsZero() {
			return ago(a.now(), t)
		}
	}
	return ""
}

// taskCounts is "2 running, 1 staging"; with all, of ended tasks too.
func taskCounts(tasks map[string]int, all bool) string {
	var parts []string
	for _, s := range slices.Sorted(maps.Keys(tasks)) {
		if t := (client.Task{State: s}); all || !t.Terminal() {
			parts = append(parts, fmt.Sprintf("%d %s", tasks[s], strings.ToLower(strings.TrimPrefix(s, "TASK_"))))
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) frameworkShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FRAMEWORK",
		Short:   "Show one framework",
		Example: "  tender framework show marathon-1",
		Args:    arity(1, 1, "FRAMEWORK"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			f, err := c.Framework(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(f, func(w io.Writer) { a.frameworkTable(w, f) })
		}),
	}
}

func (a *app) frameworkTable(w io.Writer, f client.Framework) {
	failover := ""
	if !f.BuiltIn {
		failover = span(time.Duration(f.Failover))
	}
	fields(w, "Framework", f.ID, "Name", f.Name, "Principal", f.Principal, "State", frameworkState(f),
		"Built in", map[bool]string{true: "yes"}[f.BuiltIn], "Roles", strings.Join(f.Roles, ", "), "Suppressed in", strings.Join(f.Suppressed, ", "),
		"Capabilities", strings.Join(f.Capabilities, ", "), "Hostname", f.Hostname, "Web UI", f.WebUI,
		"Registered", ago(a.now(), f.Registered), "Connected", ago(a.now(), f.Since), "Away", ago(a.now(), f.Away),
		"Torn down", ago(a.now(), f.TornDown), "Failover time-out", failover,
		"Offers", strconv.Itoa(f.Offers), "Inverse offers", strconv.Itoa(f.Inverse), "Tasks", taskCounts(f.Tasks, true))
}

func (a *app) frameworkTeardown() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "teardown FRAMEWORK",
		Short: "End a framework and all its tasks, for good",
		Long: `End a framework and all its tasks, for good.

Its connection is closed, its tasks are killed, and its id is not given out again:
to come back it subscribes without one.`,
		Example: "  tender framework teardown marathon-1\n  tender framework teardown marathon-1 --yes",
		Args:    arity(1, 1, "FRAMEWORK"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		f, err := c.Framework(ctx, args[0])
		if err != nil {
			return err
		}
		if !yes && !f.BuiltIn && f.State != client.FrameworkTornDown {
			tasks := taskCounts(f.Tasks, false)
			if tasks == "" {
				tasks = "no tasks"
			}
			if err := a.confirm(fmt.Sprintf("Framework %s (%s) will be ended for good, with %s.", f.ID, f.Name, tasks), f.ID); err != nil {
				return err
			}
		}
		if f, err = c.TeardownFramework(ctx, args[0]); err != nil {
			return err
		}
		return a.print(f, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", clean(f.ID), clean(frameworkState(f))) })
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

// printOutlook says why a framework gets no offers.
func (a *app) printOutlook(y client.FrameworkWhy) error {
	return a.print(y, func(w io.Writer) {
		name := y.Framework
		if y.Name != "" && y.Name != name {
			name += " (" + y.Name + ")"
		}
		if y.Reason != "" {
			fmt.Fprintf(w, "%s gets no offers: %s\n", clean(name), clean(y.Reason))
			return
		}
		for i, r := range y.Roles {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s in role %s: %s\n", clean(name), clean(r.Role), outlook(r))
			if len(r.Obstacles) == 0 {
				continue
			}
			var rows [][]string
			for _, o := range r.Obstacles {
				reason := o.Reason
				if !o.Until.IsZero() {
					reason += "; offered again " + ago(a.now(), o.Until) + " at the earliest"
				}
				named := strings.Join(o.Agents, ",")
				if n := o.Count - len(o.Agents); n > 0 {
					named += fmt.Sprintf(" and %d more", n)
				}
				rows = append(rows, []string{strconv.Itoa(o.Count), reason, named})
			}
			fmt.Fprintln(w)
			table(w, "AGENTS REASON WHICH", rows)
			if r.Omitted > 0 {
				fmt.Fprintf(a.Err, "%s with other reasons\n", plural(r.Omitted, "more agent"))
			}
		}
		if y.OmittedRoles > 0 {
			fmt.Fprintf(a.Err, "%s not looked at\n", plural(y.OmittedRoles, "more role"))
		}
	})
}

func outlook(r client.RoleWhy) string {
	parts := []string{plural(r.Offers, "offer") + " out"}
	if r.Suppressed {
		parts = append(parts, "no more until it sends REVIVE: it has suppressed offers in this role")
	} else if r.Open > 0 {
		parts = append(parts, plural(r.Open, "agent")+" to be offered next")
	}
	return strings.Join(parts, ", ")
}
