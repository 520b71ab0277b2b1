package fleet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tenderfleet/tender/gpu"
)

// Scalar is an amount in thousandths: Mesos's three decimals as a fixed-point
// integer, so that replicas of different processors agree to the last digit.
type Scalar int64

// Whole makes a Scalar of whole units.
func Whole(n int64) Scalar { return Scalar(n) * 1000 }

// MaxScalar bounds every amount read from outside, so that sums of a whole
// fleet and cross-multiplied shares cannot overflow unseen.
const MaxScalar = Scalar(1) << 50

// String prints the shortest decimal form: "1", "0.5", "2.125".
func (s Scalar) String() string {
	sign := ""
	u := uint64(s)
	if s < 0 {
		sign, u = "-", uint64(-s)
	}
	out := sign + strconv.FormatUint(u/1000, 10)
	if f := u % 1000; f != 0 {
		out += "." + strings.TrimRight(fmt.Sprintf("%03d", f), "0")
	}
	return out
}

// ParseScalar reads a decimal number with at most three decimals. It refuses
// more of them rather than round: 0.0001 of a processor is a mistake.
func ParseScalar(s string) (Scalar, error) {
	whole, frac, dotted := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || whole[0] == '+' || strings.HasPrefix(whole, "-") {
		return 0, fmt.Errorf("%q is not a number of zero or more", s)
	}
	if dotted && (frac == "" || len(frac) > 3 || strings.Trim(frac, "0123456789") != "") {
		return 0, fmt.Errorf("%q: use one to three decimals", s)
	}
	if n > int64(MaxScalar)/1000-1 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	m, _ := strconv.ParseInt((frac + "000")[:3], 10, 64)
	return Scalar(n*1000 + m), nil
}

// Resources is what an agent has, an offer holds or a task uses. The zero
// value is nothing. GPUs are named devices, sorted by UUID, without
// duplicates; every function here keeps them so.
type Resources struct {
	CPUs Scalar // processors
	Mem  Scalar // MiB
	Disk Scalar // MiB
	GPUs []gpu.UUID
}

// IsZero reports whether r holds nothing.
func (r Resources) IsZero() bool {
	return r.CPUs == 0 && r.Mem == 0 && r.Disk == 0 && len(r.GPUs) == 0
}

// Equal reports whether r and o hold the same.
func (r Resources) Equal(o Resources) bool {
	return r.CPUs == o.CPUs && r.Mem == o.Mem && r.Disk == o.Disk && slices.Equal(r.GPUs, o.GPUs)
}

// Contains reports whether o can be taken out of r.
func (r Resources) Contains(o Resources) bool {
	if r.CPUs < o.CPUs || r.Mem < o.Mem || r.Disk < o.Disk {
		return false
	}
	i := 0
	for _, g := range o.GPUs {
		for i < len(r.GPUs) && r.GPUs[i] < g {
			i++
		}
		if i == len(r.GPUs) || r.GPUs[i] != g {
			return false
		}
	}
	return true
}

// Add returns r and o together; a GPU in both appears once.
func (r Resources) Add(o Resources) Resources {
	return Resources{
		CPUs: r.CPUs + o.CPUs, Mem: r.Mem + o.Mem, Disk: r.Disk + o.Disk,
		GPUs: mergeGPUs(r.GPUs, o.GPUs),
	}
}

// Sub returns r without o. Scalars stop at zero: after an agent's total has
// shrunk, what is in use may exceed it, and nothing is then free.
func (r Resources) Sub(o Resources) Resources {
	return Resources{
		CPUs: max(0, r.CPUs-o.CPUs), Mem: max(0, r.Mem-o.Mem), Disk: max(0, r.Disk-o.Disk),
		GPUs: withoutGPUs(r.GPUs, o.GPUs),
	}
}

// String prints "cpus:1;mem:512;gpus:[GPU-...]", Mesos's notation with named
// devices, for people.
func (r Resources) String() string {
	var parts []string
	for _, p := range []struct {
		name string
		v    Scalar
	}{{"cpus", r.CPUs}, {"mem", r.Mem}, {"disk", r.Disk}} {
		if p.v != 0 {
			parts = append(parts, p.name+":"+p.v.String())
		}
	}
	if len(r.GPUs) > 0 {
		names := make([]string, len(r.GPUs))
		for i, g := range r.GPUs {
			names[i] = string(g)
		}
		parts = append(parts, "gpus:["+strings.Join(names, ",")+"]")
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ";")
}

// SortGPUs sorts and de-duplicates ids in place and returns them.
func SortGPUs(ids []gpu.UUID) []gpu.UUID {
	slices.Sort(ids)
	return slices.Compact(ids)
}

func mergeGPUs(a, b []gpu.UUID) []gpu.UUID {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	return SortGPUs(slices.Concat(a, b))
}

func withoutGPUs(a, b []gpu.UUID) []gpu.UUID {
	if len(a) == 0 || len(b) == 0 {
		return a
	}
	var out []gpu.UUID
	for _, g := range a {
		if _, found := slices.BinarySearch(b, g); !found {
			out = append(out, g)
		}
	}
	return out
}
