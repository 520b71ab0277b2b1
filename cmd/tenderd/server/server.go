// Package server is the command line of tenderd: init and join make a replica,
// run serves it, dev puts a whole control plane and an agent on this machine.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/notify"
	"github.com/tenderfleet/tender/cmd/internal/unit"
	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Main runs one command and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return conf.Run(ctx, Root(), args, stdin, stdout, stderr)
}

// Root is the tree of commands.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use: "tenderd", Short: "A replica of a Tender control plane",
	}
	root.AddCommand(initCommand(), joinCommand(), restoreCommand(), backupCommand(), runCommand(), settings.Command(), devCommand())
	return root
}

var settings = conf.Daemon{
	File: "/etc/tender/server.yaml",
	Common: func(f *pflag.FlagSet) {
		f.String("data", "/var/lib/tender/server", "directory of keys, certificates, log and snapshots")
	},
	Serve: addRunFlags,
	State: "data",
	Check: check,
}

// check finds what the form of the settings does not show.
func check(v *viper.Viper) error {
	_, err := conf.ParseLevel(v.GetString("log-level"))
	if _, timingErr := controlplane.TimingOf(v.GetString("raft-timing")); timingErr != nil {
		err = errors.Join(err, &conf.KeyError{Key: "raft-timing", Err: timingErr})
	}
	if d := v.GetDuration("offer-timeout"); d < time.Second {
		err = errors.Join(err, &conf.KeyError{Key: "offer-timeout", Err: fmt.Errorf("%v: give schedulers a second at least", d)})
	}
	return err
}

// replicaID proposes an id made of the host name.
func replicaID(flag string) (fleet.ReplicaID, error) {
	if flag != "" {
		return fleet.ReplicaID(flag), nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("host name: %w; give an id with --id", err)
	}
	return fleet.ReplicaID(enroll.CleanName(host, "replica")), nil
}

func initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "init", Short: "Make the first replica of a new control plane, and its trust root", Args: cobra.NoArgs,
		Example: "  tenderd init --addr tender-1.example.org\n  tenderd init --addr 203.0.113.11:7443 --id r1 --trust-domain fleet.example.org",
	}
	load := settings.Bind(cmd, false)
	addr := cmd.Flags().String("addr", "", "name or address that agents and other replicas reach this machine by, HOST[:7443] (required)")
	id := cmd.Flags().String("id", "", "id of this replica; made from the host name if empty")
	domain := cmd.Flags().String("trust-domain", "", "name of the fleet in every identity; made at random if empty")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, err := load.Load()
		if err != nil {
			return err
		}
		o := controlplane.InitOptions{DataDir: v.GetString("data"), TrustDomain: *domain}
		if o.ID, err = replicaID(*id); err != nil {
			return err
		}
		if *addr == "" {
			return errors.New("give the address that agents reach this machine by: tenderd init --addr HOST[:7443]")
		}
		if o.Addr, err = controlplane.CheckAddr(*addr); err != nil {
			return err
		}
		if o.TrustDomain == "" {
			o.TrustDomain = "fleet-" + strings.ToLower(rand.Text()[:8])
		}
		if unit.Foreign(o.DataDir) {
			return rerun(cmd, o.DataDir, "", "init", "--data", o.DataDir, "--addr", o.Addr, "--id", string(o.ID), "--trust-domain", *domain)
		}
		made, err := controlplane.Init(cmd.Context(), o)
		if held := (*controlplane.HeldError)(nil); errors.As(err, &held) && held.ID == o.ID && held.Addr == o.Addr && (*domain == "" || *domain == held.TrustDomain) {
			fmt.Fprintf(cmd.OutOrStdout(), "replica %s of %s is ready in %s already\n", held.ID, held.TrustDomain, held.Dir)
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "replica %s of %s is ready in %s\nroot certificate %s\n", o.ID, o.TrustDomain, o.DataDir, made.Pin)
		fmt.Fprintf(cmd.ErrOrStderr(), initNext, made.RootKeyFile, made.PassphraseFile, made.OperatorDir, byHand("      tenderd run                          serves; tender then works on this machine\n"))
		fmt.Fprint(cmd.ErrOrStderr(), firewall(o.Addr))
		return nil
	}
	return cmd
}

