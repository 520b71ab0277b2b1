package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/containerd"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/gpu/isolate"
	"github.com/tenderfleet/tender/gpu/nvml"
	"github.com/tenderfleet/tender/transport/fleet"
)

func addRunFlags(f *pflag.FlagSet) {
	f.String("containerd", "/run/containerd/containerd.sock", "socket of containerd")
	f.String("namespace", "tender", "containerd namespace of the tasks")
	f.String("snapshotter", "overlayfs", "containerd snapshotter")
	f.String("driver-root", "/", "where the NVIDIA driver is installed")
	f.String("dev-root", "", "directory that holds dev/ with the device nodes; driver-root if empty")
	f.String("nvml", "", "path of libnvidia-ml.so.1; looked for under driver-root if empty")
	f.Bool("any-gpu-node", false, "accept device nodes of any number for GPUs (for tests without a GPU)")
	f.String("offer-cpus", "", "processors given to the pool; all if empty")
	f.String("offer-mem", "", "memory given to the pool in MiB; all but what the system keeps if empty")
	f.String("offer-disk", "", "disk given to the pool in MiB; nine tenths if empty")
	f.Bool("no-gpus", false, "keep the GPUs out of the pool")
	f.StringSlice("plain-http-registry", nil, "registry (host or host:port) to speak to without TLS")
	f.Int64("max-log-bytes", tasklog.DefaultMaxBytes, "size at which a task's log file is rotated")
	_ = f.MarkHidden("any-gpu-node")
}

// runConfig wires the agent. closeAll ends what it opened.
func runConfig(v *viper.Viper, log *slog.Logger) (cfg agent.Config, closeAll func() error, err error) {
	exe, err := self()
	if err != nil {
		return cfg, nil, err
	}
	offer, err := offer(v)
	if err != nil {
		return cfg, nil, err
	}
	driver := nvml.Open(nvml.Config{
		Path: exe, Args: []string{probeCommand}, Library: v.GetString("nvml"),
		DriverRoot: v.GetString("driver-root"), DevRoot: v.GetString("dev-root"), Log: log,
	})
	logs := filepath.Join(v.GetString("state"), "logs")
	iso := &isolate.Isolator{
		Source: driver, DriverRoot: v.GetString("driver-root"), DevRoot: v.GetString("dev-root"), AnyNumber: v.GetBool("any-gpu-node"),
	}
	x, err := containerd.New(containerd.Config{
		Address: v.GetString("containerd"), Namespace: v.GetString("namespace"), Snapshotter: v.GetString("snapshotter"),
		LogDir: logs, LogBinary: []string{logWriter(exe), logCommand}, MaxLogBytes: v.GetInt64("max-log-bytes"),
		PlainHTTPRegistries: v.GetStringSlice("plain-http-registry"), Log: log,
		Isolate: func(ctx context.Context, ids []gpu.UUID) (func(*specs.Spec) error, error) {
			if len(ids) == 0 {
				return isolate.Void, nil
			}
			e, err := iso.Edits(ctx, ids)
			if err != nil {
				return nil, err
			}
			return e.Apply, nil
		},
	})
	if err != nil {
		return cfg, nil, errors.Join(err, driver.Close())
	}
	cfg = agent.Config{
		StateDir: v.GetString("state"), Executor: x, Devices: driver, Logs: x.Logs(),
		Offer: offer, Version: version.Get().Version, Log: log,
	}
	return cfg, func() error { return errors.Join(x.Close(), driver.Close()) }, nil
}

// logWriter is the small program that writes task logs, where it is installed;
// else the agent writes them itself, at a higher price per task.
func logWriter(exe string) string {
	for _, p := range []string{filepath.Join(filepath.Dir(exe), "tender-log"), "/usr/libexec/tender/tender-log"} {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p
		}
	}
	return exe
}

func offer(v *viper.Viper) (agent.Offer, error) {
	o := agent.Offer{NoGPUs: v.GetBool("no-gpus")}
	for _, s := range []struct {
		key string
		to  **fleet.Scalar
	}{{"offer-cpus", &o.CPUs}, {"offer-mem", &o.Mem}, {"offer-disk", &o.Disk}} {
		text := v.GetString(s.key)
		if text == "" {
			continue
		}
		n, err := fleet.ParseScalar(text)
		if err != nil {
			return o, fmt.Errorf("--%s: %w", s.key, err)
		}
		*s.to = &n
	}
	return o, nil
}
