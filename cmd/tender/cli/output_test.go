package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

// What other machines wrote cannot command the terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, Ünïcode 船": "plain text, Ünïcode 船",
		"\x1b[2Jgone":           `\x1b[2Jgone`,
		"two\nlines\tand\r":     `two\nlines\tand\r`,
		"\u009b31mred":          `\u009b31mred`,
		"abc\u202edcb":          `abc\u202edcb`,
		"bad \xff byte":         "bad \ufffd byte",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	var b strings.Builder
	a := &app{Streams: Streams{Out: &b}}
	a.settings.json = true
	if err := a.print(map[string]string{"k": "\x1b\u009b\x7f"}, nil); err != nil || b.String() != "{\n  \"k\": \"\\u001b\\u009b\\u007f\"\n}\n" {
		t.Errorf("JSON: %q, %v", b.String(), err)
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "0s ago", 59 * time.Second: "59s ago", 3 * time.Minute: "3m ago", 47 * time.Hour: "47h ago",
		50 * time.Hour: "2d ago", -90 * time.Second: "in 1m",
	} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if ago(now, time.Time{}) != "" {
		t.Error("the zero time has an age")
	}
}

func TestMem(t *testing.T) {
	for in, want := range map[client.Amount]string{"0": "0", "512": "512M", "0.5": "0.5M", "1024": "1G", "1536": "1.5G", "49140": "48G", "x": "x"} {
		if got := mem(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"credentials", "output", "server", "socket", "gpus", "gpu-model"}
	for word, want := range map[string]string{"servers": "server", "sever": "server", "out": "output", "gpu": "gpus", "colour": "", "cred": "credentials"} {
		if got := nearest(word, names); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}

func TestServerAddr(t *testing.T) {
	for in, want := range map[string]string{
		"r1": "r1:7443", "r1:1": "r1:1", " https://r1:7443/ ": "r1:7443", "::1": "[::1]:7443", "[::1]": "[::1]:7443", "[::1]:5": "[::1]:5", "": "",
	} {
		if got, err := serverAddr(in); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"r1/x", "http://r1", ":7443", "r1:"} {
		if got, err := serverAddr(in); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
}

// A flag goes before the environment; of server and socket the nearer decides.
func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		env    map[string]string
		socket bool
	}{
		{"socket flag, server variable", []string{"--socket", "/s"}, map[string]string{"TENDER_SERVER": "r1"}, true},
		{"server flag, socket variable", []string{"--server", "r1"}, map[string]string{"TENDER_SOCKET": "/s"}, false},
		{"both variables", nil, map[string]string{"TENDER_SOCKET": "/s", "TENDER_SERVER": "r1"}, false},
		{"both flags", []string{"--socket", "/s", "--server", "r1,r2:5"}, nil, false},
		{"socket alone", nil, map[string]string{"TENDER_SOCKET": "/s"}, true},
	} {
		a := &app{env: tt.env}
		root := a.root()
		if err := root.ParseFlags(tt.args); err != nil {
			t.Fatal(err)
		}
		if err := a.configure(root.Flags()); err != nil || a.settings.socketAsked != tt.socket {
			t.Errorf("%s: %+v, %v", tt.name, a.settings, err)
		}
	}
}

// Every command says what it does, and shows it.
func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || !strings.HasPrefix(c.Example, "  ") || c.RunE == nil || c.Args == nil && c.Name() != "run" {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for line := range strings.Lines(c.Example) {
			if !strings.Contains(line, "tender") {
				t.Errorf("%s: example %q", c.CommandPath(), line)
			}
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk((&app{}).root())
}

func TestGPUSummary(t *testing.T) {
	g := func(model, health string) client.GPU { return client.GPU{Model: model, Memory: 24576, Health: health} }
	got := gpuSummary([]client.GPU{g("A", "healthy"), g("B", "healthy"), g("A", "lost"), g("A", "unhealthy")})
	if got != "3x A 24G (1 unhealthy) (1 lost), 1x B 24G" {
		t.Errorf("got %q", got)
	}
}
