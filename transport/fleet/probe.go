package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CheckKind is how a check asks a task how it is. The names are Mesos's.
type CheckKind string

const (
	// CheckCommand runs a program inside the container; its exit code is the
	// answer.
	CheckCommand CheckKind = "COMMAND"
	// CheckHTTP asks the task's loopback address for a page; the status code is
	// the answer. Redirects are not followed.
	CheckHTTP CheckKind = "HTTP"
	// CheckTCP connects to a port of the task's loopback address.
	CheckTCP CheckKind = "TCP"
)

// Check asks a running task, again and again, how it is. As TaskSpec.Health it
// decides whether the task is healthy, and ends one that is not; as
// TaskSpec.Check its result is only reported.
//
// Delay, ConsecutiveFailures and Grace mean what they say, 0 included: who
// makes a Check begins with NewCheck or NewHealthCheck, which fill in Mesos's
// defaults. Interval and Timeout of 0 have no meaning of their own and are the
// defaults.
type Check struct {
	Kind CheckKind
	// Command and Env are CheckCommand's: an argument vector, executed without
	// a shell as the task's user, and what is added to the task's environment.
	Command []string
	Env     map[string]string
	// Port is CheckHTTP's and CheckTCP's, 1 to 65535.
	Port int
	// Scheme is "http" or "https", empty for http. A certificate is not
	// verified: the task is asked by the machine that runs it.
	Scheme string
	// Path is what CheckHTTP asks for, empty for "/".
	Path string
	// Statuses are the codes that a health check takes for an answer of a
	// healthy task; empty: 200 to 399.
	Statuses []int

	// Delay is the time from the task's start to the first check, Interval from
	// the end of one to the next. An agent looks once a second.
	Delay, Interval time.Duration
	// Timeout is how long one check may take.
	Timeout time.Duration
	// ConsecutiveFailures is after how many failed checks in a row the task is
	// killed; 0: never. A health check's only.
	ConsecutiveFailures int
	// Grace is the time from the task's start in which failures do not count,
	// until the first success. A health check's only.
	Grace time.Duration
}

// Mesos's defaults (HealthCheck and CheckInfo in mesos.proto).
const (
	DefaultCheckDelay          = 15 * time.Second
	DefaultCheckInterval       = 10 * time.Second
	DefaultCheckTimeout        = 20 * time.Second
	DefaultConsecutiveFailures = 3
	DefaultCheckGrace          = 10 * time.Second
)

// NewCheck returns a check with the default times.
func NewCheck(k CheckKind) Check {
	return Check{Kind: k, Delay: DefaultCheckDelay, Interval: DefaultCheckInterval, Timeout: DefaultCheckTimeout}
}

// NewHealthCheck is NewCheck with what a health check has besides.
func NewHealthCheck(k CheckKind) Check {
	c := NewCheck(k)
	c.ConsecutiveFailures, c.Grace = DefaultConsecutiveFailures, DefaultCheckGrace
	return c
}

// String says what is asked, and nothing of the environment, which may hold
// secrets.
func (c *Check) String() string {
	if c == nil {
		return "none"
	}
	what := fmt.Sprintf("port %d%s", c.Port, c.Path)
	if c.Kind == CheckCommand {
		what = strings.Join(c.Command, " ")
	}
	return fmt.Sprintf("%s %s after %v every %v within %v, %d failures after %v",
		c.Kind, what, c.Delay, c.Every(), c.Within(), c.ConsecutiveFailures, c.Grace)
}

// Every is the time between the end of one check and the next.
func (c *Check) Every() time.Duration { return cmp.Or(c.Interval, DefaultCheckInterval) }

// Within is how long one check may take.
func (c *Check) Within() time.Duration { return cmp.Or(c.Timeout, DefaultCheckTimeout) }

// Passed reports whether a result is one of a healthy task.
func (c *Check) Passed(r CheckResult) bool {
	switch {
	case !r.Known:
		return false
	case c.Kind == CheckCommand:
		return r.ExitCode == 0
	case c.Kind == CheckHTTP && len(c.Statuses) > 0:
		return slices.Contains(c.Statuses, r.StatusCode)
	case c.Kind == CheckHTTP:
		return r.StatusCode >= 200 && r.StatusCode <= 399
	default:
		return r.Connected
	}
}

