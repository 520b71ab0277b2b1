package nvml

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/gpu"
)

// tracker judges the health of devices. It holds what one inventory cannot
// tell: which devices there were, and what happened to them. It reads no clock
// and has one user at a time.
type tracker struct {
	clean  time.Duration
	known  map[gpu.UUID]device
	cards  map[gpu.UUID]bool // cards last seen in MIG mode
	faults map[gpu.UUID]fault
}

// fault is what an XID left behind.
type fault struct {
	reason string
	last   time.Time
}

func newTracker(clean time.Duration) *tracker {
	return &tracker{
		clean: clean, known: make(map[gpu.UUID]device), cards: make(map[gpu.UUID]bool),
		faults: make(map[gpu.UUID]fault),
	}
}

// applicationXID tells the errors that a program causes by itself, such as an
// access out of bounds. The device is fine.
func applicationXID(xid uint64) bool {
	switch xid {
	case 13, 31, 43, 45, 68, 109:
		return true
	}
	return false
}

// update takes an inventory in and returns an event for each device whose
// health it changed.
func (t *tracker) update(now time.Time, inv *inventory) []gpu.Event {
	fresh := make(map[gpu.UUID]device)
	answers := make(map[gpu.UUID]bool)
	for _, p := range inv.Parents {
		t.cards[p.UUID], answers[p.UUID] = true, true
	}
	for _, d := range inv.Devices {
		if d.Lost == "" {
			answers[d.UUID] = true
			if d.Parent == "" {
				delete(t.cards, d.UUID) // MIG mode was turned off
			}
		} else if t.cards[d.UUID] {
			continue // its slices are what was lost
		}
		if old, ok := t.known[d.UUID]; ok && d.Lost != "" {
			d.Device = old.Device // a lost device tells nothing: keep what it told
		}
		fresh[d.UUID] = t.judge(now, d)
	}
	for u, d := range t.known {
		switch _, there := fresh[u]; {
		case there:
		case t.cards[u], d.Parent != "" && answers[d.Parent]:
			// The card's owner divided it anew: the device is gone, not lost.
			delete(t.faults, u)
		default:
			d.Health, d.Reason = gpu.Lost, missing(inv.Silent)
			fresh[u] = d
		}
	}
	events := t.changes(now, fresh)
	t.known = fresh
	return events
}

func missing(silent []string) string {
	if len(silent) > 0 {
		return "the driver lost it (" + strings.Join(silent, "; ") + "); reset the GPU or reboot the machine"
	}
	return "the driver no longer lists it; check its power and seat, or reboot the machine"
}

// judge sets a device's health from its condition and its history.
func (t *tracker) judge(now time.Time, d device) device {
	if old, ok := t.known[d.UUID]; ok && old.Health == gpu.Lost && d.Lost == "" {
		delete(t.faults, d.UUID) // only a reset brings a lost device back
	}
	f, faulty := t.faults[d.UUID]
	if faulty && d.Recovery == 0 && now.Sub(f.last) >= t.clean {
		delete(t.faults, d.UUID)
		faulty = false
	}
	switch {
	case d.Lost != "":
		d.Health, d.Reason = gpu.Lost, "it does not answer the driver ("+d.Lost+"); reset the GPU or reboot the machine"
	case d.RowsFailed:
		d.Health, d.Reason = gpu.Unhealthy, "its memory has a bad row that could not be remapped; replace the GPU"
	case faulty:
		d.Health, d.Reason = gpu.Unhealthy, f.reason
	case d.Recovery > 0:
		d.Health, d.Reason = gpu.Unhealthy, "the driver asks to "+recoveryAction(d.Recovery)
	case d.RowsPending:
		d.Health, d.Reason = gpu.Suspect, "its memory has a bad row that waits to be remapped; reset the GPU when it is idle"
	default:
		d.Health, d.Reason = gpu.Healthy, ""
	}
	return d
}

func recoveryAction(n int) string {
	names := [...]string{
		1: "reset the GPU", 2: "reboot the machine", 3: "drain its peers", 4: "drain its peers and reset the GPU",
		5: "recover the IMEX domain", 6: "reset its bus", 7: "reboot the system",
	}
	if n >= 0 && n < len(names) && names[n] != "" {
		return names[n]
	}
	return fmt.Sprintf("take recovery action %d", n)
}

func (t *tracker) changes(now time.Time, fresh map[gpu.UUID]device) []gpu.Event {
	var out []gpu.Event
	for _, u := range sorted(fresh) {
		d := fresh[u]
		if old, ok := t.known[u]; ok && old.Health != d.Health {
			out = append(out, gpu.Event{Time: now, UUID: u, Health: d.Health, Reason: d.Reason})
		}
	}
	return out
}

// xid takes an XID in and returns an event for each device that it concerns.
func (t *tracker) xid(now time.Time, e event) []gpu.Event {
	var out []gpu.Event
	for _, u := range t.hit(e) {
		d, known := t.known[u]
		if !known && len(t.faults) >= maxDevices {
			continue
		}
		ev := gpu.Event{Time: now, UUID: u, XID: e.XID}
		if applicationXID(e.XID) {
			ev.Health, ev.Reason = d.Health, fmt.Sprintf("XID %d: an application failed, the device did not", e.XID)
			out = append(out, ev)
			continue
		}
		f := fault{reason: fmt.Sprintf("the driver reported XID %d", e.XID), last: now}
		t.faults[u] = f
		if known && d.Health != gpu.Lost {
			d.Health, d.Reason = gpu.Unhealthy, f.reason
			t.known[u] = d
		}
		ev.Health, ev.Reason = gpu.Unhealthy, f.reason
		if known {
			ev.Health = d.Health
		}
		out = append(out, ev)
	}
	return out
}

// hit lists the devices that an event concerns. A card in MIG mode is no device
// itself: the slices named by the event are hit, or all of them.
func (t *tracker) hit(e event) []gpu.UUID {
	if !t.cards[e.UUID] {
		return []gpu.UUID{e.UUID} // perhaps not known yet: the fault is kept for it
	}
	var all, named []gpu.UUID
	for _, u := range sorted(t.known) {
		d := t.known[u]
		if d.Parent != e.UUID {
			continue
		}
		all = append(all, u)
		if d.GI == e.GI && (e.CI == noInstance || d.CI == e.CI) {
			named = append(named, u)
		}
	}
	if len(named) > 0 {
		return named
	}
	return all
}

// clear forgets what happened to a device, on an operator's word.
func (t *tracker) clear(u gpu.UUID) { delete(t.faults, u) }

// list is every known device, ordered by UUID.
func (t *tracker) list() []gpu.Device {
	out := make([]gpu.Device, 0, len(t.known))
	for _, u := range sorted(t.known) {
		out = append(out, t.known[u].Device)
	}
	return out
}

// unknown is list while the driver does not answer: nothing is known of the
// devices' health, and they are not offered.
func (t *tracker) unknown(reason string) []gpu.Device {
	out := t.list()
	for i := range out {
		out[i].Health, out[i].Reason = gpu.HealthUnknown, reason
	}
	return out
}

// broken tells whether a fresh start of NVML might better something.
func (t *tracker) broken() bool {
	for _, d := range t.known {
		if d.Health != gpu.Healthy {
			return true
		}
	}
	return len(t.known) == 0
}

func sorted[V any](m map[gpu.UUID]V) []gpu.UUID {
	keys := make([]gpu.UUID, 0, len(m))
	for u := range m {
		keys = append(keys, u)
	}
	slices.Sort(keys)
	return keys
}
