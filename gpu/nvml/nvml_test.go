//go:build cgo && linux

package nvml

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/test/fakenvml"
)

// TestMain lets the test program be its own probe, as the agent is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "nvml-probe" {
		if err := Probe(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// machine is a fake machine and the driver watching it.
type machine struct {
	*Driver
	t     *testing.T
	world fakenvml.World
	root  fakenvml.Root
}

func newMachine(t *testing.T, w fakenvml.World, change ...func(*Config)) *machine {
	t.Helper()
	root, err := fakenvml.DriverRoot(t.TempDir(), w)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Path: os.Args[0], Args: []string{"nvml-probe"}, DriverRoot: root.Dir,
		Env:     append(os.Environ(), "GORACE=atexit_sleep_ms=0 halt_on_error=1"),
		Timeout: 20 * time.Second, Poll: 20 * time.Millisecond, Rescan: time.Hour,
	}
	for _, f := range change {
		f(&cfg)
	}
	m := &machine{Driver: Open(cfg), t: t, world: w, root: root}
	t.Cleanup(func() { m.Close() })
	return m
}

// set changes the world.
func (m *machine) set(change func(*fakenvml.World)) {
	m.t.Helper()
	change(&m.world)
	if err := m.world.Write(m.root.State); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) inventory() []gpu.Device {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	list, err := m.Inventory(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return list
}

// until polls the inventory until its summary is as wanted.
func (m *machine) until(want ...string) {
	m.t.Helper()
	var got []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
		list, err := m.Inventory(ctx)
		cancel()
		if got = summary(list); err == nil && slices.Equal(got, want) {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	m.t.Fatalf("inventory is\n%s\nwant\n%s\nreason %q", strings.Join(got, "\n"), strings.Join(want, "\n"), m.Reason())
}

// summary is one line for each device: the first 12 bytes of its UUID, its
// profile if it is a slice, and its health.
func summary(list []gpu.Device) []string {
	out := []string{}
	for _, d := range list {
		line := string(d.UUID[:12])
		if d.Profile != "" {
			line += " " + d.Profile
		}
		out = append(out, line+" "+d.Health.String())
	}
	return out
}

func next(t *testing.T, events <-chan gpu.Event) gpu.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event came")
		return gpu.Event{}
	}
}

func TestInventoryAndReadings(t *testing.T) {
	w := fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140)
	w.GPUs[1].Util, w.GPUs[1].UsedMB, w.GPUs[1].TemperatureC, w.GPUs[1].PowerMW = 97, 2048, 71, 290000
	m := newMachine(t, w)
	dev := func(i int) gpu.Device {
		return gpu.Device{
			UUID: gpu.UUID(fakenvml.UUID(i)), Model: "NVIDIA RTX A6000", MemoryMB: 49140,
			ComputeMajor: 8, ComputeMinor: 6, Driver: fakenvml.DefaultDriver, Health: gpu.Healthy,
		}
	}
	if diff := cmp.Diff([]gpu.Device{dev(0), dev(1)}, m.inventory()); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	readings, err := m.Readings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []gpu.Reading{
		{UUID: gpu.UUID(fakenvml.UUID(0)), TemperatureC: 35, PowerMW: 25000},
		{UUID: gpu.UUID(fakenvml.UUID(1)), UtilPercent: 97, MemoryUsedMB: 2048, TemperatureC: 71, PowerMW: 290000},
	}
	if diff := cmp.Diff(want, readings); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
	if r := m.Reason(); r != "" {
		t.Errorf("reason %q on a healthy machine", r)
	}
}

