package gpu_test

import (
	"context"
	"testing"

	"github.com/tenderfleet/tender/gpu"
)

func TestHealthNames(t *testing.T) {
	for h := gpu.HealthUnknown; h <= gpu.Lost; h++ {
		got, err := gpu.ParseHealth(h.String())
		if err != nil || got != h {
			t.Errorf("%v parses as %v, %v", h, got, err)
		}
	}
	if _, err := gpu.ParseHealth("fine"); err == nil {
		t.Error("a health that is none was parsed")
	}
	if s := gpu.Health(9).String(); s != "health(9)" {
		t.Errorf("an unknown health is %q", s)
	}
	var d gpu.Device
	if d.Health == gpu.Healthy {
		t.Error("a device is healthy without a reading")
	}
}

func TestStatic(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	devices := gpu.Static{{UUID: "GPU-1", Health: gpu.Healthy}, {UUID: "GPU-2", Health: gpu.Lost}}
	list, err := devices.Inventory(ctx)
	if err != nil || len(list) != 2 {
		t.Errorf("inventory %v, %v", list, err)
	}
	readings, err := devices.Readings(ctx)
	if err != nil || len(readings) != 2 || readings[1].UUID != "GPU-2" {
		t.Errorf("readings %v, %v", readings, err)
	}
	events := devices.Events(ctx)
	cancel()
	if e, ok := <-events; ok {
		t.Errorf("event %v", e)
	}
	if list, err := gpu.Static(nil).Inventory(ctx); err != nil || len(list) != 0 {
		t.Errorf("a machine without GPUs has %v, %v", list, err)
	}
}
