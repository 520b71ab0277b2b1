package nvml

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	cdispec "tags.cncf.io/container-device-interface/specs-go"

	"github.com/tenderfleet/tender/gpu"
)

// Config says how to run the probe. Zero durations take their defaults.
type Config struct {
	// Path and Args start a process that calls Probe; Env is its environment,
	// nil for the agent's own.
	Path string
	Args []string
	Env  []string
	// Library is the path of libnvidia-ml.so.1; empty to look for it under
	// DriverRoot.
	Library string
	// DriverRoot holds the driver's files ("/" by default) and DevRoot the
	// directory dev with the device nodes (DriverRoot by default).
	DriverRoot, DevRoot string

	Timeout time.Duration // of one request; 10 s
	Poll    time.Duration // between looks at the devices; 15 s
	Rescan  time.Duration // between fresh starts while something is missing; 5 min
	Clean   time.Duration // without an XID until a device is trusted again; 10 min

	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.Timeout, 10*time.Second)
	set(&c.Poll, 15*time.Second)
	set(&c.Rescan, 5*time.Minute)
	set(&c.Clean, 10*time.Minute)
	if c.DriverRoot == "" {
		c.DriverRoot = "/"
	}
	if c.DevRoot == "" {
		c.DevRoot = c.DriverRoot
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Driver is the NVIDIA driver of this machine. It is safe for concurrent use.
type Driver struct {
	cfg    Config
	cancel context.CancelFunc
	done   chan struct{}
	calls  chan call

	mu     sync.Mutex
	reason string
	subs   map[chan gpu.Event]struct{}

	// The goroutine run owns what follows.
	health *tracker
	absent bool     // no driver at all, as opposed to one that fails
	stuck  []*child // killed, but not gone
}

var _ gpu.Devices = (*Driver)(nil)

// call is one request of a caller, and its answer.
type call struct {
	ctx    context.Context
	op     op
	gpus   []gpu.UUID
	answer chan answer // takes one answer without blocking
}

type answer struct {
	devices  []gpu.Device
	readings []gpu.Reading
	spec     *cdispec.Spec
	minors   map[gpu.UUID]int
	err      error
}

// opClear never reaches the child: the parent keeps the record of faults.
const opClear op = "clear"

// Open starts to watch the machine's GPUs. It does not wait for the driver.
// Close must be called.
func Open(cfg Config) *Driver {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	d := &Driver{
		cfg: cfg, cancel: cancel, done: make(chan struct{}), calls: make(chan call),
		subs: make(map[chan gpu.Event]struct{}), health: newTracker(cfg.Clean),
	}
	go d.run(ctx)
	return d
}

// Close ends the child and waits until it is gone, a few seconds at most.
func (d *Driver) Close() error {
	d.cancel()
	<-d.done
	return nil
}

// Inventory lists the devices with their health. While the driver does not
// answer, those known so far are listed with unknown health.
func (d *Driver) Inventory(ctx context.Context) ([]gpu.Device, error) {
	a := d.call(ctx, call{op: opInventory})
	if a.err != nil {
		return nil, fmt.Errorf("list the GPUs: %w", a.err)
	}
	return a.devices, nil
}

// Readings lists the momentary state of the devices that answer.
func (d *Driver) Readings(ctx context.Context) ([]gpu.Reading, error) {
	a := d.call(ctx, call{op: opReadings})
	if a.err != nil {
		return nil, fmt.Errorf("read the GPUs: %w", a.err)
	}
	return a.readings, nil
}

// CDI describes what a container needs to use the devices, as a specification
// of the Container Device Interface without hooks, and gives the minor number
// of each device's card. A device that is unknown or lost is an error; others
// on the machine do not matter.
func (d *Driver) CDI(ctx context.Context, uuids []gpu.UUID) (*cdispec.Spec, map[gpu.UUID]int, error) {
	for _, u := range uuids {
		if err := checkUUID(u); err != nil {
			return nil, nil, fmt.Errorf("describe GPUs for a container: %w", err)
		}
	}
	if len(uuids) > maxDevices {
		return nil, nil, fmt.Errorf("describe GPUs for a container: over %d devices", maxDevices)
	}
	a := d.call(ctx, call{op: opCDI, gpus: uuids})
	if a.err != nil {
		return nil, nil, fmt.Errorf("describe GPUs for a container: %w", a.err)
	}
	return a.spec, a.minors, nil
}

// Clear forgets the faults that a device reported: an operator's word that it
// was repaired. What it still reports will count again.
func (d *Driver) Clear(ctx context.Context, uuid gpu.UUID) error {
	if a := d.call(ctx, call{op: opClear, gpus: []gpu.UUID{uuid}}); a.err != nil {
		return fmt.Errorf("clear the faults of GPU %s: %w", uuid, a.err)
	}
	return nil
}

// Reason says in words for people why the driver gives no devices, or no news
// of them. It is empty while all is well.
func (d *Driver) Reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reason
}

func (d *Driver) setReason(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reason = s
}

// eventRoom is how many events a slow listener may be behind. Events are hints
// to look at the inventory, so those beyond are dropped.
const eventRoom = 64

// Events delivers faults and changes of health until ctx ends.
func (d *Driver) Events(ctx context.Context) <-chan gpu.Event {
	ch := make(chan gpu.Event, eventRoom)
	d.mu.Lock()
	d.subs[ch] = struct{}{}
	d.mu.Unlock()
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.subs, ch)
		close(ch)
	})
	return ch
}

func (d *Driver) publish(events ...gpu.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range events {
		for ch := range d.subs {
			select {
			case ch <- e:
			default:
			}
		}
	}
}

var errClosed = errors.New("the GPU watch is closed")

func (d *Driver) call(ctx context.Context, c call) answer {
	c.ctx, c.answer = ctx, make(chan answer, 1)
	select {
	case d.calls <- c:
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	case <-d.done:
		return answer{err: errClosed}
	}
	select {
	case a := <-c.answer:
		return a
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	case <-d.done:
		return answer{err: errClosed}
	}
}

// fingerprint changes when a card or a driver comes or goes.
func (d *Driver) fingerprint() string {
	nodes, _ := filepath.Glob(filepath.Join(d.cfg.DevRoot, "dev", "nvidia[0-9]*"))
	var b strings.Builder
	b.WriteString(strings.Join(nodes, " "))
	path := d.cfg.Library
	if path == "" {
		path = findLibrary(d.cfg.DriverRoot)
	}
	if st, err := os.Stat(path); err == nil {
		fmt.Fprintf(&b, " %d %d", st.Size(), st.ModTime().UnixNano())
	}
	if d.cfg.DriverRoot == "/" {
		version, _ := os.ReadFile("/proc/driver/nvidia/version")
		b.Write(version)
	}
	return b.String()
}

const soname = "libnvidia-ml.so.1"

// findLibrary finds NVML under a driver root. For the machine's own root the
// dynamic loader knows better, so it is given the bare name.
func findLibrary(root string) string {
	if root == "/" {
		return soname
	}
	for _, dir := range []string{
		"usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu/nvidia/current",
		"usr/lib/aarch64-linux-gnu/nvidia/current", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "usr/lib",
	} {
		path := filepath.Join(root, dir, soname)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	// A path that does not exist, rather than a name: the machine's own driver
	// must not be taken for the one of this root.
	return filepath.Join(root, soname)
}
