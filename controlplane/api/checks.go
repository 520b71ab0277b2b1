package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

// lifeOf reads what a document says about the task's own life.
func lifeOf(in client.Submit, s *fleet.TaskSpec) error {
	s.MaxCompletion = time.Duration(in.MaxTime)
	for _, l := range []struct {
		name string
		in   client.Amount
		out  *fleet.Scalar
	}{{"cpu_limit", in.CPULimit, &s.Limits.CPUs}, {"mem_limit", in.MemLimit, &s.Limits.Mem}} {
		var err error
		if *l.out, err = l.in.Limit(l.name == "mem_limit"); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	if in.HealthCheck != nil {
		c := checkOf(in.HealthCheck, fleet.NewHealthCheck)
		s.Health = &c
	}
	if in.Check != nil {
		c := checkOf(in.Check, fleet.NewCheck)
		s.Check = &c
	}
	return nil
}

// checkOf fills in the defaults of what is missing.
func checkOf(in *client.Check, with func(fleet.CheckKind) fleet.Check) fleet.Check {
	c := with(fleet.CheckKind(strings.ToUpper(in.Kind)))
	c.Command, c.Env = in.Command, in.Env
	c.Port, c.Scheme, c.Path, c.Statuses = in.Port, in.Scheme, in.Path, in.Statuses
	for _, d := range []struct {
		in  *client.Duration
		out *time.Duration
	}{{in.Delay, &c.Delay}, {in.Interval, &c.Interval}, {in.Timeout, &c.Timeout}, {in.Grace, &c.Grace}} {
		if d.in != nil {
			*d.out = time.Duration(*d.in)
		}
	}
	if in.Failures != nil {
		c.ConsecutiveFailures = *in.Failures
	}
	return c
}

// checkDoc shows a check as it is, defaults included, but for its environment.
func checkDoc(c *fleet.Check, health bool) *client.Check {
	if c == nil {
		return nil
	}
	duration := func(d time.Duration) *client.Duration { return new(client.Duration(d)) }
	d := &client.Check{
		Kind: string(c.Kind), Command: c.Command, Port: c.Port, Scheme: c.Scheme, Path: c.Path, Statuses: c.Statuses,
		Delay: duration(c.Delay), Interval: duration(c.Every()), Timeout: duration(c.Within()),
	}
	if health {
		d.Failures, d.Grace = &c.ConsecutiveFailures, duration(c.Grace)
	}
	return d
}

// healthDoc is empty while nothing is known.
func healthDoc(h fleet.TaskHealth) string {
	if h == fleet.TaskHealthUnknown {
		return ""
	}
	return h.String()
}

func resultDoc(r fleet.CheckResult) *client.CheckResult {
	if r.Kind == "" {
		return nil
	}
	d := &client.CheckResult{Kind: string(r.Kind), Known: r.Known, StatusCode: r.StatusCode, Text: r.String()}
	switch {
	case !r.Known:
	case r.Kind == fleet.CheckCommand:
		d.ExitCode = &r.ExitCode
	case r.Kind == fleet.CheckTCP:
		d.Connected = &r.Connected
	}
	return d
}
