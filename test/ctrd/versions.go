package ctrd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Debian returns the path of the machine's containerd.
func Debian(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers need root: run this test as root")
	}
	for _, name := range []string{"runc", shim} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v: install the Debian packages containerd and runc: make deps", err)
		}
	}
	path, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatalf("%v: install the Debian packages containerd and runc: make deps", err)
	}
	return path
}

const shim = "containerd-shim-runc-v2"

// v2Version is the newest containerd that the client is tested against.
const v2Version = "v2.4.2"

// V2 returns the path of a containerd 2.x with its shim beside it: from the
// directory $TENDER_CONTAINERD2, or built once into the user's cache.
func V2(t testing.TB) string {
	t.Helper()
	return other(t, "TENDER_CONTAINERD2", "containerd-"+v2Version, build)
}

// Debian13 returns the path of Debian 13's containerd, a 1.7, with its shim
// beside it: from the directory $TENDER_CONTAINERD13, or downloaded once into
// the user's cache. It runs with this machine's runc and C library.
func Debian13(t testing.TB) string {
	t.Helper()
	return other(t, "TENDER_CONTAINERD13", "containerd-debian13", download)
}

// other finds or makes a daemon that is not the machine's.
func other(t testing.TB, variable, name string, provide func(dir string) error) string {
	t.Helper()
	Debian(t) // runc comes from there
	dir := os.Getenv(variable)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err == nil {
			dir = filepath.Join(cache, "tender-test", name)
			err = once(dir, provide)
		}
		if err != nil {
			t.Fatalf("provide %s: %v\nset %s to a directory with containerd and %s to use another", name, err, variable, shim)
		}
	}
	for _, file := range []string{"containerd", shim} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
	}
	return filepath.Join(dir, "containerd")
}

// once fills dir unless it is there. It appears whole or not at all.
func once(dir string, provide func(dir string) error) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "making")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := provide(tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	err = os.Rename(tmp, dir)
	if errors.Is(err, os.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // another test was faster
	}
	return err
}

// build compiles the daemon and its shim, through the Go module proxy.
func build(dir string) error {
	for _, c := range []struct{ name, cgo string }{{"containerd", "1"}, {shim, "0"}} {
		cmd := exec.Command("go", "install", "-tags", "no_btrfs no_devmapper no_zfs",
			"github.com/containerd/containerd/v2/cmd/"+c.name+"@"+v2Version)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED="+c.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
	}
	return nil
}

// debianMirror is the archive that this machine's own apt uses.
func debianMirror() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("find Debian's archive: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if uri, origin, _ := strings.Cut(strings.TrimSpace(line), " "); origin == "Debian" && !strings.Contains(uri, "security") {
			return uri, nil
		}
	}
	return "", errors.New("apt knows no archive of Debian's; run apt-get update on a Debian machine")
}

// download takes the package from Debian's archive, with an apt whose lists
// and cache are of its own, and unpacks it without installing it.
func download(dir string) error {
	apt, err := os.MkdirTemp("", "apt")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(apt) }()
	mirror, err := debianMirror()
	if err != nil {
		return err
	}
	source := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + mirror + " trixie main\n"
	for name, text := range map[string]string{"sources.list": source, "status": ""} {
		if err := os.WriteFile(filepath.Join(apt, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	script := `set -e
mkdir -p lists/partial cache/archives/partial
apt() {
	apt-get -q -o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::Lists=$PWD/lists \
		-o Dir::State::status=$PWD/status -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root "$@"
}
apt update
apt download containerd
dpkg -x containerd_*.deb root
install root/usr/bin/containerd root/usr/bin/` + shim + ` "$1"`
	cmd := exec.Command("sh", "-c", script, "sh", dir)
	cmd.Dir = apt
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}