// CheckResult is what a check found. The zero value: there is no check.
type CheckResult struct {
	Kind CheckKind
	// Known: the check has come to its end. Not so before the first one, and
	// after one that gave no answer in its time.
	Known      bool
	ExitCode   int  // of CheckCommand; 128 and the number for a signal
	StatusCode int  // of CheckHTTP
	Connected  bool // of CheckTCP
}

// String says what was found, as a part of a sentence.
func (r CheckResult) String() string {
	switch {
	case r.Kind == "":
		return ""
	case !r.Known:
		return "no answer"
	case r.Kind == CheckCommand:
		return fmt.Sprintf("exit code %d", r.ExitCode)
	case r.Kind == CheckHTTP:
		return fmt.Sprintf("HTTP status %d", r.StatusCode)
	case r.Connected:
		return "connected"
	default:
		return "no connection"
	}
}

// TaskHealth is what a task's health check says.
type TaskHealth int

const (
	// TaskHealthUnknown: there is no health check, or it has not decided yet.
	TaskHealthUnknown TaskHealth = iota
	TaskHealthy
	TaskUnhealthy
)

// String returns "unknown", "healthy" or "unhealthy".
func (h TaskHealth) String() string {
	switch h {
	case TaskHealthy:
		return "healthy"
	case TaskUnhealthy:
		return "unhealthy"
	default:
		return "unknown"
	}
}

// Limits let a task take more than it asked for while there is more. 0 is the
// request itself; Unlimited lifts the limit (Mesos's TASK_RESOURCE_LIMITS).
type Limits struct {
	CPUs, Mem Scalar
}

// Unlimited is the value of a limit that is none.
const Unlimited Scalar = -1

// LimitOf is what a task may take of something: its limit, or its request.
func LimitOf(limit, request Scalar) Scalar { return cmp.Or(limit, request) }

// CheckTaskLimits reports whether a task's limits go with what it is given.
func CheckTaskLimits(l Limits, cpus, mem Scalar) error {
	for _, x := range []struct {
		name           string
		limit, request Scalar
	}{{"cpu", l.CPUs, cpus}, {"memory", l.Mem, mem}} {
		switch {
		case x.limit == 0:
		case x.request == 0:
			return fmt.Errorf("a %s limit is given, but the task asks for none; ask for some, which the task is then sure of", x.name)
		case x.limit == Unlimited:
		case x.limit < 0 || x.limit > MaxScalar:
			return fmt.Errorf("%s limit %v is out of range", x.name, x.limit)
		case x.limit < x.request:
			return fmt.Errorf("%s limit %v is less than the %v that the task asks for; a limit lets it take more, never less", x.name, x.limit, x.request)
		}
	}
	return nil
}

// Limits of a check.
const (
	maxCheckPath = 2048
	maxStatuses  = 64
	maxCheckTime = 24 * time.Hour
	maxFailures  = 1 << 20
)

// checkLife checks what a specification says about the task's own life.
func checkLife(s TaskSpec) error {
	if s.MaxCompletion < 0 {
		return fmt.Errorf("maximum completion time %v: use more than 0, or 0 for none", s.MaxCompletion)
	}
	for _, l := range []struct {
		name  string
		value Scalar
	}{{"cpu", s.Limits.CPUs}, {"memory", s.Limits.Mem}} {
		if l.value < Unlimited || l.value > MaxScalar {
			return fmt.Errorf("%s limit %v is out of range", l.name, l.value)
		}
	}
	if err := s.Restart.valid(); err != nil {
		return fmt.Errorf("restart policy: %w", err)
	}
	if err := s.checkDisconnect(); err != nil {
		return fmt.Errorf("disconnect policy: %w", err)
	}
	if s.Health != nil {
		if err := s.Health.valid(); err != nil {
			return fmt.Errorf("health check: %w", err)
		}
	}
	if c := s.Check; c != nil {
		if err := c.valid(); err != nil {
			return fmt.Errorf("check: %w", err)
		}
		if len(c.Statuses) > 0 || c.ConsecutiveFailures != 0 || c.Grace != 0 {
			return errors.New("check: it only reports what it finds: accepted statuses, a number of failures and a grace period are for a health check")
		}
	}
	return nil
}

