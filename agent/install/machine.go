package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tenderfleet/tender/agent/upgrade"
	"github.com/tenderfleet/tender/transport/fleet"
)

// maxTries is how often an installation is begun that does not come to its end,
// by a power loss or by dpkg's failure, before it is refused.
const maxTries = 5

// Machine is where a package is installed. All that is below Agent is hostile:
// it is read as if the agent wanted to become root.
type Machine struct {
	Agent string // the agent's state directory; its parent is root's
	Dir   string // root's own, which is made
	Keys  string // the file of trusted keys
	Dpkg  Dpkg
	// AllowDowngrade: the machine's administrator lets older versions in. A
	// signature is good for ever, so that whoever holds the control plane could
	// else bring a version back whose faults are known.
	AllowDowngrade bool
	Log            *slog.Logger

	step func(name string) // tests end the process here
}

// refusal is why a request is refused for good.
type refusal struct{ err error }

func (e *refusal) Error() string { return e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

func refuse(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }

// Install carries out what the agent asks for, if anything. An error means that
// it is to be called again: the request is still there. Where the process ends
// at any moment, the next one does what is left.
func (m *Machine) Install(ctx context.Context) error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	lock, err := m.lock()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer lock.Close() //nolint:errcheck // gives the lock back
	data, err := ReadForeign(m.Agent, askDir, askName)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	var r upgrade.Request
	if err == nil {
		r, err = decodeRequest(data)
	}
	if err != nil { // nobody could be told whose request it was
		m.Log.Warn("what the agent asks for is refused", "error", err)
		return m.forget()
	}
	last, err := readAnswer(m.Dir)
	if err != nil {
		m.Log.Warn("it is not known how the last installation went", "error", err)
	}
	a := answer{Rollout: string(r.Rollout), Version: r.Version, SHA256: r.Package.SHA256}
	if last.Rollout == a.Rollout && last.SHA256 == a.SHA256 && last.Version == a.Version {
		if last.Done {
			return m.forget()
		}
		a.Tries = last.Tries
	}
	err = m.install(ctx, r, &a)
	if no := (*refusal)(nil); err != nil && !errors.As(err, &no) {
		return fmt.Errorf("install %s: %w", r.Version, err)
	}
	a.Done, a.Installed = true, err == nil
	if err != nil {
		text := err.Error()
		a.Text = strings.ToValidUTF8(text[:min(len(text), maxSaid)], "")
		m.Log.Warn("refused", "version", r.Version, "error", err)
	} else {
		m.Log.Info("installed", "version", r.Version)
	}
	return m.answer(a)
}

// install does the work of one request; a refusal ends it.
func (m *Machine) install(ctx context.Context, r upgrade.Request, a *answer) error {
	if a.Tries >= maxTries {
		return refuse("the installation was begun %d times and never came to its end; on the machine, look at: journalctl -u tender-agent-install", a.Tries)
	}
	m.at("begin")
	unlock, err := m.Dpkg.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	file, err := m.take(r.Package)
	if err != nil {
		return err
	}
	m.at("taken")
	if err := m.verify(file, r.Package); err != nil {
		return err
	}
	if err := m.inspect(ctx, file, r); err != nil {
		return err
	}
	m.Dpkg.mend(ctx, m.Log)
	a.Tries++
	if err := m.write(*a); err != nil { // counted before, for it may end the machine
		return err
	}
	m.at("counted")
	err = m.Dpkg.install(ctx, file)
	m.at("installed")
	if err != nil && a.Tries >= maxTries {
		return &refusal{err}
	}
	return err
}

// answer makes the answer durable before the request goes: a request that has
// its answer is not carried out again.
func (m *Machine) answer(a answer) error {
	if err := m.write(a); err != nil {
		return err
	}
	m.at("answered")
	if err := m.forget(); err != nil {
		return err
	}
	m.at("forgotten")
	if err := os.Remove(m.copy()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the package: %w", err)
	}
	return nil
}

