package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// started counts the beds of this process, whose tests may run at once.
var started atomic.Int64

// Start builds a bed for a test and takes it down when the test ends. It sets
// the prefix itself, and removes beds of test processes that died.
func Start(t testing.TB, cfg Config) *Bed {
	t.Helper()
	if err := sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The names of a bed that a process of the same number left are in use.
	for old := []string{""}; len(old) > 0; {
		cfg.Prefix = fmt.Sprintf("t%dx%d", os.Getpid(), started.Add(1))
		var err error
		if old, err = namespaces(cfg.Prefix); err != nil {
			t.Fatal(err)
		}
	}
	b, err := Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's context has ended.
		if err := b.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// sweep removes the beds of tests whose process is gone.
func sweep(ctx context.Context) error {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		prefix, _, ok := strings.Cut(e.Name(), "-")
		if !ok || !strings.HasPrefix(prefix, "t") {
			continue
		}
		pid, _, ok := strings.Cut(prefix[1:], "x")
		if n, err := strconv.Atoi(pid); !ok || err != nil || alive(n) {
			continue
		}
		if err := Clean(ctx, prefix); err != nil {
			return err
		}
	}
	return nil
}

func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}
