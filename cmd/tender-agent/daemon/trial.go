package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/transport/fleet"
)

// startDir is where agent-start and the agent write down what they know of the
// versions that are installed. It is below the unit's StateDirectory, wherever
// --state is.
const startDir = "/var/lib/tender/agent/start"

// How agent-start says that it has started the agent; its own text has more.
const (
	startGood     = "good"
	startTrial    = "trial"
	startAlone    = "alone"
	startRollback = "rollback"
	startHeld     = "held"
)

// start is how this process was started, and the files about it.
type start struct {
	mode, digest, dir string
}

// parseStart reads AGENT_START. Without one, nobody keeps count: the zero value.
func parseStart(text string) start {
	f := strings.Fields(text)
	if len(f) != 3 {
		return start{}
	}
	return start{f[0], f[1], f[2]}
}

// gated reports whether this version has its gate before it.
func (s start) gated() bool { return s.mode == startTrial || s.mode == startAlone }

// pass makes this version the one that is good.
func (s start) pass() error {
	if err := s.write("good", s.digest); err != nil {
		return err
	}
	return s.clear("trial", "why", "rollback")
}

// say keeps the reason why this version ends, for who rolls it back.
func (s start) say(text string) error { return s.write("why", s.digest+" "+oneLine(text)) }

// giveBack takes back the try that this process was: it was stopped in order, as
// by a reboot, which says nothing against it.
func (s start) giveBack() error {
	digest, tries, _ := strings.Cut(s.read("trial"), " ")
	n, _ := strconv.Atoi(tries) // 0 for what is no number
	if digest != s.digest || n < 1 {
		return nil
	}
	return s.write("trial", fmt.Sprintf("%s %d", digest, n-1))
}

// read is the first line of a file, "" if there is none.
func (s start) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(s.dir, name)) // none is empty
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// write makes a file hold one line, durably, or leaves it as it is.
func (s start) write(name, line string) (err error) {
	path := filepath.Join(s.dir, name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return s.sync()
}

// again makes the next start a first try. The record of the rollback goes last:
// until then this can be done once more.
func (s start) again() error { return s.clear("trial", "why", "rollback") }

func (s start) clear(names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.sync()
}

func (s start) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// failure is what a rollback was because of.
type failure struct {
	digest, version, why string
}

// name is the version for people.
func (f failure) name() string {
	if f.version == "" {
		return "the installed version"
	}
	return f.version
}

// failed reads of the rollback; the zero value is that there was none.
func (s start) failed() (f failure) {
	data, _ := os.ReadFile(filepath.Join(s.dir, "rollback")) // none is empty
	for i, line := range strings.SplitN(string(data), "\n", 3) {
		*[]*string{&f.digest, &f.version, &f.why}[i] = oneLine(line)
	}
	return f
}

// maxReason bounds what is told of a failure, in bytes.
const maxReason = 1000

func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, unicode.IsControl), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// status is what the operators are told.
func (s start) status() fleet.UpgradeStatus {
	switch s.mode {
	case startTrial:
		return fleet.UpgradeStatus{Version: version.Get().Version, State: fleet.UpgradeTrial}
	case startHeld:
		return fleet.UpgradeStatus{
			State: fleet.UpgradeTrial,
			Text:  "the previous version runs, as no try of the installed one can be recorded; free disk space, then: systemctl restart tender-agent",
		}
	case startRollback:
		f := s.failed()
		return fleet.UpgradeStatus{Version: f.version, State: fleet.UpgradeRolledBack, Text: f.why}
	}
	return fleet.UpgradeStatus{}
}

// trial watches over a version that has its gate before it. The zero value
// watches over nothing.
type trial struct {
	start
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	gate    *gate.Gate // nil when it has decided, or there is none
	told    fleet.UpgradeStatus
	turned  bool
	verdict gate.Verdict
	decided chan struct{} // closed with the verdict
}

func newTrial(s start) *trial {
	return &trial{start: s, log: slog.New(slog.DiscardHandler), now: time.Now, told: s.status(), decided: make(chan struct{})}
}

// begin opens the gate's watch and tells people how the agent was started.
func (t *trial) begin(l gate.Limits, log *slog.Logger) {
	t.log = log
	if t.gated() {
		t.gate = gate.New(t.now(), l)
	}
	switch t.mode {
	case startTrial:
		log.Warn("this version is on trial", "version", version.Get().Version)
	case startRollback:
		log.Error("the installed version was rolled back; to give it another chance: tender-agent retry", "version", t.told.Version, "why", t.told.Text)
	case startHeld:
		log.Error("the installed version does not run", "why", t.told.Text)
	}
}

// watch is an agent.Config's Watch.
func (t *trial) watch(ev gate.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := ev.(gate.Turned); ok {
		t.turned = true
	}
	if t.gate == nil {
		return
	}
	v := t.gate.Step(t.now(), ev)
	// Without another version to go back to, a failed one goes on, and may pass.
	if v.Passed || v.Failed != "" && t.mode == startTrial {
		t.gate, t.verdict = nil, v
		close(t.decided)
	}
}

// text is what the status line says of how the agent was started.
func (t *trial) text() string {
	switch u := t.upgrade(); {
	case t.mode == startHeld:
		return "; " + u.Text
	case u.State == fleet.UpgradeTrial:
		return "; on trial after an upgrade"
	case u.State == fleet.UpgradeRolledBack:
		return "; " + failure{version: u.Version}.name() + " was rolled back: " + u.Text
	}
	return ""
}

// upgrade is an agent.Config's Upgrade.
func (t *trial) upgrade() fleet.UpgradeStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.told
}

// keepEvery is between two tries to write down that a version has passed.
const keepEvery = 10 * time.Second

// run waits for the verdict and acts on it: that a version has passed is written
// down, as soon as there is room; one that has failed ends with the reason.
func (t *trial) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.decided:
	}
	if t.verdict.Failed != "" {
		return fmt.Errorf("this version has not passed its health gate: %s", t.verdict.Failed)
	}
	for {
		err := t.pass()
		if err == nil {
			break
		}
		t.log.Error("this version has passed its health gate, and that cannot be recorded", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(keepEvery):
		}
	}
	t.mu.Lock()
	t.told = fleet.UpgradeStatus{}
	t.mu.Unlock()
	t.log.Info("this version has passed its health gate", "version", version.Get().Version)
	return nil
}

// end writes down how the agent ended, for its next start. err is nil when it
// was stopped in order.
func (t *trial) end(err error) {
	t.mu.Lock()
	stopped := t.turned && t.gate != nil
	t.mu.Unlock()
	var keep error
	switch {
	case t.mode != startTrial:
		return
	case err != nil:
		keep = t.say(err.Error())
	case stopped:
		keep = t.giveBack()
	}
	if keep != nil {
		t.log.Warn("how this version ended is not recorded", "error", keep)
	}
}
