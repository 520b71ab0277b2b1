package fakenvml

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Return codes of NVML that a World can be told to give.
const (
	NoPermission    = 4
	DriverNotLoaded = 9
	GPUIsLost       = 15
	VersionMismatch = 18
	UnknownError    = 999
)

// XID is the event type that carries XID errors.
const XID = 8

// World is what the library reports.
type World struct {
	Driver string // driver version; default DefaultDriver
	// InitError and WaitError are return codes for every initialisation and
	// every wait for events; zero is success.
	InitError, WaitError int
	// Hang and Crash name a function that never returns, or that ends the
	// process; "all" means every function.
	Hang, Crash string
	GPUs        []GPU
}

// GPU is one card.
type GPU struct {
	UUID, Name     string
	MemoryMB       int64
	UsedMB         int64
	Compute        int // 86 for capability 8.6
	Util           int
	TemperatureC   int
	PowerMW        int
	Lost           bool // present, and answers "GPU is lost"
	Absent         bool // not there; its place in the list is kept
	Minor          int  // N of /dev/nvidiaN
	RowsPending    bool
	RowsFailed     bool
	RecoveryAction int // -1 where the driver does not tell
	MIG            []Slice
	// Node is the number that DriverRoot gives the card's device node. The
	// zero value means the real one, 195:Minor.
	Node Number
	// More holds further keys, without their "gpu.N." prefix.
	More map[string]string
}

// Slice is a MIG slice of a card.
type Slice struct {
	UUID, Profile string
	MemoryMB      int64
	GI, CI        int
	GISlices      int
}

// Number is the number of a device node.
type Number struct{ Major, Minor uint32 }

// DefaultDriver is the driver version of a World that names none.
const DefaultDriver = "570.124.06"

// NewWorld is n healthy, idle cards of one model, with the UUIDs UUID(0) to
// UUID(n-1).
func NewWorld(n int, model string, memoryMB int64) World {
	w := World{Driver: DefaultDriver}
	for i := range n {
		w.GPUs = append(w.GPUs, GPU{
			UUID: UUID(i), Name: model, MemoryMB: memoryMB, Compute: 86, TemperatureC: 35, PowerMW: 25000,
			Minor: i, RecoveryAction: -1,
		})
	}
	return w
}

// UUID is the UUID of the i-th card of NewWorld.
func UUID(i int) string { return fmt.Sprintf("GPU-%08d-2222-3333-4444-555555555555", i) }

// Write puts the world at path in one step, so that no reader sees half of it.
func (w World) Write(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".world-")
	if err != nil {
		return fmt.Errorf("write the world: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(w.String())
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the world: %w", err)
	}
	return nil
}

// AppendEvent reports an event of one card to every listener of the world at
// path. GI and CI name the slice it is about; leave them out for the card.
func AppendEvent(path string, gpu, eventType, data int, instance ...int) error {
	f, err := os.OpenFile(path+".events", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("append an event: %w", err)
	}
	line := fmt.Sprintf("%d %d %d", gpu, eventType, data)
	for _, i := range instance {
		line += fmt.Sprintf(" %d", i)
	}
	_, err = f.WriteString(line + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("append an event: %w", err)
	}
	return nil
}

// String is the world's file.
func (w World) String() string {
	var b strings.Builder
	set := func(key, format string, v ...any) { fmt.Fprintf(&b, "%s="+format+"\n", append([]any{key}, v...)...) }
	set("driver_version", "%s", w.version())
	set("init_error", "%d", w.InitError)
	set("wait_error", "%d", w.WaitError)
	if w.Hang != "" {
		set("hang", "%s", w.Hang)
	}
	if w.Crash != "" {
		set("crash", "%s", w.Crash)
	}
	for i, g := range w.GPUs {
		g.write(fmt.Sprintf("gpu.%d.", i), set)
	}
	return b.String()
}

func (w World) version() string {
	if w.Driver == "" {
		return DefaultDriver
	}
	return w.Driver
}

func (g GPU) write(p string, set func(key, format string, v ...any)) {
	set(p+"uuid", "%s", g.UUID)
	set(p+"name", "%s", g.Name)
	set(p+"minor", "%d", g.Minor)
	set(p+"compute_capability", "%d", g.Compute)
	set(p+"mem_total", "%d", g.MemoryMB<<20)
	set(p+"mem_used", "%d", g.UsedMB<<20)
	set(p+"util_gpu", "%d", g.Util)
	set(p+"temp", "%d", g.TemperatureC)
	set(p+"power_mw", "%d", g.PowerMW)
	for key, on := range map[string]bool{"lost": g.Lost, "absent": g.Absent, "rows_pending": g.RowsPending, "rows_failed": g.RowsFailed} {
		if on {
			set(p+key, "1")
		}
	}
	if g.RecoveryAction >= 0 {
		set(p+"field.230", "%d", g.RecoveryAction)
	}
	if len(g.MIG) > 0 {
		set(p+"mig_mode", "1")
	}
	for i, m := range g.MIG {
		q := fmt.Sprintf("%smig.%d.", p, i)
		set(q+"uuid", "%s", m.UUID)
		set(q+"name", "%s MIG %s", g.Name, m.Profile)
		set(q+"gi", "%d", m.GI)
		set(q+"ci", "%d", m.CI)
		set(q+"gi_slices", "%d", max(m.GISlices, 1))
		set(q+"mem_mb", "%d", m.MemoryMB)
		set(q+"mem_total", "%d", m.MemoryMB<<20)
	}
	for _, k := range slices.Sorted(maps.Keys(g.More)) {
		set(p+k, "%s", g.More[k])
	}
}