// firewall is what a packet filter needs to let through, in three dialects.
func firewall(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(`
Agents, users and other replicas come to port PORT, UDP and TCP. A firewall must
let them:
      ufw allow PORT/udp && ufw allow PORT/tcp
      firewall-cmd --permanent --add-port=PORT/udp --add-port=PORT/tcp && firewall-cmd --reload
      nft add rule inet filter input meta l4proto { tcp, udp } th dport PORT accept
`, "PORT", port)
}

const initNext = `
The root key is encrypted in %s, its passphrase is in
%s. It signs new replicas and nothing else. Once all replicas
have joined, move both files to a safe place off this machine.
An operator's credential for the tender command is in %s.

next:
%s      tender token create --kind replica   prints the line for 'tenderd join' on the other servers
      tender token create --site SITE      prints the line for 'tender-agent join' on a machine
`

// byHand is text where no unit is going to run the replica.
func byHand(text string) string {
	if os.Geteuid() != 0 && unit.Installed(service) {
		return ""
	}
	return text
}

func joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "join LINE", Short: "Make this machine a further replica of a control plane", Args: cobra.ExactArgs(1),
		Long: "Make this machine a further replica of a control plane. LINE comes from\n" +
			"'tender token create --kind replica'; use - to read it from standard input.",
		Example: "  tenderd join --addr tender-2.example.org tender1.eyJr...",
	}
	load := settings.Bind(cmd, false)
	addr := cmd.Flags().String("addr", "", "name or address that agents and other replicas reach this machine by, HOST[:7443] (required)")
	id := cmd.Flags().String("id", "", "id of this replica; made from the host name if empty")
	wait := cmd.Flags().Duration("timeout", time.Minute, "how long to keep trying")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v, err := load.Load()
		if err != nil {
			return err
		}
		line, err := conf.JoinLine(cmd.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		o := controlplane.JoinOptions{DataDir: v.GetString("data")}
		if o.ID, err = replicaID(*id); err != nil {
			return err
		}
		if *addr == "" {
			return errors.New("give the address that agents reach this machine by: tenderd join --addr HOST[:7443] LINE")
		}
		if o.Addr, err = controlplane.CheckAddr(*addr); err != nil {
			return err
		}
		if unit.Foreign(o.DataDir) {
			return rerun(cmd, o.DataDir, line.String(), "join", "--data", o.DataDir, "--addr", o.Addr, "--id", string(o.ID), "--timeout", wait.String(), "-")
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *wait)
		defer cancel()
		got, err := controlplane.Join(ctx, line, o)
		if held := (*controlplane.HeldError)(nil); errors.As(err, &held) && held.ID == o.ID && held.Addr == o.Addr && held.TrustDomain == line.TrustDomain {
			fmt.Fprintf(cmd.OutOrStdout(), "replica %s of %s is ready in %s already; the join line was not used\n", held.ID, held.TrustDomain, held.Dir)
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "joined %s as replica %s\n", line.TrustDomain, got)
		fmt.Fprint(cmd.ErrOrStderr(), byHand("next: tenderd run; this replica becomes a voter as soon as it answers\n"))
		return nil
	}
	return cmd
}

// service is the unit that runs a replica.
const service = "tenderd.service"

// rerun runs a command as the user whom the data directory belongs to, so that
// nothing in it is root's, and starts the unit.
func rerun(cmd *cobra.Command, dir, stdin string, args ...string) error {
	if err := unit.RunAs(cmd.Context(), dir, stdin, cmd.OutOrStdout(), cmd.ErrOrStderr(), args...); err != nil {
		return err
	}
	return start(cmd)
}

