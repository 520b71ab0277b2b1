package client

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Amount is a decimal number as it was written: JSON's floating point would
// change digits. It reads numbers and strings and writes numbers.
type Amount string

// AmountOf writes a scalar as an Amount.
func AmountOf(s fleet.Scalar) Amount { return Amount(s.String()) }

// Scalar reads the number; an empty Amount is zero.
func (a Amount) Scalar() (fleet.Scalar, error) {
	if a == "" {
		return 0, nil
	}
	return fleet.ParseScalar(string(a))
}

// MarshalJSON writes a number. What is no number is written as a string, for
// the other side to refuse.
func (a Amount) MarshalJSON() ([]byte, error) {
	s, err := a.Scalar()
	if err != nil {
		return json.Marshal(string(a))
	}
	return []byte(s.String()), nil
}

// UnmarshalJSON reads a number or a string.
func (a *Amount) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(a))
	}
	var n json.Number
	if err := json.Unmarshal(data, &n); err != nil {
		return err
	}
	*a = Amount(n)
	return nil
}

// memUnits are factors to MiB.
var memUnits = []struct {
	suffix string
	factor fleet.Scalar
}{{"m", 1}, {"g", 1 << 10}, {"t", 1 << 20}}

// ParseMem reads an amount of memory or disk: a number of MiB, or a number with
// one of the units M, G and T (also written Mi, MB or MiB; all are powers of
// 1024).
func ParseMem(s string) (fleet.Scalar, error) {
	number, factor := s, fleet.Scalar(1)
	lower := strings.ToLower(s)
	for _, long := range []string{"ib", "i", "b"} {
		if cut, ok := strings.CutSuffix(lower, long); ok {
			lower = cut
			break
		}
	}
	unit := len(lower) == len(s)
	for _, u := range memUnits {
		if cut, ok := strings.CutSuffix(lower, u.suffix); ok {
			number, factor, unit = cut, u.factor, true
			break
		}
	}
	v, err := fleet.ParseScalar(number)
	if err != nil || !unit {
		return 0, fmt.Errorf("%q is not an amount of memory; write 512 (MiB), 512M, 2G or 1.5G", s)
	}
	if v > fleet.MaxScalar/factor {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return v * factor, nil
}

// Duration is written "1h30m" in JSON.
type Duration time.Duration

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's notation.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write 10s, 5m or 1h30m", text)
	}
	*d = Duration(v)
	return nil
}
