package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

// runFlags are the flags of `tender run` before they are read.
type runFlags struct {
	in              client.Submit // what needs no reading
	cpus, mem, disk string
	gpus, gpuMemory string
	env, labels     []string
	killGrace       time.Duration
	attach          bool
	life            lifeFlags
	policies        policyFlags
}

func (a *app) runCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [-- COMMAND [ARG...]]",
		Short: "Run a task once, on whichever agent has what it needs",
		Long: `Run a task once, on whichever agent has what it needs.

Without --attach the task's id is printed and the command returns: the task may
still wait for its place. With --attach its output comes to stdout and stderr,
and the exit code is the task's own: 128 and the number for a signal, 137 when
it ran out of memory, 125 when tender itself failed or the task could not run.
The first Ctrl-C stops the task, the second leaves it running and returns.

COMMAND replaces the image's own. It is executed as it stands, without a shell.
GPUs are given whole: --gpus takes an integer.

A health check asks the running task how it is, where it runs: with a program
inside it, or on its own ports. A task that fails it too often is ended.

A task that crashes has failed, unless --restart-attempts asks its agent to start
it again; it does so without the control plane, too. When the link to the agent
is lost, the task stays where it is and goes on, and is found again when the
agent is back. With --disconnect-replace another one is started elsewhere; then
--exclusive makes sure that the first one has ended before, which takes a
--disconnect-stop-after.`,
		Example: `  tender run --cpus 4 --mem 8G docker.io/library/busybox:1.36 -- sh -c 'sleep 60; echo done'
  tender run --attach --gpus 2 --gpu-memory 24G --env TOKEN registry.example.org/team/train:v3
  tender run --network host --health-http :8080/healthz --mem 1G --mem-limit 2G registry.example.org/team/web:v3
  tender run --site lab --restart-attempts 3 --restart-mode delay registry.example.org/team/camera:v3
  tender run --exclusive --disconnect-replace --disconnect-stop-after 5m --disconnect-lost-after 10m registry.example.org/team/writer:v3
  tender run --site lab --label disk=ssd --name usage docker.io/library/busybox:1.36 -- du -sh /data`,
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the image is the task's
	f.StringVar(&r.cpus, "cpus", "1", "processors, such as 0.5")
	f.StringVar(&r.mem, "mem", "512M", "memory: 512 (MiB), 512M, 2G or 1.5G; the task is ended when it takes more")
	f.StringVar(&r.disk, "disk", "", "disk, written like --mem")
	f.StringVar(&r.gpus, "gpus", "", "whole GPUs")
	f.StringVar(&r.gpuMemory, "gpu-memory", "", "least memory of each GPU, written like --mem")
	f.StringVar(&r.in.GPUModel, "gpu-model", "", "part of the GPUs' model name, such as A6000")
	f.StringVar(&r.in.Role, "role", "", "role whose share is used")
	f.StringVar(&r.in.Name, "name", "", "name that the id begins with (default: the image's)")
	f.StringArrayVarP(&r.env, "env", "e", nil, "environment variable KEY=VALUE, or KEY with its value here; may be repeated")
	f.StringVar(&r.in.Site, "site", "", "only agents of this site")
	f.StringVar(&r.in.Agent, "agent", "", "only this agent")
	f.StringArrayVar(&r.labels, "label", nil, "only agents with this label, KEY=VALUE; may be repeated")
	f.BoolVarP(&r.attach, "attach", "a", false, "wait for the task, pass on its output and its exit code")
	f.StringVarP(&r.in.User, "user", "u", "", "user inside: UID, UID:GID or a name of the image (default: the image's)")
	f.StringVarP(&r.in.WorkDir, "workdir", "w", "", "working directory inside (default: the image's)")
	f.BoolVar(&r.in.ReadOnly, "read-only", false, "mount the image read-only")
	f.StringVar(&r.in.Network, "network", "", "none (default) or host")
	f.Int64Var(&r.in.PIDs, "pids", 0, fmt.Sprintf("most processes and threads (default %d)", fleet.DefaultPIDs))
	f.IntVar(&r.in.Priority, "priority", 0, "the higher one is placed first, and may have revocable tasks of a lower one ended")
	f.BoolVar(&r.in.Revocable, "revocable", false, "the task may be ended, with its grace period, for a higher priority or a role's guarantee")
	f.DurationVar(&r.killGrace, "kill-grace", 0, fmt.Sprintf("time between TERM and KILL (default %v)", fleet.DefaultKillGrace))
	r.life.define(f)
	r.policies.define(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in, err := r.submission(args, a.env)
		if err != nil {
			return err
		}
		if r.attach {
			return a.runAttached(cmd.Context(), in)
		}
		return a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			t, err := c.Submit(ctx, in)
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, clean(t.ID)) })
		})(cmd, args)
	}
	return cmd
}

// submission makes the document of a command line. Numbers are checked here
// too, so that a mistake is seen without a control plane.
func (r *runFlags) submission(args []string, env map[string]string) (client.Submit, error) {
	in := r.in
	if len(args) == 0 {
		return in, usagef("IMAGE is missing")
	}
	in.Image, in.Command = args[0], args[1:]
	if len(in.Command) > 0 {
		if in.Command[0] == "--" {
			in.Command = in.Command[1:]
		} else if strings.HasPrefix(in.Command[0], "-") {
			return in, usagef("%s comes after the image: flags of tender go before it, and the task's command follows --", in.Command[0])
		}
	}
	var err error
	if in.CPUs = client.Amount(r.cpus); in.CPUs != "" {
		if _, err := in.CPUs.Scalar(); err != nil {
			return in, usagef("--cpus %w", err)
		}
	}
	for _, m := range []struct {
		flag, text string
		out        *client.Amount
	}{{"--mem", r.mem, &in.Mem}, {"--disk", r.disk, &in.Disk}, {"--gpu-memory", r.gpuMemory, &in.GPUMemory}} {
		if m.text == "" {
			continue
		}
		v, err := client.ParseMem(m.text)
		if err != nil {
			return in, usagef("%s %w", m.flag, err)
		}
		*m.out = client.AmountOf(v)
	}
	if r.gpus != "" {
		if _, err := fleet.GPUCount(r.gpus); errors.Is(err, fleet.ErrGPUFraction) {
			return in, &client.Problem{Detail: fleet.GPUFractionText, Code: client.CodeInvalid, State: fleet.TaskError.String(), Reason: string(fleet.ReasonTaskInvalid)}
		} else if err != nil {
			return in, usagef("--gpus %w", err)
		}
		in.GPUs = client.Amount(r.gpus)
	}
	if in.Labels, err = pairs("--label", r.labels); err != nil {
		return in, err
	}
	if in.Env, err = environment(r.env, env); err != nil {
		return in, err
	}
	in.KillGrace = client.Duration(r.killGrace)
	if err := r.policies.read(&in); err != nil {
		return in, err
	}
	return in, r.life.read(&in)
}

// environment reads --env. A name alone takes the value from here, so that a
// secret need not stand in a command line that others can see.
func environment(flags []string, env map[string]string) (map[string]string, error) {
	var out map[string]string
	for _, kv := range flags {
		k, v, given := strings.Cut(kv, "=")
		if k == "" {
			return nil, usagef("--env %q: write KEY=VALUE or KEY", kv)
		}
		if !given {
			var set bool
			if v, set = env[k]; !set {
				return nil, usagef("--env %s: there is no such variable here; write %s=VALUE, or set it", k, k)
			}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out, nil
}
