package conf

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/pki"
)

// Daemon says which settings a daemon has. All its commands read one file, so
// each accepts the settings of the others.
type Daemon struct {
	// File is the default of --config.
	File string
	// Common adds the settings of every command, Serve those of run alone.
	Common, Serve func(*pflag.FlagSet)
}

// Bind gives a command its settings as flags and returns what reads them, once
// the command line was parsed. serve is for the command run.
func (d Daemon) Bind(cmd *cobra.Command, serve bool) func() (*viper.Viper, error) {
	f := cmd.Flags()
	config := f.String("config", d.File, "file with settings, YAML; keys are the names of the flags of run")
	d.add(f, serve)
	return func() (*viper.Viper, error) {
		all := pflag.NewFlagSet("", pflag.ContinueOnError)
		d.add(all, true)
		return Load(f, all, *config, f.Changed("config"))
	}
}

func (d Daemon) add(f *pflag.FlagSet, serve bool) {
	f.String("log-level", "info", "debug, info, warn or error")
	d.Common(f)
	if serve {
		d.Serve(f)
	}
}

// Run executes the command line of a daemon and returns its exit code. An
// error is one line on stderr.
func Run(ctx context.Context, root *cobra.Command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root.SilenceUsage, root.SilenceErrors, root.Version = true, true, version.Get().Version
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", root.Name(), err)
		if coded, ok := errors.AsType[ExitCoder](err); ok {
			return coded.ExitCode()
		}
		return 1
	}
	return 0
}

// ExitCoder is an error that wants an exit code of its own.
type ExitCoder interface {
	error
	ExitCode() int
}

// maxLine bounds a join line that is read from a pipe.
const maxLine = 64 << 10

// JoinLine takes the join line from the argument or, for "-", from a pipe, so
// that the secret need not stand in a process list.
func JoinLine(in io.Reader, arg string) (pki.JoinLine, error) {
	if arg == "-" {
		data, err := io.ReadAll(io.LimitReader(in, maxLine))
		if err != nil {
			return pki.JoinLine{}, fmt.Errorf("read join line: %w", err)
		}
		arg = string(data)
	}
	return pki.ParseJoinLine(arg)
}
