package isolation

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

//go:embed probe.sh
var probe string

// number is a device's number, as in "195:0".
type number string

// report is what the probe found in a task.
type report struct {
	caps    string            // effective capabilities, in hexadecimal
	env     map[string]string // the variables NVIDIA_*
	nodes   map[string]number // the device nodes under /dev
	made    map[number]string // what became of mknod
	opened  []opened
	library string // what became of writing to the driver's library
}

// opened is one attempt to open a node.
type opened struct {
	number number
	how    string // mode and path
	result string
}

var errno = map[string]string{
	"Operation not permitted":   "EPERM",
	"Permission denied":         "EACCES",
	"No such device or address": "ENXIO",
	"No such device":            "ENODEV",
	"Read-only file system":     "EROFS",
}

func parse(t *testing.T, output string) report {
	t.Helper()
	if !strings.HasSuffix(output, "complete\n") {
		t.Fatalf("the probe did not come to its end:\n%s", output)
	}
	r := report{env: map[string]string{}, nodes: map[string]number{}, made: map[number]string{}}
	for line := range strings.Lines(output) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if n, ok := errno[f[len(f)-1]]; ok {
			f[len(f)-1] = n
		}
		switch f[0] {
		case "CapEff":
			r.caps = f[1]
		case "env":
			r.env[f[1]] = f[2]
		case "node":
			r.nodes[f[1]] = decimal(t, f[2])
		case "mknod":
			r.made[number(f[1])] = f[2]
		case "open":
			r.opened = append(r.opened, opened{decimal(t, f[1]), f[2], f[3]})
		case "library":
			r.library = f[1]
		case "complete":
		default:
			t.Fatalf("the probe printed %q", line)
		}
	}
	return r
}

func decimal(t *testing.T, hex string) number {
	t.Helper()
	major, minor, _ := strings.Cut(hex, ":")
	a, err1 := strconv.ParseUint(major, 16, 32)
	b, err2 := strconv.ParseUint(minor, 16, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("the probe printed the number %q", hex)
	}
	return number(fmt.Sprintf("%d:%d", a, b))
}

// violations are the attempts that ended otherwise than they had to: a device
// that was granted opens, or not, as it does outside; every other is denied.
func (r report) violations(outside map[number]string, granted []number) []string {
	var bad []string
	for _, o := range r.opened {
		want := "EPERM"
		if slices.Contains(granted, o.number) {
			want = outside[o.number]
		}
		if o.result != want {
			bad = append(bad, fmt.Sprintf("%s (%s): %s, want %s", o.how, o.number, o.result, want))
		}
	}
	return bad
}

// tried are the numbers that the task attempted to open, in order.
func (r report) tried() []number {
	seen := map[number]bool{}
	for _, o := range r.opened {
		seen[o.number] = true
	}
	return slices.Sorted(maps.Keys(seen))
}
