package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookTime bounds a question to dpkg.
	lookTime = time.Minute
	// maxSaid bounds what is kept of what dpkg prints: its end says what failed.
	maxSaid = 1000
	// maxList bounds the list of all that is installed; each has some 100 bytes.
	maxList = 16 << 20
)

// Dpkg is Debian's package manager on this machine; the zero value is the
// machine's own.
type Dpkg struct {
	Bin   string // directory of its programs; empty is /usr/bin
	Admin string // its database; empty is /var/lib/dpkg
}

// lock waits until no other package manager is at work and keeps others away, as
// apt does it, until unlock is called.
func (d Dpkg) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(d.admin(), "lock-frontend"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock dpkg: %w", err)
	}
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, errors.Join(fmt.Errorf("lock dpkg: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another package manager is at work: %w", context.Cause(ctx)), f.Close())
		case <-time.After(time.Second):
		}
	}
}

func (d Dpkg) admin() string {
	if d.Admin == "" {
		return "/var/lib/dpkg"
	}
	return d.Admin
}

// mend ends what an interrupted dpkg has begun. Where another package stands in
// the way, this one may still go in.
func (d Dpkg) mend(ctx context.Context, log *slog.Logger) {
	journal, err := os.ReadDir(filepath.Join(d.admin(), "updates"))
	if err != nil || len(journal) == 0 {
		return
	}
	if said, err := d.run(context.WithoutCancel(ctx), "dpkg", "--force-confold", "--configure", "-a"); err != nil {
		log.Warn("dpkg was interrupted, and does not end what it had begun", "error", err, "said", said)
	}
}

// install is not cut short by the end of ctx: half a package is worse.
func (d Dpkg) install(ctx context.Context, file string) error {
	said, err := d.run(context.WithoutCancel(ctx), "dpkg", "--force-confold", "--install", file)
	if err != nil {
		return fmt.Errorf("dpkg: %w: %s", err, said)
	}
	return nil
}

// control is what a package says of itself.
type control struct{ name, version, arch, depends string }

func (d Dpkg) control(ctx context.Context, file string) (control, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	said, err := d.list(ctx, "dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n${Architecture}\n${Pre-Depends}, ${Depends}", file)
	if err != nil {
		return control{}, err
	}
	lines := strings.SplitN(said, "\n", 4)
	if len(lines) != 4 {
		return control{}, fmt.Errorf("dpkg-deb says %.200q of it", said)
	}
	return control{lines[0], lines[1], lines[2], lines[3]}, nil
}

func (d Dpkg) architecture(ctx context.Context) (string, error) {
	said, err := d.run(ctx, "dpkg", "--print-architecture")
	if err != nil {
		return "", fmt.Errorf("dpkg: %w: %s", err, said)
	}
	return said, nil
}

// installed is the version that dpkg has of the agent, in whatever state.
func (d Dpkg) installed(ctx context.Context) (string, error) {
	said, err := d.run(ctx, "dpkg-query", "--show", "--showformat=${Version}", "tender-agent")
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, said)
	}
	if said == "" {
		return "", errors.New("dpkg has no version of it")
	}
	return said, nil
}

// compare reports whether a relation of two versions holds.
func (d Dpkg) compare(ctx context.Context, version, relation, other string) (bool, error) {
	said, err := d.run(ctx, "dpkg", "--compare-versions", version, relation, other)
	if no, ok := errors.AsType[*exec.ExitError](err); ok && no.ExitCode() == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("dpkg: %w: %s", err, said)
	}
	return true, nil
}

// run runs one of dpkg's programs and returns the end of what it prints.
func (d Dpkg) run(ctx context.Context, name string, args ...string) (string, error) {
	out := tail{most: maxSaid}
	err := d.start(ctx, &out, name, args...)
	return strings.TrimSpace(string(bytes.ToValidUTF8(out.data, []byte("?")))), err
}

// list runs one whose answer is needed whole.
func (d Dpkg) list(ctx context.Context, name string, args ...string) (string, error) {
	out := tail{most: maxList}
	if err := d.start(ctx, &out, name, args...); err != nil {
		return "", fmt.Errorf("%s: %w: %.200s", name, err, out.data)
	}
	return string(out.data), nil
}

func (d Dpkg) start(ctx context.Context, out *tail, name string, args ...string) error {
	dir := d.Bin
	if dir == "" {
		dir = "/usr/bin"
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name), args...)
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root",
		"DEBIAN_FRONTEND=noninteractive", "DPKG_FRONTEND_LOCKED=1",
	}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it has succeeded, and left somebody behind
		err = nil
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	data []byte
	most int
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.most; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}
