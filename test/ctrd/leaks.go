package ctrd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Leaks lists what tasks of the daemon's namespace have left on the machine:
// shims, mounts, cgroups and runc's state.
func (d *Daemon) Leaks() []string {
	var leaks []string
	for _, pid := range d.Shims("") {
		leaks = append(leaks, fmt.Sprintf("shim %d", pid))
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, d.dir) {
			leaks = append(leaks, "mount "+strings.TrimSpace(line))
		}
	}
	for _, dir := range d.cgroups() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() {
				leaks = append(leaks, "cgroup "+filepath.Join(dir, e.Name()))
			}
		}
	}
	state, _ := filepath.Glob(filepath.Join("/run/containerd/runc", d.Namespace, "*"))
	for _, s := range state {
		leaks = append(leaks, "runc state "+s)
	}
	slices.Sort(leaks)
	return leaks
}

// CheckClean fails the test when something is left. A shim ends a moment
// after its task was deleted, so it is given that moment.
func (d *Daemon) CheckClean(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		leaks := d.Leaks()
		if len(leaks) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind:\n%s", strings.Join(leaks, "\n"))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Shims lists the process ids of the namespace's shims: of one container, or
// of all when container is empty.
func (d *Daemon) Shims(container string) []int {
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(b), "\x00")
		if !strings.Contains(args[0], "containerd-shim") || !hasFlag(args, "-namespace", d.Namespace) {
			continue
		}
		if container == "" || hasFlag(args, "-id", container) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// EndIdleShims ends shims that have no process of a container. containerd 1.6
// can forget one of a start whose caller was killed; nothing uses it any more,
// and how many there were is logged.
func (d *Daemon) EndIdleShims(t testing.TB) {
	t.Helper()
	for _, pid := range d.Shims("") {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		busy := false
		for _, c := range children {
			b, _ := os.ReadFile(c)
			busy = busy || len(strings.TrimSpace(string(b))) > 0
		}
		if !busy {
			t.Logf("ended the idle shim %d of a start that was cut short", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	time.Sleep(100 * time.Millisecond)
}

func hasFlag(args []string, flag, value string) bool {
	for i := range len(args) - 1 {
		if args[i] == flag && args[i+1] == value {
			return true
		}
	}
	return false
}

// KillShim kills a container's shim as a crash would.
func (d *Daemon) KillShim(t testing.TB, container string) {
	t.Helper()
	pids := d.Shims(container)
	if len(pids) != 1 {
		t.Fatalf("container %s has shims %v, want one", container, pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// cgroups lists the namespace's directory in every hierarchy, v1 and v2.
func (d *Daemon) cgroups() []string {
	v1, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", d.Namespace))
	v2, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", d.Namespace))
	return append(v1, v2...)
}

// reap ends what a failed test has left running, and removes the namespace's
// empty directories, which runc makes and leaves in every case. All of it is
// found by the namespace, which is this daemon's alone.
func (d *Daemon) reap() {
	for _, pid := range d.Shims("") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, dir := range d.cgroups() {
		groups, _ := filepath.Glob(filepath.Join(dir, "*/cgroup.procs"))
		for _, g := range groups {
			b, _ := os.ReadFile(g)
			for pid := range strings.FieldsSeq(string(b)) {
				if n, err := strconv.Atoi(pid); err == nil && n > 1 {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
			rmdir(filepath.Dir(g))
		}
		rmdir(dir)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], d.dir+"/") {
			_ = syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
	_ = os.RemoveAll(filepath.Join("/run/containerd/runc", d.Namespace))
}

// rmdir removes a control group, which is busy for a moment after the last of
// its processes was killed.
func rmdir(dir string) {
	for range 100 {
		if err := syscall.Rmdir(dir); err != syscall.EBUSY {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
