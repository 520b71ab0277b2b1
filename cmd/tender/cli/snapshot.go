package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) snapshotCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "snapshot",
		Short: "Save, inspect and restore the state of the control plane",
		Long: `Save, inspect and restore the state of the control plane.

A snapshot is everything that the replicas agree on: agents, tasks, roles, quotas,
frameworks, principals, the audit log. It holds no private key and no secret of
the control plane, but whatever users have put into their tasks: keep it as you
keep those. A backup needs the root key and its passphrase as well, which
'tenderd init' wrote: without them agents trust no new control plane.`,
		Example: `  tender snapshot save fleet.snap
  tender snapshot inspect fleet.snap
  tender snapshot restore fleet.snap`,
	}, a.snapshotSave(), a.snapshotInspect(), a.snapshotRestore())
}

func (a *app) snapshotSave() *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "Write a snapshot to a file",
		Long: `Write a snapshot to a file.

The file appears when it is complete and its checksum has been verified; until
then an older one of that name stays. Only you can read it (mode 0600).`,
		Example: "  tender snapshot save /var/backups/fleet-$(date +%F).snap",
		Args:    arity(1, 1, "FILE"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			h, err := a.save(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.printSnapshot(h)
		}),
	}
}

// save writes to a file beside the one that is to be.
func (a *app) save(ctx context.Context, c *client.Client, name string) (h client.SnapshotHeader, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".snapshot-*") // mode 0600
	if err != nil {
		return h, hint("give a file in a directory that you can write to", "save snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer f.Close() //nolint:errcheck // closed before it is renamed
	count := &counter{w: f, tell: a.progress("saved")}
	h, err = c.SaveSnapshot(ctx, func() (io.Writer, error) {
		count.n = 0
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("save snapshot: %w", err)
		}
		return count, f.Truncate(0)
	})
	count.tell(-1)
	if err != nil {
		return h, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return h, hint("make space there, or give another file", "save snapshot: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return h, fmt.Errorf("save snapshot: %w", err)
	}
	return h, nil
}

// counter tells how much has been written.
type counter struct {
	w    io.Writer
	n    int64
	tell func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// progress shows a count on a terminal, a few times a second; a negative one
// ends the line.
func (a *app) progress(verb string) func(int64) {
	f, ok := a.Err.(*os.File)
	if !ok {
		return func(int64) {}
	}
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return func(int64) {}
	}
	var last time.Time
	return func(n int64) {
		switch now := a.now(); {
		case n < 0 && !last.IsZero():
			fmt.Fprintln(a.Err)
		case n >= 0 && now.Sub(last) > 200*time.Millisecond:
			last = now
			fmt.Fprintf(a.Err, "\r%s %s", verb, sizeText(n))
		}
	}
}

// sizeText is a size in the unit that reads best.
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[u]
}

func (a *app) snapshotInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "Check a snapshot file and say what is in it; asks no server",
		Long: `Check a snapshot file and say what is in it.

The whole file is read and its checksum compared. No server is asked.`,
		Example: "  tender snapshot inspect fleet.snap",
		Args:    arity(1, 1, "FILE"),
		RunE: a.do(func(_ context.Context, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("inspect snapshot: %w", err)
			}
			defer f.Close() //nolint:errcheck // only read
			h, err := client.CheckSnapshot(f, nil)
			if err != nil {
				return hint("take another copy; this one cannot be restored", "%s: %w", args[0], err)
			}
			return a.printSnapshot(h)
		}),
	}
}

func (a *app) printSnapshot(h client.SnapshotHeader) error {
	return a.print(h, func(w io.Writer) {
		s := h.Summary
		total := 0
		var tasks []string
		for state, n := range s.Tasks {
			total += n
			tasks = append(tasks, fmt.Sprintf("%d %s", n, strings.ToLower(strings.TrimPrefix(state, "TASK_"))))
		}
		slices.Sort(tasks)
		var rows [][]string
		for _, r := range [][2]string{
			{"fleet", h.TrustDomain},
			{"made", h.Time.UTC().Format(time.RFC3339)},
			{"entry", fmt.Sprintf("%d of term %d", h.Index, h.Term)},
			{"written by", "tenderd " + h.Version},
			{"needs", fmt.Sprintf("capability %d", h.Capability)},
			{"state", sizeText(h.Size) + ", checksum holds"},
			{"replicas", strconv.Itoa(s.Replicas)},
			{"agents", strconv.Itoa(s.Agents)},
			{"tasks", strings.TrimSuffix(fmt.Sprintf("%d (%s)", total, strings.Join(tasks, ", ")), " ()")},
			{"roles", strconv.Itoa(s.Roles)},
			{"frameworks", strconv.Itoa(s.Frameworks)},
			{"principals", strconv.Itoa(s.Principals)},
			{"join tokens", strconv.Itoa(s.Tokens)},
			{"revoked", strconv.Itoa(s.Revoked)},
			{"audit log", strconv.Itoa(s.Audit)},
		} {
			rows = append(rows, r[:])
		}
		table(w, "WHAT VALUE", rows)
	})
}

