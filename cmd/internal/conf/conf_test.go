package conf_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/tenderfleet/tender/cmd/internal/conf"
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
	v, err := conf.Load(f, file, true)
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
		if _, err := conf.Load(flags(), write(t, text), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := conf.Load(flags(), "/does/not/exist.yaml", false); err != nil {
		t.Errorf("a default file may be missing: %v", err)
	}
	if _, err := conf.Load(flags(), "/does/not/exist.yaml", true); err == nil {
		t.Error("a file that was asked for may not")
	}
}
