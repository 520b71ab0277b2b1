package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// Each package of testdata/mod ends in another way.
func TestCounts(t *testing.T) {
	for _, tt := range []struct {
		pkg    string
		strict bool
		want   counts
		code   int
		says   string
	}{
		{"good", false, counts{Passed: 4, Skipped: 1}, 0, "4 passed, 1 skipped"},
		{"good", true, counts{Passed: 4, Skipped: 1}, 1, "nothing to test with"},
		{"bad", false, counts{Passed: 1, Failed: 2}, 1, "wrong row"},
		{"broken", false, counts{Failed: 1}, 1, "undefined: undefined"},
		{"panics", false, counts{Failed: 1}, 1, "out of cheese"},
		{"missing", false, counts{Failed: 1}, 1, "missing"},
	} {
		t.Run(tt.pkg, func(t *testing.T) {
			tally := filepath.Join(t.TempDir(), "tally")
			t.Chdir(filepath.Join("testdata", "mod"))
			var out bytes.Buffer
			code := run(t.Context(), []string{"-tally", tally, "go", "test", "-count=1", "./" + tt.pkg}, tt.strict, &out, &out)
			got, err := sumOf(tally)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want || code != tt.code {
				t.Errorf("got %+v, code %d; want %+v, code %d", got, code, tt.want, tt.code)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("the output does not say %q:\n%s", tt.says, &out)
			}
		})
	}
}

func TestClosingLine(t *testing.T) {
	tally := filepath.Join(t.TempDir(), "tally")
	sum := func() (string, int) {
		var out bytes.Buffer
		code := run(t.Context(), []string{"-sum", tally}, false, &out, &out)
		return strings.TrimSpace(out.String()), code
	}
	if line, code := sum(); code != 1 || !strings.Contains(line, "no test ran") {
		t.Errorf("before any test: %q, code %d", line, code)
	}
	for _, c := range []counts{{Passed: 400}, {Passed: 12}} {
		if err := c.append(tally); err != nil {
			t.Fatal(err)
		}
	}
	if line, code := sum(); code != 0 || line != "tests: 412 passed, 0 failed" {
		t.Errorf("got %q, code %d", line, code)
	}
	if err := (counts{Failed: 1, Skipped: 2}).append(tally); err != nil {
		t.Fatal(err)
	}
	if line, code := sum(); code != 1 || line != "tests: 412 passed, 1 failed, 2 skipped" {
		t.Errorf("after a failure: %q, code %d", line, code)
	}
}
