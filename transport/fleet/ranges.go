package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Range is the ports from First to Last, both included.
type Range struct{ First, Last uint16 }

// Ranges is a set of ports: ordered, and neither overlapping nor touching.
type Ranges []Range

// NewRanges orders ranges and joins those that overlap or touch. A range that
// ends before it begins is an error.
func NewRanges(in ...Range) (Ranges, error) {
	for _, r := range in {
		if r.First > r.Last {
			return nil, fmt.Errorf("ports %d-%d: a range ends where it begins or later", r.First, r.Last)
		}
	}
	return Ranges(nil).Add(in), nil
}

// Contains reports whether every port of o is in s.
func (s Ranges) Contains(o Ranges) bool {
	for _, r := range o {
		i, found := slices.BinarySearchFunc(s, r, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
		if !found {
			i-- // the one that begins before r
		}
		if i < 0 || s[i].Last < r.Last {
			return false
		}
	}
	return true
}

// Add returns the ports of both.
func (s Ranges) Add(o Ranges) Ranges {
	if len(o) == 0 {
		return s
	}
	all := slices.Concat(s, o)
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	out := all[:1]
	for _, r := range all[1:] {
		last := &out[len(out)-1]
		if int(r.First) > int(last.Last)+1 {
			out = append(out, r)
		} else {
			last.Last = max(last.Last, r.Last)
		}
	}
	return out
}

// Sub returns the ports of s that are not in o.
func (s Ranges) Sub(o Ranges) Ranges {
	if len(s) == 0 || len(o) == 0 {
		return s
	}
	var out Ranges
	for _, r := range s {
		first, last := int(r.First), int(r.Last)
		for _, cut := range o {
			if int(cut.Last) < first || int(cut.First) > last {
				continue
			}
			if int(cut.First) > first {
				out = append(out, Range{uint16(first), cut.First - 1})
			}
			first = int(cut.Last) + 1
		}
		if first <= last {
			out = append(out, Range{uint16(first), uint16(last)})
		}
	}
	return out
}

// Count is the number of ports.
func (s Ranges) Count() int {
	n := 0
	for _, r := range s {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

// String prints "31000-32000,8080".
func (s Ranges) String() string {
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = fmt.Sprint(r.First)
		if r.Last != r.First {
			parts[i] += fmt.Sprintf("-%d", r.Last)
		}
	}
	return strings.Join(parts, ",")
}
