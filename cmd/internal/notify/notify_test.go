package notify_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/cmd/internal/notify"
)

// manager listens as a service manager does.
func manager(t *testing.T, addr string) func() string {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return func() string {
		buf := make([]byte, 4096)
		_ = l.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := l.Read(buf)
		if err != nil {
			return ""
		}
		return string(buf[:n])
	}
}

func TestWhatTheServiceManagerHears(t *testing.T) {
	for kind, addr := range map[string]string{"a path": filepath.Join(t.TempDir(), "s"), "abstract": "@tender-notify-test"} {
		heard := manager(t, addr)
		env := map[string]string{"NOTIFY_SOCKET": addr, "WATCHDOG_USEC": "3600000000"}
		n := notify.Open(func(k string) string { return env[k] })
		if n.Watchdog() != 20*time.Minute {
			t.Errorf("%s: a sign of life each %v", kind, n.Watchdog())
		}
		n.Ready()
		n.Status("up\nand well")
		n.Status("up\nand well")
		n.Alive()
		n.Alive()
		n.Reloading()
		n.Stopping()
		for _, want := range []string{"READY=1", "STATUS=up and well", "WATCHDOG=1", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1\nSTATUS=stopping", ""} {
			if got := heard(); got != want && (!strings.HasSuffix(want, "USEC=") || !strings.HasPrefix(got, want)) {
				t.Errorf("%s: heard %q, want %q", kind, got, want)
			}
		}
	}
}

func TestNobodyListens(t *testing.T) {
	for _, env := range []map[string]string{
		{}, {"NOTIFY_SOCKET": "/does/not/exist"}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"},
	} {
		n := notify.Open(func(k string) string { return env[k] })
		n.Ready()
		n.Alive()
		if n.Watchdog() != 0 {
			t.Errorf("%v: somebody watches", env)
		}
	}
	var none *notify.Notifier
	none.Ready()
	none.Status("x")
	none.Alive()
}
