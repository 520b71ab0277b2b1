package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) replicaCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "replica",
		Short: "See how the replicas are, and remove one",
		Long: `See how the replicas are, and remove one.

To add one, make a join line with 'tender token create --kind replica' and use it
with 'tenderd join' on the new machine. A newcomer gets the log first, and a vote
once it follows; beside three others it must have done so for ten seconds. A dead
replica is removed by itself when its replacement has its vote and three are left.`,
		Example: "  tender replica ls\n  tender replica remove r3",
	}, a.replicaList(), a.replicaRemove())
}

func (a *app) replicaList() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the replicas as the leader sees them",
		Long: `List the replicas as the leader sees them.

LAG counts entries that a replica lacks, HEALTHY says for how long it has
answered within 200 ms and lacked at most 250 entries, CAP is the newest kind of
change that its program understands: one that not all voters understand is not
used.`,
		Example: "  tender replica ls\n  tender replica ls -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			r, err := c.TrioReplicas(ctx)
			var p *client.Problem
			if errors.As(err, &p) && p.Code == client.CodeNoLeader {
				fmt.Fprintln(a.Err, "No replica leads: an election is under way, or most replicas do not answer. This is what one of them knows.")
				r, err = c.Replicas(ctx)
			}
			if err != nil {
				return err
			}
			return a.printReplicas(r)
		}),
	}
}

func (a *app) printReplicas(r client.Replicas) error {
	return a.print(r, func(w io.Writer) {
		var rows [][]string
		for _, p := range r.Replicas {
			contact := ago(a.now(), p.LastContact)
			if p.Self {
				contact = "answers"
			}
			healthy, lag, capability := "", "", ""
			if !p.HealthySince.IsZero() {
				healthy = span(a.now().Sub(p.HealthySince))
			}
			if r.Self == r.Leader {
				lag = strconv.FormatUint(p.Lag, 10)
			}
			if p.Capability > 0 {
				capability = strconv.FormatUint(p.Capability, 10)
			}
			rows = append(rows, []string{p.ID, p.Addr, roleOf(p), contact, lag, healthy, p.Version, capability, diskText(p.Disk)})
		}
		table(w, "REPLICA ADDRESS ROLE LAST_CONTACT LAG HEALTHY VERSION CAP DISK", rows)
		for _, p := range r.Replicas {
			if p.Disk != nil && p.Disk.Fault != "" {
				fmt.Fprintf(a.Err, "Replica %s acknowledges nothing: %s\n", clean(p.ID), clean(p.Disk.Fault))
			}
		}
	})
}

func roleOf(p client.Replica) string {
	switch {
	case p.Leader:
		return "leader"
	case !p.Voter:
		return "learner"
	}
	return "follower"
}

// diskText is what is to be known of a replica's disk at a glance.
func diskText(d *client.ReplicaDisk) string {
	switch {
	case d == nil:
		return ""
	case d.Fault != "":
		return "full"
	case d.Low:
		return sizeText(int64(d.Free)) + " free, low" //nolint:gosec // of a disk
	case d.Free == 0:
		return ""
	}
	return sizeText(int64(d.Free)) + " free" //nolint:gosec // of a disk
}

func (a *app) replicaRemove() *cobra.Command {
	var force, yes bool
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Take a replica out of the control plane for good",
		Long: `Take a replica out of the control plane for good.

Its identity is banned, so that it cannot come back: the machine may join again as
a new replica, with an empty data directory. Removing the leader hands leadership
over first. It is refused when the voters that are left have no majority that
answers, unless --force is given.`,
		Example: "  tender replica remove r3\n  tender replica remove r3 --yes",
		Args:    arity(1, 1, "ID"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		if !yes {
			if err := a.confirm(fmt.Sprintf("Replica %s will be removed for good.", args[0]), args[0]); err != nil {
				return err
			}
		}
		r, err := c.RemoveReplica(ctx, args[0], client.RemoveReplica{Force: force})
		if err != nil {
			return err
		}
		return a.printReplicas(r)
	})
	cmd.Flags().BoolVar(&force, "force", false, "even if the rest has no majority that answers")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}
