package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// purpose is what bytes were for.
type purpose int

const (
	forReadings purpose = iota
	forUpdates          // states, desired sets, acknowledgements, certificates
	forLogs
	forPackages // of the agent itself
)

// saveEvery is how often the month's figures are written at most, and how often
// what a session has used is looked at.
const saveEvery = time.Minute

// Account counts what the link has carried this month, by purpose, and says
// what may travel. The figures are in the state directory, so that a restart
// does not forget them. It is safe for concurrent use.
type Account struct {
	path   string
	policy linkpolicy.Policy
	log    *slog.Logger

	mu    sync.Mutex
	used  fleet.LinkUse
	total int64 // on the socket, of sessions
	// packages came through sessions, and are told with the images: both are
	// what is installed here.
	packages int64
	mode     linkpolicy.Mode
	saved    time.Time
	dirty    bool
}

// stored is link.json. Total is what sessions had on the socket; what of it had
// no other purpose kept the link alive.
type stored struct {
	Month    string `json:"month"`
	Total    int64  `json:"total"`
	Readings int64  `json:"readings"`
	Updates  int64  `json:"updates"`
	Logs     int64  `json:"logs"`
	Images   int64  `json:"images"`
	Packages int64  `json:"packages"`
}

// OpenAccount reads the figures in an agent's state directory. A file that
// cannot be read is begun anew: figures must not keep tasks from running.
func OpenAccount(stateDir string, policy linkpolicy.Policy, log *slog.Logger) *Account {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &Account{path: filepath.Join(stateDir, "link.json"), policy: policy, log: log}
	data, err := os.ReadFile(a.path)
	var s stored
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && min(s.Total, s.Readings, s.Updates, s.Logs, s.Images, s.Packages) < 0 {
		err = errors.New("a figure is negative")
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("what the link has used this month is not known; counting begins anew", "file", a.path, "error", err)
		}
		return a
	}
	a.total, a.packages = s.Total, s.Packages
	a.used = fleet.LinkUse{Month: s.Month, Readings: s.Readings, Updates: s.Updates, Logs: s.Logs, Images: s.Images}
	return a
}

// turn begins another month; the caller holds mu.
func (a *Account) turn(now time.Time) {
	if month := linkpolicy.Month(now); a.used.Month != month {
		a.used, a.total, a.packages, a.dirty = fleet.LinkUse{Month: month}, 0, 0, true
	}
}

func (a *Account) add(p purpose, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(time.Now())
	switch p {
	case forReadings:
		a.used.Readings += int64(n)
	case forUpdates:
		a.used.Updates += int64(n)
	case forLogs:
		a.used.Logs += int64(n)
	case forPackages:
		a.packages += int64(n)
	}
	a.dirty = true
}

// Fetched counts bytes for images, on the sockets to registries.
func (a *Account) Fetched(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(time.Now())
	a.used.Images += n
	a.dirty = true
}

// MayFetch says why an image must not be fetched now; nil when it may be.
func (a *Account) MayFetch() error {
	if why := a.refuses(); why != "" {
		return errors.New(why)
	}
	return nil
}

// refuses says why nothing but states and kills may travel, "" when it may.
func (a *Account) refuses() string {
	now := time.Now()
	mode, used := a.look(now)
	return a.policy.Why(mode, now, used)
}

// look returns the mode now and the month's figures. A change of the mode is
// logged once.
func (a *Account) look(now time.Time) (linkpolicy.Mode, fleet.LinkUse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	used := a.used
	used.Keepalive = max(0, a.total-used.Readings-used.Updates-used.Logs-a.packages)
	used.Images += a.packages
	used.Budget = a.policy.PerMonth
	mode := a.policy.Mode(now, used)
	used.State = mode.String()
	if mode != a.mode {
		a.mode = mode
		if mode == linkpolicy.Normal {
			a.log.Info("readings, logs and images travel again")
		} else {
			a.log.Warn("only states and kills travel", "why", a.policy.Why(mode, now, used))
		}
	}
	return mode, used
}

// tap counts what one session has on the socket.
type tap struct {
	a    *Account
	conn transport.Session
	last uint64
}

// sample adds what came since the last one, and writes the figures if that is
// due or last is true.
func (t *tap) sample(last bool) {
	sent, received := transport.Bytes(t.conn)
	sum, now := sent+received, time.Now()
	a := t.a
	a.mu.Lock()
	a.turn(now)
	if sum > t.last {
		a.total, a.dirty = a.total+int64(sum-t.last), true
	}
	t.last = max(sum, t.last)
	due := a.dirty && (last || now.Sub(a.saved) >= saveEvery)
	if due {
		a.saved, a.dirty = now, false
	}
	s := stored{a.used.Month, a.total, a.used.Readings, a.used.Updates, a.used.Logs, a.used.Images, a.packages}
	a.mu.Unlock()
	if !due {
		return
	}
	if err := a.save(s); err != nil {
		a.log.Warn("what the link has used is not written down", "error", err)
	}
}

func (a *Account) save(s stored) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save %s: %w", a.path, err)
	}
	// Synced: an empty file after a loss of power would begin the budget anew.
	if err := replaceFile(a.path, append(data, '\n')); err != nil {
		return fmt.Errorf("save %s: %w", a.path, err)
	}
	return nil
}

// counted is a stream of which all bytes but beats have one purpose.
type counted struct {
	transport.Stream
	a *Account
	// what the next write is for; reads are updates, except of logs.
	out, in purpose
	free    bool // what is written now keeps the link alive
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	c.a.add(c.in, n)
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	if !c.free {
		c.a.add(c.out, n)
	}
	return n, err
}
