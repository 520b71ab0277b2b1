package packages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/e2e/bed"
)

// screen is a command that README.md has somebody type at a machine, and what is
// to appear there.
type screen struct{ host, command, output string }

// screens are the commands of README.md's console block.
func screens(t *testing.T) (list []screen) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), "```console\n")
	block, _, closed := strings.Cut(block, "```\n")
	if !found || !closed {
		t.Fatal("README.md has no console block")
	}
	prompt := regexp.MustCompile(`^([a-z0-9-]+)# (.*)$`)
	for line := range strings.Lines(block) {
		if m := prompt.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			list = append(list, screen{host: m[1], command: m[2]})
		} else {
			list[len(list)-1].output += line
		}
	}
	return list
}

var (
	joinLine = regexp.MustCompile(`tender1\.[\w.…-]+`)
	changes  = []struct {
		what *regexp.Regexp
		by   string
	}{
		{joinLine, "LINE"},
		{regexp.MustCompile(`-[a-z0-9]{8}\b`), "-ID"},
		{regexp.MustCompile(`sha256:[\w+/=-]+…?`), "PIN"},
		{regexp.MustCompile(`[0-9]+(\.[0-9]+)?`), "N"},
		{regexp.MustCompile(` +`), " "},
		{regexp.MustCompile(`N(h|m|s|ms|d)(Ns|Nm|Nh)*\b`), "TIME"},
	}
)

// likeness is what a screen has of every run: no amounts, times, secrets.
func likeness(text string) string {
	for _, c := range changes {
		text = c.what.ReplaceAllString(text, c.by)
	}
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "its offer is on its way") {
			continue // for less time than it takes to say so, mostly
		}
		out = append(out, strings.TrimSpace(line))
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// What README.md says appears on the screen, from three empty servers to the
// first task on a machine behind a NAT, does.
func TestTheFirstTenMinutes(t *testing.T) {
	t.Parallel()
	b := bed.Start(t, bed.Config{Replicas: 3, Sites: []int{1}})
	hosts := map[string]*machine{}
	names := ""
	for i, h := range []struct{ name, node string }{{"tender-1", "c1"}, {"tender-2", "c2"}, {"tender-3", "c3"}, {"gpu-1", "a1"}} {
		m := newMachine(t, b.NetNS(h.node), h.name, debs(t))
		t.Cleanup(func() { m.off(t) })
		m.boot(t)
		hosts[h.name] = m
		if i < 3 {
			names += fmt.Sprintf("%s %s.example.org\n", b.Addr(h.node), h.name)
		}
	}
	for name, m := range hosts {
		what := []string{"tender", "tender-server"}
		if name == "gpu-1" {
			what = []string{"tender-agent"}
		} else {
			m.unit = "tenderd*"
		}
		// As README.md has it installed: from the directory that holds the packages.
		for _, p := range what {
			m.sh(t, "cp /debs/new/"+filepath.Base(deb(t, "new", p))+" /root/")
		}
		if _, err := m.input(names, "sh", "-c", "cat >>/etc/hosts"); err != nil {
			t.Fatal(err)
		}
	}
	hosts["gpu-1"].loadImageAs(t, "docker.io/library/busybox:latest")
	line := ""
	for _, s := range screens(t) {
		m := hosts[s.host]
		if m == nil {
			t.Fatalf("no machine %q", s.host)
		}
		command := joinLine.ReplaceAllString(s.command, line)
		command = strings.ReplaceAll(command, "apt install ", "apt-get install -y -qq ")
		if strings.HasPrefix(command, "apt-get") {
			m.sh(t, "cd /root; "+command) // apt's own words are Debian's
			continue
		}
		var got string
		var err error
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			got, err = m.try("sh", "-c", "cd /root; "+command+" 2>&1")
			if err == nil && likeness(got) == likeness(s.output) || !looks(command) || time.Now().After(end) {
				break
			}
		}
		if l := joinLine.FindString(got); l != "" {
			line = l
		}
		if err != nil || likeness(got) != likeness(s.output) {
			t.Errorf("%s# %s\n%s\n%v; README.md has:\n%s", s.host, command, got, err, s.output)
		}
	}
}

// looks reports whether a command changes nothing, so that it can be repeated
// until all has settled.
func looks(command string) bool {
	for _, c := range []string{"tender replicas", "tender agents", "tender ps"} {
		if strings.HasPrefix(command, c) {
			return true
		}
	}
	return false
}
