package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) psCommand() *cobra.Command {
	var f client.TaskFilter
	cmd := &cobra.Command{
		Use:     "ps",
		Short:   "List tasks, the newest first",
		Example: "  tender ps\n  tender ps --all --role research",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Tasks(ctx, f)
			if err != nil {
				return err
			}
			if l.Omitted > 0 {
				fmt.Fprintf(a.Err, "%s more; see them with a higher --limit, or narrow the list with --role or --agent\n", plural(l.Omitted, "task"))
			}
			return a.print(l.Tasks, func(w io.Writer) {
				var rows [][]string
				for _, t := range l.Tasks {
					rows = append(rows, []string{
						t.ID, state(t), t.Agent, t.Role, string(t.Needs.CPUs), mem(t.Needs.Mem), gpus(t), ago(a.now(), t.Submitted), t.Message,
					})
				}
				table(w, "TASK STATE AGENT ROLE CPUS MEM GPUS SUBMITTED MESSAGE", rows)
			})
		}),
	}
	cmd.Flags().BoolVarP(&f.All, "all", "a", false, "list tasks that have ended too")
	cmd.Flags().StringVar(&f.Role, "role", "", "only tasks of this role")
	cmd.Flags().StringVar(&f.Agent, "agent", "", "only tasks on this agent")
	cmd.Flags().IntVar(&f.Limit, "limit", 1000, "at most so many")
	return cmd
}

// state is a task's state as people say it: "running".
func state(t client.Task) string {
	s := strings.ToLower(strings.TrimPrefix(t.State, "TASK_"))
	switch {
	case s == "staging" && t.Agent == "":
		return "waiting"
	case t.Stopping && t.Preempted != "":
		return s + ", making room"
	case t.Stopping:
		return s + ", stopping"
	default:
		return s
	}
}

// gpus counts those of tasks that came from outside too: they have no needs.
func gpus(t client.Task) string {
	n := t.Needs.GPUs
	if t.Resources != nil {
		n = len(t.Resources.GPUs)
	}
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (a *app) taskCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "task",
		Short: "Show, stop or read one task",
		Long: "Show, stop or read one task, by its id or by what that begins with, if it is the only\n" +
			"such task or the only one that has not ended.",
		Example: "  tender task show train-1\n  tender task logs -f train-1",
	}, a.taskShow(), a.taskStop(), a.taskLogs())
}

func (a *app) taskShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show TASK",
		Short:   "Show one task and what happened to it",
		Example: "  tender task show train-1",
		Args:    arity(1, 1, "TASK"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := byName(ctx, c, args[0], func(id string) (client.Task, error) { return c.Task(ctx, id) })
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { a.taskTable(w, t) })
		}),
	}
}

func (a *app) taskTable(w io.Writer, t client.Task) {
	waits := ""
	if t.Waiting != nil {
		waits = waitText(*t.Waiting)
	}
	needs := fmt.Sprintf("cpus %s, memory %s", t.Needs.CPUs, mem(t.Needs.Mem))
	if t.Needs.GPUs > 0 {
		needs += ", " + plural(t.Needs.GPUs, "GPU")
		if t.Needs.GPUModel != "" {
			needs += " of model " + t.Needs.GPUModel
		}
		if t.Needs.GPUMemory > 0 {
			needs += " with " + mem(client.Amount(strconv.FormatInt(t.Needs.GPUMemory, 10)))
		}
	}
	where := t.Needs.Agent
	if where == "" && t.Needs.Site != "" {
		where = "site " + t.Needs.Site
	}
	devices := ""
	if t.Resources != nil {
		devices = strings.Join(t.Resources.GPUs, ", ")
	}
	found := ""
	if t.CheckResult != nil {
		found = t.CheckResult.Text
	}
	fields(w, "Task", t.ID, "State", t.State, "Health", t.Health, "Check", found, "Message", t.Message, "Waits", waits, "Reason", t.Reason, "Agent", t.Agent,
		"Role", t.Role, "Standing", standing(t), "Ended for", t.Preempted, "Framework", t.Framework, "Image", t.Image, "Command", strings.Join(t.Command, " "),
		"Environment", strings.Join(t.Env, ", "), "Needs", needs, "Limits", limits(t), "Max time", maxTime(t), "Health check", checkText(t.HealthCheck), "Restarts", restartText(t), "Cut off", disconnectText(t),
		"Replaces", t.Replaces, "Replaced by", t.ReplacedBy, "Place", where, "Labels", labels(t.Needs.Labels), "GPUs", devices,
		"Unreachable", ago(a.now(), t.UnreachableSince), "Submitted", ago(a.now(), t.Submitted), "Launched", ago(a.now(), t.Launched), "Ended", ago(a.now(), t.Ended))
	var rows [][]string
	for _, s := range t.History {
		rows = append(rows, []string{s.Time.UTC().Format(time.RFC3339), s.State, s.Message})
	}
	fmt.Fprintln(w)
	table(w, "TIME STATE MESSAGE", rows)
}

