package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binEnv names the directory of the programs. `make e2e` sets it.
const binEnv = "TENDER_BIN"

// Main builds the programs, unless somebody has, and runs the tests.
func Main(m *testing.M) int {
	if os.Getenv(binEnv) == "" {
		dir, err := os.MkdirTemp("", "tender-bin")
		if err == nil {
			defer os.RemoveAll(dir) //nolint:errcheck // in the temporary directory
			err = build(dir)
		}
		if err == nil {
			err = os.Setenv(binEnv, dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "build the programs:", err)
			return 1
		}
	}
	return m.Run()
}

func build(dir string) error {
	for _, b := range []struct {
		cgo  string
		args []string
	}{
		{"0", []string{"./cmd/tenderd", "./cmd/tender", "./cmd/tender-log"}},
		// NVML is looked up when the agent runs; see the Makefile.
		{"1", []string{"-ldflags=-extldflags=-Wl,-z,lazy", "./cmd/tender-agent"}},
	} {
		cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, b.args...)...)
		root, err := moduleRoot()
		if err != nil {
			return err
		}
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above %s: run the tests inside the repository", dir)
		}
	}
}

// Program returns the path of tenderd, tender-agent or tender.
func Program(name string) string { return filepath.Join(os.Getenv(binEnv), name) }
