package fakenvml

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed src/fakenvml.c
var source []byte

// Soname is the name under which programs look for the library.
const Soname = "libnvidia-ml.so.1"

// Build compiles the library and returns its path, which lies in a cache named
// after the source and the header, so that only the first call compiles.
//
// The functions named in omit are left out, as in a driver older than they are.
func Build(omit ...string) (string, error) {
	header, err := headerDir()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%q\n", source, header, omit)
	dir, err := cacheDir(hex.EncodeToString(sum.Sum(nil)[:12]))
	if err != nil {
		return "", err
	}
	lib := filepath.Join(dir, Soname)
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	// Two test processes may build at once: each links to a name of its own,
	// and the rename makes whichever is last the one that stays.
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", fmt.Errorf("compile the NVML stand-in: %w", err)
	}
	defer os.RemoveAll(work)
	if err := compile(work, header, omit); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(work, Soname), lib); err != nil {
		return "", fmt.Errorf("compile the NVML stand-in: %w", err)
	}
	return lib, nil
}

// compile leaves the library in dir.
func compile(dir, header string, omit []string) error {
	src := filepath.Join(dir, "fakenvml.c")
	if err := os.WriteFile(src, source, 0o644); err != nil {
		return fmt.Errorf("compile the NVML stand-in: %w", err)
	}
	var script strings.Builder
	script.WriteString("{ global: nvml*; local: ")
	for _, f := range omit {
		script.WriteString(f + "; ")
	}
	script.WriteString("*; };\n")
	vers := filepath.Join(dir, "exports")
	if err := os.WriteFile(vers, []byte(script.String()), 0o644); err != nil {
		return fmt.Errorf("compile the NVML stand-in: %w", err)
	}
	return gcc("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden",
		"-DNVML_NO_UNVERSIONED_FUNC_DEFS=1", "-I"+header, "-Wl,-soname,"+Soname, "-Wl,--version-script="+vers,
		"-o", filepath.Join(dir, Soname), src, "-lpthread")
}

func gcc(args ...string) error {
	out, err := exec.Command("gcc", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("gcc is not installed: install it with `make deps`")
	}
	if err != nil {
		return fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return nil
}

// headerDir is where the go-nvml module keeps nvml.h.
func headerDir() (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find nvml.h of the go-nvml module (run inside the repository): %w\n%s", err, stderr.String())
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "pkg", "nvml")
	if _, err := os.Stat(filepath.Join(dir, "nvml.h")); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find nvml.h: the go-nvml module is not downloaded; run `go mod download`: %w", err)
	}
	return dir, nil
}

func cacheDir(key string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir() // no home directory, as in a bare CI job
	}
	dir := filepath.Join(base, "tender-fakenvml", key)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache of the NVML stand-in: %w", err)
	}
	return dir, nil
}
