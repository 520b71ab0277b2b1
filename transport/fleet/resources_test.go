package fleet_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// drawFlat makes resources without parts. GPUs, disks and ports come from few
// names, so that two of them overlap.
func drawFlat(t *rapid.T, what string) fleet.Resources {
	scalar := rapid.Map(rapid.Int64Range(0, 4), func(n int64) fleet.Scalar { return fleet.Scalar(n * 250) })
	r := fleet.Resources{CPUs: scalar.Draw(t, what+" cpus"), Mem: scalar.Draw(t, what+" mem"), Disk: scalar.Draw(t, what+" disk")}
	for i := range 3 {
		if rapid.Bool().Draw(t, what+" gpu") {
			r.GPUs = append(r.GPUs, gpu.UUID(fmt.Sprint("GPU-", i)))
		}
		if rapid.IntRange(0, 2).Draw(t, what+" mount") == 0 {
			r.Mounts = append(r.Mounts, fleet.Mount{ID: fmt.Sprint("m", i), Size: 1000})
		}
		if n := scalar.Draw(t, what+" custom"); n > 0 {
			r.Custom = append(r.Custom, fleet.Amount{Name: fmt.Sprint("c", i), Amount: n})
		}
		first := rapid.Uint16Range(1, 30).Draw(t, what+" port")
		r.Ports = r.Ports.Add(fleet.Ranges{{First: first, Last: first + rapid.Uint16Range(0, 5).Draw(t, what+" ports")}})
	}
	return r
}

var classes = []fleet.Class{
	{Reserved: []fleet.Reservation{{Role: "a"}}},
	{Reserved: []fleet.Reservation{{Role: "a"}, {Role: "a/b", Dynamic: true, Principal: "p"}}},
	{Reserved: []fleet.Reservation{{Role: "c", Dynamic: true, Labels: []fleet.Label{{Key: "k", Value: "v"}}}}},
	{Revocable: true},
}

func draw(t *rapid.T, what string) fleet.Resources {
	r := drawFlat(t, what)
	for i, c := range classes {
		if rapid.IntRange(0, 2).Draw(t, what+" part") == 0 {
			r = r.Add(drawFlat(t, fmt.Sprint(what, i)).In(c))
		}
	}
	return r
}

// The arithmetic of resources: what an allocator counts on.
func TestResourcesArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		sum := a.Add(b)
		for name, r := range map[string]fleet.Resources{"a": a, "a+b": sum, "a-b": a.Sub(b)} {
			if err := fleet.CheckResources(r); err != nil {
				t.Fatalf("%s = %v: %v", name, r, err)
			}
		}
		switch {
		case !sum.Equal(b.Add(a)):
			t.Fatalf("%v + %v depends on the order", a, b)
		case !sum.Contains(a) || !sum.Contains(b):
			t.Fatalf("%v does not contain what it was made of", sum)
		case !a.Sub(a).IsZero():
			t.Fatalf("%v - itself = %v", a, a.Sub(a))
		case a.Contains(b) && !a.Sub(b).Add(b).Equal(a):
			t.Fatalf("%v - %v + %v = %v", a, b, b, a.Sub(b).Add(b))
		case a.Contains(b) != b.Sub(a).IsZero():
			t.Fatalf("%v contains %v: %v, and without it leaves %v", a, b, a.Contains(b), b.Sub(a))
		}
	})
}

// Pick takes exactly what is wanted, from what is there, reserved first.
func TestPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, want := draw(t, "r"), drawFlat(t, "want")
		got, ok := r.Pick(want)
		total := r.Total()
		if ok != total.Contains(want) {
			t.Fatalf("%v out of %v: %v", want, r, ok)
		}
		if !ok {
			return
		}
		if !got.Total().Equal(want) || !r.Contains(got) {
			t.Fatalf("picked %v for %v out of %v", got, want, r)
		}
		for _, c := range classes[:3] { // while something reserved is left, nothing else is touched
			if left := r.Part(c).Sub(got.Part(c)); left.CPUs > 0 && got.CPUs > 0 {
				t.Fatalf("picked %v for %v out of %v and left %v", got, want, r, left)
			}
		}
		if free := r.Flat().Sub(got.Flat()); free.Mem > 0 && got.Part(classes[3]).Mem > 0 {
			t.Fatalf("picked revocable memory and left %v", free.Mem)
		}
	})
}

func TestRanges(t *testing.T) {
	for _, tc := range []struct {
		do   string
		got  fleet.Ranges
		want string
	}{
		{"touching ranges are one", fleet.Ranges{{1, 3}}.Add(fleet.Ranges{{4, 5}}), "1-5"},
		{"a hole", fleet.Ranges{{1, 9}}.Sub(fleet.Ranges{{4, 5}}), "1-3,6-9"},
		{"the ends", fleet.Ranges{{1, 9}}.Sub(fleet.Ranges{{1, 1}, {9, 9}}), "2-8"},
		{"everything", fleet.Ranges{{1, 9}}.Sub(fleet.Ranges{{0, 65535}}), ""},
		{"the last port there is", fleet.Ranges{{65000, 65535}}.Sub(fleet.Ranges{{65535, 65535}}), "65000-65534"},
		{"and the first", fleet.Ranges{{0, 5}}.Sub(fleet.Ranges{{0, 0}}), "1-5"},
	} {
		if tc.got.String() != tc.want {
			t.Errorf("%s: %v, want %s", tc.do, tc.got, tc.want)
		}
	}
	if _, err := fleet.NewRanges(fleet.Range{First: 2, Last: 1}); err == nil {
		t.Error("a range that ends before it begins was taken")
	}
	if r, err := fleet.NewRanges(fleet.Range{First: 5, Last: 9}, fleet.Range{First: 1, Last: 6}); err != nil || r.String() != "1-9" || r.Count() != 9 {
		t.Errorf("%v of %d ports, %v", r, r.Count(), err)
	}
}

func TestResourcesThatBreakTheirPromise(t *testing.T) {
	one := fleet.Resources{CPUs: 1000}
	for name, r := range map[string]fleet.Resources{
		"an amount below zero":        {CPUs: -1},
		"an amount beyond all bounds": {Mem: fleet.MaxScalar + 1},
		"GPUs out of order":           {GPUs: []gpu.UUID{"b", "a"}},
		"a GPU twice":                 {GPUs: []gpu.UUID{"a", "a"}},
		"ports that touch":            {Ports: fleet.Ranges{{1, 2}, {3, 4}}},
		"ports backwards":             {Ports: fleet.Ranges{{2, 1}}},
		"a disk without a size":       {Mounts: []fleet.Mount{{ID: "m"}}},
		"a disk without a name":       {Mounts: []fleet.Mount{{Size: 1}}},
		"a custom name of Mesos's":    {Custom: []fleet.Amount{{Name: "cpus", Amount: 1}}},
		"nothing of a custom name":    {Custom: []fleet.Amount{{Name: "x"}}},
		"a part of no class":          {Parts: []fleet.Part{{Resources: one}}},
		"an empty part":               {Parts: []fleet.Part{{Class: classes[0]}}},
		"parts in parts":              {Parts: []fleet.Part{{Class: classes[0], Resources: one.In(classes[3]).Add(one)}}},
		"reserved for everybody":      one.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "*"}}}),
		"refined to a stranger":       one.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "a"}, {Role: "b"}}}),
		"refined to itself":           one.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "a"}, {Role: "a"}}}),
	} {
		if fleet.CheckResources(r) == nil {
			t.Errorf("%s was taken: %v", name, r)
		}
	}
}
