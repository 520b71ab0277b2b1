package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) agentReserve() *cobra.Command {
	return a.reservation(&cobra.Command{
		Use:   "reserve AGENT RESOURCES",
		Short: "Set resources of an agent aside for a role",
		Long: `Set resources of an agent aside for a role and those below it.

Offers on that agent are taken back as far as they stand in the way. What tasks
use stays theirs: where that leaves too little, nothing is reserved and what there
is is said. A reservation counts against the role's quota, used or not.`,
		Example: "  tender agent reserve gpu-1 --role research cpus=2,mem=4G\n  tender agent reserve gpu-1 --role research gpus=1",
	}, (*client.Client).Reserve)
}

func (a *app) agentUnreserve() *cobra.Command {
	return a.reservation(&cobra.Command{
		Use:   "unreserve AGENT RESOURCES",
		Short: "End reservations: the resources are anybody's again",
		Long: `End reservations: the resources are anybody's again.

It is for what 'tender agent reserve' or a framework has reserved; what stands in
an agent's configuration stays reserved. What tasks use cannot be given back.`,
		Example: "  tender agent unreserve gpu-1 --role research cpus=2,mem=4G",
	}, (*client.Client).Unreserve)
}

func (a *app) reservation(cmd *cobra.Command, call func(*client.Client, context.Context, string, client.Reserve) (client.Agent, error)) *cobra.Command {
	var in client.Reserve
	cmd.Args = arity(1, 2, "AGENT")
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		switch {
		case in.Role == "":
			return usagef("--role is missing: for whom is it?")
		case len(args) == 1 && len(in.GPUUUIDs) == 0:
			return usagef("RESOURCES is missing: write cpus=2,mem=4G,gpus=1")
		case len(args) == 2:
			var err error
			if in.Resources, err = parseAmounts("RESOURCES", args[1]); err != nil {
				return err
			}
		}
		g, err := call(c, ctx, args[0], in)
		if err != nil {
			return err
		}
		return a.print(g, func(w io.Writer) { reservedTable(w, g.Total) })
	})
	f := cmd.Flags()
	f.StringVar(&in.Role, "role", "", "the role; those below it may use it, too")
	f.StringArrayVar(&in.GPUUUIDs, "gpu", nil, "a GPU by its UUID, beside gpus=N; may be repeated")
	return cmd
}

// reservedTable lists what of an agent is not for everybody.
func reservedTable(w io.Writer, r client.Resources) {
	if len(r.Reserved) == 0 {
		fmt.Fprintln(w, "nothing is reserved")
		return
	}
	var rows [][]string
	for _, p := range r.Reserved {
		kind := "static"
		if p.Dynamic {
			kind = "dynamic"
		}
		if p.Revocable {
			kind = strings.TrimPrefix(kind+", revocable", map[bool]string{true: "static, "}[p.Role == ""])
		}
		rows = append(rows, []string{
			p.Role, kind, p.Principal, string(p.Resources.CPUs), mem(p.Resources.Mem), mem(p.Resources.Disk),
			strings.Join(p.Resources.GPUs, ","), p.Resources.Ports, amounts(p.Resources.Custom),
		})
	}
	table(w, "RESERVED_FOR KIND BY CPUS MEM DISK GPUS PORTS CUSTOM", rows)
}

// resourceTable says how an agent's resources are used. What is on offer is
// what is neither used nor free.
func resourceTable(w io.Writer, g client.Agent) {
	names := []string{"cpus", "mem", "disk", "gpus"}
	for n := range g.Total.Custom {
		names = append(names, n)
	}
	slices.Sort(names[4:])
	reserved := client.Quantities{}
	for _, p := range g.Total.Reserved {
		for _, n := range names {
			reserved[n] = add(reserved[n], amountOf(p.Resources, n), 1)
		}
	}
	var rows [][]string
	for _, n := range names {
		show := func(x client.Amount) string {
			if n == "mem" || n == "disk" {
				return mem(x)
			}
			return string(x)
		}
		total, used := amountOf(g.Total, n), amountOf(g.Used, n)
		row := []string{n, show(total), show(add(reserved[n], "0", 1)), show(used), "", ""}
		if g.Free != nil {
			free := amountOf(*g.Free, n)
			row[4], row[5] = show(add(add(total, used, -1), free, -1)), show(free)
		}
		rows = append(rows, row)
	}
	if g.Total.Ports != "" {
		row := []string{"ports", g.Total.Ports, "", g.Used.Ports, "", ""}
		if g.Free != nil {
			row[5] = g.Free.Ports
		}
		rows = append(rows, row)
	}
	table(w, "RESOURCE TOTAL RESERVED IN_USE ON_OFFER FREE", rows)
}

func amountOf(r client.Resources, name string) client.Amount {
	switch name {
	case "cpus":
		return r.CPUs
	case "mem":
		return r.Mem
	case "disk":
		return r.Disk
	case "gpus":
		return client.Amount(strconv.Itoa(len(r.GPUs)))
	}
	return r.Custom[name]
}

// add adds y to x, or takes it away; not below zero.
func add(x, y client.Amount, sign int) client.Amount {
	a, _ := x.Scalar() // the control plane wrote it
	b, _ := y.Scalar()
	if sign < 0 {
		b = -b
	}
	return client.AmountOf(max(0, a+b))
}
