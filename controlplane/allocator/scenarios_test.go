package allocator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// notOurs are the tags of scenarios that hold in Mesos and not here.
var notOurs = map[string]string{
	"parent-limit-gap": "here a parent's limit binds its descendants",
}

type scenario struct {
	ID       string
	Kind     string
	Features []string
	Options  struct {
		Interval *float64        `json:"interval_s"`
		Exclude  []string        `json:"exclude_from_fair_share"`
		Min      []amountsByName `json:"min_allocatable"`
		HideGPUs *bool           `json:"hide_gpu_agents"`
	}
	Steps []json.RawMessage
}

// TestScenarios replays every scenario under TENDER_SCENARIOS, or the project's
// own copy. testdata/scenarios/README.md says what they mean.
func TestScenarios(t *testing.T) {
	root := os.Getenv("TENDER_SCENARIOS")
	if root == "" {
		root = filepath.Join("testdata", "scenarios")
	}
	ran := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var s scenario
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, f := range s.Features {
			if notOurs[f] != "" {
				return nil
			}
		}
		ran++
		t.Run(s.Kind+"/"+s.ID, func(t *testing.T) {
			replay := map[string]func(*testing.T, scenario){"sorter": replaySorter, "allocator": replayAllocator}[s.Kind]
			if replay == nil {
				t.Fatalf("unknown kind %q", s.Kind)
			}
			replay(t, s)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if ran == 0 {
		t.Fatalf("no scenario under %s", root)
	}
}

// strict decodes a step into the fields of its op: a field that this harness
// does not know would be a test that is not made.
func strict(t *testing.T, i int, raw json.RawMessage, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("step %d, %s: %v", i, raw, err)
	}
}

func thousandths(f float64) fleet.Scalar { return fleet.Scalar(math.Round(f * 1000)) }

type amountsByName map[string]float64

func (m amountsByName) quantities() fleet.Quantities {
	var out fleet.Quantities
	for _, name := range sorted(m) {
		out = append(out, fleet.Amount{Name: name, Amount: thousandths(m[name])})
	}
	return out
}

// bag is the one form of resources in scenarios.
type bag struct {
	CPUs   float64 `json:"cpus"`
	Mem    float64 `json:"mem"`
	Disk   float64 `json:"disk"`
	GPUs   float64 `json:"gpus"`
	Mounts []struct {
		ID   string  `json:"id"`
		Disk float64 `json:"disk"`
	} `json:"mounts"`
	Ports     [][2]uint16    `json:"ports"`
	Reserved  map[string]bag `json:"reserved"`
	Revocable *bag           `json:"revocable"`
}

// resources makes nouns of a bag. GPUs, which are numbers in scenarios, are
// taken by name from what is there.
func (b bag) resources(from []gpu.UUID) fleet.Resources {
	next := 0
	flat := func(b bag) fleet.Resources {
		r := fleet.Resources{CPUs: thousandths(b.CPUs), Mem: thousandths(b.Mem), Disk: thousandths(b.Disk)}
		for range int(b.GPUs) {
			id := gpu.UUID(fmt.Sprintf("GPU-%03d", next))
			if next < len(from) {
				id = from[next]
			}
			r.GPUs = append(r.GPUs, id)
			next++
		}
		for _, m := range b.Mounts {
			r = r.Add(fleet.Resources{Mounts: []fleet.Mount{{ID: m.ID, Size: thousandths(m.Disk)}}})
		}
		for _, p := range b.Ports {
			r.Ports = r.Ports.Add(fleet.Ranges{{First: p[0], Last: p[1]}})
		}
		return r
	}
	r := flat(b)
	for _, stack := range sorted(b.Reserved) {
		r = r.Add(flat(b.Reserved[stack]).In(fleet.Class{Reserved: reservations(stack)}))
	}
	if b.Revocable != nil {
		r = r.Add(flat(*b.Revocable).In(fleet.Class{Revocable: true}))
	}
	return r
}

func reservations(stack string) []fleet.Reservation {
	var out []fleet.Reservation
	for r := range strings.SplitSeq(stack, ">") {
		out = append(out, fleet.Reservation{Role: fleet.Role(r)})
	}
	return out
}

// unnamed replaces the names of GPUs by their number, for comparing.
func unnamed(r fleet.Resources) fleet.Resources {
	r = number(r)
	r.Parts = slices.Clone(r.Parts)
	for i := range r.Parts {
		r.Parts[i].Resources = number(r.Parts[i].Resources)
	}
	return r
}

func number(r fleet.Resources) fleet.Resources {
	if n := len(r.GPUs); n > 0 {
		r.GPUs = []gpu.UUID{gpu.UUID(fmt.Sprint(n))}
	}
	return r
}

func replaySorter(t *testing.T, s scenario) {
	var total total
	n := newNames(s.Options.Exclude)
	so := newSorter(n, &total, false)
	agents := map[string]vector{}
	for i, raw := range s.Steps {
		var op struct {
			Op, Client, Path, Agent string
			Resources               bag
			Weight                  *float64
			Active                  *bool
			Order, Clients          []string
			Count                   int
		}
		strict(t, i, raw, &op)
		res := op.Resources.resources(nil)
		v := n.all(&res)
		switch op.Op {
		case "set_total", "remove_total":
			old := agents[op.Agent]
			total.change(&old, -1)
			delete(agents, op.Agent)
			if op.Op == "set_total" {
				agents[op.Agent] = v
				total.change(&v, 1)
			}
		case "add":
			if op.Weight != nil {
				so.setWeight(op.Client, thousandths(*op.Weight))
			}
			leaf := so.add(op.Client)
			so.setActive(leaf, op.Active == nil || *op.Active)
		case "remove":
			so.remove(op.Client)
		case "activate", "deactivate":
			so.setActive(so.clients[op.Client], op.Op == "activate")
		case "allocated":
			so.allocated(so.clients[op.Client], &v)
		case "unallocated":
			so.unallocated(so.clients[op.Client], &v)
		case "update_weight":
			so.setWeight(op.Path, thousandths(*op.Weight))
		case "expect_order", "expect_members":
			got := []string{}
			so.walk(1, func(n *node) bool { got = append(got, n.client); return true })
			want := op.Order
			if op.Op == "expect_members" {
				want = slices.Sorted(slices.Values(op.Clients))
				slices.Sort(got)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: order %v, want %v", i, got, want)
			}
		case "expect_count":
			if len(so.clients) != op.Count {
				t.Fatalf("step %d: %d clients, want %d", i, len(so.clients), op.Count)
			}
		default:
			t.Fatalf("step %d: unknown op %q", i, op.Op)
		}
	}
}

func replayAllocator(t *testing.T, s scenario) {
	h := newHarness(s)
	for i, raw := range s.Steps {
		h.t, h.step = t, i
		var op step
		strict(t, i, raw, &op)
		do := ops[op.Op]
		if do == nil {
			t.Fatalf("step %d: unknown op %q", i, op.Op)
		}
		do(h, op)
	}
}

// at is an instant of the scenario's clock.
func at(seconds float64) time.Time {
	return time.Unix(0, 0).Add(time.Duration(math.Round(seconds * float64(time.Second))))
}
