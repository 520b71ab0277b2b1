package packages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/image"
)

// Packages that a machine has before Tender's come: what these depend on.
const basePackages = "systemd,systemd-sysv,dbus,containerd,runc,procps,init-system-helpers"

// release is what a machine runs. The host's own systemd is 252 at least.
type release struct {
	suite string
	// unified: its systemd knows cgroups of version 2 only. Those have no
	// controllers on a host that uses them by version 1.
	unified bool
}

var (
	debian12 = release{suite: "bookworm"}
	debian13 = release{suite: "trixie", unified: true}
)

// nsinit makes the controllers of cgroup version 1 writable, which nspawn mounts
// read-only, before systemd looks. It also lets the agent see that the machine has
// booted: nspawn mounts the boot's id over a file of /proc, and ProtectProc= gives
// the agent a /proc of its own, with the id of this host's boot.
const nsinit = `#!/bin/sh
for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
	[ ! -d /sys/fs/cgroup/$c ] || mount -o remount,bind,rw /sys/fs/cgroup/$c
done
id=/proc/sys/kernel/random/boot_id
cat $id >/run/boot-id
mkdir -p /run/systemd/system/tender-agent.service.d
printf "[Service]\nBindReadOnlyPaths=/run/boot-id:$id\n" >/run/systemd/system/tender-agent.service.d/boot-id.conf
exec /lib/systemd/systemd "$@"
`

const nsinitPath = "usr/local/sbin/nsinit"

var making sync.Mutex