func TestMIGSlicesAreDevices(t *testing.T) {
	w := fakenvml.NewWorld(2, "NVIDIA A100-SXM4-40GB", 40960)
	w.GPUs[0].MIG = []fakenvml.Slice{
		{UUID: "MIG-00000000-aaaa", Profile: "1g.5gb", MemoryMB: 4864, GI: 7, GISlices: 1},
		{UUID: "MIG-11111111-aaaa", Profile: "3g.20gb", MemoryMB: 19968, GI: 2, GISlices: 3},
	}
	m := newMachine(t, w)
	m.until("GPU-00000001 healthy", "MIG-00000000 1g.5gb healthy", "MIG-11111111 3g.20gb healthy")
	slice := m.inventory()[2]
	if slice.Parent != gpu.UUID(fakenvml.UUID(0)) || slice.MemoryMB != 19968 {
		t.Errorf("slice is %+v", slice)
	}
	// An XID that names an instance hits that slice alone; one that does not,
	// hits the card, which is all its slices.
	events := m.Events(t.Context())
	m.event(0, 63, 2, 0)
	if e := next(t, events); e.UUID != "MIG-11111111-aaaa" || e.Health != gpu.Unhealthy {
		t.Errorf("event %+v", e)
	}
	m.until("GPU-00000001 healthy", "MIG-00000000 1g.5gb healthy", "MIG-11111111 3g.20gb unhealthy")
	m.event(0, 48)
	m.until("GPU-00000001 healthy", "MIG-00000000 1g.5gb unhealthy", "MIG-11111111 3g.20gb unhealthy")
	// The card is divided anew: old slices are gone, not lost.
	m.set(func(w *fakenvml.World) {
		w.GPUs[0].MIG = []fakenvml.Slice{{UUID: "MIG-22222222-aaaa", Profile: "7g.40gb", MemoryMB: 40192, GI: 0, GISlices: 7}}
	})
	m.until("GPU-00000001 healthy", "MIG-22222222 7g.40gb healthy")
	m.set(func(w *fakenvml.World) { w.GPUs[0].Lost = true })
	m.until("GPU-00000001 healthy", "MIG-22222222 7g.40gb lost")
}

func (m *machine) event(gpu, xid int, instance ...int) {
	m.t.Helper()
	if err := fakenvml.AppendEvent(m.root.State, gpu, fakenvml.XID, xid, instance...); err != nil {
		m.t.Fatal(err)
	}
}

func TestXIDs(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140))
	m.until("GPU-00000000 healthy", "GPU-00000001 healthy")
	events := m.Events(t.Context())
	for _, xid := range []int{13, 31, 43, 45, 68, 109} {
		m.event(0, xid)
		if e := next(t, events); e.XID != uint64(xid) || e.Health != gpu.Healthy {
			t.Errorf("application XID %d gave %+v", xid, e)
		}
	}
	m.event(1, 79)
	e := next(t, events)
	if e.XID != 79 || e.UUID != gpu.UUID(fakenvml.UUID(1)) || e.Health != gpu.Unhealthy || !strings.Contains(e.Reason, "XID 79") {
		t.Errorf("event %+v", e)
	}
	m.until("GPU-00000000 healthy", "GPU-00000001 unhealthy")
	if err := m.Clear(t.Context(), gpu.UUID(fakenvml.UUID(1))); err != nil {
		t.Fatal(err)
	}
	m.until("GPU-00000000 healthy", "GPU-00000001 healthy")
}

func TestFaultHealsWhenTheDriverIsContent(t *testing.T) {
	w := fakenvml.NewWorld(1, "NVIDIA H100", 81559)
	w.GPUs[0].RecoveryAction = 0
	m := newMachine(t, w, func(c *Config) { c.Clean = 300 * time.Millisecond })
	m.until("GPU-00000000 healthy")
	events := m.Events(t.Context())
	m.event(0, 94)
	if e := next(t, events); e.Health != gpu.Unhealthy {
		t.Errorf("event %+v", e)
	}
	if e := next(t, events); e.Health != gpu.Healthy {
		t.Errorf("after a clean time the event is %+v", e)
	}
	m.set(func(w *fakenvml.World) { w.GPUs[0].RecoveryAction = 1 })
	m.until("GPU-00000000 unhealthy")
	if r := m.inventory()[0].Reason; !strings.Contains(r, "reset the GPU") {
		t.Errorf("reason %q", r)
	}
}

func TestRowRemapping(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(1, "NVIDIA A100", 40960))
	m.set(func(w *fakenvml.World) { w.GPUs[0].RowsPending = true })
	m.until("GPU-00000000 suspect")
	m.set(func(w *fakenvml.World) { w.GPUs[0].RowsFailed = true })
	m.until("GPU-00000000 unhealthy")
}

