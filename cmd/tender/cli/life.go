package cli

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

// lifeFlags are the flags of `tender run` about the task's own life.
type lifeFlags struct {
	command, http, tcp              string
	delay, interval, timeout, grace time.Duration
	failures                        int
	maxTime                         time.Duration
	cpuLimit, memLimit              string
	flags                           *pflag.FlagSet
}

func (l *lifeFlags) define(f *pflag.FlagSet) {
	l.flags = f
	f.StringVar(&l.command, "health-cmd", "", "health check: run this inside the task, with /bin/sh -c; exit code 0 is healthy")
	f.StringVar(&l.http, "health-http", "", "health check: ask for a page, such as :8080/healthz or https://:8443/; 200 to 399 is healthy")
	f.StringVar(&l.tcp, "health-tcp", "", "health check: connect to this port, such as :5432")
	f.DurationVar(&l.delay, "health-delay", fleet.DefaultCheckDelay, "time from the task's start to the first check")
	f.DurationVar(&l.interval, "health-interval", fleet.DefaultCheckInterval, "time between two checks")
	f.DurationVar(&l.timeout, "health-timeout", fleet.DefaultCheckTimeout, "time that one check may take")
	f.DurationVar(&l.grace, "health-grace", fleet.DefaultCheckGrace, "time from the task's start in which failures do not count, until the first success")
	f.IntVar(&l.failures, "health-failures", fleet.DefaultConsecutiveFailures, "failed checks in a row after which the task is ended; 0 is never")
	f.DurationVar(&l.maxTime, "max-time", 0, "the task is ended, and has failed, when it runs for longer")
	f.StringVar(&l.cpuLimit, "cpu-limit", "", "processors that the task may use beyond --cpus while they are free, or unlimited (default: --cpus)")
	f.StringVar(&l.memLimit, "mem-limit", "", "memory that the task may take beyond --mem while there is some, or unlimited (default: --mem)")
}

// read adds what the flags say to a submission.
func (l *lifeFlags) read(in *client.Submit) error {
	if l.maxTime < 0 {
		return usagef("--max-time %v: write 10m or 36h", l.maxTime)
	}
	in.MaxTime = client.Duration(l.maxTime)
	for _, x := range []struct {
		flag, text string
		mem        bool
		out        *client.Amount
	}{{"--cpu-limit", l.cpuLimit, false, &in.CPULimit}, {"--mem-limit", l.memLimit, true, &in.MemLimit}} {
		v, err := client.Amount(x.text).Limit(x.mem)
		if err != nil {
			return usagef("%s %w", x.flag, err)
		}
		*x.out = client.LimitOf(v)
	}
	return l.health(in)
}

func (l *lifeFlags) health(in *client.Submit) error {
	c := &client.Check{}
	var err error
	kinds := 0
	for _, k := range []struct {
		text string
		read func(*client.Check, string) error
	}{{l.command, byCommand}, {l.http, byHTTP}, {l.tcp, byTCP}} {
		if k.text != "" {
			kinds++
			err = k.read(c, k.text)
		}
	}
	switch {
	case kinds > 1:
		return usagef("a task has one health check: give one of --health-cmd, --health-http and --health-tcp")
	case err != nil:
		return err
	case kinds == 0:
		for _, name := range []string{"delay", "interval", "timeout", "grace", "failures"} {
			if l.flags.Changed("health-" + name) {
				return usagef("--health-%s needs a health check: give --health-cmd, --health-http or --health-tcp", name)
			}
		}
		return nil
	}
	for _, d := range []struct {
		in  time.Duration
		out **client.Duration
	}{{l.delay, &c.Delay}, {l.interval, &c.Interval}, {l.timeout, &c.Timeout}, {l.grace, &c.Grace}} {
		*d.out = new(client.Duration(d.in))
	}
	c.Failures = &l.failures
	in.HealthCheck = c
	return nil
}

func byCommand(c *client.Check, text string) error {
	c.Kind, c.Command = string(fleet.CheckCommand), []string{"/bin/sh", "-c", text}
	return nil
}

func byTCP(c *client.Check, text string) error {
	c.Kind = string(fleet.CheckTCP)
	var err error
	c.Port, err = port("--health-tcp", strings.TrimPrefix(text, ":"))
	return err
}

// byHTTP reads [http[s]://]:PORT[/PATH]. There is no host: the task is asked.
func byHTTP(c *client.Check, text string) error {
	const flag = "--health-http"
	c.Kind = string(fleet.CheckHTTP)
	full := text
	if !strings.Contains(text, "://") {
		full = "http://" + text
	}
	u, err := url.Parse(full)
	if err != nil || u.Hostname() != "" || u.User != nil || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https" {
		return usagef("%s %q: write :8080/healthz or https://:8443/; the task itself is asked, so there is no host", flag, text)
	}
	if c.Port, err = port(flag, u.Port()); err != nil {
		return err
	}
	if u.Scheme == "https" {
		c.Scheme = u.Scheme
	}
	c.Path = u.RequestURI()
	return nil
}

func port(flag, text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, usagef("%s: port %q: use 1 to 65535", flag, text)
	}
	return int(n), nil
}

// limits says what a task may take beyond what it needs.
func limits(t client.Task) string {
	var parts []string
	if t.CPULimit != "" {
		parts = append(parts, "cpus "+string(t.CPULimit))
	}
	if t.MemLimit != "" {
		text := string(t.MemLimit)
		if t.MemLimit != client.Unlimited {
			text = mem(t.MemLimit)
		}
		parts = append(parts, "memory "+text)
	}
	return strings.Join(parts, ", ")
}

func maxTime(t client.Task) string {
	if t.MaxTime == 0 {
		return ""
	}
	return time.Duration(t.MaxTime).String()
}

// checkText says what a health check asks, and what comes of it.
func checkText(c *client.Check) string {
	if c == nil {
		return ""
	}
	text := ""
	switch fleet.CheckKind(c.Kind) {
	case fleet.CheckCommand:
		text = strings.Join(c.Command, " ")
	case fleet.CheckHTTP:
		scheme := c.Scheme
		if scheme == "" {
			scheme = "http"
		}
		text = fmt.Sprintf("%s://:%d%s", scheme, c.Port, c.Path)
	default:
		text = fmt.Sprintf("TCP port %d", c.Port)
	}
	if c.Interval != nil {
		text += fmt.Sprintf(", every %v", time.Duration(*c.Interval))
	}
	switch {
	case c.Failures == nil:
	case *c.Failures == 0:
		text += ", never ends the task"
	default:
		text += fmt.Sprintf(", ends the task after %s", plural(*c.Failures, "failure"))
	}
	return text
}
