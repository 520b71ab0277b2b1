package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits on what one agent or task may name; far above what machines have.
const (
	MaxMounts  = 64
	MaxCustom  = 32
	MaxRanges  = 1024
	MaxParts   = 256
	MaxStack   = 8
	maxDevices = 128
)

// CheckResources reports whether r is what Resources promise to be: amounts of
// zero or more, lists in order, parts neither empty nor nested.
func CheckResources(r Resources) error {
	if err := checkFlat(r); err != nil {
		return err
	}
	if len(r.Parts) > MaxParts {
		return fmt.Errorf("%d parts, the limit is %d", len(r.Parts), MaxParts)
	}
	for i, p := range r.Parts {
		switch {
		case len(p.Resources.Parts) > 0:
			return errors.New("a part has parts of its own")
		case p.Resources.IsZero():
			return errors.New("a part is empty")
		case i > 0 && r.Parts[i-1].Class.Compare(p.Class) >= 0:
			return errors.New("parts are not sorted or named twice")
		}
		if err := checkClass(p.Class); err != nil {
			return err
		}
		if err := checkFlat(p.Resources); err != nil {
			return fmt.Errorf("part %s: %w", p.Class, err)
		}
	}
	return nil
}

func checkFlat(r Resources) error {
	for _, a := range append([]Amount{{"cpus", r.CPUs}, {"mem", r.Mem}, {"disk", r.Disk}}, r.Custom...) {
		if a.Amount < 0 || a.Amount > MaxScalar {
			return fmt.Errorf("%s %v is out of range", a.Name, a.Amount)
		}
	}
	if len(r.GPUs) > maxDevices || len(r.Mounts) > MaxMounts || len(r.Custom) > MaxCustom || len(r.Ports) > MaxRanges {
		return fmt.Errorf("%d GPUs, %d disks, %d custom names, %d port ranges: the limits are %d, %d, %d and %d",
			len(r.GPUs), len(r.Mounts), len(r.Custom), len(r.Ports), maxDevices, MaxMounts, MaxCustom, MaxRanges)
	}
	for i, g := range r.GPUs {
		if i > 0 && r.GPUs[i-1] >= g {
			return fmt.Errorf("GPUs are not sorted or named twice: %.64q", string(g))
		}
	}
	for i, p := range r.Ports {
		if p.First > p.Last || i > 0 && int(p.First) <= int(r.Ports[i-1].Last)+1 {
			return fmt.Errorf("port ranges are not in order at %d-%d", p.First, p.Last)
		}
	}
	for i, m := range r.Mounts {
		switch {
		case m.ID == "" || len(m.ID) > 255:
			return errors.New("a disk has no id, or one of more than 255 characters")
		case m.Size <= 0 || m.Size > MaxScalar:
			return fmt.Errorf("disk %q: %v is out of range", m.ID, m.Size)
		case i > 0 && r.Mounts[i-1].ID >= m.ID:
			return fmt.Errorf("disks are not sorted or named twice: %q", m.ID)
		}
	}
	for i, c := range r.Custom {
		if err := CheckCustomName(c.Name); err != nil {
			return err
		}
		if c.Amount == 0 || i > 0 && r.Custom[i-1].Name >= c.Name {
			return fmt.Errorf("custom names are not sorted, named twice, or without an amount: %q", c.Name)
		}
	}
	return nil
}

// CheckCustomName reports whether a name may be a custom resource.
func CheckCustomName(name string) error {
	if slices.Contains([]string{"cpus", "mem", "disk", "gpus", "ports"}, name) {
		return fmt.Errorf("%q is no custom resource", name)
	}
	return CheckID("resource", name)
}

func checkClass(c Class) error {
	if len(c.Reserved) == 0 && !c.Revocable {
		return errors.New("a part is of no class")
	}
	if len(c.Reserved) > MaxStack {
		return fmt.Errorf("a stack of %d reservations, the limit is %d", len(c.Reserved), MaxStack)
	}
	for i, r := range c.Reserved {
		if r.Role == DefaultRole {
			return errors.New(`nothing can be reserved for the role "*"`)
		}
		if err := CheckRole(r.Role); err != nil {
			return err
		}
		if i > 0 && (r.Role == c.Reserved[i-1].Role || !r.Role.Descends(c.Reserved[i-1].Role)) {
			return fmt.Errorf("a reservation for %s cannot refine one for %s: a role refines to its descendants", r.Role, c.Reserved[i-1].Role)
		}
		if len(r.Principal) > 255 || len(r.Labels) > MaxLabels {
			return errors.New("a reservation's principal or labels are too long")
		}
		for _, l := range r.Labels {
			if len(l.Key) > 255 || len(l.Value) > 255 || strings.ContainsRune(l.Key+l.Value, 0) {
				return errors.New("a reservation's labels are too long or contain a NUL byte")
			}
		}
	}
	return nil
}
