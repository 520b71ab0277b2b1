package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/transport/fleet"
)

const someDigest = "aa11"

// started is a directory with files, for a process that was started in a mode.
func started(t *testing.T, mode string, files map[string]string) start {
	t.Helper()
	s := parseStart(mode + " " + someDigest + " " + t.TempDir())
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// files is what the directory holds.
func (s start) files(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, e.Name()+"="+strings.TrimSuffix(string(data), "\n"))
	}
	return strings.Join(parts, " ")
}

// A version on trial passes or ends, and what it leaves is what the next start
// goes by.
func TestTrial(t *testing.T) {
	well := []gate.Event{gate.Runtime{}, gate.Session{}}
	bad := []gate.Event{gate.Runtime{}, gate.NoSession{Err: "bad certificate"}}
	for _, tc := range []struct {
		name, mode string
		events     []gate.Event
		lasts      time.Duration // then it is stopped
		crash      error         // or ends with it
		ends, left string
	}{
		{"passes", startTrial, well, 2 * time.Minute, nil, "", "good=aa11"},
		{"first installation passes", startAlone, well, 2 * time.Minute, nil, "", "good=aa11"},
		{"is stopped before", startTrial, well, 30 * time.Second, nil, "", "good=old rollback=x trial=aa11 1 why=y"},
		{"is stopped before it has turned", startTrial, nil, 0, nil, "", "good=old rollback=x trial=aa11 2 why=y"},
		{
			"fails", startTrial, bad, 10 * time.Minute, nil, "this version has not passed its health gate: replicas answer, and in 5m0s no session came of it: bad certificate",
			"good=old rollback=x trial=aa11 2 why=aa11 this version has not passed its health gate: replicas answer, and in 5m0s no session came of it: bad certificate",
		},
		{"cannot go on", startTrial, well, time.Second, errors.New("open checkpoint:\nformat 2"), "open checkpoint:\nformat 2", "good=old rollback=x trial=aa11 2 why=aa11 open checkpoint: format 2"},
		{"fails with no other to go back to", startAlone, bad, 10 * time.Minute, nil, "", "good=old rollback=x trial=aa11 2 why=y"},
		{"has passed before", startGood, bad, 10 * time.Minute, nil, "", "good=old rollback=x trial=aa11 2 why=y"},
		{"is the one before", startRollback, bad, 10 * time.Minute, errors.New("no"), "no", "good=old rollback=x trial=aa11 2 why=y"},
	} {
		s := started(t, tc.mode, map[string]string{"good": "old\n", "trial": "aa11 2\n", "rollback": "x\n", "why": "y\n"})
		synctest.Test(t, func(t *testing.T) {
			tr := newTrial(s)
			tr.begin(gate.Limits{}, slog.New(slog.DiscardHandler))
			for _, ev := range tc.events {
				tr.watch(ev)
			}
			done := make(chan error, 1)
			ctx := t.Context()
			go func() { done <- tr.run(ctx) }()
			err := tc.crash
			for range int(tc.lasts / time.Second) {
				time.Sleep(time.Second)
				tr.watch(gate.Turned{})
				synctest.Wait()
				select {
				case e := <-done:
					err = errors.Join(e, err)
				default:
				}
			}
			tr.end(err)
			if got := text(err); got != tc.ends {
				t.Errorf("%s: ends with %q, want %q", tc.name, got, tc.ends)
			}
		})
		if got := s.files(t); got != tc.left {
			t.Errorf("%s: left is %s, want %s", tc.name, got, tc.left)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What cannot be recorded for want of room is recorded when there is some.
func TestPassWithoutRoom(t *testing.T) {
	s := started(t, startTrial, nil)
	if err := os.Remove(s.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir, nil, 0o600); err != nil { // no directory can be there
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		tr := newTrial(s)
		tr.begin(gate.Limits{Steady: time.Second}, slog.New(slog.DiscardHandler))
		tr.watch(gate.Runtime{})
		tr.watch(gate.Session{})
		time.Sleep(time.Second)
		tr.watch(gate.Turned{})
		done := make(chan error, 1)
		go func() { done <- tr.run(t.Context()) }()
		time.Sleep(time.Minute)
		if got := tr.upgrade().State; got != fleet.UpgradeTrial {
			t.Errorf("not recorded, and the state is %q", got)
		}
		if err := os.Remove(s.dir); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := tr.upgrade(); got != (fleet.UpgradeStatus{}) {
			t.Errorf("recorded, and it tells %+v", got)
		}
	})
	if got := s.files(t); got != "good=aa11" {
		t.Error(got)
	}
}

// What the operators are told, whatever the file holds.
func TestWhatIsToldOfAnUpgrade(t *testing.T) {
	held := "the previous version runs, as no try of the installed one can be recorded; free disk space, then: systemctl restart tender-agent"
	for _, tc := range []struct {
		mode, rollback string
		want           fleet.UpgradeStatus
		text           string
	}{
		{startGood, "d\nv2\nit crashed\n", fleet.UpgradeStatus{}, ""},
		{"", "d\nv2\nit crashed\n", fleet.UpgradeStatus{}, ""},
		{startTrial, "", fleet.UpgradeStatus{Version: version.Get().Version, State: "trial"}, "; on trial after an upgrade"},
		{startRollback, "d\nv2\nit crashed\n", fleet.UpgradeStatus{Version: "v2", State: "rolled back", Text: "it crashed"}, "; v2 was rolled back: it crashed"},
		{startRollback, "d\n\nit crashed\n", fleet.UpgradeStatus{State: "rolled back", Text: "it crashed"}, "; the installed version was rolled back: it crashed"},
		{startRollback, "d\nv2\nit\x1b[31m\tcrashed\nmore\n", fleet.UpgradeStatus{Version: "v2", State: "rolled back", Text: "it [31m crashed more"}, "; v2 was rolled back: it [31m crashed more"},
		{startRollback, "d\nv2\n" + strings.Repeat("ü", 5000), fleet.UpgradeStatus{Version: "v2", State: "rolled back", Text: strings.Repeat("ü", 500)}, "; v2 was rolled back: " + strings.Repeat("ü", 500)},
		{startHeld, "", fleet.UpgradeStatus{State: "trial", Text: held}, "; " + held},
		{startRollback, "", fleet.UpgradeStatus{State: "rolled back"}, "; the installed version was rolled back: "},
	} {
		files := map[string]string{}
		if tc.rollback != "" {
			files["rollback"] = tc.rollback
		}
		tr := newTrial(started(t, tc.mode, files))
		if got := tr.upgrade(); got != tc.want {
			t.Errorf("%s, %.40q: tells %+v, want %+v", tc.mode, tc.rollback, got, tc.want)
		}
		if got := tr.text(); got != tc.text {
			t.Errorf("%s, %.40q: the status line says %q, want %q", tc.mode, tc.rollback, got, tc.text)
		}
	}
}

func TestRetry(t *testing.T) {
	retry := func(s start) (code int, said string) {
		var out bytes.Buffer
		code = Main(t.Context(), []string{"retry", "--start", s.dir}, strings.NewReader(""), &out, &out)
		return code, out.String()
	}
	s := started(t, startRollback, map[string]string{"good": "old\n", "trial": "aa11 3\n", "why": "aa11 x\n", "rollback": "aa11\nv2\nit crashed\n"})
	code, said := retry(s)
	if code != 0 || !strings.HasPrefix(said, "v2 was rolled back: it crashed\n") || !strings.Contains(said, "systemctl restart tender-agent") {
		t.Errorf("%d: %s", code, said)
	}
	if got := s.files(t); got != "good=old" {
		t.Errorf("left is %s", got)
	}
	if code, said = retry(s); code != 1 || !strings.Contains(said, "nothing was rolled back on this machine") {
		t.Errorf("again: %d: %s", code, said)
	}
	s = started(t, startRollback, map[string]string{"trial": "aa11 3\n"})
	if code, said = retry(s); code != 0 || !strings.Contains(said, "the installed version was rolled back: why is not recorded") || s.files(t) != "" {
		t.Errorf("no record: %d: %s; left is %s", code, said, s.files(t))
	}
	if code, said = retry(start{dir: filepath.Join(s.dir, "none")}); code != 1 || !strings.Contains(said, "nothing was rolled back on this machine") {
		t.Errorf("no directory: %d: %s", code, said)
	}
}
