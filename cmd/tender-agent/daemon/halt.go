package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/agent/containerd"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/unit"
)

func haltCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "halt", Short: "End all tasks of this machine", Args: cobra.NoArgs,
		Long: "End all tasks of this machine: each gets TERM, and KILL when its grace period is\n" +
			"over. The agent reports how they ended, when it runs again. To take the machine\n" +
			"out of its fleet, use 'tender-agent leave' instead.",
		Example: "  systemctl stop tender-agent && tender-agent halt --grace 30s",
	}
	load := settings.Bind(cmd, true)
	most := cmd.Flags().Duration("grace", time.Minute, "the longest that a task may take, whatever its own grace period")
	shutdown := cmd.Flags().Bool("at-shutdown", false, "do nothing unless the machine is going down")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *shutdown && !unit.ShuttingDown(cmd.Context()) {
			return nil
		}
		v, _, err := load.LoadOrLast()
		if err != nil {
			return err
		}
		log, err := conf.Logger(cmd.ErrOrStderr(), v.GetString("log-level"))
		if err != nil {
			return err
		}
		x, err := openExecutor(v, log)
		if err != nil {
			return err
		}
		defer x.Close() //nolint:errcheck // nothing is under way
		n, err := x.Halt(cmd.Context(), *most)
		fmt.Fprintf(cmd.OutOrStdout(), "ended tasks: %d\n", n)
		return err
	}
	return cmd
}

// openExecutor is the machine's containers without an agent.
func openExecutor(s *conf.Settings, log *slog.Logger) (*containerd.Executor, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	return containerd.New(containerd.Config{
		Address: s.GetString("containerd"), Namespace: s.GetString("namespace"), Snapshotter: s.GetString("snapshotter"),
		LogDir: filepath.Join(s.GetString("state"), "logs"), LogBinary: []string{exe, logCommand}, Log: log,
	})
}
