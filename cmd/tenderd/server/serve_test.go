package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenderfleet/tender/cmd/internal/notify"
)

// replica answers as the test says; once answers are used up, it hangs.
type replica struct{ answers chan error }

func (r replica) Alive(ctx context.Context) (string, error) {
	select {
	case err := <-r.answers:
		return "leads", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// The watchdog is fed by the replica's answers, not by a clock.
func TestAReplicaThatHangsGivesNoSignOfLife(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test is over
	env := map[string]string{"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "30000"}
	n := notify.Open(func(k string) string { return env[k] })
	r := replica{make(chan error, 3)}
	r.answers <- nil
	r.answers <- errors.New("stuck")
	r.answers <- nil
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watch(ctx, r, n, slog.New(slog.DiscardHandler))
	}()
	heard := map[string]int{}
	for {
		buf := make([]byte, 256)
		// Far longer than ten signs of life are apart.
		_ = l.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		k, err := l.Read(buf)
		if err != nil {
			break
		}
		heard[string(buf[:k])]++
	}
	cancel()
	<-done
	if heard["STATUS=leads"] != 1 || heard["WATCHDOG=1"] != 2 || len(heard) != 2 {
		t.Errorf("two answers and an error were heard as %v", heard)
	}
}
