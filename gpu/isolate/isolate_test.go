//go:build cgo && linux

package isolate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	cdispec "tags.cncf.io/container-device-interface/specs-go"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/gpu/isolate"
	"github.com/tenderfleet/tender/gpu/nvml"
	"github.com/tenderfleet/tender/test/fakenvml"
)

// TestMain lets the test program be the NVML probe, as the agent is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "nvml-probe" {
		if err := nvml.Probe(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func uuid(i int) gpu.UUID { return gpu.UUID(fakenvml.UUID(i)) }

// isolator is one over a fake driver root and a real probe.
func isolator(t *testing.T, w fakenvml.World, change ...func(*nvml.Config)) (*isolate.Isolator, fakenvml.Root) {
	t.Helper()
	root, err := fakenvml.DriverRoot(t.TempDir(), w)
	if err != nil {
		t.Fatal(err)
	}
	cfg := nvml.Config{
		Path: os.Args[0], Args: []string{"nvml-probe"}, DriverRoot: root.Dir, Timeout: 20 * time.Second,
		Env: append(os.Environ(), "GORACE=atexit_sleep_ms=0 halt_on_error=1"),
	}
	for _, f := range change {
		f(&cfg)
	}
	d := nvml.Open(cfg)
	t.Cleanup(func() { d.Close() })
	return &isolate.Isolator{Source: d, DriverRoot: root.Dir}, root
}

// spec is a specification as containerd's defaults make it.
func spec(env ...string) *specs.Spec {
	five, one := int64(5), int64(1)
	return &specs.Spec{
		Process: &specs.Process{Env: append([]string{"PATH=/usr/bin"}, env...)},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: &one, Minor: &five, Access: "rwm"},
			{Allow: true, Type: "c", Major: &five, Access: "rwm"},
		}}},
	}
}

// apply makes the edits and applies them to a fresh specification.
func apply(t *testing.T, iso *isolate.Isolator, uuids []gpu.UUID, env ...string) *specs.Spec {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	edits, err := iso.Edits(ctx, uuids)
	if err != nil {
		t.Fatal(err)
	}
	s := spec(env...)
	if err := edits.Apply(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// devices is one line for each node of a specification, and one for each rule
// beyond the three that it began with.
func devices(s *specs.Spec) string {
	var b strings.Builder
	for _, d := range s.Linux.Devices {
		fmt.Fprintf(&b, "node %s %s %d:%d %o\n", d.Path, d.Type, d.Major, d.Minor, *d.FileMode)
	}
	for _, r := range s.Linux.Resources.Devices[3:] {
		fmt.Fprintf(&b, "rule %v %s %d:%d %s\n", r.Allow, r.Type, *r.Major, *r.Minor, r.Access)
	}
	return b.String()
}

const oneCard = `node /dev/nvidia-modeset c 195:254 666
node /dev/nvidia-uvm c 511:0 666
node /dev/nvidia-uvm-tools c 511:1 666
node /dev/nvidia1 c 195:1 666
node /dev/nvidiactl c 195:255 666
rule true c 195:254 rw
rule true c 511:0 rw
rule true c 511:1 rw
rule true c 195:1 rw
rule true c 195:255 rw
`

func TestOneCardOfTwo(t *testing.T) {
	iso, root := isolator(t, fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140))
	s := apply(t, iso, []gpu.UUID{uuid(1)},
		"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all", "LD_LIBRARY_PATH=/opt/lib", "KEEP=1")
	if diff := cmp.Diff(oneCard, devices(s)); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	wantEnv := []string{
		"KEEP=1", "NVIDIA_VISIBLE_DEVICES=void",
		"LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/opt/lib", "PATH=/usr/bin:/usr/local/nvidia/bin",
	}
	if diff := cmp.Diff(wantEnv, s.Process.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	bind := func(container, host string) specs.Mount {
		return specs.Mount{
			Destination: container, Source: filepath.Join(root.Dir, host), Type: "bind",
			Options: []string{"ro", "nosuid", "nodev", "rbind", "rprivate"},
		}
	}
	lib := "usr/lib/x86_64-linux-gnu/"
	wantMounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		bind("/usr/local/nvidia/bin/nvidia-smi", "usr/bin/nvidia-smi"),
		bind("/usr/local/nvidia/lib64/libcuda.so", lib+"libcuda.so.570.124.06"),
		bind("/usr/local/nvidia/lib64/libcuda.so.1", lib+"libcuda.so.570.124.06"),
		bind("/usr/local/nvidia/lib64/libnvidia-encode.so.1", lib+"libnvidia-encode.so.570.124.06"),
		bind("/usr/local/nvidia/lib64/libnvidia-ml.so.1", lib+"libnvidia-ml.so.570.124.06"),
		bind("/usr/local/nvidia/lib64/libnvidia-ptxjitcompiler.so.1", lib+"libnvidia-ptxjitcompiler.so.570.124.06"),
	}
	if diff := cmp.Diff(wantMounts, s.Mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if s.Hooks != nil {
		t.Errorf("hooks: %+v", s.Hooks)
	}
}

func TestAllCardsAndTheSameTwice(t *testing.T) {
	iso, _ := isolator(t, fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140))
	s := apply(t, iso, []gpu.UUID{uuid(1), uuid(0), uuid(1)})
	want := strings.Replace(strings.Replace(oneCard, "node /dev/nvidia1 ", "node /dev/nvidia0 c 195:0 666\nnode /dev/nvidia1 ", 1),
		"rule true c 195:1 rw\n", "rule true c 195:0 rw\nrule true c 195:1 rw\n", 1)
	if diff := cmp.Diff(want, devices(s)); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

// The minor number counts, not the place in the list.
func TestMinorNumbersThatAreNoIndices(t *testing.T) {
	w := fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140)
	w.GPUs[0].Minor, w.GPUs[1].Minor = 7, 1
	iso, _ := isolator(t, w)
	s := apply(t, iso, []gpu.UUID{uuid(0)})
	if got := devices(s); !strings.Contains(got, "node /dev/nvidia7 c 195:7") || strings.Contains(got, "/dev/nvidia1 ") {
		t.Errorf("devices:\n%s", got)
	}
}

func TestLostCardDoesNotMatterToOthers(t *testing.T) {
	w := fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140)
	w.GPUs[0].Lost = true
	iso, _ := isolator(t, w)
	if diff := cmp.Diff(oneCard, devices(apply(t, iso, []gpu.UUID{uuid(1)}))); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	refused(t, iso, uuid(0), "GPU is lost")
}

