package isolate

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	cdispec "tags.cncf.io/container-device-interface/specs-go"

	"github.com/tenderfleet/tender/gpu"
)

// Where the driver's files appear in a container.
const (
	LibraryDir = "/usr/local/nvidia/lib64"
	ProgramDir = "/usr/local/nvidia/bin"
)

// Major is the NVIDIA driver's registered device number.
const Major = 195

// maxGPUs bounds what one task may be given.
const maxGPUs = 64

// Source describes devices: *nvml.Driver, or a fixed answer in tests. CDI may
// block up to the deadline of its context.
type Source interface {
	// CDI gives the CDI specification of the devices and the minor number of
	// each device's card.
	CDI(ctx context.Context, uuids []gpu.UUID) (*cdispec.Spec, map[gpu.UUID]int, error)
}

// Isolator finds out what a container needs to use given devices.
type Isolator struct {
	Source Source
	// DriverRoot holds the driver's files ("/" if empty) and DevRoot the
	// directory dev with the device nodes (DriverRoot if empty).
	DriverRoot, DevRoot string
	// AnyNumber accepts a card's node whatever its number is, and trusts its
	// name. It is for machines without the driver, where tests put other
	// devices in the place of cards.
	AnyNumber bool
}

// Edits is what one container gets. The zero value is no GPU at all.
type Edits struct {
	Nodes []Node // ordered by path
	Files []File // ordered by path in the container
}

// Node is a device node, at the same path in the container.
type Node struct {
	Path         string
	Major, Minor int64
}

// File is a file of the driver, and where it appears in the container.
type File struct{ Host, Container string }

// Edits describes what a container needs to use the devices, as they are now.
// An unknown or lost device is an error; others on the machine do not matter.
// With no devices it returns the zero value and asks nobody.
func (i *Isolator) Edits(ctx context.Context, uuids []gpu.UUID) (Edits, error) {
	if len(uuids) == 0 {
		return Edits{}, nil
	}
	if len(uuids) > maxGPUs {
		return Edits{}, fmt.Errorf("prepare GPUs: a task may have %d at most", maxGPUs)
	}
	spec, minors, err := i.Source.CDI(ctx, uuids)
	if err != nil {
		return Edits{}, fmt.Errorf("prepare GPUs: %w", err)
	}
	nodes, err := i.nodes(spec, minors, uuids)
	if err != nil {
		return Edits{}, fmt.Errorf("prepare GPUs: %w", err)
	}
	files, err := i.files(spec)
	if err != nil {
		return Edits{}, fmt.Errorf("prepare GPUs: %w", err)
	}
	return Edits{Nodes: nodes, Files: files}, nil
}

func (i *Isolator) driverRoot() string {
	if i.DriverRoot == "" {
		return "/"
	}
	return i.DriverRoot
}

func (i *Isolator) devRoot() string {
	if i.DevRoot == "" {
		return i.driverRoot()
	}
	return i.DevRoot
}

