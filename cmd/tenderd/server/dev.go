package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/client"
)

// dev is a control plane of one replica and one agent, for a first try.
type dev struct {
	dir, port, agent, containerd string
	agentArgs                    []string
	log                          *slog.Logger
	stdout, stderr               io.Writer
	began                        time.Time
}

func devCommand() *cobra.Command {
	d := &dev{}
	var level string
	cmd := &cobra.Command{
		Use: "dev", Short: "Run one replica and one agent on this machine, for a first try", Args: cobra.NoArgs,
		Long: "Run one replica and one agent on this machine in the foreground, for a first try.\n" +
			"Everything lies in one directory and is gone with it; Ctrl-C ends both.",
		Example: "  tenderd dev\n  tender run docker.io/library/busybox:1.36 -- echo hello     (in another terminal)",
	}
	f := cmd.Flags()
	f.StringVar(&d.dir, "dir", "", "directory to keep the state in; a temporary one if empty")
	f.StringVar(&d.port, "port", controlplane.DefaultPort, "port on 127.0.0.1")
	f.StringVar(&d.agent, "agent", "", "path of tender-agent; looked for beside tenderd and in PATH if empty")
	f.StringVar(&d.containerd, "containerd", "/run/containerd/containerd.sock", "socket of containerd")
	f.StringArrayVar(&d.agentArgs, "agent-arg", nil, "further argument for 'tender-agent run'")
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if d.log, err = conf.Logger(cmd.ErrOrStderr(), level); err != nil {
			return err
		}
		d.stdout, d.stderr, d.began = cmd.OutOrStdout(), cmd.ErrOrStderr(), time.Now()
		d.agentArgs = append(d.agentArgs, "--log-level", level)
		return d.run(cmd.Context())
	}
	return cmd
}

func (d *dev) run(ctx context.Context) error {
	if err := d.find(); err != nil {
		return err
	}
	if d.dir == "" {
		tmp, err := os.MkdirTemp("", "tender-dev-")
		if err != nil {
			return fmt.Errorf("temporary directory: %w", err)
		}
		defer os.RemoveAll(tmp) //nolint:errcheck // a leftover in the temporary directory
		d.dir = tmp
	}
	data, socket := filepath.Join(d.dir, "server"), filepath.Join(d.dir, "tenderd.sock")
	addr := net.JoinHostPort("127.0.0.1", d.port)
	_, err := controlplane.Init(ctx, controlplane.InitOptions{DataDir: data, ID: "dev", Addr: addr, TrustDomain: "dev.tender.local"})
	if _, statErr := os.Stat(filepath.Join(data, "replica.json")); err != nil && statErr != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	g.Go(func() error {
		return controlplane.Run(ctx, controlplane.Config{
			DataDir: data, Listen: addr, Socket: socket, Log: d.log, Version: version.Get().Version, Ready: func() { close(ready) },
		})
	})
	g.Go(func() error {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
		return d.runAgent(ctx, socket)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (d *dev) find() error {
	if d.agent != "" {
		return nil
	}
	if exe, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(exe), "tender-agent"); fileExists(p) {
			d.agent = p
			return nil
		}
	}
	p, err := exec.LookPath("tender-agent")
	if err != nil {
		return errors.New("tender-agent is neither beside tenderd nor in PATH; build it with 'make build' or give its path with --agent")
	}
	d.agent = p
	return nil
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// runAgent joins the agent once, keeps it running, and says when it is there.
func (d *dev) runAgent(ctx context.Context, socket string) error {
	state := filepath.Join(d.dir, "agent")
	c, err := client.New(client.Config{Socket: socket, Version: version.Get().Version})
	if err != nil {
		return err
	}
	defer c.Close()
	if !fileExists(filepath.Join(state, "pki", "cert.pem")) {
		if err := d.joinAgent(ctx, c, state); err != nil {
			return err
		}
	}
	args := append([]string{"run", "--state", state, "--containerd", d.containerd}, d.agentArgs...)
	cmd := exec.CommandContext(ctx, d.agent, args...)
	cmd.Stdout, cmd.Stderr = d.stderr, d.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	d.welcome(ctx, c, socket)
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("the agent has ended: %w", err)
	}
	return ctx.Err()
}

func (d *dev) joinAgent(ctx context.Context, c *client.Client, state string) error {
	tok, err := c.CreateToken(ctx, client.CreateToken{Site: "dev", Uses: 1, TTL: client.Duration(time.Minute)})
	if err != nil {
		return fmt.Errorf("make join token: %w", err)
	}
	join := exec.CommandContext(ctx, d.agent, "join", "--state", state, "-")
	join.Stdin = strings.NewReader(tok.Line)
	if out, err := join.CombinedOutput(); err != nil {
		return fmt.Errorf("join agent: %w\n%s", err, out)
	}
	return nil
}

// welcome waits for the agent and prints how to go on.
func (d *dev) welcome(ctx context.Context, c *client.Client, socket string) {
	for ctx.Err() == nil {
		agents, err := c.Agents(ctx)
		if err == nil && len(agents) > 0 && agents[0].State == client.AgentConnected {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	fmt.Fprintf(d.stdout, "ready in %.1f s: one replica, one agent\n\n  export TENDER_SOCKET=%s\n  tender agents\n  tender run --attach IMAGE -- COMMAND\n\nCtrl-C ends it.\n",
		time.Since(d.began).Seconds(), socket)
}
