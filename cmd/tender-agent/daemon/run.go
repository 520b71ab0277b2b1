package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/containerd"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/agent/install"
	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/cmd/internal/unit"
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
	f.String("offer-ports", "31000-32000", "ports of this host that tasks may be given, such as 31000-32000,8080; empty for none")
	f.StringSlice("offer-custom", nil, "NAME=AMOUNT of something else that this machine has; may be repeated")
	f.StringArray("reserve", nil, "ROLE:NAME=AMOUNT,... set aside for a role, such as research:cpus=4,mem=8192,gpus=1; may be repeated")
	f.Bool("no-gpus", false, "keep the GPUs out of the pool")
	f.StringSlice("plain-http-registry", nil, "registry (host or host:port) to speak to without TLS")
	f.String("registry-auth", "", "file with credentials of registries, as 'docker login' writes it; by the package's unit /etc/tender/registries.json, which only root need read")
	f.Int64("max-log-bytes", tasklog.DefaultMaxBytes, "size at which a task's log file is rotated")
	f.String("link-budget-per-month", "", "bytes that the link may carry in a month (of UTC), such as 500MB; when they are used up, only states and kills travel")
	f.String("link-quiet-hours", "", "hours of the day, this machine's time, in which only states and kills travel, such as 06:00-22:00")
	f.Duration("link-readings-every", linkpolicy.ReadingsEvery, "how often readings are looked at, and sent if they have changed")
	f.Duration("link-keepalive", linkpolicy.Default, "longest time between two signs of life, 15s to 60s; a lost agent is noticed 5s after it, 30s at the least")
	f.Duration("gate-steady", gate.DefaultSteady, "how long all must be well before a new version may stay (for tests)")
	f.Duration("gate-patience", gate.DefaultPatience, "how long something may be wrong before a new version must go (for tests)")
	for _, name := range []string{"any-gpu-node", "gate-steady", "gate-patience"} {
		_ = f.MarkHidden(name)
	}
	addClockFlag(f)
}

const clockFlag = "clock-offset"

// addClockFlag adds what sets the program's clock apart from the machine's, for
// tests of machines whose clock is wrong.
func addClockFlag(f *pflag.FlagSet) {
	f.Duration(clockFlag, 0, "what to add to this machine's clock (for tests)")
	_ = f.MarkHidden(clockFlag)
}

// clock is the machine's, or that apart from it.
func clock(apart time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(apart) }
}

// check finds what the form of the settings does not show.
func check(v *viper.Viper) error {
	_, levelErr := conf.ParseLevel(v.GetString("log-level"))
	_, offerErr := offer(v)
	_, linkErr := link(v)
	return errors.Join(levelErr, offerErr, linkErr)
}

// runConfig wires the agent. closeAll ends what it opened.
func runConfig(v *conf.Settings, log *slog.Logger) (cfg agent.Config, closeAll func() error, err error) {
	exe, err := self()
	if err != nil {
		return cfg, nil, err
	}
	offer, err := offer(v.Viper)
	if err != nil {
		return cfg, nil, err
	}
	link, err := link(v.Viper)
	if err != nil {
		return cfg, nil, err
	}
	account := agent.OpenAccount(v.GetString("state"), link.Policy, log)
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
		Credentials: registries(registriesFile(v.GetString("registry-auth"))),
		MayFetch:    account.MayFetch, Fetched: account.Fetched,
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
		Offer: offer, Version: version.Get().Version, Log: log, Link: link, Account: account,
		Now: clock(v.GetDuration(clockFlag)),
	}
	if unit.Installed(installUnit) {
		cfg.Upgrades = &agent.Upgrades{Keys: install.KeysFile, Dir: install.Dir}
	}
	return cfg, func() error { return errors.Join(x.Close(), driver.Close()) }, nil
}

