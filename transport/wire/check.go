package wire

import (
	"errors"
	"fmt"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Limits of what may be inside a message. A sender shortens free text to its
// limit; everything else over a limit is refused on both sides.
const (
	MaxItems    = 4096 // assignments, updates or acknowledgements in one message
	MaxDevices  = 128  // 16 GPUs in 7 slices each, and room
	MaxPairs    = 256  // labels or environment entries
	MaxPair     = 32 << 10
	MaxArgs     = 1024
	MaxArg      = 32 << 10
	MaxText     = 4 << 10 // messages for people
	MaxName     = 256     // names, models, versions, addresses
	MaxStatuses = 64      // of a check by HTTP
	MaxReplicas = 16
	MaxChain    = 8
	MaxBundle   = 64 << 10
	MaxLogChunk = 64 << 10

	MaxPackageChunk = 64 << 10
)

// ErrInvalid is the kind of every error about a message's contents.
var ErrInvalid = errors.New("invalid message")

// check reports what is wrong with m. Free text counts only when it was
// received: a sender shortens it.
func check(m Message, received bool) error {
	c := checker{received: received}
	switch m := m.(type) {
	case Hello:
		c.hello(m)
	case Welcome:
		c.welcome(m)
	case Refusal:
		c.id("refusal code", string(m.Code))
		c.free("text", m.Text, MaxText)
		c.text("leader", m.Leader, MaxName)
		c.notNegative("retry after", int64(m.RetryAfter))
	case DesiredSet:
		c.notNegative("part", int64(m.Part))
		c.desired(m.Desired)
	case Report:
		c.updates(m.Updates)
	case Acks:
		c.acks(m.Acks)
	case CapacityChanged:
		c.capacity(m.Capacity)
	case Readings:
		c.readings(m.Readings)
	case Beat:
		c.notNegative("time between beats", int64(m.Every))
	case Observed:
		c.text("address", m.Addr, MaxName)
	case Goaway:
		c.free("text", m.Text, MaxText)
		c.text("leader", m.Leader, MaxName)
	case Certificate:
		c.count("certificates", len(m.Chain), MaxChain)
	case RenewRequest:
		c.count("key bytes", len(m.Key), MaxName)
		c.count("proof bytes", len(m.Proof), MaxName)
	case Bundle:
		c.count("bundle bytes", len(m.Roots), MaxBundle)
	case LogsRequest:
		c.id("task", string(m.Task))
		c.atLeast("tail", int64(m.Tail), -1)
	case Leave:
		c.notNegative("grace period", int64(m.Grace))
	case Upgrade:
		c.upgrade(m.Upgrade)
	case PackageRequest:
		c.text("digest", m.SHA256, MaxName)
		c.notNegative("offset", m.Offset)
	case PackageChunk:
		c.count("package bytes", len(m.Data), MaxPackageChunk)
	case LogChunk:
		c.count("log bytes", len(m.Data), MaxLogChunk)
	case Relay:
		c.relay(m)
	case RelayHello:
		c.notNegative("capability", int64(m.Capability))
		c.id("replica", string(m.Replica))
	case RelayWelcome:
		c.notNegative("capability", int64(m.Capability))
		c.count("bytes of the reset key", len(m.ResetKey), MaxName)
	}
	return c.err
}

// checker keeps the first fault, so that the rules read as a list.
type checker struct {
	received bool
	err      error
}

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
}

func (c *checker) id(what, s string) {
	if c.err != nil {
		return
	}
	if err := fleet.CheckID(what, s); err != nil {
		c.fail("%v", err)
	}
}

func (c *checker) text(what, s string, limit int) {
	if len(s) > limit {
		c.fail("%s has %d bytes, the limit is %d", what, len(s), limit)
	}
}

func (c *checker) free(what, s string, limit int) {
	if c.received {
		c.text(what, s, limit)
	}
}

func (c *checker) count(what string, n, limit int) {
	if n > limit {
		c.fail("%d %s, the limit is %d", n, what, limit)
	}
}

func (c *checker) atLeast(what string, n, least int64) {
	if n < least {
		c.fail("%s is %d, less than %d", what, n, least)
	}
}

func (c *checker) notNegative(what string, n int64) { c.atLeast(what, n, 0) }

func (c *checker) scalar(what string, s fleet.Scalar) {
	if s < 0 || s > fleet.MaxScalar {
		c.fail("%s %d is outside 0 to %d", what, int64(s), int64(fleet.MaxScalar))
	}
}

func (c *checker) pairs(what string, m map[string]string) {
	c.count(what, len(m), MaxPairs)
	for k, v := range m {
		if k == "" {
			c.fail("%s: an empty name", what)
		}
		c.text(what, k, MaxName)
		c.text(what, v, MaxPair)
	}
}

func (c *checker) hello(m Hello) {
	c.notNegative("capability", int64(m.Capability))
	c.id("agent", string(m.Agent))
	c.free("version", m.Version, MaxName)
	c.free("hostname", m.Hostname, MaxName)
	c.free("boot id", m.BootID, MaxName)
	c.notNegative("time between beats", int64(m.Beat))
	c.capacity(m.Capacity)
}

func (c *checker) welcome(m Welcome) {
	c.notNegative("capability", int64(m.Capability))
	c.id("replica", string(m.Replica))
	c.notNegative("heartbeat", int64(m.Heartbeat))
	c.notNegative("spread", int64(m.Spread))
	c.count("replicas", len(m.Replicas), MaxReplicas)
	for _, r := range m.Replicas {
		c.text("address", r, MaxName)
	}
}

