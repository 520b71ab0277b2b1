package fleet

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/gpu"
)

// Resources is what an agent has, an offer holds or a task uses. The zero
// value is nothing. Every list is sorted and without duplicates, and every
// function here keeps it so; none changes its arguments.
//
// The fields themselves are what anybody may be given. What is set aside for a
// role or may be taken back is in Parts.
type Resources struct {
	CPUs Scalar // processors
	Mem  Scalar // MiB
	Disk Scalar // MiB
	// GPUs are named devices.
	GPUs []gpu.UUID
	// Ports are ports of the agent's host.
	Ports Ranges
	// Mounts are disks that are given whole or not at all (Mesos's MOUNT).
	Mounts []Mount
	// Custom are amounts of names that the fleet's owner chose.
	Custom []Amount
	// Parts has one entry per Class, none of them empty and none with parts of
	// its own.
	Parts []Part
}

// Mount is a disk that is not divided. Its size adds to the amount of disk.
type Mount struct {
	ID   string
	Size Scalar // MiB
}

// Amount is a quantity of a named resource.
type Amount struct {
	Name   string
	Amount Scalar
}

// IsZero reports whether r holds nothing.
func (r Resources) IsZero() bool { return r.flatZero() && len(r.Parts) == 0 }

func (r *Resources) flatZero() bool {
	return r.CPUs == 0 && r.Mem == 0 && r.Disk == 0 && len(r.GPUs) == 0 &&
		len(r.Ports) == 0 && len(r.Mounts) == 0 && len(r.Custom) == 0
}

// Equal reports whether r and o hold the same.
func (r Resources) Equal(o Resources) bool {
	return r.CPUs == o.CPUs && r.Mem == o.Mem && r.Disk == o.Disk && slices.Equal(r.GPUs, o.GPUs) &&
		slices.Equal(r.Ports, o.Ports) && slices.Equal(r.Mounts, o.Mounts) && slices.Equal(r.Custom, o.Custom) &&
		slices.EqualFunc(r.Parts, o.Parts, func(a, b Part) bool {
			return a.Class.Compare(b.Class) == 0 && a.Resources.Equal(b.Resources)
		})
}

// Contains reports whether o can be taken out of r.
func (r Resources) Contains(o Resources) bool {
	if r.CPUs < o.CPUs || r.Mem < o.Mem || r.Disk < o.Disk ||
		!subset(r.GPUs, o.GPUs, compareUUID) || !subset(r.Mounts, o.Mounts, Mount.compare) || !r.Ports.Contains(o.Ports) {
		return false
	}
	for _, a := range o.Custom {
		if r.Amount(a.Name) < a.Amount {
			return false
		}
	}
	for _, p := range o.Parts {
		if !r.Part(p.Class).Contains(p.Resources) {
			return false
		}
	}
	return true
}

// Add returns r and o together; a device, disk or port in both appears once.
func (r Resources) Add(o Resources) Resources {
	return Resources{
		CPUs: r.CPUs + o.CPUs, Mem: r.Mem + o.Mem, Disk: r.Disk + o.Disk,
		GPUs: union(r.GPUs, o.GPUs, compareUUID), Ports: r.Ports.Add(o.Ports), Mounts: union(r.Mounts, o.Mounts, Mount.compare),
		Custom: sumCustom(r.Custom, o.Custom, 1), Parts: combine(r.Parts, o.Parts, Resources.Add),
	}
}

// Sub returns r without o. Amounts stop at zero: after an agent's total has
// shrunk, what is in use may exceed it, and nothing is then free.
func (r Resources) Sub(o Resources) Resources {
	return Resources{
		CPUs: max(0, r.CPUs-o.CPUs), Mem: max(0, r.Mem-o.Mem), Disk: max(0, r.Disk-o.Disk),
		GPUs: without(r.GPUs, o.GPUs, compareUUID), Ports: r.Ports.Sub(o.Ports), Mounts: without(r.Mounts, o.Mounts, Mount.compare),
		Custom: sumCustom(r.Custom, o.Custom, -1), Parts: combine(r.Parts, o.Parts, Resources.Sub),
	}
}

// Amount returns how much of a custom name r has, parts left out.
func (r Resources) Amount(name string) Scalar {
	for _, a := range r.Custom {
		if a.Name == name {
			return a.Amount
		}
	}
	return 0
}

// String prints "cpus:1;mem:512;gpus:[GPU-...];cpus(role):2", Mesos's notation
// with named devices, for people.
func (r Resources) String() string {
	parts := r.appendTo(nil, "")
	for _, p := range r.Parts {
		parts = p.Resources.appendTo(parts, p.Class.String())
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ";")
}

func (r *Resources) appendTo(parts []string, class string) []string {
	for _, p := range append([]Amount{{"cpus", r.CPUs}, {"mem", r.Mem}, {"disk", r.Disk}}, r.Custom...) {
		if p.Amount != 0 {
			parts = append(parts, p.Name+class+":"+p.Amount.String())
		}
	}
	for _, m := range r.Mounts {
		parts = append(parts, "disk"+class+"["+m.ID+"]:"+m.Size.String())
	}
	if len(r.GPUs) > 0 {
		names := make([]string, len(r.GPUs))
		for i, g := range r.GPUs {
			names[i] = string(g)
		}
		parts = append(parts, "gpus"+class+":["+strings.Join(names, ",")+"]")
	}
	if len(r.Ports) > 0 {
		parts = append(parts, "ports"+class+":["+r.Ports.String()+"]")
	}
	return parts
}

// SortGPUs sorts and de-duplicates ids in place and returns them.
func SortGPUs(ids []gpu.UUID) []gpu.UUID {
	slices.Sort(ids)
	return slices.Compact(ids)
}

func compareUUID(a, b gpu.UUID) int { return cmp.Compare(a, b) }

func (m Mount) compare(o Mount) int {
	return cmp.Or(cmp.Compare(m.ID, o.ID), cmp.Compare(m.Size, o.Size))
}

// sumCustom adds b to a, or takes it away; what comes to nothing is left out.
func sumCustom(a, b []Amount, sign Scalar) []Amount {
	if len(b) == 0 {
		return a
	}
	var out []Amount
	for len(a) > 0 || len(b) > 0 {
		var n Amount
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Name < b[0].Name:
			n, a = a[0], a[1:]
		case len(a) == 0 || b[0].Name < a[0].Name:
			n = Amount{b[0].Name, sign * b[0].Amount}
			b = b[1:]
		default:
			n = Amount{a[0].Name, a[0].Amount + sign*b[0].Amount}
			a, b = a[1:], b[1:]
		}
		if n.Amount > 0 {
			out = append(out, n)
		}
	}
	return out
}

// The lists of Resources are sorted sets.

func subset[T any](have, want []T, compare func(T, T) int) bool {
	for _, w := range want {
		if _, ok := slices.BinarySearchFunc(have, w, compare); !ok {
			return false
		}
	}
	return true
}

func union[T any](a, b []T, compare func(T, T) int) []T {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	out := slices.Concat(a, b)
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(x, y T) bool { return compare(x, y) == 0 })
}

func without[T any](a, b []T, compare func(T, T) int) []T {
	if len(a) == 0 || len(b) == 0 {
		return a
	}
	var out []T
	for _, x := range a {
		if _, found := slices.BinarySearchFunc(b, x, compare); !found {
			out = append(out, x)
		}
	}
	return out
}
