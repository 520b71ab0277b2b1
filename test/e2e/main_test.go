package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/tenderfleet/tender/test/e2e/harness"
)

func TestMain(m *testing.M) {
	// Each test runs a handful of daemons: two tests at a time keep the waits
	// short on any machine.
	if err := flag.Set("test.parallel", "2"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(harness.Main(m))
}
