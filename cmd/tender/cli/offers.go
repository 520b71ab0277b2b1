package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) offersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "offers",
		Short: "List the offers and inverse offers that are out",
		Long: `List the offers and inverse offers that are out.

An offer holds what it names until it is answered or expires; RESERVED says which
part of it is reserved, and for whom. An inverse offer asks a framework to give
back what it holds on an agent that will be down.`,
		Example: "  tender offers\n  tender offers -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Offers(ctx)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) { a.offerTables(w, list) })
		}),
	}
}

func (a *app) offerTables(w io.Writer, list client.OfferList) {
	var rows [][]string
	for _, o := range list.Offers {
		rows = append(rows, []string{
			o.ID, o.Framework, o.Role, o.Agent, o.Site, string(o.Resources.CPUs), mem(o.Resources.Mem), mem(o.Resources.Disk),
			gpuSummary(o.GPUs), o.Resources.Ports, reservedText(o.Resources.Reserved), ago(a.now(), o.Expires),
		})
	}
	table(w, "OFFER FRAMEWORK ROLE AGENT SITE CPUS MEM DISK GPUS PORTS RESERVED EXPIRES", rows)
	if len(list.Inverse) == 0 {
		return
	}
	rows = nil
	for _, o := range list.Inverse {
		r := o.Resources
		held := client.Quantities{"cpus": r.CPUs, "mem": r.Mem, "disk": r.Disk, "gpus": amountOf(r, "gpus")}
		end := ""
		if o.Duration > 0 {
			end = o.Start.Add(time.Duration(o.Duration)).UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{o.ID, o.Framework, o.Agent, amounts(held), o.Start.UTC().Format(time.RFC3339), end})
	}
	fmt.Fprintln(w)
	table(w, "INVERSE_OFFER FRAMEWORK AGENT HOLDS START END", rows)
}

// reservedText is "cpus=2,mem=4G for research".
func reservedText(parts []client.Reserved) string {
	var out []string
	for _, p := range parts {
		held := client.Quantities{}
		maps.Copy(held, p.Resources.Custom)
		for _, n := range []string{"cpus", "mem", "disk", "gpus"} {
			if x := amountOf(p.Resources, n); x != "0" {
				held[n] = x
			}
		}
		text := amounts(held)
		if p.Role != "" {
			text += " for " + p.Role
		}
		if p.Revocable {
			text += " (revocable)"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}
