package conf_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/pki"
)

func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.String("state", "/default", "")
	f.String("log-level", "info", "")
	return f
}

func write(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOrderOfSources(t *testing.T) {
	file := write(t, "state: /file\nlog-level: warn\n")
	t.Setenv("TENDER_LOG_LEVEL", "debug")
	f := flags()
	v, err := conf.Load(f, flags(), file, true)
	if err != nil {
		t.Fatal(err)
	}
	if v.GetString("state") != "/file" || v.GetString("log-level") != "debug" {
		t.Fatalf("state %q, level %q", v.GetString("state"), v.GetString("log-level"))
	}
	if err := f.Set("state", "/flag"); err != nil || v.GetString("state") != "/flag" {
		t.Fatalf("a flag must win: %q", v.GetString("state"))
	}
}

func TestUnknownKeyIsAnErrorWithASuggestion(t *testing.T) {
	for text, want := range map[string]string{
		"stat: /x\n":   `unknown key "stat"; did you mean "state"?`,
		"colour: on\n": `unknown key "colour"; known keys are log-level, state`,
	} {
		if _, err := conf.Load(flags(), flags(), write(t, text), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := conf.Load(flags(), flags(), "/does/not/exist.yaml", false); err != nil {
		t.Errorf("a default file may be missing: %v", err)
	}
	if _, err := conf.Load(flags(), flags(), "/does/not/exist.yaml", true); err == nil {
		t.Error("a file that was asked for may not")
	}
}

// All commands of a daemon read one file: join must not stumble over what only
// run has, and must not take for a setting what is no more than a flag of its own.
func TestEveryCommandReadsTheSettingsOfAll(t *testing.T) {
	d := conf.Daemon{
		Common: func(f *pflag.FlagSet) { f.String("state", "/default", "") },
		Serve:  func(f *pflag.FlagSet) { f.String("offer-cpus", "", "") },
	}
	read := func(text string) (*viper.Viper, error) {
		d.File = write(t, text)
		cmd := &cobra.Command{Use: "join"}
		cmd.Flags().Duration("timeout", 0, "")
		return d.Bind(cmd, false)()
	}
	if v, err := read("state: /file\noffer-cpus: 6\n"); err != nil || v.GetString("state") != "/file" {
		t.Errorf("a setting of run: %v", err)
	}
	if _, err := read("timeout: 1m\n"); err == nil || !strings.Contains(err.Error(), `unknown key "timeout"`) {
		t.Errorf("a flag that is no setting: %v", err)
	}
}

// A file may group settings: the flag's name is the path with dashes.
func TestGroupedSettings(t *testing.T) {
	settings := func() *pflag.FlagSet {
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.String("link-quiet-hours", "", "")
		f.String("link-budget-per-month", "", "")
		return f
	}
	const text = "link:\n  quiet_hours: 06:00-22:00\n  budget_per_month: 500MB\n"
	v, err := conf.Load(settings(), settings(), write(t, text), true)
	if err != nil || v.GetString("link-quiet-hours") != "06:00-22:00" || v.GetString("link-budget-per-month") != "500MB" {
		t.Errorf("%q, %q, %v", v.GetString("link-quiet-hours"), v.GetString("link-budget-per-month"), err)
	}
	f := settings()
	if err := f.Parse([]string{"--link-quiet-hours=01:00-02:00"}); err != nil {
		t.Fatal(err)
	}
	if v, err := conf.Load(f, settings(), write(t, text), true); err != nil || v.GetString("link-quiet-hours") != "01:00-02:00" {
		t.Errorf("the command line has %q, %v", v.GetString("link-quiet-hours"), err)
	}
	for bad, says := range map[string]string{
		"link:\n  quiet_hors: x\n":                       `unknown key "link`,
		"link:\n  quiet_hours: x\nlink-quiet-hours: y\n": "are the same setting",
	} {
		if _, err := conf.Load(settings(), settings(), write(t, bad), true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", bad, err, says)
		}
	}
}

func TestJoinLineFromAPipe(t *testing.T) {
	line := pki.JoinLine{
		Kind: pki.KindAgent, Addrs: []string{"127.0.0.1:7443"}, Pin: "sha256:" + strings.Repeat("A", 43),
		Secret: pki.NewSecret(), TrustDomain: "t.example", Expires: time.Now().Add(time.Hour).Truncate(time.Second),
	}
	for name, in := range map[string]struct{ arg, pipe string }{
		"argument": {line.String(), ""}, "pipe": {"-", line.String() + "\n"},
	} {
		got, err := conf.JoinLine(strings.NewReader(in.pipe), in.arg)
		if err != nil || got.Secret != line.Secret {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
