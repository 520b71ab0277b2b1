package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/test/fakenvml"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	var out, errs bytes.Buffer
	if code := run([]string{"-dir", dir, "-gpus", "2", "-lost", "1"}, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	root := fakenvml.RootAt(dir)
	if !strings.Contains(out.String(), "driver_root="+dir+"\n") {
		t.Errorf("output %q", out.String())
	}
	if code := run([]string{"-dir", dir, "-xid", "79", "-gpu", "1"}, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	events, err := os.ReadFile(root.State + ".events")
	if err != nil || string(events) != "1 8 79\n" {
		t.Errorf("events %q, %v", events, err)
	}
	for _, args := range [][]string{{}, {"-dir", dir, "-gpus", "17"}, {"-dir", dir, "-lost", "2"}, {"-nonsense"}, {"-dir", dir, "more"}} {
		if code := run(args, &out, &errs); code != 2 {
			t.Errorf("%q: exit %d", args, code)
		}
	}
}
