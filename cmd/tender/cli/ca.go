package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) caCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "ca",
		Short:   "See what the fleet trusts",
		Example: "  tender ca show",
	}, a.caShow())
}

func (a *app) caShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show trust roots, issuing authorities, and which agents have the newest trust bundle",
		Long: `Show trust roots, issuing authorities, and which agents have the newest trust bundle.

The trust bundle is the set of roots that replicas, agents and others verify
certificates by; its version grows with every change. Connected agents are sent a
newer one at once and say when they have stored it; the others get it when they
are back. Each replica issues certificates under its own authority, which it has
recorded the first time that it led.`,
		Example: "  tender ca show\n  tender ca show -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			ca, err := c.CA(ctx)
			if err != nil {
				return err
			}
			return a.print(ca, func(w io.Writer) { a.caTable(w, ca) })
		}),
	}
}

// maxNamed bounds the agents that are named in a line.
const maxNamed = 10

func (a *app) caTable(w io.Writer, ca client.CA) {
	fields(w, "Trust domain", ca.TrustDomain, "Trust bundle", fmt.Sprintf("version %d", ca.BundleVersion),
		"Stored by", plural(ca.Have, "connected agent"), "Not yet by", named(ca.Behind), "Away", named(ca.Away))
	fmt.Fprintln(w)
	var rows [][]string
	for _, r := range ca.Roots {
		rows = append(rows, []string{r.Pin, ago(a.now(), r.NotBefore), ago(a.now(), r.NotAfter)})
	}
	table(w, "ROOT MADE ENDS", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, i := range ca.Issuers {
		rows = append(rows, []string{i.Replica, ago(a.now(), i.NotAfter), i.Root})
	}
	table(w, "ISSUER ENDS ROOT", rows)
}

// named lists the first of many.
func named(ids []string) string {
	if len(ids) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:maxNamed], ", "), len(ids)-maxNamed)
	}
	return strings.Join(ids, ", ")
}
