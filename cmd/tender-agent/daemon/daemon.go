// Package daemon is the command line of tender-agent. Besides join and run it
// has two hidden commands under which the agent starts itself: log, the writer
// of a task's output that outlives the agent, and nvml-probe, the process that
// NVIDIA's library may take down without taking the agent along.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/notify"
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
	root.AddCommand(joinCommand(), runCommand(), &cobra.Command{
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
	},
	Serve: addRunFlags,
}

func joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join LINE",
		Short: "Make this machine an agent of a control plane",
		Long: "Make this machine an agent of a control plane. LINE comes from 'tender token create';\n" +
			"it names the replicas, the fingerprint of their root certificate and a secret.\n" +
			"Use - to read it from standard input. The agent's key is made here and stays here.",
		Example: "  tender-agent join tender1.eyJr...\n  tender token create --site lab | ssh box tender-agent join -",
		Args:    cobra.ExactArgs(1),
	}
	load := settings.Bind(cmd, false)
	hostname := cmd.Flags().String("name", "", "name to propose to the control plane; the host name if empty")
	wait := cmd.Flags().Duration("timeout", time.Minute, "how long to keep trying")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v, err := load()
		if err != nil {
			return err
		}
		line, err := conf.JoinLine(cmd.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		if *hostname == "" {
			if *hostname, err = os.Hostname(); err != nil {
				return fmt.Errorf("host name: %w; give one with --name", err)
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *wait)
		defer cancel()
		id, err := agent.Join(ctx, line, agent.JoinOptions{StateDir: v.GetString("state"), Hostname: *hostname})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "joined %s as agent %s\n", line.TrustDomain, id)
		fmt.Fprintln(cmd.ErrOrStderr(), "next: tender-agent run")
		return nil
	}
	return cmd
}

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Run the agent in the foreground", Args: cobra.NoArgs,
		Example: "  tender-agent run\n  tender-agent run --state /srv/tender --offer-cpus 6 --offer-mem 12288",
	}
	load := settings.Bind(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, err := load()
		if err != nil {
			return err
		}
		log, err := conf.Logger(cmd.ErrOrStderr(), v.GetString("log-level"))
		if err != nil {
			return err
		}
		cfg, closeAll, err := runConfig(v, log)
		if err != nil {
			return err
		}
		n := notify.Open(os.Getenv)
		cfg.Turn = supervised(n)
		err = agent.Run(cmd.Context(), cfg)
		n.Stopping()
		return errors.Join(err, closeAll())
	}
	return cmd
}

// supervised tells the service manager how the agent fares. The agent is ready
// when its loop turns: a site without an uplink must not fail its unit.
func supervised(n *notify.Notifier) func(agent.Sign) {
	var once sync.Once
	return func(s agent.Sign) {
		n.Status(signText(s))
		once.Do(n.Ready)
		n.Alive()
	}
}

// signText is the status line that systemctl shows.
func signText(s agent.Sign) string {
	tasks := fmt.Sprintf("%d tasks", s.Tasks)
	if s.Tasks == 1 {
		tasks = "1 task"
	}
	text := "connected to the control plane; " + tasks
	if !s.Connected {
		text = "cut off from the control plane; " + tasks + " here"
		if s.Spooled > 0 {
			text += fmt.Sprintf(", %d updates wait", s.Spooled)
		}
	}
	if s.Runtime != "" {
		text += "; the container runtime does not answer"
	}
	return text
}

// self is the path of this program, for the commands it starts itself under.
func self() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	return filepath.EvalSymlinks(exe)
}
