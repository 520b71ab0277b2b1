package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/controlplane/client"
)

// Exit codes.
const (
	exitError = 1
	exitUsage = 2
	// exitOwn is for errors of tender itself where other codes are the task's.
	exitOwn = 125
)

// Streams is how a command talks to the world.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Signals asks the command to end; the first one may be answered by
	// stopping a task, the second ends the command in any case.
	Signals <-chan os.Signal
}

// app is one run of the command.
type app struct {
	Streams
	env      map[string]string
	now      func() time.Time
	settings settings
	// tokenFlag: --token-file was given, so it goes before TENDER_TOKEN.
	tokenFlag bool
}

// Run runs the command with the arguments after its name and returns its exit
// code.
func Run(ctx context.Context, args, env []string, s Streams) int {
	a := &app{Streams: s, env: map[string]string{}, now: time.Now}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		a.env[k] = v
	}
	return a.run(ctx, args)
}

// Root is the tree of commands, for manuals and completions.
func Root() *cobra.Command { return (&app{env: map[string]string{}, now: time.Now}).root() }

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ended, ok := errors.AsType[*taskEnded](err); ok {
		return ended.code
	}
	a.explain(err)
	var usage *usageError
	isUsage := errors.As(err, &usage)
	if isUsage {
		fmt.Fprintf(a.Err, "next:  see %s --help\n", cmd.CommandPath())
	}
	switch {
	case cmd.Name() == "run" && cmd.HasParent():
		return exitOwn
	case isUsage:
		return exitUsage
	default:
		return exitError
	}
}

// explain says what went wrong and what to do next.
func (a *app) explain(err error) {
	text := err.Error()
	next := ""
	var p *client.Problem
	var u *client.UnreachableError
	var h *hintError
	switch {
	case errors.As(err, &p):
		next = p.Next
		if p.State != "" {
			fmt.Fprintln(a.Err, clean(p.Error())) // as Mesos words it, to be searched for
			return
		}
	case errors.As(err, &u):
		next = u.Next()
	case errors.As(err, &h):
		next = h.next
	}
	fmt.Fprintf(a.Err, "error: %s\n", clean(text))
	if next != "" {
		fmt.Fprintf(a.Err, "next:  %s\n", clean(next))
	}
}

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// hintError is an error with its next step.
type hintError struct {
	err  error
	next string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func hint(next, format string, args ...any) error {
	return &hintError{fmt.Errorf(format, args...), next}
}

// action is what a command does.
type action func(ctx context.Context, args []string) error

// untilSignal runs act with a context that a signal cancels.
func (a *app) untilSignal(ctx context.Context, act func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-a.Signals:
			cancel(fmt.Errorf("ended by a signal (%v)", s))
		case <-ctx.Done():
		}
	}()
	err := act(ctx)
	cancel(nil)
	<-done
	return err
}

// do makes a command's RunE of an action that a signal cancels.
func (a *app) do(act action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return a.untilSignal(cmd.Context(), func(ctx context.Context) error { return act(ctx, args) })
	}
}

// ask is do for an action that calls the API.
func (a *app) ask(act func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		defer c.Close()
		return act(ctx, c, args)
	})
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tender",
		Short: "Run work on a fleet of machines and see what it does",
		Long: `Run work on a fleet of machines and see what it does.

tender asks the control plane: on a replica over its unix socket, anywhere else
with a credential or token that 'tender login' stores. Settings may also stand
in the configuration file and in the environment: TENDER_SERVER,
TENDER_CREDENTIALS, TENDER_SOCKET, TENDER_OUTPUT, TENDER_PIN, TENDER_TOKEN_FILE,
TENDER_CONFIG. TENDER_TOKEN may hold a token itself.`,
		Example: `  tender token create --site lab --ttl 1h
  tender run --gpus 1 --attach docker.io/library/busybox:1.36 -- echo hello
  tender ps`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.configure(cmd.Flags())
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{suggestFlag(cmd, err)}
	})
	f := root.PersistentFlags()
	f.String("server", "", "replicas to ask, as HOST:PORT,...")
	f.String("credentials", "", "directory with the caller's credential or token (default ~/.config/tender/credentials)")
	f.String("token-file", "", "file with a token to show instead of a credential, - for stdin")
	f.String("pin", "", "pin of the fleet's root, sha256:..., that servers are known by when a token is shown")
	f.String("socket", "", "unix socket of the replica on this machine (default "+defaultSocket+")")
	f.StringP("output", "o", "", "how to print: table or json (default table)")
	f.String("config", "", "configuration file (default ~/.config/tender/config.yaml)")
	root.AddCommand(
		a.runCommand(), a.psCommand(), a.taskCommand(), a.whyCommand(),
		a.agentsCommand(), a.agentCommand(), a.maintenanceCommand(), a.offersCommand(), a.frameworkCommand(),
		a.roleCommand(), a.quotaCommand(), a.replicasCommand(), a.caCommand(), a.replicaCommand(), a.snapshotCommand(), a.upgradeCommand(),
		a.tokenCommand(), a.principalCommand(), a.auditCommand(), a.loginCommand(), a.versionCommand(),
	)
	group(root)
	return root
}

// group makes a command that only has subcommands: a word that is none of them
// is an error with a suggestion instead of a page of help.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			err = fmt.Errorf("%w; did you mean %q?", err, like[0])
		}
		return &usageError{err}
	}
	return cmd
}

// arity checks the number of arguments; names are shown to who gives too few.
func arity(least, most int, names string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s is missing", names)
		case most >= 0 && len(args) > most:
			return usagef("%q is one argument too many", args[most])
		}
		return nil
	}
}

// suggestFlag adds the nearest flag to the error about an unknown one.
func suggestFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if like := nearest(unknown.GetSpecifiedName(), names); like != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, like)
	}
	return err
}

// nearest returns the name that is most like word, empty when none is.
func nearest(word string, names []string) string {
	slices.Sort(names)
	const far = 1000
	best, least := "", far
	for _, n := range names {
		d := distance(word, n)
		if d > max(2, len(word)/3) && !strings.HasPrefix(n, word) {
			continue
		}
		if d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is the number of letters to add, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