func refused(t *testing.T, iso *isolate.Isolator, u gpu.UUID, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := iso.Edits(ctx, []gpu.UUID{u})
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %v, want one with %q", u, err, want)
	}
}

func TestRefusals(t *testing.T) {
	iso, root := isolator(t, fakenvml.NewWorld(4, "NVIDIA RTX A6000", 49140))
	refused(t, iso, uuid(9), "no GPU GPU-00000009")
	for _, name := range []gpu.UUID{"all", "none", "0", "", "GPU-../../dev/sda"} {
		refused(t, iso, name, "not a GPU's UUID")
	}
	dev := func(name string) string { return filepath.Join(root.Dir, "dev", name) }
	replace := func(name string, with func(path string) error) {
		t.Helper()
		if err := os.Remove(dev(name)); err != nil {
			t.Fatal(err)
		}
		if with == nil {
			return
		}
		if err := with(dev(name)); err != nil {
			t.Fatal(err)
		}
	}
	replace("nvidia0", func(path string) error { return os.WriteFile(path, nil, 0o666) })
	refused(t, iso, uuid(0), "no device node")
	replace("nvidia1", func(path string) error { return os.Symlink("nvidia2", path) })
	refused(t, iso, uuid(1), "no device node")
	replace("nvidia2", func(path string) error { return fakenvml.Mknod(path, fakenvml.Number{Major: 195, Minor: 3}) })
	refused(t, iso, uuid(2), "is device 195:3, the driver says 195:2")
	replace("nvidia-modeset", nil) // not needed for computing
	apply(t, iso, []gpu.UUID{uuid(3)})
	replace("nvidia-uvm", nil)
	refused(t, iso, uuid(3), "/dev/nvidia-uvm is missing")
}

