package fakenvml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// libDir is where a Debian driver package puts its libraries.
const libDir = "usr/lib/x86_64-linux-gnu"

// Majors of the device nodes. The driver's own is registered; those of
// nvidia-uvm and nvidia-caps are handed out by the kernel at load time.
const (
	Major     = 195
	UVMMajor  = 511
	CapsMajor = 510
)

// Root is a driver root on disk.
type Root struct {
	Dir     string // the driver root and the device root
	Library string // path of libnvidia-ml.so.1
	State   string // path of the world
}

// RootAt names the parts of a driver root that lies in dir.
func RootAt(dir string) Root {
	return Root{
		Dir:     dir,
		Library: filepath.Join(dir, libDir, Soname),
		State:   filepath.Join(dir, libDir, "fakenvml.state"),
	}
}

// DriverRoot makes a driver root in dir: the driver's libraries under their
// versioned names with SONAME links, a program nvidia-smi, the device nodes of
// the world's cards and the shared ones, and the world itself beside the
// library, where the library finds it without any environment variable.
func DriverRoot(dir string, w World) (Root, error) {
	r := RootAt(dir)
	for _, d := range []string{libDir, "usr/bin", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return Root{}, fmt.Errorf("make a driver root: %w", err)
		}
	}
	if err := libraries(dir, w.version()); err != nil {
		return Root{}, fmt.Errorf("make a driver root: %w", err)
	}
	smi := "#!/bin/sh\necho 'NVIDIA-SMI stand-in, driver " + w.version() + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "usr/bin/nvidia-smi"), []byte(smi), 0o755); err != nil {
		return Root{}, fmt.Errorf("make a driver root: %w", err)
	}
	if err := r.Nodes(w); err != nil {
		return Root{}, err
	}
	return r, w.Write(r.State)
}

// Nodes makes the device nodes that the world's cards need and that are not
// there yet. Call it again after a card was added to the world.
func (r Root) Nodes(w World) error {
	shared := map[string]Number{
		"nvidiactl":        {Major, 255},
		"nvidia-modeset":   {Major, 254},
		"nvidia-uvm":       {UVMMajor, 0},
		"nvidia-uvm-tools": {UVMMajor, 1},
	}
	for name, n := range shared {
		if err := Mknod(filepath.Join(r.Dir, "dev", name), n); err != nil {
			return err
		}
	}
	for _, g := range w.GPUs {
		if g.Absent {
			continue
		}
		n := g.Node
		if n == (Number{}) {
			n = Number{Major, uint32(g.Minor)}
		}
		if err := Mknod(filepath.Join(r.Dir, "dev", fmt.Sprintf("nvidia%d", g.Minor)), n); err != nil {
			return err
		}
	}
	return nil
}

// Mknod makes a character device node, or leaves the one that is there.
func Mknod(path string, n Number) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make a device node: %w", err)
	}
	err := unix.Mknod(path, syscall.S_IFCHR|0o666, int(unix.Mkdev(n.Major, n.Minor)))
	switch {
	case errors.Is(err, os.ErrExist):
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("make the device node %s: %w: run as root (CAP_MKNOD), on a file system mounted without nodev", path, err)
	case err != nil:
		return fmt.Errorf("make the device node %s: %w", path, err)
	}
	// mknod obeys the umask; a driver's nodes are open to all.
	return os.Chmod(path, 0o666)
}

func libraries(dir, version string) error {
	at := filepath.Join(dir, libDir)
	// A library that is there may be mapped by a running agent: writing into it
	// would crash the agent, so it is left alone.
	if _, err := os.Stat(filepath.Join(at, "libnvidia-ml.so."+version)); err == nil {
		return nil
	}
	lib, err := Build()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(lib)
	if err != nil {
		return err
	}
	// The other libraries are empty but for their names: they are carried into
	// containers and never called.
	for _, name := range []string{"libcuda", "libnvidia-ptxjitcompiler", "libnvidia-encode"} {
		file, soname := name+".so."+version, name+".so.1"
		if err := gcc("-shared", "-nostdlib", "-Wl,-soname,"+soname, "-o", filepath.Join(at, file), "-x", "c", "/dev/null"); err != nil {
			return err
		}
		if err := link(at, file, soname); err != nil {
			return err
		}
	}
	if err := link(at, "libnvidia-ml.so."+version, Soname); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(at, "libnvidia-ml.so."+version), data, 0o755)
}

func link(dir, target, name string) error {
	err := os.Symlink(target, filepath.Join(dir, name))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}
