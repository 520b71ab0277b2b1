package gpu

import (
	"context"
	"fmt"
	"time"
)

// UUID is a device's permanent name as its driver prints it, for example
// "GPU-11111111-2222-3333-4444-555555555555", or "MIG-..." for a slice.
type UUID string

// Health says whether work may be placed on a device.
type Health int

const (
	// HealthUnknown is the zero value: no reading yet. It is not offered.
	HealthUnknown Health = iota
	// Healthy devices are offered.
	Healthy
	// Suspect devices keep their task and get no new one.
	Suspect
	// Unhealthy devices reported a hardware fault (an XID other than the
	// application errors 13, 31, 43, 45, 68 and 109).
	Unhealthy
	// Lost devices no longer answer the driver.
	Lost
)

var healthNames = [...]string{"unknown", "healthy", "suspect", "unhealthy", "lost"}

// String returns the lower-case name used in the API, the CLI and metrics.
func (h Health) String() string {
	if h < 0 || int(h) >= len(healthNames) {
		return fmt.Sprintf("health(%d)", int(h))
	}
	return healthNames[h]
}

// ParseHealth is the inverse of String.
func ParseHealth(s string) (Health, error) {
	for i, n := range healthNames {
		if n == s {
			return Health(i), nil
		}
	}
	return HealthUnknown, fmt.Errorf("unknown GPU health %q", s)
}

// Device is one GPU, or one MIG slice of a GPU, that can be given to a task
// as a whole.
type Device struct {
	UUID  UUID
	Model string // product name, for example "NVIDIA RTX A6000"
	// MemoryMB is the device's total memory in MiB.
	MemoryMB int64
	// ComputeMajor and ComputeMinor are the CUDA compute capability, 8 and 6
	// for "8.6"; zero when the driver does not tell.
	ComputeMajor, ComputeMinor int
	Driver                     string // driver version
	// Parent is the physical device of a MIG slice, empty for a whole GPU.
	Parent UUID
	// Profile is the MIG profile, such as "1g.10gb", empty for a whole GPU.
	Profile string
	Health  Health
	// Reason says why Health is not Healthy, in words for people.
	Reason string
}

// Reading is a device's momentary state. It is soft: it is shown, never
// replicated and never a ground for placement.
type Reading struct {
	UUID         UUID
	UtilPercent  int // 0 to 100, -1 where the driver does not tell (MIG)
	MemoryUsedMB int64
	TemperatureC int
	PowerMW      int64 // milliwatts
}

// Event is a change that the driver reported by itself.
type Event struct {
	Time time.Time
	UUID UUID // empty when it concerns the driver as a whole
	XID  uint64
	// Device is the device's state after the event; its Health and Reason are
	// what the event left behind.
	Health Health
	Reason string
}

// Devices is the seam to the driver of one machine. The real one speaks to
// NVML in a child process, Static is its in-memory twin.
//
// Every call may block up to the deadline of ctx and is safe for concurrent
// use.
type Devices interface {
	// Inventory lists the devices that can be assigned, ordered by UUID. A
	// machine without a driver has none: an empty list and no error.
	Inventory(ctx context.Context) ([]Device, error)
	// Readings lists the momentary state of each device, ordered by UUID.
	Readings(ctx context.Context) ([]Reading, error)
	// Events delivers faults until ctx ends, then the channel is closed.
	Events(ctx context.Context) <-chan Event
}

// Static is a Devices with a fixed inventory: the twin for tests and the
// implementation for machines without a GPU (the zero value).
type Static []Device

// Inventory returns the fixed list.
func (s Static) Inventory(context.Context) ([]Device, error) { return s, nil }

// Readings returns an idle reading for each device.
func (s Static) Readings(context.Context) ([]Reading, error) {
	out := make([]Reading, len(s))
	for i, d := range s {
		out[i] = Reading{UUID: d.UUID}
	}
	return out, nil
}

// Events never delivers anything; its channel is closed when ctx ends.
func (s Static) Events(ctx context.Context) <-chan Event {
	ch := make(chan Event)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}
