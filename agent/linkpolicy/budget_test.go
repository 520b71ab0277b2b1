package linkpolicy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestPolicy(t *testing.T) {
	at := func(clock string) time.Time {
		tm, err := time.Parse("2006-01-02 15:04", "2026-12-31 "+clock)
		if err != nil {
			t.Fatal(err)
		}
		return tm
	}
	for _, tc := range []struct {
		budget int64
		quiet  string
		clock  string
		used   fleet.LinkUse
		want   linkpolicy.Mode
		says   string
	}{
		{0, "", "12:00", fleet.LinkUse{Images: 1e15}, linkpolicy.Normal, ""},
		{1000, "", "12:00", fleet.LinkUse{Keepalive: 500, Logs: 499}, linkpolicy.Normal, ""},
		{1000, "", "12:00", fleet.LinkUse{Keepalive: 500, Logs: 500}, linkpolicy.Over, "free again on 1 January"},
		{0, "06:00-22:00", "05:59", fleet.LinkUse{}, linkpolicy.Normal, ""},
		{0, "06:00-22:00", "06:00", fleet.LinkUse{}, linkpolicy.Quiet, "try again after 22:00"},
		{0, "06:00-22:00", "22:00", fleet.LinkUse{}, linkpolicy.Normal, ""},
		{0, "22:00-06:00", "23:30", fleet.LinkUse{}, linkpolicy.Quiet, ""},
		{0, "22:00-06:00", "00:00", fleet.LinkUse{}, linkpolicy.Quiet, ""},
		{0, "22:00-06:00", "06:00", fleet.LinkUse{}, linkpolicy.Normal, ""},
		{0, "00:00-24:00", "23:59", fleet.LinkUse{}, linkpolicy.Quiet, ""},
		{10, "00:00-24:00", "23:59", fleet.LinkUse{Updates: 10}, linkpolicy.Over, "raise link.budget_per_month"},
	} {
		h, err := linkpolicy.ParseHours(tc.quiet)
		if err != nil {
			t.Fatal(err)
		}
		p := linkpolicy.Policy{PerMonth: tc.budget, Quiet: h}
		got := p.Mode(at(tc.clock), tc.used)
		if why := p.Why(got, at(tc.clock), tc.used); got != tc.want || !strings.Contains(why, tc.says) || (why == "") != (got == linkpolicy.Normal) {
			t.Errorf("%d B, quiet %q, at %s after %+v: %v (%s), want %v", tc.budget, tc.quiet, tc.clock, tc.used, got, why, tc.want)
		}
	}
}

func TestParseHours(t *testing.T) {
	for _, bad := range []string{"6", "06:00", "06:00-", "06:00-06:00", "06:00-24:01", "06:60-07:00", "a-b", "-", "00:00-25:00"} {
		if h, err := linkpolicy.ParseHours(bad); err == nil {
			t.Errorf("%q was read as %v", bad, h)
		}
	}
	for _, good := range []string{"", "06:00-22:00", "22:30-06:15", "00:00-24:00"} {
		if h, err := linkpolicy.ParseHours(good); err != nil || h.String() != good {
			t.Errorf("%q was read as %q, %v", good, h, err)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "500MB": 500e6, "2 GB": 2e9, "1kB": 1000, "7B": 7, " 3TB ": 3e12} {
		if n, err := linkpolicy.ParseBytes(text); err != nil || n != want {
			t.Errorf("%q is %d, %v", text, n, err)
		}
	}
	for _, bad := range []string{"500", "MB", "-1MB", "0MB", "1.5GB", "9999999999TB", "1 Mb"} {
		if n, err := linkpolicy.ParseBytes(bad); err == nil {
			t.Errorf("%q was read as %d", bad, n)
		}
	}
	for n, want := range map[int64]string{0: "0 kB", 1: "1 kB", 999_000: "999 kB", 9_020_000: "9.0 MB", 1_990_000_000: "1.9 GB"} {
		if got := linkpolicy.Bytes(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
