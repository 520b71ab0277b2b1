package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why TASK|FRAMEWORK",
		Short: "Say why a task waits, or why a framework gets no offers",
		Long: `Say why a task waits, or why a framework gets no offers.

For a task that waits it is what each agent lacks: resources, a label, a GPU of
the kind; or what keeps it away: quota, what is held back for others, a drain. For
a framework it is, in each of its roles, what keeps the agents from being offered,
by reason: in use, declined before, less than it takes, GPUs that it cannot
handle, its own constraints, quota. A task goes before a framework of its name.`,
		Example: "  tender why train-1\n  tender why marathon-1",
		Args:    arity(1, 1, "TASK or FRAMEWORK"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			y, err := c.Why(ctx, args[0])
			if unknown(err) {
				f, err := c.WhyFramework(ctx, args[0])
				if err == nil {
					return a.printOutlook(f)
				}
				if !unknown(err) {
					return err
				}
			}
			if unknown(err) {
				y, err = byName(ctx, c, args[0], func(id string) (client.Why, error) { return c.Why(ctx, id) })
			}
			if unknown(err) {
				return hint("list them with: tender ps --all, tender framework list", "there is no task or framework %q", args[0])
			}
			if err != nil {
				return err
			}
			return a.printWhy(y)
		}),
	}
}

func unknown(err error) bool {
	p, ok := errors.AsType[*client.Problem](err)
	return ok && p.Code == client.CodeNotFound
}

func (a *app) printWhy(y client.Why) error {
	return a.print(y, func(w io.Writer) {
		if y.Waiting == nil {
			fmt.Fprintf(w, "%s does not wait: it is %s\n", clean(y.Task), clean(y.State))
			if !y.UnreachableSince.IsZero() {
				fmt.Fprintf(w, "%s (since %s)\n", clean(y.Message), y.UnreachableSince.UTC().Format(time.RFC3339))
			}
			return
		}
		fmt.Fprintf(w, "%s waits: %s\n", clean(y.Task), clean(waitText(*y.Waiting)))
		if len(y.Agents) == 0 {
			return
		}
		var rows [][]string
		for _, r := range y.Agents {
			rows = append(rows, []string{r.Agent, r.Reason})
		}
		fmt.Fprintln(w)
		table(w, "AGENT REASON", rows)
	})
}