// standing says how a task stands against others, where that is out of the
// ordinary.
func standing(t client.Task) string {
	var words []string
	if t.Priority != 0 {
		words = append(words, fmt.Sprintf("priority %d", t.Priority))
	}
	if t.Revocable {
		words = append(words, "revocable")
	}
	return strings.Join(words, ", ")
}

func waitText(w client.Waiting) string {
	if w.Never {
		return w.Reason + " (no agent of the fleet could hold it, even with nothing else running)"
	}
	return w.Reason
}

func (a *app) taskStop() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "stop TASK...",
		Short: "Stop tasks: TERM, and KILL after the grace period",
		Long: `Stop tasks: TERM, and KILL after the grace period.

The command returns once the control plane has taken note. The task ends when
its agent has stopped it; one that waits to be placed ends at once.`,
		Example: "  tender task stop train-1\n  tender task stop --grace 0s train-1 train-2",
		Args:    arity(1, -1, "TASK"),
	}
	cmd.Flags().DurationVar(&grace, "grace", 0, "time between TERM and KILL (default: the task's own)")
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		var in client.Stop
		if cmd.Flags().Changed("grace") {
			d := client.Duration(grace)
			in.Grace = &d
		}
		tasks := []client.Task{}
		var failed error // the others are stopped all the same
		for _, id := range args {
			t, err := byName(ctx, c, id, func(id string) (client.Task, error) { return c.StopTask(ctx, id, in) })
			if err != nil {
				failed = cmp.Or(failed, err)
				continue
			}
			tasks = append(tasks, t)
		}
		return cmp.Or(failed, a.print(tasks, func(w io.Writer) {
			for _, t := range tasks {
				fmt.Fprintf(w, "%s: %s\n", clean(t.ID), clean(state(t)))
			}
		}))
	})
	return cmd
}

func (a *app) taskLogs() *cobra.Command {
	o := client.LogOptions{}
	cmd := &cobra.Command{
		Use:   "logs TASK",
		Short: "Print what a task wrote to stdout and stderr",
		Long: `Print what a task wrote to stdout and stderr, each to its own stream.

The output is read from the agent, through its own session: it can be had while
that agent is connected. The order of lines of different streams is not known.`,
		Example: "  tender task logs train-1\n  tender task logs -f --tail 100 train-1\n  tender task logs --stdout train-1 > out.txt",
		Args:    arity(1, 1, "TASK"),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on until the task has ended")
	f.IntVar(&o.Tail, "tail", -1, "begin with the last lines, so many of each stream; -1 is everything")
	f.BoolVar(&o.Stdout, "stdout", false, "only stdout")
	f.BoolVar(&o.Stderr, "stderr", false, "only stderr")
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		if !o.Stdout && !o.Stderr {
			o.Stdout, o.Stderr = true, true
		}
		t, err := byName(ctx, c, args[0], func(id string) (client.Task, error) { return c.Task(ctx, id) })
		if err != nil {
			return err
		}
		l := &logReader{app: a, c: c, id: t.ID, options: o}
		if !o.Follow {
			return l.once(ctx)
		}
		if err := l.awaitStart(ctx); err != nil {
			return err
		}
		return l.follow(ctx)
	})
	return cmd
}

// pollTime is how long one question for a change may wait.
const pollTime = 30 * time.Second

// awaitStart returns once the task is on an agent or has ended.
func (l *logReader) awaitStart(ctx context.Context) error {
	revision, said := "", ""
	for {
		t, err := l.c.WaitTask(ctx, l.id, revision, pollTime)
		if err != nil {
			return err
		}
		if t.Agent != "" || t.Terminal() {
			return nil
		}
		revision, said = t.Revision, l.app.sayWaiting(t, said)
	}
}

// sayWaiting prints why a task waits unless that was the last thing said.
func (a *app) sayWaiting(t client.Task, said string) string {
	if t.Waiting == nil {
		return said
	}
	text := waitText(*t.Waiting)
	if text != said {
		fmt.Fprintf(a.Err, "%s waits: %s\n", clean(t.ID), clean(text))
	}
	return text
}
