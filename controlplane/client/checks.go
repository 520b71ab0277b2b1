package client

import (
	"fmt"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Check asks a running task how it is: by running Command inside it (kind
// COMMAND), by asking for a page of Port (HTTP), or by connecting to Port
// (TCP), the ports being those of the loopback address that the task sees.
// What is missing is Mesos's default: a delay of 15s, an interval of 10s, a
// timeout of 20s and, for a health check, 3 failures and a grace period of 10s.
type Check struct {
	Kind    string   `json:"kind"`
	Command []string `json:"command,omitempty"`
	// Env is only ever sent: its values may be secrets.
	Env      map[string]string `json:"env,omitempty"`
	Port     int               `json:"port,omitempty"`
	Scheme   string            `json:"scheme,omitempty"` // http or https
	Path     string            `json:"path,omitempty"`
	Statuses []int             `json:"statuses,omitempty"` // empty: 200 to 399
	Delay    *Duration         `json:"delay,omitempty"`
	Interval *Duration         `json:"interval,omitempty"`
	Timeout  *Duration         `json:"timeout,omitempty"`
	// Failures is after how many failed checks in a row the task is killed; 0:
	// never. Failures and Grace are a health check's only.
	Failures *int      `json:"failures,omitempty"`
	Grace    *Duration `json:"grace,omitempty"`
}

// CheckResult is what a check found. Known: it came to its end.
type CheckResult struct {
	Kind       string `json:"kind"`
	Known      bool   `json:"known"`
	ExitCode   *int   `json:"exit_code,omitempty"`
	StatusCode int    `json:"status_code,omitempty"`
	Connected  *bool  `json:"connected,omitempty"`
	// Text says it in words.
	Text string `json:"text"`
}

// Unlimited is the limit that is none.
const Unlimited Amount = "unlimited"

// Limit reads a limit; Mem: one of memory, with units. An empty one is 0.
func (a Amount) Limit(mem bool) (fleet.Scalar, error) {
	var v fleet.Scalar
	var err error
	switch {
	case a == "":
		return 0, nil
	case a == Unlimited:
		return fleet.Unlimited, nil
	case mem:
		v, err = ParseMem(string(a))
	default:
		v, err = a.Scalar()
	}
	if err != nil {
		return 0, fmt.Errorf("%w; or write %s", err, Unlimited)
	}
	return v, nil
}

// LimitOf writes a limit; 0 is an empty Amount.
func LimitOf(s fleet.Scalar) Amount {
	switch s {
	case 0:
		return ""
	case fleet.Unlimited:
		return Unlimited
	default:
		return AmountOf(s)
	}
}
