package fleet

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// GPUFractionText is Mesos's answer to a task that asks for a part of a GPU
// (src/common/validation.cpp); people search for it, so it stays to the letter.
const GPUFractionText = "Task uses invalid resources: Invalid 'gpus' resource: The 'gpus' resource must be an unsigned integer"

// ErrGPUFraction is the error of GPUCount for a fraction or a negative number.
var ErrGPUFraction = errors.New(GPUFractionText) //nolint:staticcheck // Mesos's text begins with a capital

// GPUCount reads a number of GPUs; only whole ones exist.
func GPUCount(s string) (int, error) {
	v, err := ParseScalar(s)
	if err != nil || v%1000 != 0 {
		return 0, ErrGPUFraction
	}
	if v > Whole(MaxGPUs) {
		return 0, fmt.Errorf("%s GPUs: no agent has more than %d", s, MaxGPUs)
	}
	return int(v / 1000), nil
}

// Limits on what one task may describe; the wire refuses more as well.
const (
	MaxGPUs    = 64
	MaxArgs    = 1024
	MaxEnv     = 256
	MaxLabels  = 64
	maxTextLen = 32 << 10
	maxGrace   = 24 * time.Hour
)

// CheckSpec reports what is wrong with a specification, as text for its author.
func CheckSpec(s TaskSpec) error {
	if err := CheckID("name", s.Name); err != nil {
		return err
	}
	if s.Image == "" {
		return errors.New("the task names no image; give one, such as docker.io/library/busybox:1.36")
	}
	if len(s.Image) > 512 || strings.ContainsFunc(s.Image, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("image %.60q is not a reference", s.Image)
	}
	if len(s.Command) > MaxArgs {
		return fmt.Errorf("the command has %d arguments, the limit is %d", len(s.Command), MaxArgs)
	}
	for _, a := range s.Command {
		if err := checkText("an argument of the command", a); err != nil {
			return err
		}
	}
	if err := checkEnv(s.Env); err != nil {
		return err
	}
	if err := CheckLabels(s.Labels); err != nil {
		return err
	}
	if err := checkLife(s); err != nil {
		return err
	}
	if n := s.Size(); n > MaxSpecSize {
		return fmt.Errorf("command, environment, labels and checks have %d bytes together, the limit is %d; put large input into the image or a file", n, MaxSpecSize)
	}
	return checkLimits(s)
}

// MaxSpecSize bounds the text of one specification, so that desired sets fit
// the wire's frames.
const MaxSpecSize = 64 << 10

// Size is about how many bytes the specification takes on the wire.
func (s TaskSpec) Size() int {
	n := len(s.Name) + len(s.Image) + len(s.WorkDir) + len(s.User) + s.Health.size() + s.Check.size()
	for _, a := range s.Command {
		n += len(a) + 4
	}
	for _, m := range []map[string]string{s.Env, s.Labels} {
		for k, v := range m {
			n += len(k) + len(v) + 8
		}
	}
	return n
}

func checkEnv(env map[string]string) error {
	if len(env) > MaxEnv {
		return fmt.Errorf("%d environment variables, the limit is %d", len(env), MaxEnv)
	}
	for k, v := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") || len(k) > 255 {
			return fmt.Errorf("%.40q is not a name of an environment variable", k)
		}
		if err := checkText("environment variable "+k, v); err != nil {
			return err
		}
	}
	return nil
}

func checkLimits(s TaskSpec) error {
	switch s.Network {
	case "", NetworkNone, NetworkHost:
	default:
		return fmt.Errorf("network %q: use %q or %q", s.Network, NetworkNone, NetworkHost)
	}
	if s.PIDs < 0 || s.PIDs > 1<<22 {
		return fmt.Errorf("pids %d: use 1 to %d, or 0 for the default of %d", s.PIDs, 1<<22, DefaultPIDs)
	}
	if s.KillGrace < 0 || s.KillGrace > maxGrace {
		return fmt.Errorf("kill grace period %v: use 0 to %v", s.KillGrace, maxGrace)
	}
	if s.WorkDir != "" && !strings.HasPrefix(s.WorkDir, "/") {
		return fmt.Errorf("working directory %.60q is not absolute", s.WorkDir)
	}
	if err := checkText("working directory", s.WorkDir); err != nil {
		return err
	}
	return checkText("user", s.User)
}

// CheckLabels reports whether labels are few, short and printable.
func CheckLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("%d labels, the limit is %d", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if err := CheckID("label", k); err != nil {
			return err
		}
		if len(v) > 255 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("the value of label %s is longer than 255 characters or not printable", k)
		}
	}
	return nil
}

// CheckNeed reports what is wrong with what a task asks for.
func CheckNeed(n Need) error {
	for _, s := range []struct {
		name string
		v    Scalar
	}{{"cpus", n.CPUs}, {"mem", n.Mem}, {"disk", n.Disk}} {
		if s.v < 0 || s.v > MaxScalar {
			return fmt.Errorf("%s %v is out of range", s.name, s.v)
		}
	}
	if n.CPUs == 0 && n.Mem == 0 && n.GPU.Count == 0 {
		return errors.New("the task asks for no cpus, memory or gpus; ask for at least one of them")
	}
	if n.GPU.Count < 0 || n.GPU.Count > MaxGPUs || n.GPU.MinMemoryMB < 0 {
		return ErrGPUFraction
	}
	if n.GPU.Count == 0 && (n.GPU.MinMemoryMB > 0 || n.GPU.Model != "") {
		return errors.New("a GPU model or memory is given, but no number of GPUs")
	}
	if n.Site != "" {
		if err := CheckID("site", string(n.Site)); err != nil {
			return err
		}
	}
	if n.Agent != "" {
		if err := CheckID("agent", string(n.Agent)); err != nil {
			return err
		}
	}
	return CheckLabels(n.Labels)
}

func checkText(what, s string) error {
	if len(s) > maxTextLen {
		return fmt.Errorf("%s is %d bytes long, the limit is %d", what, len(s), maxTextLen)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%s contains a NUL byte", what)
	}
	return nil
}
