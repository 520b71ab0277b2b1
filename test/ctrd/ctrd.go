package ctrd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is one private containerd.
type Daemon struct {
	Address   string // its socket
	Namespace string // a name no other daemon uses
	dir       string
	binary    string
	cmd       *exec.Cmd
	exited    chan struct{}
}

// Start starts the containerd at binary and stops it when the test ends. The
// shim beside the binary, if there is one, goes before the machine's.
func Start(t testing.TB, binary string) *Daemon {
	t.Helper()
	// Sockets have paths of at most 107 bytes, which t.TempDir exceeds.
	dir, err := os.MkdirTemp("", "ctrd")
	if err != nil {
		t.Fatal(err)
	}
	d := New(dir, binary)
	if err := d.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Logf("the end of containerd's log:\n%s", d.logTail())
		}
		d.removeCgroups()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("containerd left something mounted: %v", err)
		}
	})
	return d
}

// New describes a daemon in dir that Run starts.
func New(dir, binary string) *Daemon {
	return &Daemon{
		Address:   filepath.Join(dir, "ctd.sock"),
		Namespace: "tender-test-" + strings.ToLower(rand.Text()[:10]),
		dir:       dir,
		binary:    binary,
	}
}

// Run starts the daemon and returns once it answers; again after Stop or Kill
// it starts with what the last one left.
func (d *Daemon) Run() error {
	version, err := exec.Command(d.binary, "--version").Output()
	if err != nil {
		return fmt.Errorf("run %s: %w (install containerd and runc: make deps)", d.binary, err)
	}
	config := filepath.Join(d.dir, "config.toml")
	if err := os.WriteFile(config, []byte(d.config(string(version))), 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(d.binary, "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(d.binary)+":"+os.Getenv("PATH"))
	// Signals meant for the test do not reach the daemon, which the test stops
	// itself, in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	d.cmd, d.exited = cmd, exited
	return d.waitReady()
}

func (d *Daemon) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		// A socket left by a killed daemon refuses connections.
		if c, err := net.Dial("unix", d.Address); err == nil {
			return c.Close()
		}
		select {
		case <-d.exited:
			return fmt.Errorf("containerd ended at once:\n%s", d.logTail())
		case <-ctx.Done():
			d.Kill()
			return fmt.Errorf("containerd does not listen on %s:\n%s", d.Address, d.logTail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop ends the daemon in order; tasks and their shims stay.
func (d *Daemon) Stop() { d.end(syscall.SIGTERM) }

// Kill ends the daemon as a crash would.
func (d *Daemon) Kill() { d.end(syscall.SIGKILL) }

func (d *Daemon) end(sig syscall.Signal) {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(sig)
	select {
	case <-d.exited:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
	d.cmd = nil
}

func (d *Daemon) logTail() string {
	b, err := os.ReadFile(filepath.Join(d.dir, "containerd.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

// config disables what a test does not need and what complains without
// systemd or special file systems.
func (d *Daemon) config(version string) string {
	format, disabled := 2, []string{
		"io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt",
	}
	// "containerd github.com/containerd/containerd/v2 ..." or, from Go's own
	// build of a 2.x, a module path with /v2.
	if strings.Contains(version, "containerd/v2") {
		format, disabled = 3, []string{
			"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri",
		}
	}
	return fmt.Sprintf(`version = %d
root = %q
state = %q
disabled_plugins = ["%s"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, format, filepath.Join(d.dir, "root"), filepath.Join(d.dir, "state"), strings.Join(disabled, `", "`), d.Address, d.Address+".ttrpc")
}

// Debian returns the path of the machine's containerd.
func Debian(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers need root: run this test as root")
	}
	for _, name := range []string{"runc", "containerd-shim-runc-v2"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v: install the Debian packages containerd and runc: make deps", err)
		}
	}
	path, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatalf("%v: install the Debian packages containerd and runc: make deps", err)
	}
	return path
}

// v2Version is the newest containerd that the client is tested against.
const v2Version = "v2.4.2"

// V2 returns the path of a containerd 2.x with its shim beside it: from the
// directory $TENDER_CONTAINERD2, or built once into the user's cache.
func V2(t testing.TB) string {
	t.Helper()
	Debian(t) // runc comes from there
	dir := os.Getenv("TENDER_CONTAINERD2")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatalf("%v: set TENDER_CONTAINERD2 to a directory with containerd 2.x and its shim", err)
		}
		dir = filepath.Join(cache, "tender-test", "containerd-"+v2Version)
		if err := build(dir); err != nil {
			t.Fatalf("build containerd %s: %v\nset TENDER_CONTAINERD2 to a directory with containerd and containerd-shim-runc-v2 to use a built one", v2Version, err)
		}
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("TENDER_CONTAINERD2: %v", err)
		}
	}
	return filepath.Join(dir, "containerd")
}

// build makes the daemon and its shim in dir unless they are there. The
// directory appears whole or not at all.
func build(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "build")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, c := range []struct{ name, cgo string }{{"containerd", "1"}, {"containerd-shim-runc-v2", "0"}} {
		cmd := exec.Command("go", "install", "-tags", "no_btrfs no_devmapper no_zfs",
			"github.com/containerd/containerd/v2/cmd/"+c.name+"@"+v2Version)
		cmd.Env = append(os.Environ(), "GOBIN="+tmp, "GOFLAGS=", "CGO_ENABLED="+c.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}
