//go:build !cgo || !linux

package nvml

import (
	"strings"
	"testing"

	"github.com/tenderfleet/tender/gpu"
)

func TestBuildWithoutNVML(t *testing.T) {
	d := Open(Config{})
	defer d.Close()
	list, err := d.Inventory(t.Context())
	if err != nil || len(list) != 0 {
		t.Errorf("inventory %v, %v", list, err)
	}
	if r := d.Reason(); !strings.Contains(r, "no NVML support") {
		t.Errorf("reason %q", r)
	}
	if _, _, err := d.CDI(t.Context(), []gpu.UUID{"GPU-1"}); err == nil {
		t.Error("a device was described")
	}
	if err := Probe(t.Context(), nil, nil); err == nil {
		t.Error("the probe runs")
	}
}
