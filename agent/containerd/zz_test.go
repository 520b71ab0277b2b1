package containerd

import (
	"bytes"
	"os"
	"testing"

	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
)

func TestZZ(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	b, _ := os.ReadFile("/tmp/sys32")
	a, _ := testimage.Build(testimage.Options{Name: "example.org/t/x:1", Files: map[string]testimage.File{"/x": {Mode: 0o755, Data: b}}})
	if _, err := x.Import(t.Context(), bytes.NewReader(a)); err != nil {
		t.Fatal(err)
	}
	tk := task("x", []string{"/x"})
	tk.Spec.Image = "example.org/t/x:1"
	e, out := run(t, x, tk)
	t.Log(e, out)
	_, out = run(t, x, task("y", sh("grep Seccomp /proc/self/status")))
	t.Log(out)
}
