package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Config is what an Executor must be told. Address, LogDir and LogBinary are
// required.
type Config struct {
	// Address is containerd's socket.
	Address string
	// Namespace is containerd's; default "tender".
	Namespace string
	// Snapshotter is the containerd snapshotter; default "overlayfs".
	Snapshotter string

	// LogDir holds one directory per task; see package tasklog.
	LogDir string
	// LogBinary is the absolute path of a program and the subcommand under
	// which it calls tasklog.Main.
	LogBinary []string
	// MaxLogBytes is where a log file is rotated; default 10 MiB.
	MaxLogBytes int64

	// Isolate returns the edit that gives a task exactly these devices. It is
	// called for every task, those without devices too, and its edit is applied
	// last. Without it, tasks with devices are refused.
	Isolate func(ctx context.Context, devices []gpu.UUID) (func(*specs.Spec) error, error)

	// PlainHTTPRegistries are the registries, as "host" or "host:port", that
	// are spoken to without TLS.
	PlainHTTPRegistries []string
	// Credentials returns the user and secret for a registry; nil or two empty
	// strings mean anonymous.
	Credentials func(host string) (user, secret string, err error)

	// MayFetch says why an image must not be fetched now; the start then waits.
	// Fetched is told of bytes as the sockets to registries carry them, both ways.
	// Nil is always, and nobody.
	MayFetch func() error
	Fetched  func(n int64)

	Log *slog.Logger
}

// Executor is an executor.Executor on containerd. Use New.
type Executor struct {
	cfg    Config
	client *client.Client
	snaps  snapshots.Snapshotter
	images *imageCache
	// registries is what images are fetched with.
	registries *http.Transport
	cgroups    cgroups
	log        *slog.Logger

	// What every container shares, made once.
	runtime typeurl.Any
	seccomp *specs.LinuxSeccomp

	starting keyed // one Start or Remove at a time per task
	seconds  seconds
	// launching bounds the starts under way. Each is work for a processor: many
	// at once only make the first wait for the last. One more than there are
	// processors, for the one that waits for the disk.
	launching chan struct{}
	execing   chan struct{} // the same for processes of checks
	pulling   keyed         // one download at a time per image
	// discarding is one at a time: see discard. booted is when the machine started.
	discarding keyed
	booted     func() time.Time
	stops      stops     // grace periods that run
	ooms       oomEvents // containers that an event said ran out of memory

	ctx    context.Context // of the goroutines below; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var _ executor.Executor = (*Executor)(nil)

// New returns an Executor. It does not wait for containerd: until the daemon
// answers, every call returns executor.ErrUnavailable.
func New(cfg Config) (*Executor, error) {
	cfg.Namespace = cmp.Or(cfg.Namespace, "tender")
	cfg.Snapshotter = cmp.Or(cfg.Snapshotter, "overlayfs")
	cfg.MaxLogBytes = cmp.Or(cfg.MaxLogBytes, tasklog.DefaultMaxBytes)
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	switch {
	case cfg.Address == "":
		return nil, errors.New("containerd: the address of its socket is missing")
	case !filepath.IsAbs(cfg.LogDir):
		return nil, fmt.Errorf("containerd: log directory %q is not an absolute path", cfg.LogDir)
	// A shim hands the program one key and one value in an order of its own,
	// so there is room for exactly one word before the argument.
	case len(cfg.LogBinary) != 2 || !filepath.IsAbs(cfg.LogBinary[0]):
		return nil, fmt.Errorf("containerd: log binary %q is not an absolute path and a subcommand", cfg.LogBinary)
	}
	options, err := typeurl.MarshalAny(&runcoptions.Options{BinaryName: "runc"})
	if err != nil {
		return nil, err
	}
	// The time-out also caps the back-off between attempts to reconnect.
	c, err := client.New(cfg.Address, client.WithDefaultNamespace(cfg.Namespace),
		client.WithDefaultPlatform(platforms.Default()), client.WithTimeout(time.Second))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", cfg.Address, err)
	}
	x := &Executor{
		cfg:        cfg,
		client:     c,
		snaps:      c.SnapshotService(cfg.Snapshotter),
		images:     newImageCache(),
		registries: toRegistries(cfg.Fetched),
		cgroups:    detectCgroups(cgroupRoot),
		log:        cfg.Log,
		booted:     booted,
		runtime:    options,
		seccomp:    seccompProfile(),
		launching:  make(chan struct{}, runtime.NumCPU()+1),
		execing:    make(chan struct{}, runtime.NumCPU()+1),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.wg.Go(x.watchOOM)
	return x, nil
}

// Close ends the executor's goroutines, grace periods included; tasks run on.
func (x *Executor) Close() error {
	x.cancel()
	x.wg.Wait()
	x.registries.CloseIdleConnections()
	return x.client.Close()
}

// List names the containers that carry Tender's label.
func (x *Executor) List(ctx context.Context) ([]fleet.TaskID, error) {
	cs, err := x.client.ContainerService().List(ctx, `labels."`+taskLabel+`"`)
	if err != nil {
		return nil, x.wrap(ctx, "list containers", err)
	}
	ids := make([]fleet.TaskID, 0, len(cs))
	for _, c := range cs {
		id := fleet.TaskID(c.Labels[taskLabel])
		if c.ID == secondName(id) {
			x.seconds.set(id, true)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Logs is where the tasks' output is.
func (x *Executor) Logs() tasklog.Dir { return tasklog.Dir(x.cfg.LogDir) }

// keyed is a lock per name, which a waiter can give up on.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (k *keyed) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		held := k.held[name]
		if held == nil {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			done := make(chan struct{})
			k.held[name] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, name)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