// MIG needs the capability numbers that the kernel module lists in /proc, so
// the probe runs where such a list can be mounted.
func TestMIGSlice(t *testing.T) {
	w := fakenvml.NewWorld(2, "NVIDIA A100-SXM4-40GB", 40960)
	w.GPUs[1].MIG = []fakenvml.Slice{
		{UUID: "MIG-aaaaaaaa-2222-3333-4444-555555555555", Profile: "1g.5gb", MemoryMB: 4864, GI: 7, GISlices: 1},
		{UUID: "MIG-bbbbbbbb-2222-3333-4444-555555555555", Profile: "3g.20gb", MemoryMB: 19968, GI: 2, GISlices: 3},
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Fatal("unshare is not installed: install util-linux with `make deps`")
	}
	const list = "gpu1/gi7/access 66\ngpu1/gi7/ci0/access 67\ngpu1/gi2/access 75\ngpu1/gi2/ci0/access 76\n"
	script := `set -e
mount -t tmpfs none /proc/driver
mkdir /proc/driver/nvidia-caps
printf '%s' "$1" >/proc/driver/nvidia-caps/mig-minors
exec "$2" nvml-probe`
	iso, root := isolator(t, w, func(c *nvml.Config) {
		c.Path, c.Args = "unshare", []string{"-m", "--propagation", "private", "sh", "-c", script, "sh", list, os.Args[0]}
	})
	for _, n := range []uint32{66, 67, 75, 76} {
		path := filepath.Join(root.Dir, "dev/nvidia-caps", fmt.Sprintf("nvidia-cap%d", n))
		if err := fakenvml.Mknod(path, fakenvml.Number{Major: fakenvml.CapsMajor, Minor: n}); err != nil {
			t.Fatal(err)
		}
	}
	got := devices(apply(t, iso, []gpu.UUID{"MIG-bbbbbbbb-2222-3333-4444-555555555555"}))
	want := `node /dev/nvidia-caps/nvidia-cap75 c 510:75 666
node /dev/nvidia-caps/nvidia-cap76 c 510:76 666
` + strings.Replace(oneCard, "rule true c 195:254 rw\n", "rule true c 510:75 rw\nrule true c 510:76 rw\nrule true c 195:254 rw\n", 1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

// A spare terminal in the place of a card lets a test open what was granted.
func TestStandInNodes(t *testing.T) {
	w := fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140)
	w.GPUs[0].Node = fakenvml.Number{Major: 4, Minor: 60}
	iso, _ := isolator(t, w)
	refused(t, iso, uuid(0), "is device 4:60, the driver says 195:0")
	iso.AnyNumber = true
	if got := devices(apply(t, iso, []gpu.UUID{uuid(0)})); !strings.Contains(got, "node /dev/nvidia0 c 4:60") || !strings.Contains(got, "rule true c 4:60 rw") {
		t.Errorf("devices:\n%s", got)
	}
}

func TestVoid(t *testing.T) {
	s := spec("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_REQUIRE_CUDA=cuda>=12")
	if err := isolate.Void(s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PATH=/usr/bin", "NVIDIA_VISIBLE_DEVICES=void"}, s.Process.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if got := devices(s); got != "" || len(s.Mounts) != 1 || s.Hooks != nil {
		t.Errorf("a container without GPUs got %s %v %v", got, s.Mounts, s.Hooks)
	}
	// No devices, no questions: an agent without a driver has no source.
	edits, err := (&isolate.Isolator{}).Edits(t.Context(), nil)
	if err != nil || len(edits.Nodes)+len(edits.Files) > 0 {
		t.Errorf("no devices gave %+v, %v", edits, err)
	}
}

func TestSpecificationsThatAreRefused(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	rule := func(r specs.LinuxDeviceCgroup) func(*specs.Spec) {
		r.Allow = true
		return func(s *specs.Spec) { s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, r) }
	}
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   error
	}{
		"hooks":                  {func(s *specs.Spec) { s.Hooks = &specs.Hooks{} }, isolate.ErrHooks},
		"no rules":               {func(s *specs.Spec) { s.Linux.Resources.Devices = nil }, isolate.ErrNotDenied},
		"reading not denied":     {func(s *specs.Spec) { s.Linux.Resources.Devices[0].Access = "w" }, isolate.ErrNotDenied},
		"only one kind denied":   {func(s *specs.Spec) { s.Linux.Resources.Devices[0].Type = "c" }, isolate.ErrNotDenied},
		"privileged":             {rule(specs.LinuxDeviceCgroup{Access: "rwm"}), isolate.ErrNotDenied},
		"privileged in numbers":  {rule(specs.LinuxDeviceCgroup{Type: "a", Major: n(-1), Minor: n(-1), Access: "rwm"}), isolate.ErrNotDenied},
		"every character device": {rule(specs.LinuxDeviceCgroup{Type: "c", Access: "rw"}), isolate.ErrNotDenied},
		"every GPU":              {rule(specs.LinuxDeviceCgroup{Type: "c", Major: n(195), Access: "rw"}), isolate.ErrNotDenied},
		"a GPU's rule":           {rule(specs.LinuxDeviceCgroup{Type: "c", Major: n(195), Minor: n(0), Access: "r"}), isolate.ErrNotDenied},
		"a GPU's node": {func(s *specs.Spec) {
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/card", Type: "c", Major: 195})
		}, isolate.ErrNotDenied},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec()
			c.change(s)
			if err := isolate.Void(s); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
	mknod := spec()
	rule(specs.LinuxDeviceCgroup{Type: "c", Access: "m"})(mknod)
	if err := isolate.Void(mknod); err != nil {
		t.Errorf("the right to make nodes: %v", err)
	}
	if err := isolate.Void(&specs.Spec{}); err == nil {
		t.Error("an empty specification was accepted")
	}
}

