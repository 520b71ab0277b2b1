package bed_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/e2e/bed"
)

func TestBed(t *testing.T) {
	b := bed.Start(t, bed.Config{Replicas: 3, Sites: []int{2, 1}})
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reaches := func(from, to string, want bool) {
		t.Helper()
		// A cable that was just put in carries nothing for a second.
		deadline := time.Now().Add(10 * time.Second)
		_, err := b.Probe(from, to)
		for want && err != nil && time.Now().Before(deadline) {
			_, err = b.Probe(from, to)
		}
		if (err == nil) != want {
			t.Errorf("%s to %s: %v, want reached = %v", from, to, err, want)
		}
	}

	t.Run("names", func(t *testing.T) {
		var got []string
		for _, k := range []bed.Kind{bed.Replica, bed.Router, bed.Agent} {
			for _, n := range b.Nodes(k) {
				got = append(got, n.Name+" "+n.Addr.String())
			}
		}
		want := "c1 203.0.113.11, c2 203.0.113.12, c3 203.0.113.13, r1 203.0.113.101, r2 203.0.113.102, " +
			"a1 198.18.1.11, a2 198.18.1.12, a3 198.18.2.13"
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("got %s\nwant %s", s, want)
		}
	})

	t.Run("a program runs on its node", func(t *testing.T) {
		out, err := b.Run(t.Context(), "a3", "", "ip", "-o", "-4", "addr", "show", "dev", "e0")
		do(err)
		if !strings.Contains(out, "198.18.2.13") {
			t.Errorf("a3 has %s", out)
		}
		_, err = b.Run(t.Context(), "a3", "", "ls", "/nowhere")
		if err == nil || !strings.Contains(err.Error(), "No such file") {
			t.Errorf("the error of a program is %v", err)
		}
	})

	t.Run("the NAT is one", func(t *testing.T) {
		do(b.CheckNAT(t.Context()))
		reaches("a1", "a2", true)
		reaches("a1", "a3", false)
		reaches("c1", "a1", false)
		// The check can fail: a router that forwards all is found out.
		_, err := b.Run(t.Context(), "r2", "", "nft", "flush", "chain", "ip", "filt", "forward")
		do(err)
		_, err = b.Run(t.Context(), "r2", "", "nft", "chain", "ip", "filt", "forward", "{ policy accept; }")
		do(err)
		if err := b.CheckNAT(t.Context()); err == nil || !strings.Contains(err.Error(), "c1 reaches a3 through") {
			t.Errorf("without a filter: %v", err)
		}
	})

	t.Run("a cable", func(t *testing.T) {
		do(b.Cut(t.Context(), "r1"))
		reaches("a1", "c1", false)
		reaches("a1", "a2", true)
		reaches("a3", "c1", true)
		do(b.Restore(t.Context(), "r1"))
		reaches("a1", "c1", true)
		do(b.Cut(t.Context(), "a1"))
		reaches("a1", "c1", false)
		reaches("a2", "c1", true)
		do(b.Restore(t.Context(), "a1"))
		reaches("a1", "c1", true)
	})

	t.Run("a pair", func(t *testing.T) {
		do(b.Part(t.Context(), "c1", "c2"))
		reaches("c1", "c2", false)
		reaches("c2", "c1", false)
		reaches("c1", "c3", true)
		do(b.Heal(t.Context()))
		do(b.Heal(t.Context())) // of nothing
		reaches("c1", "c2", true)
	})

	t.Run("a router forgets", func(t *testing.T) {
		there, here := b.Sockets(t, "c1", "a1")
		before, err := bed.Hello(here, there, b.Addr("c1"))
		do(err)
		do(b.Rebind(t.Context(), "r1"))
		after, err := bed.Hello(here, there, b.Addr("c1"))
		do(err)
		if before == after {
			t.Errorf("seen as %s before and after", before)
		}
	})

	t.Run("refusals", func(t *testing.T) {
		if err := b.Cut(t.Context(), "a9"); err == nil {
			t.Error("cut a node that is not there")
		}
		if err := b.Part(t.Context(), "c1", "a1"); err == nil {
			t.Error("parted an agent")
		}
	})
}

// Whatever is left of a bed goes, with what runs in it.
func TestClean(t *testing.T) {
	ctx := t.Context()
	const prefix = "cleantest"
	t.Cleanup(func() {
		if err := bed.Clean(context.Background(), prefix); err != nil {
			t.Error(err)
		}
	})
	if err := bed.Clean(ctx, prefix); err != nil {
		t.Fatal(err)
	}
	b, err := bed.Up(ctx, bed.Config{Prefix: prefix, Replicas: 1, Sites: []int{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bed.Up(ctx, bed.Config{Prefix: prefix, Replicas: 1}); err == nil {
		t.Error("built the same bed twice")
	}
	cmd := b.Command(ctx, "a1", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// nsenter has to be on the node before it can be found there.
	for pids := ""; pids == ""; {
		if pids, err = b.Run(ctx, "c1", "", "ip", "netns", "pids", prefix+"-a1"); err != nil {
			t.Fatal(err)
		}
	}
	// Half of it is gone already.
	if out, err := exec.CommandContext(ctx, "ip", "netns", "delete", prefix+"-r1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := bed.Clean(ctx, prefix); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Errorf("the program ended with %v", cmd.ProcessState)
	}
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			t.Errorf("%s is left", e.Name())
		}
	}
	if _, err := bed.Open(ctx, prefix); err == nil || !strings.Contains(err.Error(), "build it first") {
		t.Errorf("open what is gone: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for _, cfg := range []bed.Config{
		{Prefix: "p", Replicas: 0},
		{Prefix: "p", Replicas: 10},
		{Prefix: "p", Replicas: 1, Sites: []int{0}},
		{Prefix: "p", Replicas: 1, Sites: []int{51}},
		{Prefix: "", Replicas: 1},
		{Prefix: "p-", Replicas: 1},
		{Prefix: "P", Replicas: 1},
		{Prefix: "morethantwelve", Replicas: 1},
	} {
		if b, err := bed.Up(t.Context(), cfg); err == nil {
			t.Errorf("built %+v", cfg)
			_ = b.Down(t.Context())
		}
	}
}
