package fakenvml

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	full, err := Build()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build()
	if err != nil || again != full {
		t.Errorf("a second build gives %s, %v; the first gave %s", again, err, full)
	}
	old, err := Build("nvmlDeviceGetMigMode")
	if err != nil {
		t.Fatal(err)
	}
	exports := func(lib string) string {
		out, err := exec.Command("nm", "-D", "--defined-only", lib).Output()
		if err != nil {
			t.Fatalf("nm (install binutils with `make deps`): %v", err)
		}
		return string(out)
	}
	if n := strings.Count(exports(full), " T nvml"); n < 50 {
		t.Errorf("the library has %d functions", n)
	}
	if !strings.Contains(exports(full), "nvmlDeviceGetMigMode") || strings.Contains(exports(old), "nvmlDeviceGetMigMode") {
		t.Error("a function that was to be left out is there, or the other way round")
	}
}

func TestDriverRoot(t *testing.T) {
	w := NewWorld(2, "NVIDIA RTX A6000", 49140)
	w.GPUs[1].Node = Number{Major: 4, Minor: 60}
	r, err := DriverRoot(t.TempDir(), w)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"} {
		st, err := os.Lstat(filepath.Join(r.Dir, "dev", name))
		if err != nil || st.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	// A second call changes the world and leaves the library alone, which a
	// running program may have loaded.
	before, err := os.Stat(r.Library)
	if err != nil {
		t.Fatal(err)
	}
	w.GPUs[0].Lost = true
	if _, err := DriverRoot(r.Dir, w); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(r.Library); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the library was written again: %v", err)
	}
	state, err := os.ReadFile(r.State)
	if err != nil || !strings.Contains(string(state), "gpu.0.lost=1\n") {
		t.Errorf("the world is %s, %v", state, err)
	}
}

func TestLazyBindingCheck(t *testing.T) {
	for _, c := range []struct {
		flag string
		lazy bool
	}{{"-Wl,-z,now", false}, {"-Wl,-z,lazy", true}} {
		lib := filepath.Join(t.TempDir(), "lib.so")
		if err := gcc("-shared", "-nostdlib", c.flag, "-o", lib, "-x", "c", "/dev/null"); err != nil {
			t.Fatal(err)
		}
		if err := CheckLazyBinding(lib); (err == nil) != c.lazy {
			t.Errorf("%s: %v", c.flag, err)
		}
	}
	if err := CheckLazyBinding("/dev/null"); err == nil {
		t.Error("an empty file passes")
	}
}