func (c *checker) desired(d fleet.Desired) {
	c.count("assignments", len(d.Assignments), MaxItems)
	for i := range d.Assignments {
		a := &d.Assignments[i]
		c.id("task", string(a.Task))
		c.notNegative("kill grace", int64(a.KillGrace))
		c.resources(a.Resources)
		c.spec(&a.Spec)
		if c.err != nil {
			return
		}
	}
}

func (c *checker) spec(s *fleet.TaskSpec) {
	c.text("task name", s.Name, MaxName)
	c.text("image", s.Image, MaxText)
	c.count("arguments", len(s.Command), MaxArgs)
	for _, arg := range s.Command {
		c.text("argument", arg, MaxArg)
	}
	c.pairs("environment entries", s.Env)
	c.text("working directory", s.WorkDir, MaxArg)
	c.text("user", s.User, MaxArg)
	switch s.Network {
	case "", fleet.NetworkNone, fleet.NetworkHost:
	default:
		c.fail("unknown network %.20q", string(s.Network))
	}
	c.notNegative("processes", s.PIDs)
	c.notNegative("kill grace", int64(s.KillGrace))
	c.pairs("labels", s.Labels)
	c.life(s)
}

func (c *checker) resources(r fleet.Resources) {
	if err := fleet.CheckResources(r); err != nil {
		c.fail("resources: %v", err)
	}
	for _, id := range r.Total().GPUs {
		c.uuid(id)
	}
}

func (c *checker) capacity(v fleet.Capacity) {
	c.resources(v.Total)
	c.count("devices", len(v.Devices), MaxDevices)
	for i := range v.Devices {
		d := &v.Devices[i]
		c.uuid(d.UUID)
		if i > 0 && d.UUID <= v.Devices[i-1].UUID {
			c.fail("devices are not sorted or named twice: %.64q", string(d.UUID))
		}
		if d.Parent != "" {
			c.uuid(d.Parent)
		}
		c.free("model", d.Model, MaxName)
		c.free("driver", d.Driver, MaxName)
		c.free("profile", d.Profile, MaxName)
		c.free("health reason", d.Reason, MaxText)
		c.scalar("device memory", fleet.Scalar(d.MemoryMB))
		c.notNegative("compute capability", int64(min(d.ComputeMajor, d.ComputeMinor)))
		if d.Health < gpu.HealthUnknown || d.Health > gpu.Lost {
			c.fail("unknown GPU health %d", int(d.Health))
		}
	}
}

// uuid takes what drivers print: letters, digits and a few signs.
func (c *checker) uuid(id gpu.UUID) {
	if id == "" || len(id) > 96 {
		c.fail("a GPU name of %d bytes", len(id))
		return
	}
	for i := range len(id) {
		if b := id[i]; b <= ' ' || b > '~' {
			c.fail("GPU name %q", string(id))
			return
		}
	}
}

func (c *checker) updates(us []fleet.StatusUpdate) {
	c.count("updates", len(us), MaxItems)
	for i := range us {
		c.update(&us[i])
	}
}

func (c *checker) acks(as []Ack) {
	c.count("acknowledgements", len(as), MaxItems)
	for i := range as {
		c.id("task", string(as[i].Task))
		c.id("update", string(as[i].Update))
	}
}

func (c *checker) update(u *fleet.StatusUpdate) {
	c.id("update", string(u.ID))
	c.id("task", string(u.Status.Task))
	c.free("message", u.Status.Message, MaxText)
	c.text("reason", string(u.Status.Reason), MaxName)
	c.checked(&u.Status)
	if s := u.Status.State; s < fleet.TaskStaging || s > fleet.TaskUnknown {
		c.fail("unknown task state %d", int(s))
	}
}

func (c *checker) readings(r fleet.Readings) {
	c.notNegative("free memory", r.FreeMemMB)
	c.notNegative("free disk", r.FreeDiskMB)
	c.notNegative("tasks", int64(r.Tasks))
	c.notNegative("spooled updates", int64(r.Spooled))
	c.free("runtime", r.Runtime, MaxText)
	u := r.Link
	c.free("month", u.Month, MaxName)
	c.free("state of the link", u.State, MaxName)
	for _, n := range []int64{u.Keepalive, u.Readings, u.Updates, u.Images, u.Logs, u.Budget} {
		c.notNegative("bytes of the link", n)
	}
	c.free("settings", r.Settings, MaxText)
	c.text("rollout", string(r.Upgrade.Rollout), MaxName)
	c.text("version", r.Upgrade.Version, MaxName)
	c.text("state of the upgrade", r.Upgrade.State, MaxName)
	c.free("text", r.Upgrade.Text, MaxText)
	c.count("GPU readings", len(r.GPUs), MaxDevices)
	for i := range r.GPUs {
		c.uuid(r.GPUs[i].UUID)
		c.notNegative("used memory", r.GPUs[i].MemoryUsedMB)
	}
}

func (c *checker) upgrade(u fleet.Upgrade) {
	if u.Rollout != "" {
		c.id("rollout", string(u.Rollout))
	}
	c.text("version", u.Version, MaxName)
	c.count("packages", len(u.Packages), fleet.MaxPackages)
	for _, p := range u.Packages {
		if err := p.Check(); err != nil {
			c.fail("%v", err)
		}
	}
}
