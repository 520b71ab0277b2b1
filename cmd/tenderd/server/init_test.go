package server

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// run is one run of tenderd.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	code = Main(t.Context(), args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// A script that prepares servers may run any number of times.
func TestInitTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"init", "--data", dir, "--addr", "r1.example.org:7999", "--id", "r1"}
	_, told, code := run(t, args...)
	if code != 0 {
		t.Fatal(told)
	}
	for _, want := range []string{"7999/udp", "7999/tcp", "nft add rule", "ufw allow"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q is missing in:\n%s", want, told)
		}
	}
	out, told, code := run(t, args...)
	if code != 0 || !strings.Contains(out, "already") || told != "" {
		t.Errorf("the second time: %d\n%s%s", code, out, told)
	}
	for name, other := range map[string][]string{
		"id":           {"init", "--data", dir, "--addr", "r1.example.org:7999", "--id", "r2"},
		"address":      {"init", "--data", dir, "--addr", "r9.example.org:7999", "--id", "r1"},
		"trust domain": append(slices.Clip(args), "--trust-domain", "other.test"),
	} {
		if _, told, code := run(t, other...); code == 0 || !strings.Contains(told, "already holds replica r1") {
			t.Errorf("another %s: %d, %s", name, code, told)
		}
	}
}

func TestReceiveBuffer(t *testing.T) {
	small, err := receiveBuffer(64 << 10)
	if err != nil || small != 64<<10 {
		t.Errorf("asked for 64 KiB: %d, %v", small, err)
	}
	if huge, err := receiveBuffer(1 << 30); err != nil || huge >= 1<<30 {
		t.Errorf("asked for 1 GiB: %d, %v", huge, err)
	}
}