// base returns the root that all machines of a release are made from, and makes
// it once.
func base(t *testing.T, of release) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "tender-test", "debian-"+of.suite)
	making.Lock()
	defer making.Unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		t.Fatal(err)
	}
	host(t, "debootstrap", "--variant=minbase", "--include="+basePackages, of.suite, tmp)
	host(t, "systemctl", "--root="+tmp, "mask", "systemd-timesyncd.service", "systemd-networkd.service", "systemd-resolved.service",
		"getty@tty1.service", "console-getty.service", "getty-static.service")
	if err := os.Rename(tmp, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// machine is a Debian machine. Its disk outlives a reboot.
type machine struct {
	name, dir, netns string
	hostname         string // empty is this host's
	release          release
	failed           *string // the units that had failed when it first booted
	unit             string  // whose journal is shown of a test that fails
	binds            []string
	nspawn           *exec.Cmd
	init             int // the process id of its systemd, seen from here
	ended            chan struct{}
}

var machines atomic.Int64

// newMachine makes a machine's disk. It is not booted yet. The machine is in the
// network namespace netns, or without a network where that is empty.
func newMachine(t *testing.T, of release, netns, debs string) *machine {
	t.Helper()
	m := &machine{release: of, name: fmt.Sprintf("tpk%dn%d", os.Getpid(), machines.Add(1)), dir: t.TempDir(), netns: netns, unit: "tender-agent*"}
	for _, d := range []string{"up", "work", "root", "containerd"} {
		if err := os.Mkdir(filepath.Join(m.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", base(t, of), filepath.Join(m.dir, "up"), filepath.Join(m.dir, "work"))
	if err := syscall.Mount("overlay", m.root(), "overlay", 0, opts); err != nil {
		t.Fatalf("mount the machine's disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(m.root(), 0); err != nil {
			t.Errorf("unmount the machine's disk: %v", err)
		}
	})
	if err := errors.Join(os.RemoveAll(filepath.Join(m.root(), nsinitPath)), os.WriteFile(filepath.Join(m.root(), nsinitPath), []byte(nsinit), 0o755)); err != nil {
		t.Fatal(err)
	}
	// An overlay cannot lie on an overlay, so containerd's state is beside it.
	m.binds = []string{"--bind=" + filepath.Join(m.dir, "containerd") + ":/var/lib/containerd", "--bind-ro=" + debs + ":/debs"}
	return m
}

func (m *machine) root() string { return filepath.Join(m.dir, "root") }

// hierarchies are the mounted cgroup hierarchies of this host that a machine gets.
func (m *machine) hierarchies(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cgroup hierarchies of version 1 below /sys/fs/cgroup: %v", err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	if m.release.unified {
		return slices.DeleteFunc(dirs, func(d string) bool { return filepath.Base(d) != "unified" && filepath.Base(d) != "systemd" })
	}
	return dirs
}

// boot starts the machine and waits until its systemd has started everything.
func (m *machine) boot(t *testing.T) {
	t.Helper()
	var enter strings.Builder
	for _, h := range m.hierarchies(t) {
		group := filepath.Join(h, m.name)
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new group of version 1
			if data, err := os.ReadFile(filepath.Join(h, f)); err == nil {
				_ = os.WriteFile(filepath.Join(group, f), data, 0o644)
			}
		}
		fmt.Fprintf(&enter, "echo $$ >%s/cgroup.procs\n", group)
	}
	args := append([]string{
		"-D", m.root(), "--register=no", "--keep-unit", "--machine=" + m.name,
		"--console=pipe", "--link-journal=no", "--kill-signal=SIGRTMIN+3", "--capability=all", "--system-call-filter=add_key keyctl bpf",
	}, m.binds...)
	network := "--private-network"
	if m.netns != "" {
		network = "--network-namespace-path=" + m.netns
	}
	args = append(args, network)
	if m.hostname != "" {
		if err := os.WriteFile(filepath.Join(m.root(), "etc/hostname"), []byte(m.hostname+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if m.release.unified {
		args = append(args, "--boot")
	} else {
		args = append(args, "/"+nsinitPath)
	}
	m.nspawn = exec.Command("sh", append([]string{"-c", enter.String() + `exec systemd-nspawn "$@"`, "sh"}, args...)...)
	if m.release.unified {
		m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	}
	console, err := os.Create(filepath.Join(m.dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	if err := m.nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	m.ended = make(chan struct{})
	go func() {
		defer close(m.ended)
		_ = m.nspawn.Wait() // a reboot is an exit code of its own
		_ = console.Close()
	}()
	harness.Eventually(t, "the machine has booted", func() bool {
		m.init = child(m.nspawn.Process.Pid)
		state, _ := m.try("systemctl", "is-system-running")
		return state == "running" || state == "degraded"
	})
	if m.failed == nil {
		failed := m.failing(t)
		m.failed = &failed
	}
}

// failing are the machine's failed units.
func (m *machine) failing(t *testing.T) string {
	t.Helper()
	return m.run(t, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
}

// sound checks that no unit fails which did not at the first boot, where some
// find what a container does not have.
func (m *machine) sound(t *testing.T) {
	t.Helper()
	if got := m.failing(t); got != *m.failed {
		t.Errorf("failed units: %s", got)
	}
}

// child is the process that nspawn has started, 0 when there is none yet.
func child(parent int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[0])
	return pid
}

// try runs a program on the machine and returns all that it printed.
func (m *machine) try(argv ...string) (string, error) { return m.input("", argv...) }

func (m *machine) input(stdin string, argv ...string) (string, error) {
	if m.init == 0 {
		return "", errors.New("the machine is off")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", strconv.Itoa(m.init), "-a", "env", "-i",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8",
	}, argv...)...)
	cmd.Stdin, cmd.WaitDelay = strings.NewReader(stdin), time.Second
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run is try for what must succeed.
func (m *machine) run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := m.try(argv...)
	if err != nil {
		journal, _ := m.try("journalctl", "-b", "-u", m.unit, "-n", "40", "--no-pager", "-o", "cat")
		t.Fatalf("%s: %v\n%s\njournal:\n%s", strings.Join(argv, " "), err, out, journal)
	}
	return out
}

// sh is run for a shell script.
func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	return m.run(t, "sh", "-ec", script)
}

// prints waits until a program on the machine prints a text.
func (m *machine) prints(t *testing.T, text string, argv ...string) {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s has printed last:\n%s", strings.Join(argv, " "), last)
		}
	}()
	harness.Eventually(t, strings.Join(argv, " ")+" prints "+text, func() bool {
		last, _ = m.try(argv...)
		return strings.Contains(last, text)
	})
}

// boundDown is how long a machine may take to go down, whatever runs on it.
const boundDown = 45 * time.Second

// down ends the machine by systemctl poweroff or reboot and returns how long it
// took.
func (m *machine) down(t *testing.T, how string) time.Duration {
	t.Helper()
	began := time.Now()
	_, _ = m.try("systemctl", how) // it may be gone before it answers
	select {
	case <-m.ended:
	case <-time.After(2 * time.Minute):
		t.Fatalf("the machine does not go down by %s", how)
	}
	m.init = 0
	return time.Since(began)
}

// kill ends the machine at once. What it has not written to its disk yet, this
// host still has: for that it is no power cut.
func (m *machine) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(m.init, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-m.ended
	m.init = 0
}

// off ends the machine, however it is, and takes its cgroups away.
func (m *machine) off(t *testing.T) {
	t.Helper()
	if m.init != 0 {
		if t.Failed() {
			journal, _ := m.try("journalctl", "-b", "-u", m.unit, "-n", "60", "--no-pager", "-o", "short-precise")
			t.Logf("the end of the machine's journal:\n%s", journal)
		}
		m.down(t, "poweroff")
	}
	for _, h := range m.hierarchies(t) {
		_ = exec.Command("find", filepath.Join(h, m.name), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
	}
}

// loadImage gives the machine's containerd the test image.
func (m *machine) loadImage(t *testing.T) { t.Helper(); m.loadImageAs(t, imageName) }

func (m *machine) loadImageAs(t *testing.T, name string) {
	t.Helper()
	var buf bytes.Buffer
	if err := image.Write(&buf, image.Options{Name: name, User: "user"}); err != nil {
		t.Fatal(err)
	}
	if out, err := m.input(buf.String(), "ctr", "-n", "tender", "images", "import", "-"); err != nil {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
}

// taskPID is the process id of the one task that runs, as containerd has it.
func (m *machine) taskPID(t *testing.T) string {
	t.Helper()
	return m.sh(t, "ctr -n tender tasks ls | awk '$3 == \"RUNNING\" { print $2 }'")
}

// host runs a program here.
func host(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