// link reads what the link may cost.
func link(v *viper.Viper) (l agent.Link, err error) {
	if l.Policy.PerMonth, err = linkpolicy.ParseBytes(v.GetString("link-budget-per-month")); err != nil {
		return l, &conf.KeyError{Key: "link-budget-per-month", Err: err}
	}
	if l.Policy.Quiet, err = linkpolicy.ParseHours(v.GetString("link-quiet-hours")); err != nil {
		return l, &conf.KeyError{Key: "link-quiet-hours", Err: err}
	}
	l.ReadingsEvery, l.Keepalive = v.GetDuration("link-readings-every"), v.GetDuration("link-keepalive")
	if l.ReadingsEvery < time.Second {
		return l, &conf.KeyError{Key: "link-readings-every", Err: fmt.Errorf("%v is too often; write 1s or more", l.ReadingsEvery)}
	}
	if l.Keepalive < linkpolicy.Shortest || l.Keepalive > linkpolicy.Longest {
		return l, &conf.KeyError{Key: "link-keepalive", Err: fmt.Errorf("%v is not from %v to %v", l.Keepalive, linkpolicy.Shortest, linkpolicy.Longest)}
	}
	return l, nil
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
			return o, &conf.KeyError{Key: s.key, Err: err}
		}
		*s.to = &n
	}
	var err error
	if o.Ports, err = ports(v.GetString("offer-ports")); err != nil {
		return o, &conf.KeyError{Key: "offer-ports", Err: err}
	}
	custom, _, err := amounts(v.GetStringSlice("offer-custom"))
	if err == nil && !custom.Equal(fleet.Resources{Custom: custom.Custom}) {
		err = errors.New("cpus, mem, disk and gpus have flags of their own")
	}
	if err != nil {
		return o, &conf.KeyError{Key: "offer-custom", Err: err}
	}
	o.Custom = custom.Custom
	for _, text := range v.GetStringSlice("reserve") {
		r, err := reservation(text)
		if err != nil {
			return o, &conf.KeyError{Key: "reserve", Err: fmt.Errorf("%q: %w", text, err)}
		}
		o.Reserve = append(o.Reserve, r)
	}
	return o, nil
}

// ports reads "31000-32000,8080".
func ports(text string) (fleet.Ranges, error) {
	if text == "" {
		return nil, nil
	}
	var out []fleet.Range
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil {
			return nil, fmt.Errorf("%q: write FIRST-LAST, from 0 to 65535", part)
		}
		out = append(out, fleet.Range{First: uint16(a), Last: uint16(b)})
	}
	return fleet.NewRanges(out...)
}

// amounts reads NAME=AMOUNT pairs; GPUs are counted apart.
func amounts(pairs []string) (r fleet.Resources, gpus int, err error) {
	for _, pair := range pairs {
		name, text, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			return r, 0, fmt.Errorf("%q: write NAME=AMOUNT", pair)
		}
		if name == "gpus" {
			if gpus, err = fleet.GPUCount(text); err != nil {
				return r, 0, err
			}
			continue
		}
		n, err := fleet.ParseScalar(text)
		if err != nil {
			return r, 0, fmt.Errorf("%s: %w", name, err)
		}
		switch name {
		case "cpus":
			r.CPUs = n
		case "mem":
			r.Mem = n
		case "disk":
			r.Disk = n
		default:
			r = r.Add(fleet.Resources{Custom: []fleet.Amount{{Name: name, Amount: n}}})
		}
	}
	return r, gpus, fleet.CheckResources(r)
}

// reservation reads "ROLE:NAME=AMOUNT,...".
func reservation(text string) (agent.Reservation, error) {
	role, list, ok := strings.Cut(text, ":")
	if !ok {
		return agent.Reservation{}, errors.New("write ROLE:NAME=AMOUNT, and more amounts after commas")
	}
	res, gpus, err := amounts(strings.Split(list, ","))
	if err != nil {
		return agent.Reservation{}, err
	}
	if role == string(fleet.DefaultRole) {
		return agent.Reservation{}, errors.New(`nothing can be reserved for the role "*"`)
	}
	return agent.Reservation{Role: fleet.Role(role), Resources: res, GPUs: gpus}, fleet.CheckRole(fleet.Role(role))
}
