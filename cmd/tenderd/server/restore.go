package server

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/cmd/internal/unit"
	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/registrar"
)

// exitForgotten is the exit code of a replica that must not start again as it
// is: another start does not help (EX_CONFIG of sysexits.h).
const exitForgotten = 78

// forgotten is an error with that code.
type forgotten struct{ error }

func (forgotten) ExitCode() int   { return exitForgotten }
func (f forgotten) Unwrap() error { return f.error }

// coded gives an error its exit code.
func coded(err error) error {
	if errors.Is(err, registrar.ErrForgotten) {
		return forgotten{err}
	}
	return err
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore", Short: "Make a new control plane of a snapshot, on a fresh machine", Args: cobra.NoArgs,
		Long: `Make a new control plane of a snapshot, on a fresh machine.

Use it when all replicas are lost. It needs a file of 'tender snapshot save', and
the root key and its passphrase that 'tenderd init' wrote: agents trust nothing
else. This machine becomes the first replica; the others join it as new ones.

Make sure that no replica of the old control plane runs any more. Agents find the
new one where the old ones were: give this machine one of their names or addresses.
What a restore means to agents and tasks: tender snapshot restore --help.`,
		Example: "  tenderd restore --from fleet.snap --root-key root.key --root-passphrase passphrase --addr tender-1.example.org",
	}
	load := settings.Bind(cmd, false)
	f := cmd.Flags()
	from := f.String("from", "", "the snapshot file (required)")
	key := f.String("root-key", "", "file with the fleet's encrypted root key (required)")
	passphrase := f.String("root-passphrase", "", "file with its passphrase (required)")
	addr := f.String("addr", "", "name or address that agents and other replicas reach this machine by, HOST[:7443] (required)")
	id := f.String("id", "", "id of this replica; made from the host name if empty")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, err := load.Load()
		if err != nil {
			return err
		}
		for flag, value := range map[string]string{"from": *from, "root-key": *key, "root-passphrase": *passphrase, "addr": *addr} {
			if value == "" {
				return fmt.Errorf("--%s is missing: see tenderd restore --help", flag)
			}
		}
		o := controlplane.RestoreOptions{RootKeyFile: *key, PassphraseFile: *passphrase}
		o.DataDir = v.GetString("data")
		if o.ID, err = replicaID(*id); err != nil {
			return err
		}
		if o.Addr, err = controlplane.CheckAddr(*addr); err != nil {
			return err
		}
		return restore(cmd.Context(), cmd, *from, o)
	}
	return cmd
}

func restore(ctx context.Context, cmd *cobra.Command, from string, o controlplane.RestoreOptions) error {
	file, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	o.Snapshot = file
	// The files may be for root alone, the data are the service's.
	foreign := unit.Foreign(o.DataDir)
	h, done, err := controlplane.Restore(ctx, o)
	if err != nil {
		err = fmt.Errorf("%s: %w", from, err)
	}
	if foreign {
		err = errors.Join(err, unit.Give(o.DataDir))
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "replica %s of %s is ready in %s with the state of %s\n", o.ID, h.TrustDomain, o.DataDir, h.Time.UTC().Format("2006-01-02T15:04:05Z"))
	serve := "      tenderd run                          serves\n"
	if foreign && unit.Installed(service) {
		serve = ""
	}
	fmt.Fprintf(cmd.ErrOrStderr(), restoreNext, done.Unsettled, done.Lost, serve)
	if foreign {
		return start(cmd)
	}
	return nil
}

const restoreNext = `
%d agents are to be settled once they are back, %d tasks that waited are lost.

next:
%s      tender token create --kind replica   prints the line for 'tenderd join' on the other servers
      tender agents                        shows which agents are back
      tender agent settle AGENT            ends what an agent runs beyond the snapshot, and gives it work
`
