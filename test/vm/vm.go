package vm

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/vm/shell"
)

// bootTime is how long a machine may take to boot, without /dev/kvm.
const bootTime = 3 * time.Minute

// Config says what machine to make.
type Config struct {
	Suite string // of Debian: bookworm, trixie
	// NetNS is the file of the network namespace that it sees; empty is this
	// process's.
	NetNS string
	// Hostname is what it calls itself.
	Hostname string
	// Files are directories of this host, by the name below the root of the
	// machine under which it finds a copy of them, which it cannot change.
	Files map[string]string
}

// Machine is a virtual machine. Its disk outlives a boot. Its methods are for one
// goroutine, but Run and Cut.
type Machine struct {
	cfg        Config
	owner      testing.TB // who made it, and with whom it ends
	dir, image string
	qemu       *harness.Process // of the last boot
	shell      *shell.Client
}

var count atomic.Int64

// New makes a machine's disks. It is off, and is off again when the test ends.
func New(t testing.TB, cfg Config) *Machine {
	t.Helper()
	// The path of a socket has at most 107 bytes, which t.TempDir exceeds.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{cfg: cfg, owner: t, dir: dir, image: image(t, cfg.Suite)}
	t.Cleanup(func() {
		if console, err := os.ReadFile(m.path("console")); err == nil && t.Failed() {
			t.Logf("the end of the console's output:\n%s", console[max(0, len(console)-8000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if cfg.Hostname == "" {
		m.cfg.Hostname = fmt.Sprintf("vm%d", count.Add(1))
	}
	host(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", filepath.Join(m.image, "disk"), "-F", "raw", m.path("disk"))
	m.pack(t)
	return m
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

// pack makes the disk with the files, and the program that serves the shell.
func (m *Machine) pack(t testing.TB) {
	t.Helper()
	tree := m.path("files.d")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, dir := range m.cfg.Files {
		host(t, "cp", "-a", dir, filepath.Join(tree, name))
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(tree, ".guest"), "github.com/tenderfleet/tender/test/vm/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's program: %v\n%s", err, out)
	}
	var size int64
	err := filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size() + 8<<10
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	host(t, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, m.path("files"), fmt.Sprintf("%dK", size*5/4>>10+16<<10))
	host(t, "rm", "-rf", tree)
}

// Boot starts the machine, and returns when it can be worked on: units may be
// starting still.
func (m *Machine) Boot(t testing.TB) {
	t.Helper()
	socket := m.path("shell")
	_ = os.Remove(socket)
	argv := append([]string{"qemu-system-x86_64"}, processor()...)
	argv = append(argv,
		"-smp", "2", "-m", "1536",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:"+m.path("console"),
		"-kernel", filepath.Join(m.image, "kernel"), "-initrd", filepath.Join(m.image, "initrd"),
		"-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 systemd.hostname="+m.cfg.Hostname,
		// Writes that were not flushed are lost with the power: the map of what was
		// written where is kept in QEMU's memory until then.
		"-drive", "if=virtio,format=qcow2,cache=writeback,file="+m.path("disk"),
		"-drive", "if=virtio,format=raw,readonly=on,file="+m.path("files"),
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=shell,server=on,wait=off,path="+socket, "-device", "virtserialport,chardev=shell,name=shell",
	)
	if m.cfg.NetNS != "" {
		argv = append([]string{"nsenter", "--net=" + m.cfg.NetNS}, argv...)
	}
	m.qemu = harness.Spawn(m.owner, "qemu", argv[0], argv[1:]...)
	m.connect(t, socket)
}

// processor is this host's where it can be lent, whatever /dev/kvm says: on a
// virtual machine it may be there and be slower than none. Else it is one with
// little beside the 64 bits, which takes two thirds of the time to emulate that one
// with everything takes.
func processor() []string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if _, kvm := os.Stat("/dev/kvm"); err == nil && kvm == nil && (strings.Contains(string(info), " vmx ") || strings.Contains(string(info), " svm ")) {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "qemu64"}
}

// connect waits until the machine answers.
func (m *Machine) connect(t testing.TB, socket string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			m.shell = shell.NewClient(conn)
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no QEMU: %v", err)
		case <-m.qemu.Ended():
			t.Fatal("no QEMU")
		case <-time.After(10 * time.Millisecond):
		}
	}
	// Nothing is lost of what is said before the machine listens.
	if _, err := m.Run(ctx, "", "true"); err != nil {
		t.Fatalf("the machine does not boot: %v", err)
	}
}

// environment is that of every program that a test runs on a machine.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "HOME=/root",
}

// Run runs a program on the machine, as root, and returns all that it printed. It
// fails with a shell.FailedError where the program does not end with 0, and with
// another error where the machine has gone.
func (m *Machine) Run(ctx context.Context, stdin string, argv ...string) (string, error) {
	out, err := m.shell.Run(ctx, shell.Command{Argv: argv, Stdin: []byte(stdin), Env: environment})
	return string(out), err
}

// Ended is closed when the machine is off, by itself or not.
func (m *Machine) Ended() <-chan struct{} { return m.qemu.Ended() }

// Cut takes the machine's power away.
func (m *Machine) Cut(t testing.TB) {
	t.Helper()
	m.qemu.Kill(t)
	_ = m.shell.Close()
}
