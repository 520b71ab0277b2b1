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

func (a *app) tokenCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "token",
		Short:   "Make, list and delete join tokens",
		Example: "  tender token create --site lab --ttl 1h",
	}, a.tokenCreate(), a.tokenList(), a.tokenDelete())
}

func (a *app) tokenCreate() *cobra.Command {
	var in client.CreateToken
	var labelFlags []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print its join line",
		Long: `Make a join token and print its join line.

The line is one word. Whoever has it can join the fleet until it expires or is
used up, so pass it on like a password. It is printed once and stored nowhere.`,
		Example: `  tender token create --site lab --label disk=ssd --uses 10 --ttl 24h
  tender token create --kind operator --ttl 15m
  tender token create --kind framework --role research --ttl 10m
  tender token create --kind replica --ttl 10m`,
		Args: arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			var err error
			if in.Labels, err = pairs("--label", labelFlags); err != nil {
				return err
			}
			if ttl <= 0 {
				return usagef("--ttl %v: give a duration above zero", ttl)
			}
			in.TTL = client.Duration(ttl)
			t, err := c.CreateToken(ctx, in)
			if err != nil {
				return err
			}
			if err := a.print(t, func(w io.Writer) { fmt.Fprintln(w, clean(t.Line)) }); err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "Admits %s until %s. %s\n", plural(t.Uses, t.Kind), t.Expires.UTC().Format(time.RFC3339), joinHint(t.Kind))
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&in.Kind, "kind", "agent", "who may join with it: agent, replica, operator, framework or reader")
	roleFlags(f, &in.Roles, &in.AllRoles)
	f.StringVar(&in.Site, "site", "", "where the agents stand")
	f.StringArrayVar(&labelFlags, "label", nil, "label of the agents, as KEY=VALUE; may be repeated")
	f.IntVar(&in.Uses, "uses", 1, "how many may join with it")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it holds")
	return cmd
}

func joinHint(kind string) string {
	switch kind {
	case "replica":
		return "Use it on the new replica with: tenderd join LINE"
	case "operator", "framework", "reader":
		return "Use it where tender is to be run with: tender login"
	default:
		return "Use it on the machine with: tender-agent join LINE"
	}
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List join tokens",
		Example: "  tender token list -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			tokens, err := c.Tokens(ctx)
			if err != nil {
				return err
			}
			return a.print(tokens, func(w io.Writer) {
				var rows [][]string
				for _, t := range tokens {
					expires := ago(a.now(), t.Expires)
					if !a.now().Before(t.Expires) {
						expires = "expired " + expires
					}
					rows = append(rows, []string{t.ID, t.Kind, roles(t.Roles, t.AllRoles), t.Site, labels(t.Labels), strconv.Itoa(t.Uses), expires, ago(a.now(), t.Created)})
				}
				table(w, "TOKEN KIND ROLES SITE LABELS USES_LEFT EXPIRES CREATED", rows)
			})
		}),
	}
}

func (a *app) tokenDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete TOKEN...",
		Aliases: []string{"rm"},
		Short:   "Delete join tokens, so that nobody joins with them any more",
		Example: "  tender token delete 3f6c21aa90b2",
		Args:    arity(1, -1, "TOKEN"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, id := range args {
				if err := c.DeleteToken(ctx, id); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// pairs reads KEY=VALUE flags.
func pairs(flag string, list []string) (map[string]string, error) {
	var m map[string]string
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usagef("%s %q: write KEY=VALUE", flag, kv)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
