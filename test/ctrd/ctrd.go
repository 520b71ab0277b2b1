package ctrd

import (
	"context"
	"crypto/rand"
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
		d.reap()
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

// PowerOff ends the daemon, its shims and their tasks, and takes away what a
// machine loses with its power: mounts and everything under /run.
func (d *Daemon) PowerOff() error {
	d.Kill()
	d.reap()
	return os.RemoveAll(filepath.Join(d.dir, "state"))
}

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
