//go:build cgo && linux

package nvml

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/tenderfleet/tender/gpu"
)

// inventory asks every card anew. Handles are never kept: MIG slices come and
// go, and one stale handle could answer for another device.
func (p *probe) inventory() (*inventory, error) {
	n, ret := p.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("count the GPUs: %v", ret)
	}
	inv := &inventory{}
	for i := range n {
		h, ret := p.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			inv.Silent = append(inv.Silent, fmt.Sprintf("GPU at index %d: %v", i, ret))
			continue
		}
		d, err := p.describe(h)
		if err != nil {
			inv.Silent = append(inv.Silent, fmt.Sprintf("GPU at index %d: %v", i, err))
			continue
		}
		if d.Lost == "" && p.migOn(h) {
			inv.Parents = append(inv.Parents, d)
			inv.Devices = append(inv.Devices, p.slices(h, d)...)
			continue
		}
		inv.Devices = append(inv.Devices, d)
	}
	return inv, nil
}

// describe reads one card. Only a card without a UUID is an error: one that
// fails later is described as far as it got, and as lost.
func (p *probe) describe(h nvml.Device) (device, error) {
	uuid, ret := h.GetUUID()
	if ret != nvml.SUCCESS {
		return device{}, fmt.Errorf("read its UUID: %v", ret)
	}
	d := device{Device: gpu.Device{UUID: gpu.UUID(uuid), Driver: p.driver}, GI: noInstance, CI: noInstance, Recovery: -1}
	if d.Model, ret = h.GetName(); ret != nvml.SUCCESS {
		d.Lost = ret.Error()
		return d, nil
	}
	mem, ret := h.GetMemoryInfo()
	switch ret {
	case nvml.SUCCESS:
		d.MemoryMB = int64(mem.Total >> 20)
	case nvml.ERROR_NOT_SUPPORTED: // a GPU that shares the machine's memory
	case nvml.ERROR_RESET_REQUIRED:
		d.Recovery = int(nvml.GPU_RECOVERY_ACTION_GPU_RESET)
		return d, nil
	default:
		d.Lost = ret.Error()
		return d, nil
	}
	if p.has("nvmlDeviceGetCudaComputeCapability") {
		if major, minor, ret := h.GetCudaComputeCapability(); ret == nvml.SUCCESS {
			d.ComputeMajor, d.ComputeMinor = major, minor
		}
	}
	if p.has("nvmlDeviceGetRemappedRows") {
		if _, _, pending, failed, ret := h.GetRemappedRows(); ret == nvml.SUCCESS {
			d.RowsPending, d.RowsFailed = pending, failed
		}
	}
	d.Recovery = p.recovery(h)
	return d, nil
}

// recovery is what the driver wants done about a card: 0 for nothing, -1 where
// it does not tell.
func (p *probe) recovery(h nvml.Device) int {
	if !p.has("nvmlDeviceGetFieldValues") {
		return -1
	}
	v := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	if h.GetFieldValues(v) != nvml.SUCCESS || nvml.Return(v[0].NvmlReturn) != nvml.SUCCESS {
		return -1
	}
	return int(binary.NativeEndian.Uint32(v[0].Value[:4]))
}

func (p *probe) migOn(h nvml.Device) bool {
	for _, s := range []string{
		"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
		"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId",
	} {
		if !p.has(s) {
			return false
		}
	}
	mode, _, ret := h.GetMigMode()
	return ret == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE
}

// slices lists the MIG slices of a card.
func (p *probe) slices(h nvml.Device, parent device) []device {
	n, ret := h.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	var out []device
	for i := range n {
		m, ret := h.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS { // NOT_FOUND: an empty place
			continue
		}
		d, err := p.describeSlice(m, parent)
		if err == nil {
			out = append(out, d)
		}
	}
	return out
}

