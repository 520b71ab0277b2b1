package conf_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/pki"
)

// daemon is one with a setting of each form; its state is a directory of the
// test's.
func daemon(t *testing.T) conf.Daemon {
	t.Helper()
	state := t.TempDir()
	return conf.Daemon{
		File:   filepath.Join(t.TempDir(), "agent.yaml"),
		State:  "state",
		Common: func(f *pflag.FlagSet) { f.String("state", state, "") },
		Serve: func(f *pflag.FlagSet) {
			f.Int("tries", 3, "how often")
			f.StringSlice("label", nil, "")
			f.String("secret", "", "")
			f.Bool("no-gpus", false, "")
			conf.Secret(f, "secret")
		},
		Check: func(v *viper.Viper) error {
			if v.GetInt("tries") > 9 {
				return &conf.KeyError{Key: "tries", Err: errors.New("more than 9")}
			}
			return nil
		},
	}
}

// write writes files beside the daemon's, by name.
func write(t *testing.T, d conf.Daemon, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(filepath.Dir(d.File), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// bind is the command run with these arguments.
func bind(t *testing.T, d conf.Daemon, args ...string) *conf.Loader {
	t.Helper()
	cmd := &cobra.Command{Use: "run"}
	l := d.Bind(cmd, true)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLaterSourcesGoFirst(t *testing.T) {
	d := daemon(t)
	write(t, d, map[string]string{
		"agent.yaml":              "# mine\ntries: 1\nno-gpus: true\nlabel: [a, b]\n",
		"agent.conf.d/10-a.yaml":  "tries: 2\nsecret: s3cret\n",
		"agent.conf.d/20-b.yaml":  "\n\ntries: 4\n",
		"agent.conf.d/ignored.md": "tries: 9\n",
	})
	t.Setenv("TENDER_LOG_LEVEL", "debug")
	s, err := bind(t, d, "--no-gpus=false").Load()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(d.File) + "/"
	for key, want := range map[string]string{
		"tries":     "4 of agent.conf.d/20-b.yaml:3",
		"no-gpus":   "false of flag",
		"label":     "a b of agent.yaml:4",
		"log-level": "debug of TENDER_LOG_LEVEL",
		"secret":    "******** of agent.conf.d/10-a.yaml:2",
	} {
		if got := s.Show(key) + " of " + strings.ReplaceAll(s.Source(key), dir, ""); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	if s.Source("state") != "default" || s.GetInt("tries") != 4 || s.GetBool("no-gpus") || !slices.Equal(s.GetStringSlice("label"), []string{"a", "b"}) {
		t.Errorf("settings: %v", s.AllSettings())
	}
}

func TestEveryMistakeIsNamedWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"a: 1\nstat: /x\n":     `agent.yaml:2: unknown key "stat"; did you mean "state"?`,
		"\ncolour: on\n":       `agent.yaml:2: unknown key "colour"; known keys are label, log-level, no-gpus, secret, state, tries`,
		"tries: lots\n":        `agent.yaml:1: tries: "lots" is no int (how often)`,
		"tries: 12\n":          `agent.yaml:1: tries: more than 9`,
		"tries: [1, 2]\n":      `agent.yaml:1: tries: is a list; one value is wanted (int)`,
		"tries:\n  a: 1\n":     `agent.yaml:2: unknown key "tries-a"; did you mean "tries"?`,
		"no-gpus: perhaps\n":   `agent.yaml:1: no-gpus: "perhaps" is no bool`,
		"tries: 1\n\t- x: [\n": `agent.yaml: `,
	} {
		d := daemon(t)
		write(t, d, map[string]string{"agent.yaml": text})
		if _, err := bind(t, d).Load(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	d := daemon(t)
	write(t, d, map[string]string{"agent.yaml": "a: 1\nb: 1\n", "agent.conf.d/x.yaml": "c: 1\n"})
	t.Setenv("TENDER_TRIES", "few")
	_, err := bind(t, d).Load()
	if err == nil || strings.Count(err.Error(), "\n") != 3 || !strings.Contains(err.Error(), `TENDER_TRIES: "few" is no int`) {
		t.Errorf("all four at once: %v", err)
	}
}

// A file may group settings: the flag's name is the path with dashes.
func TestGroupedSettings(t *testing.T) {
	d := daemon(t)
	write(t, d, map[string]string{"agent.yaml": "no:\n  # of ours\n  gpus: true\nlog: {level: debug}\n"})
	s, err := bind(t, d).Load()
	if err != nil || !s.GetBool("no-gpus") || s.GetString("log-level") != "debug" {
		t.Fatalf("%v", err)
	}
	for key, want := range map[string]string{"no-gpus": "agent.yaml:3", "log-level": "agent.yaml:4"} {
		if got := s.Source(key); !strings.HasSuffix(got, want) {
			t.Errorf("%s is from %s, want %s", key, got, want)
		}
	}
	write(t, d, map[string]string{"agent.yaml": "no-gpus: true\nno: {gpus: false}\n"})
	if _, err := bind(t, d).Load(); err == nil || !strings.Contains(err.Error(), "agent.yaml:2: gpus of no is the setting no-gpus, which is there as well") {
		t.Errorf("said twice: %v", err)
	}
}

func TestMissingFile(t *testing.T) {
	d := daemon(t)
	if _, err := bind(t, d).Load(); err != nil {
		t.Errorf("a default file may be missing: %v", err)
	}
	if _, err := bind(t, d, "--config", "/does/not/exist.yaml").Load(); err == nil {
		t.Error("a file that was asked for may not")
	}
}

// All commands of a daemon read one file: join must not stumble over what only
// run has, and must not take for a setting what is no more than a flag of its own.
func TestEveryCommandReadsTheSettingsOfAll(t *testing.T) {
	d := daemon(t)
	read := func(text string) (*conf.Settings, error) {
		write(t, d, map[string]string{"agent.yaml": text})
		cmd := &cobra.Command{Use: "join"}
		cmd.Flags().Duration("timeout", 0, "")
		return d.Bind(cmd, false).Load()
	}
	if v, err := read("state: /file\ntries: 6\n"); err != nil || v.GetString("state") != "/file" {
		t.Errorf("a setting of run: %v", err)
	}
	if _, err := read("timeout: 1m\n"); err == nil || !strings.Contains(err.Error(), `unknown key "timeout"`) {
		t.Errorf("a flag that is no setting: %v", err)
	}
}

// A slip in a file must not keep a daemon down, or take back what an
// administrator had limited.
func TestSettingsThatHeldLast(t *testing.T) {
	d := daemon(t)
	write(t, d, map[string]string{"agent.yaml": "tries: 1\n", "agent.conf.d/limit.yaml": "no-gpus: true\n"})
	s, broken, err := bind(t, d).LoadOrLast()
	if err != nil || broken != nil {
		t.Fatal(broken, err)
	}
	if err := s.Keep(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"no-gpu: true\n":   `limit.yaml:1: unknown key "no-gpu"`,
		"no-gpus: [\n":     "limit.yaml: ",
		"tries: 100\n":     "limit.yaml:1: tries: more than 9",
		"no-gpus: 'often'": "limit.yaml:1: no-gpus",
	} {
		write(t, d, map[string]string{"agent.conf.d/limit.yaml": text})
		s, broken, err := bind(t, d).LoadOrLast()
		if err != nil || broken == nil || !strings.Contains(broken.Error(), want) || !strings.Contains(broken.Error(), "held last") {
			t.Errorf("%q: %v, %v; want %s", text, broken, err, want)
		} else if !s.GetBool("no-gpus") || s.GetInt("tries") != 1 {
			t.Errorf("%q: settings %v", text, s.AllSettings())
		}
	}
}

// A machine whose first files are broken has nothing that held before.
func TestBrokenFromTheStart(t *testing.T) {
	d := daemon(t)
	write(t, d, map[string]string{"agent.yaml": "tries: 1\n", "agent.conf.d/a.yaml": "tries: 100\n", "agent.conf.d/b.yaml": "x: 1\n", "agent.conf.d/c.yaml": "no-gpus: true\n"})
	s, broken, err := bind(t, d).LoadOrLast()
	if err != nil || broken == nil || !strings.Contains(broken.Error(), "left out") {
		t.Fatal(broken, err)
	}
	if s.GetInt("tries") != 1 || !s.GetBool("no-gpus") {
		t.Errorf("settings %v", s.AllSettings())
	}
	if _, _, err := bind(t, d, "--tries", "100").LoadOrLast(); err == nil {
		t.Error("a mistake on the command line is an error")
	}
}

func TestConfigCommand(t *testing.T) {
	d := daemon(t)
	write(t, d, map[string]string{"agent.yaml": "tries: 2\n"})
	run := func(args ...string) (string, string, int) {
		root := &cobra.Command{Use: "daemon"}
		root.AddCommand(d.Command())
		var out, errs strings.Builder
		code := conf.Run(t.Context(), root, append([]string{"config"}, args...), nil, &out, &errs)
		return out.String(), errs.String(), code
	}
	if out, _, code := run("check"); code != 0 || !strings.Contains(out, "sound") {
		t.Errorf("check: %d %s", code, out)
	}
	if out, _, _ := run("show"); !regexp.MustCompile(`(?m)^tries +2 +.*agent.yaml:1$`).MatchString(out) {
		t.Errorf("show:\n%s", out)
	}
	if out, _, _ := run("show", "-o", "json"); !strings.Contains(out, `"value": "2"`) {
		t.Errorf("show -o json:\n%s", out)
	}
	write(t, d, map[string]string{"agent.yaml": "tires: 2\n"})
	if _, errs, code := run("check"); code == 0 || !strings.Contains(errs, `did you mean "tries"?`) {
		t.Errorf("check: %d %s", code, errs)
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
