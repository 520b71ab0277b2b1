package net_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/tenderfleet/tender/test/e2e/harness"
)

func TestMain(m *testing.M) {
	// Most of the time is spent waiting for time-outs, so more fleets than
	// processors may run.
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(harness.Main(m))
}
