package linkpolicy

import (
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	// ReadingsEvery is how often an agent looks whether there is something to
	// tell, unless it is set otherwise.
	ReadingsEvery = 10 * time.Second
	// ReadingsAtLatest is when it tells even if nothing has changed.
	ReadingsAtLatest = 5 * time.Minute

	cpuPoints     = 10 // percent of all processors
	memPart       = 20 // a twentieth of what was free
	gpuPoints     = 10
	gpuDegrees    = 5
	gpuMemoryMB   = 512
	gpuMilliwatts = 50_000
	clockStep     = time.Second
)

// Worth reports whether somebody who knows the readings told wants to hear of
// now: something moved noticeably, or it is time.
func Worth(told, now fleet.Readings) bool {
	if now.Time.Sub(told.Time) >= ReadingsAtLatest {
		return true
	}
	if now.Tasks != told.Tasks || now.Spooled != told.Spooled || now.Runtime != told.Runtime ||
		now.Settings != told.Settings || now.Upgrade != told.Upgrade || now.Bundle != told.Bundle || abs(now.ClockOff-told.ClockOff) >= clockStep {
		return true
	}
	if abs(now.CPUPercent-told.CPUPercent) >= cpuPoints ||
		moved(told.FreeMemMB, now.FreeMemMB) || moved(told.FreeDiskMB, now.FreeDiskMB) {
		return true
	}
	return len(now.GPUs) != len(told.GPUs) || gpusMoved(told.GPUs, now.GPUs)
}

func moved(told, now int64) bool { return abs(now-told)*memPart > max(told, memPart) }

func gpusMoved(told, now []gpu.Reading) bool {
	for i, n := range now {
		t := told[i]
		if n.UUID != t.UUID || abs(n.UtilPercent-t.UtilPercent) >= gpuPoints || abs(n.TemperatureC-t.TemperatureC) >= gpuDegrees ||
			abs(n.MemoryUsedMB-t.MemoryUsedMB) >= gpuMemoryMB || abs(n.PowerMW-t.PowerMW) >= gpuMilliwatts {
			return true
		}
	}
	return false
}

func abs[T ~int | ~int64](n T) T { return max(n, -n) }
