package packages

import (
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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/vm"
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

// container is a machine that systemd-nspawn boots: with this host's kernel and
// its control groups. What such a machine has not written to its
// disk when it is killed, this host still has: that is no power cut.
type container struct {
	name, dir, netns string
	hostname         string // empty is this host's
	// unified: its systemd knows cgroups of version 2 only. Those have no
	// controllers on a host that uses them by version 1.
	unified bool
	nspawn  *exec.Cmd
	gone    chan struct{}
}

var containers atomic.Int64

// newMachine makes a machine of Debian 12, with the packages at /debs. It is not
// booted yet. The machine is in the network namespace netns, or without a network
// where that is empty.
func newMachine(t *testing.T, netns, hostname, debs string) *machine {
	t.Helper()
	return newContainer(t, "bookworm", debs, &container{netns: netns, hostname: hostname})
}

// newDebian13 is newMachine for Debian 13.
func newDebian13(t *testing.T, netns, hostname, debs string) *machine {
	t.Helper()
	return newContainer(t, "trixie", debs, &container{netns: netns, hostname: hostname, unified: true})
}

func newContainer(t *testing.T, suite, debs string, c *container) *machine {
	t.Helper()
	c.name, c.dir = fmt.Sprintf("tpk%dn%d", os.Getpid(), containers.Add(1)), t.TempDir()
	for _, d := range []string{"up", "work", "root", "containerd"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", vm.Root(t, suite), filepath.Join(c.dir, "up"), filepath.Join(c.dir, "work"))
	if err := syscall.Mount("overlay", c.root(), "overlay", 0, opts); err != nil {
		t.Fatalf("mount the machine's disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(c.root(), 0); err != nil {
			t.Errorf("unmount the machine's disk: %v", err)
		}
	})
	if err := errors.Join(os.RemoveAll(filepath.Join(c.root(), nsinitPath)), os.WriteFile(filepath.Join(c.root(), nsinitPath), []byte(nsinit), 0o755)); err != nil {
		t.Fatal(err)
	}
	return &machine{body: c, disk: c.root(), unit: "tender-agent*", shares: map[string]string{"debs": debs}}
}

func (c *container) root() string { return filepath.Join(c.dir, "root") }

// hierarchies are the mounted cgroup hierarchies of this host that a machine gets.
func (c *container) hierarchies(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cgroup hierarchies of version 1 below /sys/fs/cgroup: %v", err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	if c.unified {
		return slices.DeleteFunc(dirs, func(d string) bool { return filepath.Base(d) != "unified" && filepath.Base(d) != "systemd" })
	}
	return dirs
}

func (c *container) start(t *testing.T, shares map[string]string) {
	t.Helper()
	var enter strings.Builder
	for _, h := range c.hierarchies(t) {
		group := filepath.Join(h, c.name)
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
	args := []string{
		"-D", c.root(), "--register=no", "--keep-unit", "--machine=" + c.name,
		"--console=pipe", "--link-journal=no", "--kill-signal=SIGRTMIN+3", "--capability=all", "--system-call-filter=add_key keyctl bpf",
		// An overlay cannot lie on an overlay, so containerd's state is beside it.
		"--bind=" + filepath.Join(c.dir, "containerd") + ":/var/lib/containerd",
	}
	for at, dir := range shares {
		args = append(args, "--bind-ro="+dir+":/"+at)
	}
	network := "--private-network"
	if c.netns != "" {
		network = "--network-namespace-path=" + c.netns
	}
	boot := "/" + nsinitPath
	if c.unified {
		boot = "--boot"
	}
	args = append(args, network, boot)
	if c.hostname != "" {
		if err := os.WriteFile(filepath.Join(c.root(), "etc/hostname"), []byte(c.hostname+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.nspawn = exec.Command("sh", append([]string{"-c", enter.String() + `exec systemd-nspawn "$@"`, "sh"}, args...)...)
	if c.unified {
		c.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	}
	console, err := os.Create(filepath.Join(c.dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	c.nspawn.Stdout, c.nspawn.Stderr = console, console
	if err := c.nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	c.gone = make(chan struct{})
	go func() {
		defer close(c.gone)
		_ = c.nspawn.Wait() // a reboot is an exit code of its own
		_ = console.Close()
	}()
}

// init is the process id of its systemd, seen from here; 0 when there is none yet.
// While the machine begins to boot it changes.
func (c *container) init() int {
	parent := c.nspawn.Process.Pid
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[0])
	return pid
}

func (c *container) run(ctx context.Context, stdin string, argv ...string) (string, error) {
	init := c.init()
	if init == 0 {
		return "", errors.New("the machine is off")
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", strconv.Itoa(init), "-a", "env", "-i",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8",
	}, argv...)...)
	cmd.Stdin, cmd.WaitDelay = strings.NewReader(stdin), time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *container) cut(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(c.init(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.gone
}

func (c *container) ended() <-chan struct{} { return c.gone }

// bury takes its cgroups away.
func (c *container) bury(t *testing.T) {
	t.Helper()
	for _, h := range c.hierarchies(t) {
		_ = exec.Command("find", filepath.Join(h, c.name), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
	}
}
