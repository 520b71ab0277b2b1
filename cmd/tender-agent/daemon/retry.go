package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/cmd/internal/unit"
)

// mostTries is how often agent-start tries a version.
const mostTries = "3"

func retryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "retry", Short: "Give the installed version another chance after a rollback", Args: cobra.NoArgs,
		Long: "Give the installed version another chance. An upgraded agent that has not passed its\n" +
			"health gate in three tries is rolled back: the version before runs, until another\n" +
			"one is installed or this command makes the next start a first try again. Tasks go on.",
		Example: "  tender-agent retry && systemctl restart tender-agent",
	}
	dir := cmd.Flags().String("start", startDir, "directory of what is known of the installed versions")
	_ = cmd.Flags().MarkHidden("start")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s := start{dir: *dir}
		if _, err := os.ReadDir(s.dir); errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w; run as root", err)
		}
		if unit.Foreign(s.dir) {
			return unit.RunAs(cmd.Context(), s.dir, "", cmd.OutOrStdout(), cmd.ErrOrStderr(), "retry", "--start", s.dir)
		}
		f := s.failed()
		// On a full disk there may be no record of it.
		if _, tries, _ := strings.Cut(s.read("trial"), " "); f.digest == "" && tries != mostTries {
			return errors.New("nothing was rolled back on this machine; systemctl status tender-agent tells what runs")
		}
		if err := s.again(); err != nil {
			return fmt.Errorf("forget the rollback: %w", err)
		}
		if f.why == "" {
			f.why = "why is not recorded"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s was rolled back: %s\nThe next start is its first try again: systemctl restart tender-agent\n", f.name(), f.why)
		return nil
	}
	return cmd
}