// source is a fixed description, for what the real one would never say.
type source struct {
	spec   *cdispec.Spec
	minors map[gpu.UUID]int
}

func (s source) CDI(context.Context, []gpu.UUID) (*cdispec.Spec, map[gpu.UUID]int, error) {
	return s.spec, s.minors, nil
}

func TestDescriptionsThatAreRefused(t *testing.T) {
	root, err := fakenvml.DriverRoot(t.TempDir(), fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140))
	if err != nil {
		t.Fatal(err)
	}
	cuda := filepath.Join(root.Dir, "usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06")
	describe := func(name string, mount string, nodes ...string) *cdispec.Spec {
		d := cdispec.Device{Name: name}
		for _, n := range nodes {
			d.ContainerEdits.DeviceNodes = append(d.ContainerEdits.DeviceNodes, &cdispec.DeviceNode{Path: n})
		}
		s := &cdispec.Spec{Devices: []cdispec.Device{d}}
		s.ContainerEdits.Mounts = []*cdispec.Mount{{HostPath: mount, ContainerPath: mount}}
		return s
	}
	one := string(uuid(1))
	for name, c := range map[string]struct {
		spec   *cdispec.Spec
		minors map[gpu.UUID]int
		want   string
	}{
		"as it should be":     {describe(one, cuda, "/dev/nvidia1", "/dev/dri/card1"), map[gpu.UUID]int{uuid(1): 1}, ""},
		"no minor":            {describe(one, cuda, "/dev/nvidia1"), nil, "minor number is not known"},
		"another device":      {describe(string(uuid(0)), cuda, "/dev/nvidia1"), map[gpu.UUID]int{uuid(1): 1}, "does not contain it"},
		"another card's node": {describe(one, cuda, "/dev/nvidia1", "/dev/nvidia0"), map[gpu.UUID]int{uuid(1): 1}, "not its own"},
		"the disk":            {describe(one, cuda, "/dev/nvidia1", "/dev/sda"), map[gpu.UUID]int{uuid(1): 1}, "not its own"},
		"no node":             {describe(one, cuda), map[gpu.UUID]int{uuid(1): 1}, "has not the nodes"},
		"a foreign file":      {describe(one, "/etc/shadow", "/dev/nvidia1"), map[gpu.UUID]int{uuid(1): 1}, "lies outside"},
		"a way out":           {describe(one, root.Dir+"/../libcuda.so.1", "/dev/nvidia1"), map[gpu.UUID]int{uuid(1): 1}, "lies outside"},
		"no libraries":        {describe(one, filepath.Join(root.Dir, "usr/bin/nvidia-smi"), "/dev/nvidia1"), map[gpu.UUID]int{uuid(1): 1}, "no libcuda.so.1"},
	} {
		t.Run(name, func(t *testing.T) {
			iso := &isolate.Isolator{Source: source{c.spec, c.minors}, DriverRoot: root.Dir}
			_, err := iso.Edits(t.Context(), []gpu.UUID{uuid(1)})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
