package wire

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

func checkTo(c *fleet.Check) *pb.Check {
	if c == nil {
		return nil
	}
	return &pb.Check{
		Kind: string(c.Kind), Command: c.Command, Env: c.Env, Port: int64(c.Port), Scheme: c.Scheme, Path: c.Path,
		Statuses: convert(c.Statuses, func(s int) int64 { return int64(s) }),
		DelayNs:  int64(c.Delay), IntervalNs: int64(c.Interval), TimeoutNs: int64(c.Timeout),
		ConsecutiveFailures: int64(c.ConsecutiveFailures), GraceNs: int64(c.Grace),
	}
}

func checkFrom(c *pb.Check) *fleet.Check {
	if c == nil {
		return nil
	}
	return &fleet.Check{
		Kind: fleet.CheckKind(c.Kind), Command: c.Command, Env: c.Env, Port: int(c.Port), Scheme: c.Scheme, Path: c.Path,
		Statuses: convert(c.Statuses, func(s int64) int { return int(s) }),
		Delay:    time.Duration(c.DelayNs), Interval: time.Duration(c.IntervalNs), Timeout: time.Duration(c.TimeoutNs),
		ConsecutiveFailures: int(c.ConsecutiveFailures), Grace: time.Duration(c.GraceNs),
	}
}

func limitsTo(l fleet.Limits) *pb.Limits {
	if l == (fleet.Limits{}) {
		return nil
	}
	return &pb.Limits{Cpus: int64(l.CPUs), Mem: int64(l.Mem)}
}

func limitsFrom(l *pb.Limits) fleet.Limits {
	return fleet.Limits{CPUs: fleet.Scalar(l.GetCpus()), Mem: fleet.Scalar(l.GetMem())}
}

func resultTo(r fleet.CheckResult) *pb.CheckResult {
	if r == (fleet.CheckResult{}) {
		return nil
	}
	return &pb.CheckResult{
		Kind: string(r.Kind), Known: r.Known, ExitCode: int64(r.ExitCode), StatusCode: int64(r.StatusCode), Connected: r.Connected,
	}
}

func resultFrom(r *pb.CheckResult) fleet.CheckResult {
	return fleet.CheckResult{
		Kind: fleet.CheckKind(r.GetKind()), Known: r.GetKnown(), ExitCode: int(r.GetExitCode()),
		StatusCode: int(r.GetStatusCode()), Connected: r.GetConnected(),
	}
}

// life checks what a specification says about the task's own life.
func (c *checker) life(s *fleet.TaskSpec) {
	c.probe("health check", s.Health)
	c.probe("check", s.Check)
	c.notNegative("maximum completion time", int64(s.MaxCompletion))
	c.notNegative("restart attempts", int64(s.Restart.Attempts))
	c.text("restart mode", string(s.Restart.Mode), MaxName)
	c.text("reconcile", string(s.Disconnect.Reconcile), MaxName)
	for _, d := range []time.Duration{s.Restart.Interval, s.Restart.Delay, s.Disconnect.StopAfter, s.Disconnect.LostAfter} {
		c.notNegative("time of a policy", int64(d))
	}
	for _, l := range []fleet.Scalar{s.Limits.CPUs, s.Limits.Mem} {
		if l != fleet.Unlimited {
			c.scalar("limit", l)
		}
	}
}

func (c *checker) probe(what string, k *fleet.Check) {
	if k == nil {
		return
	}
	c.kind(what, k.Kind)
	c.count("arguments of a check", len(k.Command), MaxArgs)
	for _, arg := range k.Command {
		c.text("argument of a check", arg, MaxArg)
	}
	c.pairs("environment entries of a check", k.Env)
	c.text("scheme", k.Scheme, MaxName)
	c.text("path", k.Path, MaxText)
	c.count("statuses", len(k.Statuses), MaxStatuses)
	if k.Port < 0 || k.Port > 65535 {
		c.fail("port %d of the %s", k.Port, what)
	}
	for _, d := range []time.Duration{k.Delay, k.Interval, k.Timeout, k.Grace} {
		c.notNegative("time of the "+what, int64(d))
	}
	c.notNegative("consecutive failures", int64(k.ConsecutiveFailures))
}

func (c *checker) kind(what string, k fleet.CheckKind) {
	switch k {
	case fleet.CheckCommand, fleet.CheckHTTP, fleet.CheckTCP:
	default:
		c.fail("unknown kind %.20q of %s", string(k), what)
	}
}

// checked checks what a status says of a task's checks.
func (c *checker) checked(s *fleet.Status) {
	if s.Health < fleet.TaskHealthUnknown || s.Health > fleet.TaskUnhealthy {
		c.fail("unknown task health %d", int(s.Health))
	}
	if s.Check != (fleet.CheckResult{}) {
		c.kind("a result", s.Check.Kind)
	}
	c.notNegative("restarts", int64(s.Restarts))
}
