package vm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/image"
	"github.com/tenderfleet/tender/test/vm"
)

// TestVirtualExecutor runs the tests of the executor on containerd on a machine whose
// control groups are of version 2, with all controllers, as operators' machines
// have them. Those with other builds of containerd stay here.
func TestVirtualExecutor(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", filepath.Join(dir, "containerd.test"), "github.com/tenderfleet/tender/agent/containerd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	busybox, err := os.ReadFile(image.DefaultBusybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	m := vm.New(t, vm.Config{Suite: "bookworm", Files: map[string]string{"suite": dir}})
	m.Boot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	out, err := m.Run(ctx, "", "sh", "-ec", `
		cp /suite/busybox `+image.DefaultBusybox+`
		echo 127.0.0.1 localhost >/etc/hosts
		cd "$(mktemp -d)"
		exec /suite/containerd.test -test.v -test.parallel 2 -test.skip "Containerd2|Debian13"`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
}
