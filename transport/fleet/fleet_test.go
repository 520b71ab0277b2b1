package fleet_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestScalarsAreReadAndPrinted(t *testing.T) {
	for text, want := range map[string]fleet.Scalar{
		"0": 0, "1": 1000, "0.5": 500, "2.125": 2125, "0.001": 1, "1024": 1024000,
	} {
		got, err := fleet.ParseScalar(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: %d %q %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1.", ".5", "1.0001", "1e3", "one", "0x1", "1.-5", "99999999999999999999"} {
		if got, err := fleet.ParseScalar(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func FuzzParseScalar(f *testing.F) {
	for _, s := range []string{"1", "0.5", "-1", "1.0001", "1e3", ".5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := fleet.ParseScalar(s)
		if err != nil {
			return
		}
		if again, err := fleet.ParseScalar(v.String()); err != nil || again != v || v < 0 || v > fleet.MaxScalar {
			t.Fatalf("%q is %d, printed %q, read again %d: %v", s, v, v, again, err)
		}
	})
}

func TestOnlyWholeGPUs(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "1": 1, "8": 8, "2.000": 2} {
		if got, err := fleet.GPUCount(text); err != nil || got != want {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
	for _, text := range []string{"0.5", "1.001", "-1", "one", ""} {
		if _, err := fleet.GPUCount(text); !errors.Is(err, fleet.ErrGPUFraction) {
			t.Errorf("%q: %v", text, err)
		}
	}
	// To the letter: people search for it.
	const mesos = "Task uses invalid resources: Invalid 'gpus' resource: The 'gpus' resource must be an unsigned integer"
	if fleet.ErrGPUFraction.Error() != mesos {
		t.Errorf("the text is %q", fleet.ErrGPUFraction)
	}
	if _, err := fleet.GPUCount("65"); err == nil || errors.Is(err, fleet.ErrGPUFraction) {
		t.Errorf("65 GPUs: %v", err)
	}
}

func drawResources(t *rapid.T, label string) fleet.Resources {
	r := fleet.Resources{
		CPUs: fleet.Scalar(rapid.Int64Range(0, 1e6).Draw(t, label+"cpus")),
		Mem:  fleet.Scalar(rapid.Int64Range(0, 1e9).Draw(t, label+"mem")),
		Disk: fleet.Scalar(rapid.Int64Range(0, 1e9).Draw(t, label+"disk")),
	}
	for _, g := range rapid.SliceOfN(rapid.SampledFrom([]string{"GPU-a", "GPU-b", "GPU-c", "GPU-d"}), 0, 4).Draw(t, label+"gpus") {
		r.GPUs = append(r.GPUs, gpu.UUID(g))
	}
	r.GPUs = fleet.SortGPUs(r.GPUs)
	return r
}

// What is taken out and given back is what there was: recover(allocate(x)) = x.
func TestTakingAndGivingBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, part := drawResources(t, "total "), drawResources(t, "part ")
		if !total.Contains(part) {
			return
		}
		left := total.Sub(part)
		if back := left.Add(part); !back.Equal(total) {
			t.Fatalf("%v - %v + %v = %v", total, part, part, back)
		}
		if len(left.GPUs)+len(part.GPUs) != len(total.GPUs) {
			t.Fatalf("%v - %v = %v", total, part, left)
		}
	})
}

func TestSubtractionStopsAtZero(t *testing.T) {
	got := fleet.Resources{CPUs: 1}.Sub(fleet.Resources{CPUs: 5, Mem: 5, GPUs: []gpu.UUID{"GPU-a"}})
	if !got.IsZero() {
		t.Fatalf("%v", got)
	}
}

func TestStatesGoForwardOnly(t *testing.T) {
	live := []fleet.TaskState{fleet.TaskStaging, fleet.TaskStarting, fleet.TaskRunning, fleet.TaskKilling}
	ends := []fleet.TaskState{
		fleet.TaskFinished, fleet.TaskFailed, fleet.TaskKilled, fleet.TaskError,
		fleet.TaskLost, fleet.TaskDropped, fleet.TaskGone, fleet.TaskGoneByOperator,
	}
	for i, from := range live {
		for j, to := range live {
			if to.CanFollow(from) != (j > i) {
				t.Errorf("%v after %v: %v", to, from, to.CanFollow(from))
			}
		}
		for _, end := range ends {
			if !end.CanFollow(from) || from.CanFollow(end) || !end.Terminal() || from.Terminal() {
				t.Errorf("%v and %v", from, end)
			}
		}
		if !fleet.TaskUnreachable.CanFollow(from) {
			t.Errorf("unreachable after %v", from)
		}
	}
	for _, end := range append(ends, fleet.TaskRunning, fleet.TaskKilling) {
		if !end.CanFollow(fleet.TaskUnreachable) {
			t.Errorf("%v after unreachable", end)
		}
	}
	if fleet.TaskFinished.CanFollow(fleet.TaskFailed) || fleet.TaskUnreachable.CanFollow(fleet.TaskFailed) {
		t.Error("an end is an end")
	}
}

func TestStateNamesAreMesos(t *testing.T) {
	for s := fleet.TaskStaging; s <= fleet.TaskUnknown; s++ {
		back, err := fleet.ParseTaskState(s.String())
		if err != nil || back != s || !strings.HasPrefix(s.String(), "TASK_") {
			t.Errorf("%d: %q %v", s, s, err)
		}
	}
	if _, err := fleet.ParseTaskState("TASK_NONSENSE"); err == nil {
		t.Error("no error")
	}
}

func TestIDs(t *testing.T) {
	for _, ok := range []string{"a", "web-1", "0", "a.b_c-d", strings.Repeat("x", 63)} {
		if err := fleet.CheckID("task", ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", ".a", "A", "a b", "a/b", "..", "a\x00", "ü", strings.Repeat("x", 64)} {
		if fleet.CheckID("task", bad) == nil {
			t.Errorf("%q passes", bad)
		}
	}
	for r, ok := range map[fleet.Role]bool{"*": true, "a": true, "a/b": true, "": false, "a//b": false, "/a": false, "a/../b": false} {
		if (fleet.CheckRole(r) == nil) != ok {
			t.Errorf("role %q: %v", r, fleet.CheckRole(r))
		}
	}
}

func TestSpecsAreRefusedWithAReason(t *testing.T) {
	good := fleet.TaskSpec{Name: "n", Image: "docker.io/library/busybox:1.36"}
	if err := fleet.CheckSpec(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*fleet.TaskSpec){
		"name is empty":          func(s *fleet.TaskSpec) { s.Name = "" },
		"names no image":         func(s *fleet.TaskSpec) { s.Image = "" },
		"is not a reference":     func(s *fleet.TaskSpec) { s.Image = "a b" },
		"arguments, the limit":   func(s *fleet.TaskSpec) { s.Command = make([]string, 1025) },
		"contains a NUL byte":    func(s *fleet.TaskSpec) { s.Command = []string{"a\x00"} },
		"is not a name of an en": func(s *fleet.TaskSpec) { s.Env = map[string]string{"A=B": ""} },
		"bytes together": func(s *fleet.TaskSpec) {
			s.Command = []string{strings.Repeat("x", 32<<10), strings.Repeat("y", 32<<10)}
		},
		"use \"none\" or \"host": func(s *fleet.TaskSpec) { s.Network = "bridge" },
		"pids":                   func(s *fleet.TaskSpec) { s.PIDs = -1 },
		"kill grace period":      func(s *fleet.TaskSpec) { s.KillGrace = 25 * time.Hour },
		"is not absolute":        func(s *fleet.TaskSpec) { s.WorkDir = "tmp" },
		"label":                  func(s *fleet.TaskSpec) { s.Labels = map[string]string{"A": ""} },
	} {
		s := good
		change(&s)
		if err := fleet.CheckSpec(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestNeedsAreRefusedWithAReason(t *testing.T) {
	for want, n := range map[string]fleet.Need{
		"asks for no cpus":  {},
		"cpus -1 is out of": {CPUs: -1000},
		"no number of GPUs": {CPUs: 1, GPU: fleet.GPURequest{Model: "A6000"}},
		"unsigned integer":  {CPUs: 1, GPU: fleet.GPURequest{Count: -1}},
		"site \"A B\"":      {CPUs: 1, Site: "A B"},
		"agent \"..\"":      {CPUs: 1, Agent: ".."},
		"label \"X\"":       {CPUs: 1, Labels: map[string]string{"X": ""}},
	} {
		if err := fleet.CheckNeed(n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestGPURequests(t *testing.T) {
	d := gpu.Device{Model: "NVIDIA RTX A6000", MemoryMB: 49140}
	for _, tc := range []struct {
		q    fleet.GPURequest
		want bool
	}{
		{fleet.GPURequest{Count: 1}, true},
		{fleet.GPURequest{Count: 1, Model: "a6000"}, true},
		{fleet.GPURequest{Count: 1, Model: "H100"}, false},
		{fleet.GPURequest{Count: 1, MinMemoryMB: 49140}, true},
		{fleet.GPURequest{Count: 1, MinMemoryMB: 49141}, false},
	} {
		if got := tc.q.Accepts(d); got != tc.want {
			t.Errorf("%+v: %v", tc.q, got)
		}
	}
}