func (m *Machine) write(a answer) error {
	data, err := json.Marshal(a)
	if err == nil {
		err = replace(m.Dir, answerName, data, 0o644) // the agent reads it
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func (m *Machine) copy() string { return filepath.Join(m.Dir, "tender-agent.deb") }

// take copies the package to where the agent cannot change it.
func (m *Machine) take(p fleet.Package) (string, error) {
	src, err := openForeign(m.Agent, packagesDir, packageName(p.SHA256))
	if err != nil {
		return "", refuse("the package cannot be taken from the agent: %w", err)
	}
	defer src.Close() //nolint:errcheck // opened to read
	if err := os.Remove(m.copy()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("take the package: %w", err)
	}
	dst, err := os.OpenFile(m.copy(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("take the package: %w", err)
	}
	_, err = io.Copy(dst, io.LimitReader(src, p.Size+1)) // one too many shows in its size
	if err := errors.Join(err, dst.Sync(), dst.Close()); err != nil {
		return "", fmt.Errorf("take the package: %w", err)
	}
	return m.copy(), nil
}

func (m *Machine) verify(file string, p fleet.Package) error {
	keys, err := ReadKeys(m.Keys)
	if err != nil {
		return &refusal{err}
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened to read
	err = keys.Verify(f, p)
	if errors.Is(err, ErrAltered) || errors.Is(err, ErrUntrusted) {
		return &refusal{err}
	}
	return err
}

// inspect looks whether a signed package is the one that is wanted: the key may
// have signed others.
func (m *Machine) inspect(ctx context.Context, file string, r upgrade.Request) error {
	c, err := m.Dpkg.control(ctx, file)
	if err != nil {
		return refuse("no Debian package: %w", err)
	}
	arch, err := m.Dpkg.architecture(ctx)
	if err != nil {
		return err
	}
	switch {
	case c.name != "tender-agent":
		return refuse("it is a package of %q, not of tender-agent", c.name)
	case c.arch != arch:
		return refuse("it is for %s, this machine is of %s", c.arch, arch)
	case !sameVersion(c.version, r.Version):
		return refuse("it has version %s, not %s", c.version, r.Version)
	}
	have, err := m.Dpkg.installed(ctx)
	if err != nil {
		return refuse("tender-agent was not installed here as a package: %w", err)
	}
	older, err := m.Dpkg.compare(ctx, c.version, "lt", have)
	if err != nil {
		return err
	}
	lacks, err := m.Dpkg.missing(ctx, c.depends)
	switch {
	case err != nil:
		return err
	case lacks != "":
		return refuse("it needs what this machine does not have: %s; install that with the machine's package manager", lacks)
	case older && !m.AllowDowngrade:
		return refuse("%s is older than %s, which is installed; write allow-downgrade: true to the machine's /etc/tender/agent.yaml if that is what you want", c.version, have)
	}
	return nil
}

// sameVersion compares a package's version with the one that its agent tells:
// without Debian's revision, and with a v.
func sameVersion(deb, agent string) bool {
	agent = strings.TrimPrefix(agent, "v")
	upstream := deb
	if i := strings.LastIndexByte(deb, '-'); i > 0 {
		upstream = deb[:i]
	}
	return agent == deb || agent == upstream
}

func (m *Machine) at(name string) {
	if m.step != nil {
		m.step(name)
	}
}

// lock keeps a second process of this kind away.
func (m *Machine) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(m.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another installation is under way: %w", err), f.Close())
	}
	return f, nil
}

// forget removes the request, whatever it is, so that it starts nothing again.
func (m *Machine) forget() error {
	root, err := os.OpenRoot(m.Agent)
	if err == nil {
		err = errors.Join(root.RemoveAll(filepath.Join(askDir, askName)), root.Close())
	}
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("remove the request: %w", err)
	}
	return nil
}
