package daemon

import (
	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/agent/install"
	"github.com/tenderfleet/tender/cmd/internal/conf"
)

// installUnit notices what the agent asks root to install.
const installUnit = "tender-agent-install.path"

func installCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "install", Short: "Install the package that the agent asks for", Args: cobra.NoArgs, Hidden: true,
		Long: "Install the package of tender-agent that the agent has fetched and asks for, if it is\n" +
			"signed by a key in /etc/tender/release.pub. A unit of systemd starts it.",
	}
	load := settings.Bind(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := conf.Logger(cmd.ErrOrStderr(), "info")
		if err != nil {
			return err
		}
		state, err := cmd.Flags().GetString("state")
		if err != nil {
			return err
		}
		m := &install.Machine{Agent: state, Dir: install.Dir, Keys: install.KeysFile, Log: log}
		// The settings that held last are the agent's, who must not allow itself
		// anything: where the files are broken, the defaults hold.
		if s, err := load.Load(); err != nil {
			log.Warn("the settings are broken; their defaults hold here", "error", err)
		} else {
			m.Agent, m.AllowDowngrade = s.GetString("state"), s.GetBool("allow-downgrade")
		}
		return m.Install(cmd.Context())
	}
	return cmd
}