// nodes collects the nodes of the devices and the shared ones.
func (i *Isolator) nodes(spec *cdispec.Spec, minors map[gpu.UUID]int, uuids []gpu.UUID) ([]Node, error) {
	byPath := make(map[string]Node)
	for _, u := range uuids {
		minor, ok := minors[u]
		if !ok {
			return nil, fmt.Errorf("GPU %s: its minor number is not known", u)
		}
		if err := i.deviceNodes(spec, u, minor, byPath); err != nil {
			return nil, fmt.Errorf("GPU %s: %w", u, err)
		}
	}
	for _, c := range []struct {
		name     string
		minor    int64 // -1: its number is handed out by the kernel
		required bool
	}{
		{"nvidiactl", 255, true},
		{"nvidia-uvm", -1, true},
		{"nvidia-uvm-tools", -1, false},
		{"nvidia-modeset", 254, false},
	} {
		n, err := i.node("/dev/"+c.name, c.minor)
		if errors.Is(err, unix.ENOENT) {
			if c.required {
				return nil, fmt.Errorf("/dev/%s is missing; run `nvidia-modprobe -c 0 -u`", c.name)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		byPath[n.Path] = n
	}
	out := make([]Node, 0, len(byPath))
	for _, n := range byPath {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

var capNode = regexp.MustCompile(`^/dev/nvidia-caps/nvidia-cap[0-9]{1,6}$`)

// deviceNodes adds the nodes of one device. The card's node follows from its
// minor number, and the specification must agree.
func (i *Isolator) deviceNodes(spec *cdispec.Spec, u gpu.UUID, minor int, byPath map[string]Node) error {
	at := slices.IndexFunc(spec.Devices, func(d cdispec.Device) bool { return d.Name == string(u) })
	if at < 0 {
		return fmt.Errorf("the driver's description does not contain it")
	}
	card := fmt.Sprintf("/dev/nvidia%d", minor)
	found, caps := false, 0
	for _, d := range spec.Devices[at].ContainerEdits.DeviceNodes {
		want := int64(-1)
		switch {
		case d.Path == card:
			found, want = true, int64(minor)
		case capNode.MatchString(d.Path):
			caps++
		case strings.HasPrefix(d.Path, "/dev/dri/"):
			continue // graphics
		default:
			return fmt.Errorf("the driver's description names the node %q, which is not its own", d.Path)
		}
		n, err := i.node(d.Path, want)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s is missing; run `nvidia-modprobe -c %d`", d.Path, minor)
		}
		if err != nil {
			return err
		}
		byPath[n.Path] = n
	}
	slice := strings.HasPrefix(string(u), "MIG-")
	if !found || slice && caps < 2 || !slice && caps > 0 {
		return fmt.Errorf("the driver's description has not the nodes that it needs (%s and %d capabilities)", card, caps)
	}
	return nil
}

// node looks at a device node. It returns a bare ENOENT if there is none. A
// minor of -1 means that the number is handed out by the kernel.
func (i *Isolator) node(path string, minor int64) (Node, error) {
	host := filepath.Join(i.devRoot(), path)
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return Node{}, err
		}
		return Node{}, fmt.Errorf("look at %s: %w", host, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return Node{}, fmt.Errorf("%s is not a device node but %s; remove it and run `nvidia-modprobe`", host, kind(uint32(st.Mode))) //nolint:unconvert // its type differs between platforms
	}
	dev := uint64(st.Rdev) //nolint:unconvert // narrower on some systems
	n := Node{Path: path, Major: int64(unix.Major(dev)), Minor: int64(unix.Minor(dev))}
	if minor >= 0 && !i.AnyNumber && (n.Major != Major || n.Minor != minor) {
		return Node{}, fmt.Errorf("%s is device %d:%d, the driver says %d:%d; the card was moved or the node is not its own: remove it and run `nvidia-modprobe`",
			host, n.Major, n.Minor, Major, minor)
	}
	return n, nil
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFDIR:
		return "a directory"
	default:
		return "something else"
	}
}

// files picks the driver's libraries, by the names that programs load them
// under, and nvidia-smi.
func (i *Isolator) files(spec *cdispec.Spec) ([]File, error) {
	byPath := make(map[string]File)
	add := func(host, container string) {
		if _, taken := byPath[container]; !taken {
			byPath[container] = File{Host: host, Container: container}
		}
	}
	root := strings.TrimSuffix(filepath.Clean(i.driverRoot()), "/") + "/"
	for _, m := range spec.ContainerEdits.Mounts {
		host := filepath.Clean(m.HostPath)
		base := filepath.Base(host)
		switch {
		case !strings.HasPrefix(host, root):
			return nil, fmt.Errorf("the driver's file %s lies outside of %s", host, i.driverRoot())
		case base == "nvidia-smi":
			add(host, ProgramDir+"/nvidia-smi")
		case strings.HasPrefix(base, "lib") && strings.Contains(base, ".so"):
			name := soname(host)
			if name == "" {
				continue // for another architecture, or never loaded by name
			}
			add(host, LibraryDir+"/"+name)
			if name == "libcuda.so.1" {
				add(host, LibraryDir+"/libcuda.so") // the name that some programs load
			}
		}
	}
	if _, ok := byPath[LibraryDir+"/libcuda.so.1"]; !ok {
		return nil, fmt.Errorf("no libcuda.so.1 under %s: the driver's compute libraries are not installed", i.driverRoot())
	}
	out := make([]File, 0, len(byPath))
	for _, f := range byPath {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Container, b.Container) })
	return out, nil
}

var plainName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_.+-]{0,127}$`)

// soname is the name under which a library of this machine's word size asks to
// be loaded, or empty.
func soname(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || f.Class != elf.ELFCLASS64 || len(names) != 1 || !plainName.MatchString(names[0]) {
		return ""
	}
	return names[0]
}
