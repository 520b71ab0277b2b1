package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/transport/fleet"
)

// long is a desired set of n tasks of 8 KiB.
func long(n int) fleet.Desired {
	d := fleet.Desired{Term: 3, Generation: 70, Base: 4, Full: true, Echo: 9}
	for i := range n {
		d.Assignments = append(d.Assignments, fleet.Assignment{
			Task: fleet.TaskID(fmt.Sprintf("t%d", i)), Spec: fleet.TaskSpec{Name: "n", Image: "i", Command: []string{strings.Repeat("x", 8<<10)}},
		})
	}
	return d
}

func TestLongSetsComeInParts(t *testing.T) {
	for n, parts := range map[int]int{0: 1, 1: 1, 60: 1, 400: 7} {
		want := long(n)
		var stream bytes.Buffer
		c := NewConn(&stream, MaxControl)
		sent := Split(want)
		if len(sent) != parts {
			t.Errorf("%d tasks came in %d parts, want %d", n, len(sent), parts)
		}
		var p Parts
		for i, m := range sent {
			if err := c.Send(m); err != nil {
				t.Fatal(err)
			}
			got, err := c.Recv()
			if err != nil {
				t.Fatal(err)
			}
			d, whole := p.Add(got.(DesiredSet))
			if whole != (i == len(sent)-1) {
				t.Fatalf("after part %d of %d: whole %v", i, len(sent), whole)
			}
			if diff := cmp.Diff(want, d); whole && diff != "" {
				t.Errorf("-sent +put together:\n%s", diff)
			}
		}
	}
}

// A set that takes another's place in the middle must not be mixed with it.
func TestPartsOfDifferentSets(t *testing.T) {
	old, now := Split(long(200)), Split(long(130))
	for i := range now {
		now[i].Generation++
	}
	var p Parts
	add := func(m DesiredSet) (int, bool) { d, whole := p.Add(m); return len(d.Assignments), whole }
	add(old[0])
	add(old[1])
	if _, whole := add(now[2]); whole {
		t.Error("the end of another set was taken")
	}
	if _, whole := add(old[2]); whole {
		t.Error("a part was taken after its set was given up")
	}
	add(old[0])
	add(now[0])
	add(now[1])
	if n, whole := add(now[2]); !whole || n != 130 {
		t.Errorf("%d tasks, whole %v", n, whole)
	}
	if _, whole := add(now[2]); whole {
		t.Error("a last part alone is no set")
	}
}