func (a *app) snapshotRestore() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Replace the state of the running control plane by a snapshot",
		Long: `Replace the state of the running control plane by a snapshot.

What has happened since the snapshot is forgotten by the control plane, and not
by the agents. So after a restore:
  - tasks that the snapshot knows as running go on; those that have ended since
    are reported lost, and none of them is started again;
  - tasks that waited are lost, since they may have run: submit them again;
  - every agent is unsettled: it gets no work, and nothing on it is killed, until
    you say so with 'tender agent settle AGENT'. That ends what runs there and is
    not in the snapshot ('tender agent AGENT' lists what it has spoken of);
  - agents that have joined since must join again; join tokens are void; what was
    revoked stays revoked.

To make a new control plane of a snapshot on a fresh machine: tenderd restore.`,
		Example: "  tender snapshot restore fleet.snap\n  tender snapshot restore fleet.snap --yes",
		Args:    arity(1, 1, "FILE"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		file, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("restore snapshot: %w", err)
		}
		h, err := client.CheckSnapshot(bytes.NewReader(file), nil)
		if err != nil {
			return hint("take another copy", "%s: %w", args[0], err)
		}
		if !yes {
			what := fmt.Sprintf("The state of fleet %s goes back to %s; what has happened since is lost.", h.TrustDomain, h.Time.UTC().Format(time.RFC3339))
			if err := a.confirm(what, h.TrustDomain); err != nil {
				return err
			}
		}
		done, err := c.RestoreSnapshot(ctx, file)
		if err != nil {
			return err
		}
		return a.print(done, func(w io.Writer) {
			fmt.Fprintf(w, "restored the state of %s; %s lost\n", h.Time.UTC().Format(time.RFC3339), plural(done.Lost, "waiting task"))
			fmt.Fprintf(a.Err, "next:  %s to settle, see: tender agents; tender agent settle --help\n", plural(done.Unsettled, "agent"))
		})
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

func (a *app) agentSettle() *cobra.Command {
	var yes, all bool
	cmd := &cobra.Command{
		Use:   "settle [AGENT...]",
		Short: "End what an agent runs beyond a restored state, and give it work again",
		Long: `End what an agent runs beyond a restored state, and give it work again.

After 'tender snapshot restore' an agent may run tasks that were launched after
the snapshot: nobody knows them any more. They go on until they end by
themselves or the agent is settled: then they are stopped, each with its grace
period. 'tender agent AGENT' lists those that have changed their state since, and
how many tasks run there in all.`,
		Example: "  tender agent settle gpu-1\n  tender agent settle --all --yes",
		Args:    arity(0, -1, "AGENT"),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		if all == (len(args) > 0) {
			return usagef("give agents or --all")
		}
		if all {
			list, err := c.Agents(ctx)
			if err != nil {
				return err
			}
			for _, g := range list {
				if g.Unsettled {
					args = append(args, g.ID)
				}
			}
		}
		if len(args) == 0 {
			fmt.Fprintln(a.Err, "No agent is unsettled.")
			return nil
		}
		if !yes {
			what := fmt.Sprintf("What runs on %s and is not known here will be stopped.", plural(len(args), "agent"))
			if err := a.confirm(what, args[0]); err != nil {
				return err
			}
		}
		for _, id := range args {
			if _, err := c.SettleAgent(ctx, id); err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "%s settled\n", clean(id))
		}
		return nil
	})
	cmd.Flags().BoolVar(&all, "all", false, "settle all agents that are unsettled")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}
