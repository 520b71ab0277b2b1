// Package daemon is the command line of tender-agent. Besides join and run it
// has two hidden commands under which the agent starts itself: log, the writer
// of a task's output that outlives the agent, and nvml-probe, the process that
// NVIDIA's library may take down without taking the agent along.
package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/gpu/nvml"
)

const (
	probeCommand = "nvml-probe"
	logCommand   = "log"
)

// Main runs one command and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The writers of task logs are many: they need no command tree.
	if len(args) > 0 && args[0] == logCommand {
		return tasklog.Main(args[1:])
	}
	return conf.Run(ctx, Root(), args, stdin, stdout, stderr)
}

// Root is the tree of commands.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use: "tender-agent", Short: "Run tasks on this machine for a Tender control plane",
	}
	root.AddCommand(joinCommand(), runCommand(), leaveCommand(), haltCommand(), retryCommand(), installCommand(), settings.Command(), &cobra.Command{
		Use: probeCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return nvml.Probe(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	})
	return root
}

var settings = conf.Daemon{
	File: "/etc/tender/agent.yaml",
	Common: func(f *pflag.FlagSet) {
		f.String("state", "/var/lib/tender/agent", "directory of the agent's key, certificate and checkpoint")
		f.Bool("allow-downgrade", false, "let the control plane install versions of the agent older than the one installed")
	},
	Serve: addRunFlags,
	State: "state",
	Check: check,
}

// self is the path of this program, for the commands it starts itself under.
func self() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	return filepath.EvalSymlinks(exe)
}
