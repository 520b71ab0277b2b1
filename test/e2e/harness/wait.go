package harness

import (
	"testing"
	"time"
)

// patience bounds every wait: far more than anything takes on an idle machine.
const patience = 60 * time.Second

// Eventually polls: other processes have their own time.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