func (c *Check) valid() error {
	if err := c.asks(); err != nil {
		return err
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"delay", c.Delay}, {"interval", c.Interval}, {"timeout", c.Timeout}, {"grace period", c.Grace}} {
		if d.value < 0 || d.value > maxCheckTime {
			return fmt.Errorf("%s %v: use 0 to %v", d.name, d.value, maxCheckTime)
		}
	}
	if c.ConsecutiveFailures < 0 || c.ConsecutiveFailures > maxFailures {
		return fmt.Errorf("%d consecutive failures: use 1 to %d, or 0 to never kill the task", c.ConsecutiveFailures, maxFailures)
	}
	return nil
}

// asks checks that a check has what its kind needs, and nothing of another's.
func (c *Check) asks() error {
	command := len(c.Command) > 0 || len(c.Env) > 0
	http := c.Scheme != "" || c.Path != "" || len(c.Statuses) > 0
	switch c.Kind {
	case CheckCommand:
		if len(c.Command) == 0 || c.Command[0] == "" {
			return errors.New("it names no command to run inside the task")
		}
		if c.Port != 0 || http {
			return errors.New("a check by command has no port, scheme, path or statuses")
		}
		return c.validCommand()
	case CheckHTTP, CheckTCP:
		if command || c.Kind == CheckTCP && http {
			return fmt.Errorf("a check by %s has no use for what another kind of check has", c.Kind)
		}
		if c.Port < 1 || c.Port > 65535 {
			return fmt.Errorf("port %d: use 1 to 65535", c.Port)
		}
		return c.validHTTP()
	default:
		return fmt.Errorf("kind %.20q: use %s, %s or %s", string(c.Kind), CheckCommand, CheckHTTP, CheckTCP)
	}
}

func (c *Check) validCommand() error {
	if len(c.Command) > MaxArgs {
		return fmt.Errorf("the command has %d arguments, the limit is %d", len(c.Command), MaxArgs)
	}
	for _, a := range c.Command {
		if err := checkText("an argument of the command", a); err != nil {
			return err
		}
	}
	return checkEnv(c.Env)
}

func (c *Check) validHTTP() error {
	switch c.Scheme {
	case "", "http", "https":
	default:
		return fmt.Errorf("scheme %.20q: use http or https", c.Scheme)
	}
	if len(c.Path) > maxCheckPath || c.Path != "" && c.Path[0] != '/' || !escaped(c.Path) {
		return fmt.Errorf("path %.60q: it begins with / and has at most %d visible ASCII characters; write others as %%20", c.Path, maxCheckPath)
	}
	if len(c.Statuses) > maxStatuses {
		return fmt.Errorf("%d accepted statuses, the limit is %d", len(c.Statuses), maxStatuses)
	}
	for _, s := range c.Statuses {
		if s < 100 || s > 599 {
			return fmt.Errorf("status %d: use 100 to 599", s)
		}
	}
	return nil
}

// escaped reports whether a path can stand in a request as it is.
func escaped(path string) bool {
	for i := 0; i < len(path); i++ {
		switch b := path[i]; {
		case b <= ' ' || b > '~' || b == '#':
			return false
		case b == '%' && (i+2 >= len(path) || !strings.Contains(hexDigits, path[i+1:i+2]) || !strings.Contains(hexDigits, path[i+2:i+3])):
			return false
		}
	}
	return true
}

const hexDigits = "0123456789abcdefABCDEF"

// size is about how many bytes a check takes on the wire.
func (c *Check) size() int {
	if c == nil {
		return 0
	}
	n := 32 + len(c.Path) + len(c.Scheme) + 4*len(c.Statuses)
	for _, a := range c.Command {
		n += len(a) + 4
	}
	for k, v := range c.Env {
		n += len(k) + len(v) + 8
	}
	return n
}
