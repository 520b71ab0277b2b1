package capacity_test

import (
	"runtime"
	"testing"

	"github.com/tenderfleet/tender/agent/capacity"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestMachine(t *testing.T) {
	r, err := capacity.Machine(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if r.CPUs != fleet.Whole(int64(runtime.NumCPU())) || r.Mem <= 0 || r.Disk <= 0 {
		t.Fatalf("%v", r)
	}
	if _, err := capacity.Machine("/does/not/exist"); err == nil {
		t.Fatal("no error for a directory that does not exist")
	}
}

func TestMeter(t *testing.T) {
	var m capacity.Meter
	var r fleet.Readings
	m.Read(t.TempDir(), &r)
	for range 1 << 28 { //nolint:revive // use a processor for some ticks
	}
	m.Read(t.TempDir(), &r)
	if r.FreeMemMB <= 0 || r.FreeDiskMB <= 0 || r.CPUPercent <= 0 || r.CPUPercent > 100 {
		t.Fatalf("%+v", r)
	}
	if capacity.BootID() == "" {
		t.Fatal("no boot id")
	}
}
