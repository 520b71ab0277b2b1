// Package unit is what a daemon's commands need to know of the service manager
// and of the user that the daemon runs as.
//
//	if unit.Foreign(state) {                    // root calls, the state is another's
//		err := unit.RunAs(ctx, state, line, stdout, stderr, "join", "-")
//	}
//	err := unit.Give(state)                     // for what root has to write itself
//	if unit.Installed("tender-agent.service") {
//		err := unit.Start(ctx, "tender-agent.service") // Stop, to end it
//	}
package unit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tenderfleet/tender/cmd/internal/conf"
)

// owner is whom a directory belongs to; ok is false when there is none.
func owner(dir string) (uid, gid uint32, ok bool) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return st.Uid, st.Gid, true
}

// Foreign reports whether root calls and dir belongs to another user.
func Foreign(dir string) bool {
	uid, _, ok := owner(dir)
	return ok && os.Geteuid() == 0 && uid != 0
}

// RunAs runs this program with other arguments, as the user whom dir belongs to.
// Its exit code is in the error, as a conf.ExitError; what it says of it, it has
// written to stderr.
func RunAs(ctx context.Context, dir, stdin string, stdout, stderr io.Writer, args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", strings.NewReader(stdin), stdout, io.MultiWriter(&said, stderr)
	if uid, gid, ok := owner(dir); ok && os.Geteuid() == 0 && uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	err = cmd.Run()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) && ctx.Err() == nil {
		return &conf.ExitError{Code: max(1, ended.ExitCode()), Err: errors.New(strings.TrimSpace(said.String())), Told: true}
	}
	if err != nil {
		return fmt.Errorf("run %s as the owner of %s: %w", filepath.Base(exe), dir, err)
	}
	return nil
}

// Give makes all that is in dir its owner's: what root has put there from files
// that only root can read. It follows no symbolic link out of dir.
func Give(dir string) error {
	uid, gid, ok := owner(dir)
	if !ok {
		return fmt.Errorf("%s has no owner", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("give %s to its owner: %w", dir, err)
	}
	defer root.Close() //nolint:errcheck // only read
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, int(uid), int(gid))
	})
	if err != nil {
		return fmt.Errorf("give %s to its owner: %w", dir, err)
	}
	return nil
}

// Installed reports whether systemd runs this machine and has the unit.
func Installed(name string) bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false
	}
	for _, dir := range []string{"/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// Start enables the unit, has it started and waits until it is ready: what a
// person types next needs it.
func Start(ctx context.Context, name string) error {
	for _, args := range [][]string{{"enable", "--quiet", name}, {"reset-failed", name}, {"start", name}} {
		out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
		if err != nil && args[0] == "start" {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// Stop ends the unit and waits until it has.
func Stop(ctx context.Context, name string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", "stop", name).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl stop %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// ShuttingDown reports whether the machine is going down.
func ShuttingDown(ctx context.Context) bool {
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // fails in every state but one
	return strings.TrimSpace(string(out)) == "stopping"
}