func (p *probe) describeSlice(m nvml.Device, parent device) (device, error) {
	uuid, ret := m.GetUUID()
	if ret != nvml.SUCCESS {
		return device{}, ret
	}
	gi, ret := m.GetGpuInstanceId()
	if ret != nvml.SUCCESS {
		return device{}, ret
	}
	ci, ret := m.GetComputeInstanceId()
	if ret != nvml.SUCCESS {
		return device{}, ret
	}
	d := parent
	d.UUID, d.Parent = gpu.UUID(uuid), parent.UUID
	d.GI, d.CI = uint32(gi), uint32(ci)
	if mem, ret := m.GetMemoryInfo(); ret == nvml.SUCCESS {
		d.MemoryMB = int64(mem.Total >> 20)
	}
	name, ret := m.GetName()
	if ret != nvml.SUCCESS {
		name = ""
	}
	d.Profile = p.profile(m, name, parent.MemoryMB)
	return d, nil
}

// profile is a slice's profile. Drivers put it at the end of the slice's name;
// where one does not, it is made from the slice's share of the card, as
// nvidia-smi words it.
func (p *probe) profile(m nvml.Device, name string, cardMB int64) string {
	if _, after, ok := strings.Cut(name, " MIG "); ok {
		return strings.TrimSpace(after)
	}
	if !p.has("nvmlDeviceGetAttributes_v2") {
		return ""
	}
	a, ret := m.GetAttributes()
	if ret != nvml.SUCCESS {
		return ""
	}
	const eighths = 8
	cardGB := (cardMB + 1023) / 1024
	share := int64(eighths)
	if cardMB > 0 {
		share = (int64(a.MemorySizeMB)*eighths + cardMB/2) / cardMB
	}
	prefix := ""
	if a.ComputeInstanceSliceCount != a.GpuInstanceSliceCount {
		prefix = fmt.Sprintf("%dc.", a.ComputeInstanceSliceCount)
	}
	return fmt.Sprintf("%s%dg.%dgb", prefix, a.GpuInstanceSliceCount, (share*cardGB+eighths/2)/eighths)
}

// readings reads every card and slice that answers.
func (p *probe) readings() ([]gpu.Reading, error) {
	n, ret := p.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("count the GPUs: %v", ret)
	}
	out := []gpu.Reading{}
	for i := range n {
		h, ret := p.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		r, ok := p.reading(h)
		if !ok {
			continue
		}
		if !p.migOn(h) {
			out = append(out, r)
			continue
		}
		most, ret := h.GetMaxMigDeviceCount()
		if ret != nvml.SUCCESS {
			continue
		}
		for j := range most {
			if m, ret := h.GetMigDeviceHandleByIndex(j); ret == nvml.SUCCESS {
				if s, ok := p.reading(m); ok {
					// Heat and power are the card's: a slice has none of its own.
					s.TemperatureC, s.PowerMW = r.TemperatureC, r.PowerMW
					out = append(out, s)
				}
			}
		}
	}
	return out, nil
}

func (p *probe) reading(h nvml.Device) (gpu.Reading, bool) {
	uuid, ret := h.GetUUID()
	if ret != nvml.SUCCESS {
		return gpu.Reading{}, false
	}
	r := gpu.Reading{UUID: gpu.UUID(uuid), UtilPercent: -1}
	mem, ret := h.GetMemoryInfo()
	switch ret {
	case nvml.SUCCESS:
		r.MemoryUsedMB = int64(mem.Used >> 20)
	case nvml.ERROR_NOT_SUPPORTED:
	default:
		return gpu.Reading{}, false
	}
	if p.has("nvmlDeviceGetUtilizationRates") {
		if u, ret := h.GetUtilizationRates(); ret == nvml.SUCCESS {
			r.UtilPercent = int(u.Gpu)
		}
	}
	if p.has("nvmlDeviceGetTemperature") {
		if t, ret := h.GetTemperature(nvml.TEMPERATURE_GPU); ret == nvml.SUCCESS {
			r.TemperatureC = int(t)
		}
	}
	if p.has("nvmlDeviceGetPowerUsage") {
		if mw, ret := h.GetPowerUsage(); ret == nvml.SUCCESS {
			r.PowerMW = int64(mw)
		}
	}
	return r, true
}
