package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// bookSocket counts bytes as a session does.
func bookSocket(a *Account, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(time.Now())
	a.total += n
	a.dirty = true
}

func TestAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var log bytes.Buffer
		policy := linkpolicy.Policy{PerMonth: 10_000}
		a := OpenAccount(dir, policy, slog.New(slog.NewTextHandler(&log, nil)))
		one, _ := transport.Pair(pki.Identity{}, pki.Identity{})
		link := &tap{a: a, conn: one}

		a.add(forReadings, 100)
		a.add(forUpdates, 200)
		a.add(forLogs, 300)
		a.Fetched(4000)
		bookSocket(a, 1000)
		want := fleet.LinkUse{Month: "2000-01", Keepalive: 400, Readings: 100, Updates: 200, Images: 4000, Logs: 300, Budget: 10_000}
		if mode, got := a.look(time.Now()); got != want || mode != linkpolicy.Normal {
			t.Errorf("%v, %+v, want %+v", mode, got, want)
		}
		link.sample(false) // a minute has passed since never
		again := OpenAccount(dir, policy, nil)
		if _, got := again.look(time.Now()); got != want {
			t.Errorf("after a restart %+v, want %+v", got, want)
		}

		// At most once a minute, but always at the end.
		a.Fetched(1000)
		link.sample(false)
		if _, got := OpenAccount(dir, policy, nil).look(time.Now()); got.Images != 4000 {
			t.Errorf("written again within the minute: %+v", got)
		}
		link.sample(true)
		if _, got := OpenAccount(dir, policy, nil).look(time.Now()); got.Images != 5000 {
			t.Errorf("not written at the end: %+v", got)
		}

		if err := a.MayFetch(); err != nil {
			t.Errorf("under budget: %v", err)
		}
		a.Fetched(5000)
		for range 3 {
			if err := a.MayFetch(); err == nil || !strings.Contains(err.Error(), "11 kB of its 10 kB") {
				t.Errorf("over budget: %v", err)
			}
		}
		if n := strings.Count(log.String(), "only states and kills travel"); n != 1 {
			t.Errorf("said %d times in the log, want once:\n%s", n, log.String())
		}
		if _, got := a.look(time.Now()); got.State != "over budget" {
			t.Errorf("state %q", got.State)
		}

		time.Sleep(31 * 24 * time.Hour) // a new month
		if mode, got := a.look(time.Now()); mode != linkpolicy.Normal || got.Total() != 0 || got.Month != "2000-02" {
			t.Errorf("in the next month: %v, %+v", mode, got)
		}
	})
}

func TestAccountOfABrokenFile(t *testing.T) {
	for _, text := range []string{"", "{", `{"month":"2026-01","total":-5}`, `[]`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "link.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, got := OpenAccount(dir, linkpolicy.Policy{}, nil).look(time.Now()); got.Total() != 0 {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// TestControlStreamIsBooked: each message counts for its purpose, a beat for
// none.
func TestControlStreamIsBooked(t *testing.T) {
	a := OpenAccount(t.TempDir(), linkpolicy.Policy{}, nil)
	one, two := transport.Pair(pki.Identity{}, pki.Identity{})
	out, err := one.Open(context.Background(), "control")
	if err != nil {
		t.Fatal(err)
	}
	in, err := two.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	stream := &counted{Stream: out, a: a, out: forUpdates, in: forUpdates}
	c, peer := &controlStream{Conn: wire.NewConn(stream, wire.MaxControl), bytes: stream}, wire.NewConn(in, wire.MaxControl)
	sizes := map[string]int64{}
	for _, m := range []wire.Message{wire.Readings{}, wire.Beat{}, wire.Pull{Generation: 7}} {
		b, err := wire.Append(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		sizes[fmt.Sprintf("%T", m)] = int64(len(b) + 4)
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	_, got := a.look(time.Now())
	if got.Readings != sizes["wire.Readings"] || got.Updates != sizes["wire.Pull"] || got.Logs != 0 {
		t.Errorf("booked %+v, the messages have %v", got, sizes)
	}
}
