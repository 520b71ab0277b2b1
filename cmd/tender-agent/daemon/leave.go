package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/unit"
	"github.com/tenderfleet/tender/pki"
)

// unseenFor is how long an agent that runs takes at most to see the wish to
// leave: it looks every 5 s.
const unseenFor = 15 * time.Second

func leaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "leave", Short: "Take this machine out of its fleet, in order", Args: cobra.NoArgs,
		Long: "Take this machine out of its fleet, in order: it gets no more tasks, those that it\n" +
			"has end, how they ended is told, and the control plane lets it go. Then its identity\n" +
			"is removed, and it can join again, as another agent. Without an uplink the wish stays\n" +
			"and is carried out once there is one.\n\n" +
			"With --force the machine leaves at once and alone: its tasks end, and the control plane\n" +
			"hears nothing of it.",
		Example: "  tender-agent leave\n  tender-agent leave --grace 30s && apt purge tender-agent",
	}
	load := settings.Bind(cmd, true)
	l := &leaver{every: 500 * time.Millisecond}
	cmd.Flags().DurationVar(&l.grace, "grace", 0, "the longest that a task may take to end; 0 for its own grace period")
	cmd.Flags().DurationVar(&l.wait, "timeout", 10*time.Minute, "how long to wait; 0 for as long as it takes")
	cmd.Flags().BoolVar(&l.force, "force", false, "leave without the control plane")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, _, err := load.LoadOrLast()
		if err != nil {
			return err
		}
		l.state, l.stdout, l.stderr = s.GetString("state"), cmd.OutOrStdout(), cmd.ErrOrStderr()
		switch {
		case l.grace < 0 || l.wait < 0:
			return errors.New("--grace and --timeout are 0 or more")
		case l.force:
			return l.alone(cmd.Context(), s)
		case unit.Foreign(l.state):
			return unit.RunAs(cmd.Context(), l.state, "", l.stdout, l.stderr,
				"leave", "--state", l.state, "--grace", l.grace.String(), "--timeout", l.wait.String())
		}
		return l.leave(cmd.Context())
	}
	return cmd
}

type leaver struct {
	state          string
	grace, wait    time.Duration
	every          time.Duration // between two looks
	force          bool
	stdout, stderr io.Writer
}

// leave has the agent that runs leave, and says how far it is.
func (l *leaver) leave(ctx context.Context) error {
	if err := agent.Leave(l.state, l.grace); err != nil {
		return explainUnjoined(err)
	}
	if l.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.wait)
		defer cancel()
	}
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	began, said := time.Now(), ""
	for {
		is, err := agent.Left(l.state)
		switch {
		case errors.Is(err, agent.ErrLeft):
			fmt.Fprintln(l.stdout, "this machine has left the fleet")
			fmt.Fprintln(l.stderr, "next: apt purge tender-agent, or to use it again: tender-agent join LINE")
			return nil
		case errors.Is(err, fs.ErrNotExist): // it is being replaced
		case err != nil:
			return fmt.Errorf("how far the agent is: %w", err)
		case !is.Seen && time.Since(began) > unseenFor:
			return errors.New("the agent does not run, and leaves once it does: systemctl start tender-agent; " +
				"without it and the control plane: tender-agent leave --force")
		case is.Seen:
			if text := progress(is); text != said {
				fmt.Fprintln(l.stderr, text)
				said = text
			}
		}
		select {
		case <-ctx.Done():
			if said == "" {
				said = "the agent has not seen it yet"
			}
			return fmt.Errorf("not left after %v: %s; it leaves as soon as it can, also without this command; "+
				"to leave without the control plane: tender-agent leave --force", time.Since(began).Round(time.Second), said)
		case <-tick.C:
		}
	}
}

func progress(is agent.Leaving) string {
	switch {
	case !is.Connected:
		return fmt.Sprintf("waiting for the control plane, which cannot be reached; tasks: %d", is.Tasks)
	case is.Tasks > 0:
		return fmt.Sprintf("waiting for tasks to end: %d", is.Tasks)
	case is.Spooled > 0:
		return fmt.Sprintf("waiting for updates to be acknowledged: %d", is.Spooled)
	}
	return "waiting for the control plane to let the machine go; schedulers may have to acknowledge how their tasks ended"
}

// alone ends what runs and forgets the fleet.
func (l *leaver) alone(ctx context.Context, s *conf.Settings) error {
	cred, err := pki.LoadDir(filepath.Join(l.state, "pki"))
	if err != nil && !agent.Joined(l.state) {
		return explainUnjoined(agent.ErrNotJoined)
	}
	if unit.Foreign(l.state) && unit.Installed(service) {
		if err := unit.Stop(ctx, service); err != nil {
			return err
		}
	}
	log, err := conf.Logger(l.stderr, s.GetString("log-level"))
	if err != nil {
		return err
	}
	x, err := openExecutor(s, log)
	if err != nil {
		return err
	}
	defer x.Close() //nolint:errcheck // nothing is under way
	most := l.grace
	if most == 0 {
		most = time.Minute
	}
	_, err = x.Halt(ctx, most)
	ids, listErr := x.List(ctx)
	err = errors.Join(err, listErr)
	for _, id := range ids {
		err = errors.Join(err, x.Remove(ctx, id))
	}
	if err != nil {
		return fmt.Errorf("end the tasks: %w; the machine belongs to the fleet still", err)
	}
	if err := agent.Forget(l.state); err != nil {
		return err
	}
	fmt.Fprintln(l.stdout, "this machine has left the fleet, which does not know")
	if cred != nil {
		fmt.Fprintf(l.stderr, "next, for an operator: tender agent gone %s\n", cred.Identity.ID)
	}
	return nil
}

func explainUnjoined(err error) error {
	if errors.Is(err, agent.ErrNotJoined) {
		return fmt.Errorf("%w: there is nothing to leave", err)
	}
	return err
}
