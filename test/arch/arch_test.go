package arch_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/test/arch"
)

// checks has one name for each check; testdata/bad/want lists findings by it.
var checks = []struct {
	name string
	find func(*arch.Module) []string
}{
	{"directions", arch.Directions},
	{"owners", arch.Owners},
	{"testing", arch.TestingInProduct},
	{"links", arch.Links},
	{"modules", arch.Modules},
	{"purity", arch.Purity},
	{"floats", arch.Floats},
	{"sizes", arch.Sizes},
	{"docs", arch.Docs},
}

// The code has the shape that rules.go says.
func TestShape(t *testing.T) {
	m := load(t, filepath.Join("..", ".."))
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range c.find(m) {
				t.Error(f)
			}
		})
	}
}

// A check that cannot fail is worth nothing: a module that breaks the rules is
// found out, for exactly what it does.
func TestChecksCanFail(t *testing.T) {
	dir := filepath.Join("testdata", "bad")
	m := load(t, dir)
	want := wanted(t, filepath.Join(dir, "want"))
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			got := c.find(m)
			slices.Sort(got)
			if len(want[c.name]) == 0 {
				t.Error("no finding is wanted of this check: break its rule in testdata/bad")
			}
			if !slices.Equal(got, want[c.name]) {
				t.Errorf("found:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want[c.name], "\n"))
			}
		})
	}
}

func load(t *testing.T, dir string) *arch.Module {
	t.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := arch.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Packages) < 5 {
		t.Fatalf("only %d packages in %s", len(m.Packages), dir)
	}
	return m
}

// wanted reads "check finding" lines.
func wanted(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if check, finding, ok := strings.Cut(strings.TrimSpace(line), " "); ok && check != "#" {
			want[check] = append(want[check], finding)
		}
	}
	for _, findings := range want {
		slices.Sort(findings)
	}
	return want
}
