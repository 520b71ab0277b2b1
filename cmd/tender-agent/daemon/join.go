package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/install"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/unit"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
)

// service is the unit that runs the agent.
const service = "tender-agent.service"

// exitForGood is the exit code of a join that need not be tried again.
const exitForGood = 3

func joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join LINE",
		Short: "Make this machine an agent of a control plane",
		Long: "Make this machine an agent of a control plane. LINE comes from 'tender token create';\n" +
			"it names the replicas, the fingerprint of their root certificate and a secret.\n" +
			"Use - to read it from standard input. The agent's key is made here and stays here.\n\n" +
			"With the package installed, the agent then starts, now and at each boot. Without\n" +
			"anybody at the machine, a file with a line in /etc/tender/join does the same: it is\n" +
			"used as soon as the control plane answers, and wiped.\n\n" +
			"Where the control plane names keys that it signs packages of the agent by, they are\n" +
			"written to /etc/tender/release.pub, unless that file is there: by them the machine\n" +
			"knows what it may install when 'tender upgrade' asks for it. Whoever has the control\n" +
			"plane in his hands later cannot change them; the machine's administrator can.",
		Example: "  tender-agent join tender1.eyJr...\n  tender token create --site lab | ssh box tender-agent join -",
		Args:    cobra.MaximumNArgs(1),
	}
	load := settings.Bind(cmd, false)
	j := &joiner{}
	cmd.Flags().StringVar(&j.name, "name", "", "name to propose to the control plane; the host name if empty")
	cmd.Flags().DurationVar(&j.wait, "timeout", time.Minute, "how long to keep trying; 0 for as long as it takes")
	cmd.Flags().StringVar(&j.dir, "from-dir", "", "join by the line in the first file of this directory that has a good one, and wipe all of them")
	addClockFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v, err := load.Load()
		if err != nil {
			return err
		}
		j.state, j.stdin, j.stdout, j.stderr = v.GetString("state"), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		if j.clock, err = cmd.Flags().GetDuration(clockFlag); err != nil {
			return err
		}
		switch {
		case j.dir != "" && len(args) == 0:
			return claim(cmd.Context(), j.dir, j.stderr, j.rerun)
		case j.dir != "" || len(args) == 0:
			return errors.New("give one join line, or - to read it from standard input; it comes from: tender token create")
		}
		return j.join(cmd.Context(), args[0])
	}
	return cmd
}

type joiner struct {
	state, name, dir string
	wait, clock      time.Duration
	stdin            io.Reader
	stdout, stderr   io.Writer
}

// join joins by a line, as the user whom the state directory belongs to: what
// root made in it, the agent could not read.
func (j *joiner) join(ctx context.Context, arg string) error {
	line, err := conf.JoinLine(j.stdin, arg)
	if err != nil {
		return &conf.ExitError{Code: exitForGood, Err: err}
	}
	if unit.Foreign(j.state) {
		return j.rerun(ctx, line.String())
	}
	if j.name == "" {
		if j.name, err = os.Hostname(); err != nil {
			return fmt.Errorf("host name: %w; give one with --name", err)
		}
	}
	if j.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, j.wait)
		defer cancel()
	}
	id, err := agent.Join(ctx, line, agent.JoinOptions{
		StateDir: j.state, Hostname: j.name, Now: clock(j.clock),
		Notice: func(text string) { fmt.Fprintln(j.stderr, "note:", text) },
	})
	if refused := (*enroll.Refusal)(nil); errors.As(err, &refused) || errors.Is(err, agent.ErrJoined) || errors.Is(err, enroll.ErrReply) || errors.Is(err, pki.ErrJoinLine) {
		return &conf.ExitError{Code: exitForGood, Err: err}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(j.stdout, "joined %s as agent %s\n", line.TrustDomain, id)
	if os.Geteuid() == 0 || !unit.Installed(service) {
		fmt.Fprintln(j.stderr, "next: tender-agent run")
	}
	return nil
}

// rerun joins by a line in a process of the state directory's owner, then starts
// the unit. The line goes through a pipe, where no process list shows it.
func (j *joiner) rerun(ctx context.Context, line string) error {
	args := []string{"join", "--state", j.state, "--name", j.name, "--timeout", j.wait.String(), "-"}
	if j.dir != "" {
		args[6] = "0s"
	}
	if err := unit.RunAs(ctx, j.state, line, j.stdout, j.stderr, args...); err != nil {
		return err
	}
	if pinned, err := agent.PinKeys(j.state, install.KeysFile); err != nil {
		fmt.Fprintf(j.stderr, "note: this machine may refuse the upgrades that its control plane sends: %v\n", err)
	} else if pinned {
		fmt.Fprintln(j.stderr, "upgrades of the agent are trusted by the keys in", install.KeysFile)
	}
	if !unit.Installed(service) {
		return nil
	}
	if err := unit.Start(ctx, service); err != nil {
		return fmt.Errorf("it has joined, but the agent was not started: %w", err)
	}
	fmt.Fprintln(j.stderr, "the agent runs: systemctl status tender-agent")
	return nil
}

// claim joins by the lines that somebody dropped in a directory. A line is used
// once: when the control plane has answered, whatever it said, the file is
// wiped. join returns a conf.ExitError of code exitForGood when it has refused.
func claim(ctx context.Context, dir string, stderr io.Writer, join func(context.Context, string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for join lines: %w", err)
	}
	joined := false
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() {
			fmt.Fprintf(stderr, "%s is no file: removed\n", path)
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove %s: %w", path, err)
			}
			continue
		}
		if !joined {
			err := claimFile(ctx, path, join)
			refused, forGood := errors.AsType[*conf.ExitError](err)
			switch {
			case err == nil:
				joined = true
			case forGood && refused.Code == exitForGood:
				fmt.Fprintf(stderr, "%s is of no use and wiped: %v\n", path, err)
			default:
				return fmt.Errorf("%s is kept and tried again: %v", path, err)
			}
		}
		if err := wipe(path); err != nil {
			return fmt.Errorf("wipe %s: %w", path, err)
		}
	}
	return nil
}

func claimFile(ctx context.Context, path string, join func(context.Context, string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened to read
	line, err := conf.JoinLine(f, "-")
	if err != nil {
		return &conf.ExitError{Code: exitForGood, Err: err}
	}
	return join(ctx, line.String())
}

// wipe overwrites a file before it removes it. On flash that is no proof, but
// the secret in it is used up or void as well.
func wipe(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, min(info.Size(), 1<<20)))
	}
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
}
