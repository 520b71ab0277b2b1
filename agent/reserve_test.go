package agent

import (
	"testing"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestReserve(t *testing.T) {
	machine := fleet.Resources{CPUs: fleet.Whole(8), Mem: fleet.Whole(1024), GPUs: []gpu.UUID{"GPU-1", "GPU-2"}}
	cpus := func(n int64) fleet.Resources { return fleet.Resources{CPUs: fleet.Whole(n)} }
	for _, tc := range []struct {
		name string
		list []Reservation
		want string
	}{
		{"nothing", nil, "cpus:8;mem:1024;gpus:[GPU-1,GPU-2]"},
		{"amounts and GPUs", []Reservation{{"a", cpus(2), 1}}, "cpus:6;mem:1024;gpus:[GPU-2];cpus(a):2;gpus(a):[GPU-1]"},
		{"two roles", []Reservation{{"a", cpus(2), 1}, {"a/b", cpus(1), 1}}, "cpus:5;mem:1024;cpus(a):2;gpus(a):[GPU-1];cpus(a/b):1;gpus(a/b):[GPU-2]"},
		{"as far as it reaches", []Reservation{{"a", cpus(7), 3}, {"b", cpus(7), 1}}, "mem:1024;cpus(a):7;gpus(a):[GPU-1,GPU-2];cpus(b):1"},
	} {
		got := reserve(machine, tc.list)
		if got.String() != tc.want || fleet.CheckResources(got) != nil {
			t.Errorf("%s: %v, want %s", tc.name, got, tc.want)
		}
	}
}
