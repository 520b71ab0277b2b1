// Package conf reads the settings of the daemons: flags, then the environment
// (TENDER_DATA for --data), then one YAML file. A key that nothing reads is an
// error: a misspelt setting must not be a setting that silently has its default.
//
//	settings := conf.Daemon{File: "/etc/tender/agent.yaml", Common: ..., Serve: ...}
//	load := settings.Bind(cmd, true)      // adds the flags
//	v, err := load()                      // in the command's RunE
//	dir := v.GetString("state")
package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Load binds every flag to its environment variable and to the key of the same
// name in the file. The file may hold any of the settings, whether this command
// has them as flags or not. A file that was not asked for may be missing.
func Load(flags, settings *pflag.FlagSet, file string, explicit bool) (*viper.Viper, error) {
	v := viper.New()
	v.SetEnvPrefix("TENDER")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	if err := v.BindPFlags(flags); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	v.SetConfigFile(file)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		if !explicit && errors.Is(err, fs.ErrNotExist) {
			return v, nil
		}
		return nil, fmt.Errorf("read settings: %s: %w", file, err)
	}
	if err := flatten(v); err != nil {
		return nil, fmt.Errorf("read settings: %s: %w", file, err)
	}
	var known []string
	settings.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	for _, k := range slices.Sorted(slices.Values(inFile(v))) {
		if !slices.Contains(known, k) && !slices.Contains(known, flagName(k)) {
			return nil, fmt.Errorf("read settings: %s: unknown key %q%s", file, k, suggest(k, known))
		}
	}
	return v, nil
}

// flatten lets a file group settings: link: {quiet_hours: X} is link-quiet-hours.
func flatten(v *viper.Viper) error {
	flat := map[string]any{}
	for _, k := range inFile(v) {
		if name := flagName(k); name != k {
			if v.InConfig(name) {
				return fmt.Errorf("%q and %q are the same setting", k, name)
			}
			flat[name] = v.Get(k)
		}
	}
	return v.MergeConfigMap(flat)
}

func flagName(key string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(key) }

// inFile lists the keys of the file alone.
func inFile(v *viper.Viper) []string {
	var out []string
	for _, k := range v.AllKeys() {
		if v.InConfig(k) {
			out = append(out, k)
		}
	}
	return out
}

// suggest names the known key that is nearest, if one is near.
func suggest(key string, known []string) string {
	best, dist := "", 4
	for _, k := range known {
		if d := distance(key, k); d < dist {
			best, dist = k, d
		}
	}
	if best == "" {
		return "; known keys are " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, prev+cost)
		}
	}
	return row[len(b)]
}

// Logger makes the daemons' logger: text on w, from a level by name.
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
