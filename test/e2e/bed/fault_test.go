package bed_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/e2e/bed"
)

func TestFaults(t *testing.T) {
	b := bed.Start(t, bed.Config{Replicas: 2, Sites: []int{1}})
	do := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// back waits until a packet goes from a1 to c1 and back again.
	back := func(t *testing.T) {
		t.Helper()
		_, err := b.Probe("a1", "c1")
		for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); {
			_, err = b.Probe("a1", "c1")
		}
		do(t, err)
	}
	// answered counts how many of 100 packets from c1 to c2 are answered.
	answered := func(t *testing.T) (n int) {
		t.Helper()
		there, here := b.Sockets(t, "c2", "c1")
		for range 100 {
			if _, err := bed.Hello(here, there, b.Addr("c2")); err == nil {
				n++
			}
		}
		return n
	}

	t.Run("packets are lost one way only", func(t *testing.T) {
		do(t, b.Drop(t.Context(), bed.Loss{From: "c1", To: "c2"}))
		there, here := b.Sockets(t, "c1", "c2")
		// c2 is heard by c1, whose answer is lost.
		_, err := bed.Hello(here, there, b.Addr("c1"))
		if err == nil || !strings.Contains(err.Error(), here.LocalAddr().String()) {
			t.Errorf("c2 to c1 and back: %v, want no answer at %s", err, here.LocalAddr())
		}
		do(t, b.Heal(t.Context()))
		if n := answered(t); n != 100 {
			t.Errorf("after the end of it %d of 100 are answered", n)
		}
	})
	t.Run("a share of the packets is lost", func(t *testing.T) {
		do(t, b.Drop(t.Context(), bed.Loss{To: "c2", Percent: 15}))
		if n := answered(t); n < 60 || n > 98 {
			t.Errorf("%d of 100 are answered where 15 %% are lost", n)
		}
		do(t, b.Heal(t.Context()))
	})
	t.Run("UDP is blocked and TCP is not", func(t *testing.T) {
		do(t, b.Drop(t.Context(), bed.Loss{From: "r1", UDP: true}))
		if _, err := b.Probe("a1", "c1"); err == nil {
			t.Error("UDP goes through")
		}
		do(t, b.Dial("a1", "c1"))
		do(t, b.Heal(t.Context()))
		back(t)
	})
	t.Run("a router's address changes", func(t *testing.T) {
		to := netip.MustParseAddr("203.0.113.133")
		do(t, b.Readdress(t.Context(), "r1", to))
		seen, err := b.Probe("a1", "c1")
		do(t, err)
		if seen.Addr() != to || b.Addr("r1") != to {
			t.Errorf("a1 is seen as %s, the router as %s, want %s", seen, b.Addr("r1"), to)
		}
	})
	t.Run("a router forgets after a second", func(t *testing.T) {
		do(t, b.Expire("r1", time.Second))
		there, here := b.Sockets(t, "c1", "a1")
		first, err := bed.Hello(here, there, b.Addr("c1"))
		do(t, err)
		for end, seen := time.Now().Add(20*time.Second), first; seen == first; {
			if time.Now().After(end) {
				t.Fatal("it never does")
			}
			time.Sleep(2500 * time.Millisecond)
			seen, err = bed.Hello(here, there, b.Addr("c1"))
			do(t, err)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		if err := b.Drop(t.Context(), bed.Loss{From: "a1"}); err == nil {
			t.Error("dropped what is not on the wide-area network")
		}
		if err := b.Readdress(t.Context(), "c1", netip.MustParseAddr("203.0.113.134")); err == nil {
			t.Error("readdressed what is no router")
		}
		if _, err := b.Cable(t.Context(), "a7"); err == nil {
			t.Error("a cable for nobody")
		}
	})
}

func TestCable(t *testing.T) {
	b := bed.Start(t, bed.Config{Replicas: 2, Sites: []int{1}})
	for _, node := range []string{"c2", "r1", "a1"} {
		t.Run(node, func(t *testing.T) {
			cable, err := b.Cable(t.Context(), node)
			if err != nil {
				t.Fatal(err)
			}
			there, here := b.Sockets(t, "c1", node)
			ask := func() (time.Duration, error) {
				began := time.Now()
				_, err := bed.Hello(here, there, b.Addr("c1"))
				return time.Since(began), err
			}
			until := func(what string, ok func(time.Duration, error) bool) {
				t.Helper()
				var last string
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
					d, err := ask()
					if ok(d, err) {
						return
					}
					last = fmt.Sprint(d, err)
				}
				t.Fatalf("%s: at last %s", what, last)
			}
			fast := func(d time.Duration, err error) bool { return err == nil && d < 20*time.Millisecond }
			until("a cable that was put in", fast)
			cable.Set(bed.Quality{Delay: 40 * time.Millisecond, Jitter: 10 * time.Millisecond})
			for range 5 {
				if d, err := ask(); err != nil || d < 80*time.Millisecond {
					t.Errorf("with 40 ms each way the answer took %v, error %v", d, err)
				}
			}
			cable.Set(bed.Quality{Down: true})
			if _, err := ask(); err == nil {
				t.Error("a cable that is down carries")
			}
			cable.Set(bed.Quality{})
			until("a cable that is good again", fast)
			if err := cable.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			until("without it", fast)
			if err := b.CheckNAT(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("frames come twice and out of order, and are lost", func(t *testing.T) {
		cable, err := b.Cable(t.Context(), "c2")
		if err != nil {
			t.Fatal(err)
		}
		there, here := b.Sockets(t, "c1", "c2")
		for {
			if _, err := bed.Hello(here, there, b.Addr("c1")); err == nil {
				break
			}
		}
		cable.Set(bed.Quality{Delay: 5 * time.Millisecond, Loss: 20, Duplicate: 20, Reorder: 20})
		const sent = 200
		got, err := bed.Count(here, there, b.Addr("c1"), sent)
		if err != nil {
			t.Fatal(err)
		}
		seen, twice, overtaken, last := map[byte]int{}, 0, 0, byte(0)
		for _, n := range got {
			if seen[n]++; seen[n] == 2 {
				twice++
			}
			if last = max(last, n); n < last {
				overtaken++
			}
		}
		t.Logf("of %d %d came, %d twice; %d were overtaken", sent, len(seen), twice, overtaken)
		if len(seen) < 120 || len(seen) > 190 || twice < 5 || overtaken < 5 {
			t.Errorf("of %d %d came, %d twice; %d were overtaken", sent, len(seen), twice, overtaken)
		}
		if err := errors.Join(cable.Close(t.Context()), b.CheckNAT(t.Context())); err != nil {
			t.Error(err)
		}
	})
}
