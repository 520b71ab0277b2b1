package containerd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

// cgroupRoot is where the kernel's control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// cgroups says which limits this machine's kernel can apply, and where a
// container's memory counters are.
type cgroups struct {
	root    string
	unified bool // version 2
	// controllers are the usable ones: cpu, memory, pids.
	controllers []string
	// swap: version 1 can limit memory and swap together.
	swap bool
}

// detectCgroups reads what is mounted under root, once: it does not change
// without a boot.
func detectCgroups(root string) cgroups {
	c := cgroups{root: root}
	if b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil {
		c.unified, c.controllers = true, strings.Fields(string(b))
		return c
	}
	for controller, file := range map[string]string{
		"cpu": "cpu.cfs_quota_us", "memory": "memory.limit_in_bytes", "pids": "",
	} {
		// The root group has no pids.max; the hierarchy's mount tells enough.
		if _, err := os.Stat(filepath.Join(root, controller, file)); err == nil {
			c.controllers = append(c.controllers, controller)
		}
	}
	_, err := os.Stat(filepath.Join(root, "memory/memory.memsw.limit_in_bytes"))
	c.swap = err == nil
	return c
}

func (c cgroups) require(controller, limit string) error {
	if slices.Contains(c.controllers, controller) {
		return nil
	}
	return invalid("this machine cannot limit %s: its kernel offers containers no %s controller "+
		"(see %s; boot with cgroup_enable=%s)", limit, controller, c.root, controller)
}

const (
	cfsPeriod = 100_000 // µs, the kernel's default
	// minQuota is the least that the kernel accepts: a hundredth of a CPU.
	minQuota  = 1_000
	minShares = 2
	maxShares = 262_144
)

// resources turns what the task was given, and may take beyond it, into limits.
func (c cgroups) resources(t executor.Task) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if err := fleet.CheckTaskLimits(t.Spec.Limits, t.Resources.CPUs, t.Resources.Mem); err != nil {
		return nil, invalid("%w", err)
	}
	if cpus := int64(t.Resources.CPUs); cpus > 0 {
		if err := c.require("cpu", "processor time"); err != nil {
			return nil, err
		}
		// The quota is the limit; the shares settle who waits when more is
		// promised than there is.
		shares := uint64(min(max(minShares, cpus*1024/1000), maxShares))
		r.CPU = &specs.LinuxCPU{Shares: &shares}
		if limit := fleet.LimitOf(t.Spec.Limits.CPUs, t.Resources.CPUs); limit != fleet.Unlimited {
			quota, period := max(minQuota, int64(limit)*(cfsPeriod/1000)), uint64(cfsPeriod)
			r.CPU.Quota, r.CPU.Period = &quota, &period
		}
	}
	if t.Resources.Mem > 0 {
		if err := c.require("memory", "memory"); err != nil {
			return nil, err
		}
		r.Memory = c.memory(t)
	}
	pids := t.Spec.PIDs
	if pids == 0 {
		pids = fleet.DefaultPIDs
	}
	if pids < 0 {
		return nil, invalid("a limit of %d processes", pids)
	}
	if err := c.require("pids", "the number of processes"); err != nil {
		return nil, err
	}
	r.Pids = &specs.LinuxPids{Limit: &pids}
	return r, nil
}

// memory limits memory. What is over the request is taken back first when the
// machine runs short.
func (c cgroups) memory(t executor.Task) *specs.LinuxMemory {
	m := &specs.LinuxMemory{}
	if bursts(t) {
		request := memBytes(t.Resources.Mem)
		m.Reservation = &request
	}
	if most := fleet.LimitOf(t.Spec.Limits.Mem, t.Resources.Mem); most != fleet.Unlimited {
		limit := memBytes(most)
		m.Limit = &limit
		// Memory and swap together as much as memory alone: no swap. A
		// version 1 kernel without swap accounting knows no such limit.
		if c.unified || c.swap {
			m.Swap = &limit
		}
	}
	return m
}

// bursts: the task may take more memory than it is sure of.
func bursts(t executor.Task) bool {
	return t.Resources.Mem > 0 && fleet.LimitOf(t.Spec.Limits.Mem, t.Resources.Mem) != t.Resources.Mem
}

// burstOOMScore makes the kernel of a machine without memory end a task that
// may take more than it asked for before those that take what is theirs.
const burstOOMScore = 500

// memBytes converts thousandths of MiB; MaxScalar does not overflow.
func memBytes(m fleet.Scalar) int64 {
	return int64(m/1000)<<20 + int64(m%1000)<<20/1000
}
