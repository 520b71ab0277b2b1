package capacity

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tenderfleet/tender/transport/fleet"
)

// keepMem is what is left to the system and the agent: 5 % of the memory, and
// 256 MiB at least. keepDisk is a tenth of the disk, as Mesos's headroom.
const keepMem = 256

// Machine returns what a machine can offer: all processors, the memory less
// what the system keeps, nine tenths of the file system that holds dir.
func Machine(dir string) (fleet.Resources, error) {
	mem, err := meminfo("MemTotal:")
	if err != nil {
		return fleet.Resources{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fleet.Resources{}, fmt.Errorf("read disk size of %s: %w", dir, err)
	}
	disk := int64(fs.Blocks) * fs.Bsize >> 20
	return fleet.Resources{
		CPUs: fleet.Whole(int64(runtime.NumCPU())),
		Mem:  fleet.Whole(max(0, mem-max(keepMem, mem/20))),
		Disk: fleet.Whole(disk / 10 * 9),
	}, nil
}

// Meter measures use between two readings. The zero value is ready.
type Meter struct{ busy, total uint64 }

// Read fills in the momentary part of r: processor use since the last call,
// free memory, free disk of the file system that holds dir. What cannot be
// read stays zero: readings are for people.
func (m *Meter) Read(dir string, r *fleet.Readings) {
	if mem, err := meminfo("MemAvailable:"); err == nil {
		r.FreeMemMB = mem
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		r.FreeDiskMB = int64(fs.Bavail) * fs.Bsize >> 20
	}
	busy, total, err := cpuTimes()
	if err != nil {
		return
	}
	if d := total - m.total; m.total > 0 && d > 0 && busy >= m.busy {
		r.CPUPercent = int(min(100, (busy-m.busy)*100/d))
	}
	m.busy, m.total = busy, total
}

// meminfo returns a line of /proc/meminfo in MiB.
func meminfo(key string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) >= 2 && fields[0] == key {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb >> 10, err
		}
	}
	return 0, fmt.Errorf("read memory size: /proc/meminfo has no %s", key)
}

// cpuTimes returns the busy and total ticks of all processors since boot:
// proc(5), the first line of /proc/stat; idle and iowait are the 4th and 5th.
func cpuTimes() (busy, total uint64, err error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	for i, f := range strings.Fields(line) {
		if i == 0 || i > 8 { // "cpu"; guest times are counted in user already
			continue
		}
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		total += n
		if i != 4 && i != 5 {
			busy += n
		}
	}
	return busy, total, nil
}

// BootID changes when the machine restarts.
func BootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
