package nvml

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/gpu"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func card(u gpu.UUID) device {
	return device{Device: gpu.Device{UUID: u, Model: "M"}, GI: noInstance, CI: noInstance, Recovery: -1}
}

func slice(u, parent gpu.UUID, gi uint32) device {
	d := card(u)
	d.Parent, d.GI, d.CI = parent, gi, 0
	return d
}

// TestHealthOverTime is a history of one machine: every line is a moment, what
// the driver said, and what is thought of the devices afterwards.
func TestHealthOverTime(t *testing.T) {
	const clean = 10 * time.Minute
	a, b := card("GPU-a"), card("GPU-b")
	content := b
	content.Recovery = 0
	lost := card("GPU-a")
	lost.Model, lost.Lost = "", "GPU is lost"
	wants := content
	wants.Recovery = 2
	both := &inventory{Devices: []device{a, content}}
	xid := func(u gpu.UUID, n uint64) event { return event{UUID: u, XID: n, GI: noInstance, CI: noInstance} }

	tr := newTracker(clean)
	for _, step := range []struct {
		at     time.Duration
		inv    *inventory
		xid    event
		want   string
		events string
	}{
		{0, both, event{}, "a healthy, b healthy", ""},
		{1, nil, xid("GPU-a", 31), "a healthy, b healthy", "a 31 healthy"},
		{2, nil, xid("GPU-b", 74), "a healthy, b unhealthy", "b 74 unhealthy"},
		{3, both, event{}, "a healthy, b unhealthy", ""},
		{2 + clean - 1, both, event{}, "a healthy, b unhealthy", ""},
		{2 + clean, both, event{}, "a healthy, b healthy", "b 0 healthy"},
		{3 + clean, &inventory{Devices: []device{a, wants}}, event{}, "a healthy, b unhealthy", "b 0 unhealthy"},
		{4 + clean, both, event{}, "a healthy, b healthy", "b 0 healthy"},
		// A card whose driver tells no recovery action stays broken until it was
		// lost and came back, which takes a reset.
		{5 + clean, nil, xid("GPU-a", 79), "a unhealthy, b healthy", "a 79 unhealthy"},
		{9 * clean, both, event{}, "a unhealthy, b healthy", ""},
		{10 * clean, &inventory{Devices: []device{lost, content}}, event{}, "a lost, b healthy", "a 0 lost"},
		{10 * clean, nil, xid("GPU-a", 79), "a lost, b healthy", "a 79 lost"},
		{11 * clean, &inventory{Devices: []device{content}, Silent: []string{"index 0: GPU is lost"}}, event{}, "a lost, b healthy", ""},
		{12 * clean, &inventory{Devices: []device{content}}, event{}, "a lost, b healthy", ""},
		{13 * clean, both, event{}, "a healthy, b healthy", "a 0 healthy"},
	} {
		now := epoch.Add(step.at)
		var events []gpu.Event
		if step.inv != nil {
			events = tr.update(now, step.inv)
		} else {
			events = tr.xid(now, step.xid)
		}
		if got := tell(tr.list()); got != step.want {
			t.Errorf("at %v: %s, want %s", step.at, got, step.want)
		}
		if got := tellEvents(events); got != step.events {
			t.Errorf("at %v: events %q, want %q", step.at, got, step.events)
		}
		for _, d := range tr.list() {
			if (d.Health == gpu.Healthy) != (d.Reason == "") {
				t.Errorf("at %v: %s is %v for the reason %q", step.at, d.UUID, d.Health, d.Reason)
			}
			if d.Model != "M" {
				t.Errorf("at %v: %s forgot what it is", step.at, d.UUID)
			}
		}
	}
	if got := tell(tr.unknown("hung")); got != "a unknown, b unknown" {
		t.Errorf("unknown: %s", got)
	}
}

func tell(list []gpu.Device) string {
	var out []string
	for _, d := range list {
		out = append(out, fmt.Sprintf("%s %v", d.UUID[4:], d.Health))
	}
	return strings.Join(out, ", ")
}

func tellEvents(list []gpu.Event) string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s %d %v", e.UUID[4:], e.XID, e.Health))
	}
	return strings.Join(out, ", ")
}

func TestMIGModeTurnedOnAndOff(t *testing.T) {
	tr := newTracker(0)
	tr.update(epoch, &inventory{Devices: []device{card("GPU-a")}})
	on := &inventory{Parents: []device{card("GPU-a")}, Devices: []device{slice("MIG-1", "GPU-a", 1), slice("MIG-2", "GPU-a", 2)}}
	tr.update(epoch, on)
	if got := tell(tr.list()); got != "1 healthy, 2 healthy" {
		t.Errorf("MIG on: %s", got)
	}
	named := tr.xid(epoch, event{UUID: "GPU-a", XID: 94, GI: 2, CI: 0})
	all := tr.xid(epoch, event{UUID: "GPU-a", XID: 94, GI: noInstance, CI: noInstance})
	if diff := cmp.Diff([]string{"2 94 unhealthy", "1 94 unhealthy, 2 94 unhealthy"}, []string{tellEvents(named), tellEvents(all)}); diff != "" {
		t.Errorf("XIDs (-want +got):\n%s", diff)
	}
	tr.update(epoch, &inventory{Devices: []device{card("GPU-a")}})
	if got := tell(tr.list()); got != "a healthy" {
		t.Errorf("MIG off: %s", got)
	}
	// A card that is lost in MIG mode loses its slices, and does not itself
	// become a device.
	tr.update(epoch, on)
	gone := card("GPU-a")
	gone.Lost = "GPU is lost"
	tr.update(epoch, &inventory{Devices: []device{gone}})
	if got := tell(tr.list()); got != "1 lost, 2 lost" {
		t.Errorf("lost in MIG mode: %s", got)
	}
}

// An XID may come before the first inventory.
func TestFaultOfADeviceNotYetSeen(t *testing.T) {
	tr := newTracker(time.Hour)
	tr.xid(epoch, event{UUID: "GPU-a", XID: 79, GI: noInstance, CI: noInstance})
	tr.update(epoch, &inventory{Devices: []device{card("GPU-a")}})
	if got := tell(tr.list()); got != "a unhealthy" {
		t.Errorf("%s", got)
	}
	for i := range 10 * maxDevices {
		tr.xid(epoch, event{UUID: gpu.UUID(fmt.Sprintf("GPU-x%d", i)), XID: 79, GI: noInstance, CI: noInstance})
	}
	if len(tr.faults) > maxDevices {
		t.Errorf("%d faults are kept", len(tr.faults))
	}
}
