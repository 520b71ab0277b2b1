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
	// State names the setting that is the daemon's state directory.
	State string
	// Check finds mistakes that the form of a value does not show; it returns a
	// KeyError. It may be nil.
	Check func(*viper.Viper) error
}

// Loader reads the settings of one command, once its command line was parsed.
type Loader struct {
	d       *Daemon
	cmdline *pflag.FlagSet
	config  *string
}

// Load reads the settings. Any mistake is an error.
func (l *Loader) Load() (*Settings, error) {
	s, err := l.d.read(l.cmdline, l.layers())
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (l *Loader) layers() []layer {
	return readLayers(*l.config, l.cmdline.Changed("config"))
}

// Bind gives a command its settings as flags and returns what reads them. serve
// is for the command run.
func (d Daemon) Bind(cmd *cobra.Command, serve bool) *Loader {
	f := cmd.Flags()
	config := f.String("config", d.File, "file with settings, YAML; keys are the names of the flags of run; NAME.conf.d/*.yaml beside it go before it")
	d.add(f, serve)
	return &Loader{d: &d, cmdline: f, config: config}
}

// all is every setting of the daemon, with its default.
func (d *Daemon) all() *pflag.FlagSet {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	d.add(f, true)
	return f
}

func (d *Daemon) add(f *pflag.FlagSet, serve bool) {
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
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := 1
	if coded, ok := errors.AsType[ExitCoder](err); ok {
		code = coded.ExitCode()
	}
	if e, ok := errors.AsType[*ExitError](err); !ok || !e.Told {
		fmt.Fprintf(stderr, "%s: %v\n", root.Name(), err)
	}
	return code
}

// ExitError is an error with an exit code of its own.
type ExitError struct {
	Code int
	Err  error
	// Told: who reads stderr has read it already.
	Told bool
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is the code.
func (e *ExitError) ExitCode() int { return e.Code }

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