// A GPU that falls off the bus is found by the poll, is still listed, and hides
// no other; after a reset it is back.
func TestLostGPUHidesNoOther(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(3, "NVIDIA RTX A6000", 49140))
	m.until("GPU-00000000 healthy", "GPU-00000001 healthy", "GPU-00000002 healthy")
	events := m.Events(t.Context())
	m.set(func(w *fakenvml.World) { w.GPUs[0].Lost = true })
	if e := next(t, events); e.UUID != gpu.UUID(fakenvml.UUID(0)) || e.Health != gpu.Lost {
		t.Errorf("event %+v", e)
	}
	m.until("GPU-00000000 lost", "GPU-00000001 healthy", "GPU-00000002 healthy")
	d := m.inventory()[0]
	if d.Model != "NVIDIA RTX A6000" || d.MemoryMB != 49140 || !strings.Contains(d.Reason, "GPU is lost") {
		t.Errorf("a lost device is %+v", d)
	}
	if _, _, err := m.CDI(t.Context(), []gpu.UUID{gpu.UUID(fakenvml.UUID(1))}); err != nil {
		t.Errorf("a healthy GPU beside a lost one: %v", err)
	}
	if _, _, err := m.CDI(t.Context(), []gpu.UUID{gpu.UUID(fakenvml.UUID(0))}); err == nil {
		t.Error("a lost GPU was described for a container")
	}
	m.set(func(w *fakenvml.World) { w.GPUs[0].Lost = false })
	m.until("GPU-00000000 healthy", "GPU-00000001 healthy", "GPU-00000002 healthy")
}

func TestHotPlug(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140))
	m.until("GPU-00000000 healthy")
	m.set(func(w *fakenvml.World) { w.GPUs = fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140).GPUs })
	if err := m.root.Nodes(m.world); err != nil {
		t.Fatal(err)
	}
	m.until("GPU-00000000 healthy", "GPU-00000001 healthy")
	// Faults outlive the fresh start of the child.
	m.event(1, 79)
	m.until("GPU-00000000 healthy", "GPU-00000001 unhealthy")
	m.set(func(w *fakenvml.World) { w.GPUs = fakenvml.NewWorld(3, "NVIDIA RTX A6000", 49140).GPUs })
	if err := m.root.Nodes(m.world); err != nil {
		t.Fatal(err)
	}
	m.until("GPU-00000000 healthy", "GPU-00000001 unhealthy", "GPU-00000002 healthy")
}

func TestNoDriver(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		want string
	}{
		"driver not loaded": {fakenvml.DriverNotLoaded, "modprobe nvidia"},
		"version mismatch":  {fakenvml.VersionMismatch, "reboot"},
		"no permission":     {fakenvml.NoPermission, "root"},
	} {
		t.Run(name, func(t *testing.T) {
			w := fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140)
			w.InitError = c.code
			m := newMachine(t, w, func(c *Config) { c.Rescan = 50 * time.Millisecond })
			m.noDevices(c.want)
			// The driver comes up later, without a restart of the agent.
			m.set(func(w *fakenvml.World) { w.InitError = 0 })
			m.until("GPU-00000000 healthy")
			if r := m.Reason(); r != "" {
				t.Errorf("reason %q", r)
			}
		})
	}
	t.Run("no library", func(t *testing.T) {
		m := newMachine(t, fakenvml.World{}, func(c *Config) { c.Library = filepath.Join(t.TempDir(), "none.so") })
		m.noDevices("no NVIDIA driver")
	})
	t.Run("library installed later", func(t *testing.T) {
		late := filepath.Join(t.TempDir(), fakenvml.Soname)
		m := newMachine(t, fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140), func(c *Config) { c.Library = late })
		m.noDevices("no NVIDIA driver")
		if err := m.world.Write(filepath.Join(filepath.Dir(late), "fakenvml.state")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(m.root.Library, late); err != nil {
			t.Fatal(err)
		}
		m.until("GPU-00000000 healthy")
	})
}

// noDevices waits until the driver is known to be missing.
func (m *machine) noDevices(reason string) {
	m.t.Helper()
	m.until()
	if r := m.Reason(); !strings.Contains(r, reason) {
		m.t.Errorf("reason %q does not contain %q", r, reason)
	}
	if list, err := m.Readings(m.t.Context()); err != nil || len(list) != 0 {
		m.t.Errorf("readings without a driver: %v, %v", list, err)
	}
}

// A call that never returns costs the child, not the agent; the devices known
// are listed as unknown until the driver answers again.
func TestHang(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140), func(c *Config) { c.Timeout = time.Second })
	m.until("GPU-00000000 healthy")
	m.set(func(w *fakenvml.World) { w.Hang = "nvmlDeviceGetMemoryInfo" })
	m.until("GPU-00000000 unknown")
	if r := m.Reason(); !strings.Contains(r, "does not answer") {
		t.Errorf("reason %q", r)
	}
	m.set(func(w *fakenvml.World) { w.Hang = "" })
	m.until("GPU-00000000 healthy")
}

