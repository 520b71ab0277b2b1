package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// counts of tests without subtests. A package that does not compile counts as
// one that failed.
type counts struct{ Passed, Failed, Skipped int }

func (c counts) plus(d counts) counts {
	return counts{c.Passed + d.Passed, c.Failed + d.Failed, c.Skipped + d.Skipped}
}

func (c counts) String() string {
	s := fmt.Sprintf("tests: %d passed, %d failed", c.Passed, c.Failed)
	if c.Skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.Skipped)
	}
	return s
}

// append adds a line to a tally.
func (c counts) append(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(f).Encode(c), f.Close())
}

// sumOf adds up a tally. One that is missing or empty is an error: nothing ran.
func sumOf(name string) (counts, error) {
	f, err := os.Open(name)
	if err != nil {
		return counts{}, fmt.Errorf("no test ran: %w", err)
	}
	defer func() { _ = f.Close() }()
	var total counts
	for dec := json.NewDecoder(f); ; {
		var c counts
		if err := dec.Decode(&c); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return counts{}, fmt.Errorf("read tally: %w", err)
		}
		total = total.plus(c)
	}
	if total == (counts{}) {
		return counts{}, fmt.Errorf("no test ran: %s is empty", name)
	}
	return total, nil
}