// start starts the unit, where there is one.
func start(cmd *cobra.Command) error {
	if !unit.Installed(service) {
		return nil
	}
	if err := unit.Start(cmd.Context(), service); err != nil {
		return fmt.Errorf("the replica is made, but was not started: %w", err)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "the replica runs: systemctl status tenderd")
	return nil
}

func addRunFlags(f *pflag.FlagSet) {
	f.String("listen", ":"+controlplane.DefaultPort, "address of the one port, UDP and TCP")
	f.String("socket", "/run/tender/tenderd.sock", "unix socket of the API for this machine; empty for none")
	f.String("scheduler-listen", "", "address on loopback where Mesos schedulers connect by plain HTTP, such as 127.0.0.1:5050; empty for none (the HTTPS port takes them too)")
	f.String("scheduler-trust", "", "framework that whoever connects there without a token is taken for (see 'tender principal create')")
	f.String("scheduler-default-image", mesosv1.DefaultImage, "image of schedulers' tasks that name none")
	f.Duration("offer-timeout", 30*time.Second, "how long a scheduler may leave an offer unanswered")
	f.Bool("show-gpu-agents", false, "offer agents with GPUs to frameworks without GPU_RESOURCES, too; they may fill them with other work")
	f.StringSlice("unshared", nil, "name of a resource that does not count in the shares of roles, such as gpus; may be repeated")
	f.String("repo", "", "directory of an apt repository, as 'make repo' makes it, to serve to machines that reach no other; empty for none")
	f.String("repo-listen", ":7480", "address where the repository is served, by plain HTTP: what is in it is signed")
	f.String("raft-timing", "default", "Raft's time-outs: lan (a dead leader is replaced in half a second), default (in one) or wan (in four); the same on all replicas")
	f.Int("raft-patience", 1, "multiplies Raft's time-outs, for slow disks and busy machines; a dead leader is then noticed later")
	f.Duration("agent-cert-life", 7*24*time.Hour, "how long agents' certificates hold (for tests of their renewal)")
	_ = f.MarkHidden("agent-cert-life")
}

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Serve as a replica in the foreground", Args: cobra.NoArgs,
		Example: "  tenderd run\n  tenderd run --data /srv/tender --listen 203.0.113.11:7443",
	}
	load := settings.Bind(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, broken, err := load.LoadOrLast()
		if err != nil {
			return err
		}
		l := &live{load: load.Load, begun: v, notify: notify.Open(os.Getenv)}
		l.log = conf.LeveledLogger(cmd.ErrOrStderr(), &l.level)
		if err := l.begin(v, broken); err != nil {
			return err
		}
		timing, err := controlplane.TimingOf(v.GetString("raft-timing"))
		if err != nil {
			return err // the check has missed it
		}
		serveFiles := func(ctx context.Context) { serveRepo(ctx, v.GetString("repo"), v.GetString("repo-listen"), l.log) }
		return coded(l.serve(cmd.Context(), serveFiles, controlplane.Config{
			Timing:  timing,
			DataDir: v.GetString("data"), Listen: v.GetString("listen"), Socket: v.GetString("socket"), Log: l.log, Version: version.Get().Version,
			AgentCertLife: v.GetDuration("agent-cert-life"), Patience: v.GetInt("raft-patience"),
			Leader: leader.Config{
				OfferTimeout: v.GetDuration("offer-timeout"),
				Allocator:    allocator.Options{ShowGPUs: v.GetBool("show-gpu-agents"), Unshared: v.GetStringSlice("unshared")},
			},
			Schedulers: controlplane.Schedulers{
				Listen: v.GetString("scheduler-listen"), Trust: v.GetString("scheduler-trust"), Image: v.GetString("scheduler-default-image"),
			},
		}))
	}
	return cmd
}