func TestCrash(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140))
	m.until("GPU-00000000 healthy")
	m.set(func(w *fakenvml.World) { w.Crash = "nvmlDeviceGetUUID" })
	m.until("GPU-00000000 unknown")
	if r := m.Reason(); !strings.Contains(r, "the GPU probe ended") {
		t.Errorf("reason %q", r)
	}
	m.set(func(w *fakenvml.World) { w.Crash = "" })
	m.until("GPU-00000000 healthy")
}

// A failing wait for events leaves the devices healthy.
func TestWaitErrorTouchesNoHealth(t *testing.T) {
	w := fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140)
	w.WaitError = fakenvml.UnknownError
	m := newMachine(t, w)
	m.until("GPU-00000000 healthy")
	m.set(func(w *fakenvml.World) { w.WaitError = 0 })
	m.until("GPU-00000000 healthy")
}

// Functions that an old driver lacks are not called: the loader would end the
// process.
func TestOldDriver(t *testing.T) {
	old, err := fakenvml.Build("nvmlDeviceGetRemappedRows", "nvmlDeviceGetMigMode", "nvmlDeviceGetFieldValues",
		"nvmlDeviceGetUtilizationRates", "nvmlEventSetCreate", "nvmlDeviceGetCudaComputeCapability")
	if err != nil {
		t.Fatal(err)
	}
	w := fakenvml.NewWorld(1, "NVIDIA K80", 11441)
	m := newMachine(t, w, withState(t, w, old)...)
	m.until("GPU-00000000 healthy")
	readings, err := m.Readings(t.Context())
	if err != nil || len(readings) != 1 || readings[0].UtilPercent != -1 {
		t.Errorf("readings %v, %v", readings, err)
	}

	ancient, err := fakenvml.Build("nvmlDeviceGetUUID")
	if err != nil {
		t.Fatal(err)
	}
	newMachine(t, w, withState(t, w, ancient)...).noDevices("too old")
}

// withState runs the probe on another library, which finds the world by the
// environment.
func withState(t *testing.T, w fakenvml.World, lib string) []func(*Config) {
	state := filepath.Join(t.TempDir(), "state")
	if err := w.Write(state); err != nil {
		t.Fatal(err)
	}
	return []func(*Config){func(c *Config) {
		c.Library, c.Env = lib, append(c.Env, "FAKE_NVML_STATE="+state)
	}}
}

func TestProbeThatCannotStart(t *testing.T) {
	m := newMachine(t, fakenvml.World{}, func(c *Config) { c.Path = filepath.Join(t.TempDir(), "no-such-program") })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := m.Inventory(ctx)
		if err != nil && strings.Contains(err.Error(), "start the GPU probe") {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the error is %v", err)
		}
	}
}

// The end of the agent ends its probe, even one that hangs in the driver.
func TestProbeEndsWithTheAgent(t *testing.T) {
	w := fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140)
	w.Hang = "nvmlDeviceGetCount_v2"
	root, err := fakenvml.DriverRoot(t.TempDir(), w)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Path: os.Args[0], Args: []string{"nvml-probe"}, DriverRoot: root.Dir}.withDefaults()
	c, err := startChild(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.send(request{Op: opOpen, Open: &openArgs{DriverRoot: root.Dir, DevRoot: root.Dir}}); err != nil {
		t.Fatal(err)
	}
	if err := c.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if !c.gone(30 * time.Second) {
		t.Error("the probe outlives its agent")
	}
	if !c.stop(false) {
		t.Error("the probe cannot be killed")
	}
}

func TestClose(t *testing.T) {
	m := newMachine(t, fakenvml.NewWorld(1, "NVIDIA RTX A6000", 49140))
	m.until("GPU-00000000 healthy")
	ctx, cancel := context.WithCancel(t.Context())
	events := m.Events(ctx)
	m.Close()
	m.Close()
	if _, err := m.Inventory(t.Context()); err == nil {
		t.Error("a closed driver answers")
	}
	cancel()
	for range events {
	}
}

// The test program is linked like the agent: if it binds lazily, so does the
// agent built by the same toolchain without other flags.
func TestLazyBinding(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := fakenvml.CheckLazyBinding(self); err != nil {
		t.Error(err)
	}
}
