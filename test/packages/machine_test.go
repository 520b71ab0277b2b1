package packages

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/test/image"
)

// body is what a machine runs in: a container or a virtual machine.
type body interface {
	// start begins to boot, with directories of this host where a name below the
	// machine's root says.
	start(t *testing.T, shares map[string]string)
	// run runs a program as root, and fails while the machine is off.
	run(ctx context.Context, stdin string, argv ...string) (string, error)
	// cut ends the machine at once.
	cut(t *testing.T)
	// ended is closed when it is off.
	ended() <-chan struct{}
	// bury removes what it leaves behind when it is off for good.
	bury(t *testing.T)
}

// machine is a Debian machine. Its disk outlives a reboot.
type machine struct {
	body
	disk   string // where this host sees its disk; empty for a virtual machine
	on     bool
	shares map[string]string
	failed *string // the units that had failed when it first booted
	unit   string  // whose journal is shown of a test that fails
}

// boot starts the machine and waits until its systemd has started everything.
func (m *machine) boot(t *testing.T) {
	t.Helper()
	m.start(t, m.shares)
	m.on = true
	harness.Eventually(t, "the machine has booted", func() bool {
		state, _ := m.try("systemctl", "is-system-running")
		return state == "running" || state == "degraded"
	})
	if m.failed == nil {
		failed := m.failing(t)
		m.failed = &failed
	}
}

// failing are the machine's failed units.
func (m *machine) failing(t *testing.T) string {
	t.Helper()
	return m.run(t, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
}

// sound checks that no unit fails which did not at the first boot, where some
// find what a container does not have.
func (m *machine) sound(t *testing.T) {
	t.Helper()
	if got := m.failing(t); got != *m.failed {
		t.Errorf("failed units: %s", got)
	}
}

// try runs a program on the machine and returns all that it printed.
func (m *machine) try(argv ...string) (string, error) { return m.input("", argv...) }

func (m *machine) input(stdin string, argv ...string) (string, error) {
	if !m.on {
		return "", errors.New("the machine is off")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := m.body.run(ctx, stdin, argv...)
	return strings.TrimSpace(out), err
}

// run is try for what must succeed.
func (m *machine) run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := m.try(argv...)
	if err != nil {
		journal, _ := m.try("journalctl", "-b", "-u", m.unit, "-n", "40", "--no-pager", "-o", "cat")
		t.Fatalf("%s: %v\n%s\njournal:\n%s", strings.Join(argv, " "), err, out, journal)
	}
	return out
}

// sh is run for a shell script.
func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	return m.run(t, "sh", "-ec", script)
}

// prints waits until a program on the machine prints a text.
func (m *machine) prints(t *testing.T, text string, argv ...string) {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s has printed last:\n%s", strings.Join(argv, " "), last)
		}
	}()
	harness.Eventually(t, strings.Join(argv, " ")+" prints "+text, func() bool {
		last, _ = m.try(argv...)
		return strings.Contains(last, text)
	})
}

// boundDown is how long a machine may take to go down, whatever runs on it.
const boundDown = 45 * time.Second

// down ends the machine by systemctl poweroff or reboot and returns how long it
// took.
func (m *machine) down(t *testing.T, how string) time.Duration {
	t.Helper()
	began := time.Now()
	_, _ = m.try("systemctl", how) // it may be gone before it answers
	select {
	case <-m.ended():
	case <-time.After(2 * time.Minute):
		t.Fatalf("the machine does not go down by %s", how)
	}
	m.on = false
	return time.Since(began)
}

// kill ends the machine at once. For a virtual machine that is a power cut.
func (m *machine) kill(t *testing.T) {
	t.Helper()
	m.cut(t)
	m.on = false
}

// off ends the machine, however it is, for good.
func (m *machine) off(t *testing.T) {
	t.Helper()
	if m.on {
		if t.Failed() {
			journal, _ := m.try("journalctl", "-b", "-u", m.unit, "-n", "60", "--no-pager", "-o", "short-precise")
			t.Logf("the end of the machine's journal:\n%s", journal)
		}
		m.down(t, "poweroff")
	}
	m.bury(t)
}

// loadImage gives the machine's containerd the test image.
func (m *machine) loadImage(t *testing.T) { t.Helper(); m.loadImageAs(t, imageName) }

func (m *machine) loadImageAs(t *testing.T, name string) {
	t.Helper()
	var buf bytes.Buffer
	// Each has a layer of its own.
	if err := image.Write(&buf, image.Options{Name: name, User: "user", Files: map[string]image.File{"/etc/image": {Data: []byte(name)}}}); err != nil {
		t.Fatal(err)
	}
	if out, err := m.input(buf.String(), "ctr", "-n", "tender", "images", "import", "-"); err != nil {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
}

// taskPID is the process id of the one task that runs, as containerd has it.
func (m *machine) taskPID(t *testing.T) string {
	t.Helper()
	return m.sh(t, "ctr -n tender tasks ls | awk '$3 == \"RUNNING\" { print $2 }'")
}

// host runs a program here.
func host(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
