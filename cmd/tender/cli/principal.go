package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) principalCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "principal",
		Aliases: []string{"principals"},
		Short:   "Make, list and revoke those who may use the fleet",
		Long: `Make, list and revoke those who may use the fleet.

A principal is an operator, who may do everything; a framework, which runs work
in the roles it was given and nothing else; or a reader, who only looks. It shows
who it is by a token, which is made here, or by a certificate, which it gets for
itself with a join line: tender token create --kind framework.`,
		Example: `  tender principal create marathon --kind framework --role services --ttl 2160h`,
	}, a.principalCreate(), a.principalList(), a.principalRevoke())
}

// roleFlags are those that give roles to principals.
func roleFlags(f *pflag.FlagSet, roles *[]string, all *bool) {
	f.StringArrayVar(roles, "role", nil, "role that a principal may act in, those below it too; may be repeated")
	f.BoolVar(all, "all-roles", false, "a principal may act in every role (operators and readers may unless --role is given)")
}

func (a *app) principalCreate() *cobra.Command {
	var in client.CreatePrincipal
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a principal and print its token",
		Long: `Make a principal and print its token.

Whoever has the token can act as the principal until it expires or is revoked, so
pass it on like a password. It is printed once and stored nowhere. Names are not
given out twice: to replace a token, make a new principal and revoke the old one.`,
		Example: `  tender principal create marathon --kind framework --role services > marathon.token
  tender principal create alice --kind operator --ttl 12h
  tender principal create board --kind reader --role research --role ops/batch`,
		Args: arity(1, 1, "NAME"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			if ttl <= 0 {
				return usagef("--ttl %v: give a duration above zero", ttl)
			}
			if in.Kind == "" {
				return usagef("--kind is missing: write framework, operator or reader")
			}
			in.ID, in.TTL = args[0], client.Duration(ttl)
			p, err := c.CreatePrincipal(ctx, in)
			if err != nil {
				return err
			}
			if err := a.print(p, func(w io.Writer) { fmt.Fprintln(w, clean(p.Token)) }); err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "%s may act in %s until %s.\n", clean(p.Kind+"/"+p.ID), clean(roleWords(p)), p.Expires.UTC().Format(time.RFC3339))
			fmt.Fprintf(a.Err, "Use it with: tender login --token-file FILE --server %s --pin %s\n", clean(strings.Join(p.Servers, ",")), clean(p.Pin))
			fmt.Fprintf(a.Err, "or in HTTP with: Authorization: Bearer TOKEN (basic: user %s, password TOKEN)\n", clean(p.ID))
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&in.Kind, "kind", "", "framework, operator or reader")
	roleFlags(f, &in.Roles, &in.AllRoles)
	f.DurationVar(&ttl, "ttl", 30*24*time.Hour, "how long the token holds, at most a year")
	return cmd
}

func roleWords(p client.Principal) string {
	switch {
	case p.AllRoles:
		return "all roles"
	case len(p.Roles) == 1:
		return "role " + p.Roles[0]
	}
	return "roles " + roles(p.Roles, false)
}

// roles is a cell of a table.
func roles(list []string, all bool) string {
	if all {
		return "(all)"
	}
	return strings.Join(list, ",")
}

func (a *app) principalList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List principals, those that have ended too",
		Example: "  tender principal list -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Principals(ctx)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				var rows [][]string
				for _, p := range list {
					shows := "certificate"
					if p.HasToken {
						shows = "token"
					}
					ends := ago(a.now(), p.Expires)
					if !p.Revoked.IsZero() {
						ends = ago(a.now(), p.Revoked)
					}
					rows = append(rows, []string{p.ID, p.Kind, roles(p.Roles, p.AllRoles), p.State, shows, ends, ago(a.now(), p.Created)})
				}
				table(w, "NAME KIND ROLES STATE SHOWS ENDS CREATED", rows)
			})
		}),
	}
}

func (a *app) principalRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME...",
		Short: "End principals for good: their tokens, certificates and open streams",
		Long: `End principals for good: their tokens, certificates and open streams.

Their tasks go on. A name that was revoked is not given out again.`,
		Example: "  tender principal revoke marathon",
		Args:    arity(1, -1, "NAME"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, id := range args {
				if _, err := c.RevokePrincipal(ctx, id); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func (a *app) auditCommand() *cobra.Command {
	var f client.AuditFilter
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Say who changed what, and when",
		Long: `Say who changed what, and when: the newest entries of the audit log, the last one
below. A command that the control plane refused is there too, with its reason; a
request of somebody who may not make it is in the log of tenderd instead.

The replicas keep the last 4096 changes of the fleet, and as many of tasks.`,
		Example: `  tender audit --limit 20
  tender audit --by operator/alice
  tender audit --by framework -o json`,
		Args: arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			if f.Limit < 1 {
				return usagef("--limit %d: give a number above zero", f.Limit)
			}
			list, err := c.Audit(ctx, f)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				var rows [][]string
				for _, e := range list.Entries {
					result := "done"
					if e.Refused != "" {
						result = "refused: " + e.Refused
					}
					rows = append(rows, []string{
						strconv.FormatUint(e.Seq, 10), e.Time.UTC().Format(time.RFC3339), e.By, e.Action, e.Target, e.Detail, result,
					})
				}
				table(w, "SEQ TIME BY ACTION TARGET DETAIL RESULT", rows)
				if list.Omitted > 0 {
					fmt.Fprintf(a.Err, "%d older are not shown: --limit\n", list.Omitted)
				}
			})
		}),
	}
	cmd.Flags().IntVar(&f.Limit, "limit", 100, "how many of the newest to show")
	cmd.Flags().StringVar(&f.By, "by", "", "only of one principal, such as operator/alice, or of a kind: operator, framework, local, token")
	return cmd
}
