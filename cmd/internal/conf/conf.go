// Package conf reads the settings of the daemons. Later sources go before
// earlier ones: the defaults, one YAML file, the files of its drop-in directory
// in the order of their names (agent.conf.d/*.yaml beside agent.yaml), the
// environment (TENDER_DATA for --data), flags. A key that nothing reads is an
// error, and so is a value of the wrong form: a misspelt setting must not be a
// setting that silently has its default. Errors name file and line.
//
//	settings := conf.Daemon{File: "/etc/tender/agent.yaml", Common: ..., Serve: ...}
//	load := settings.Bind(cmd, true)      // adds the flags
//	s, err := load.Load()                 // in the command's RunE
//	dir := s.GetString("state")
//
// A daemon that nobody can visit must not stay down for a slip in a file:
//
//	s, broken, err := load.LoadOrLast()   // what held last, when the files do not hold
//	...
//	err = s.Keep()                        // it works: it is what holds from now on
package conf

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Settings are what holds, and where each of them comes from.
type Settings struct {
	*viper.Viper
	d      *Daemon
	flags  *pflag.FlagSet // all settings of the daemon, with their types
	layers []layer
	set    map[string]bool // by a flag on the command line
}

// read checks the layers, the environment and what the daemon says of them all.
// Every mistake is in the error.
func (d *Daemon) read(cmdline *pflag.FlagSet, layers []layer) (*Settings, error) {
	s := &Settings{Viper: viper.New(), d: d, flags: d.all(), layers: layers, set: map[string]bool{}}
	var errs []error
	for _, l := range layers {
		errs = append(errs, l.err, l.check(s.flags))
		if err := s.MergeConfigMap(l.values); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.path, err))
		}
	}
	s.SetEnvPrefix("TENDER")
	s.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	s.AutomaticEnv()
	s.flags.VisitAll(func(f *pflag.Flag) {
		if text := os.Getenv(variable(f.Name)); text != "" {
			if err := setAll(f, text); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", variable(f.Name), err))
			}
		}
	})
	// The command's own flags win; settings that it has no flags for have the
	// defaults of the others.
	s.flags.VisitAll(func(f *pflag.Flag) {
		bound := s.d.all().Lookup(f.Name) // untouched by the check of values
		if own := cmdline.Lookup(f.Name); own != nil {
			bound, s.set[f.Name] = own, own.Changed
		}
		if err := s.BindPFlag(f.Name, bound); err != nil {
			errs = append(errs, err)
		}
	})
	if err := errors.Join(errs...); err != nil {
		return s, err
	}
	if d.Check != nil {
		if err := d.Check(s.Viper); err != nil {
			return s, s.explain(err)
		}
	}
	return s, nil
}

// KeyError is what a daemon's Check says of one setting.
type KeyError struct {
	Key string
	Err error
}

func (e *KeyError) Error() string { return "--" + e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// explain puts where a setting comes from before what is wrong with it.
func (s *Settings) explain(err error) error {
	if k, ok := errors.AsType[*KeyError](err); ok && !s.set[k.Key] {
		return &placedError{s.place(k.Key), s.Source(k.Key), k}
	}
	return err
}

// placedError is a mistake in a layer, "" when in none.
type placedError struct {
	path, source string
	err          *KeyError
}

func (e *placedError) Error() string {
	return e.source + ": " + e.err.Key + ": " + e.err.Err.Error()
}
func (e *placedError) Unwrap() error { return e.err }

// Source tells where a setting comes from: "flag", "TENDER_STATE", FILE:LINE or
// "default".
func (s *Settings) Source(key string) string {
	switch {
	case s.set[key]:
		return "flag"
	case os.Getenv(variable(key)) != "":
		return variable(key)
	}
	for _, l := range slices.Backward(s.layers) {
		if _, ok := l.values[key]; ok {
			if n := l.lines[key]; n > 0 {
				return l.path + ":" + strconv.Itoa(n)
			}
			return l.path
		}
	}
	return "default"
}

// place is the file that a setting comes from, "" if none.
func (s *Settings) place(key string) string {
	if s.set[key] || os.Getenv(variable(key)) != "" {
		return ""
	}
	for _, l := range slices.Backward(s.layers) {
		if _, ok := l.values[key]; ok {
			return l.path
		}
	}
	return ""
}

// Keys are the names of all settings.
func (s *Settings) Keys() []string {
	var keys []string
	s.flags.VisitAll(func(f *pflag.Flag) { keys = append(keys, f.Name) })
	slices.Sort(keys)
	return keys
}

// secret is the annotation of a flag whose value is not to be shown.
const secret = "tender_secret"

// Secret marks a setting whose value nobody is to see.
func Secret(f *pflag.FlagSet, name string) {
	if err := f.SetAnnotation(name, secret, []string{"yes"}); err != nil {
		panic(err) // a mistake of the caller: there is no such flag
	}
}

// Show is a setting's value for people.
func (s *Settings) Show(key string) string {
	f := s.flags.Lookup(key)
	if f.Annotations[secret] != nil && s.GetString(key) != "" {
		return "********"
	}
	if strings.HasSuffix(f.Value.Type(), "Slice") || strings.HasSuffix(f.Value.Type(), "Array") {
		return strings.Join(s.GetStringSlice(key), " ")
	}
	return s.GetString(key)
}

// Changed names the settings in which two differ, in order.
func Changed(old, now *Settings) []string {
	return slices.DeleteFunc(now.Keys(), func(k string) bool { return old.Show(k) == now.Show(k) })
}

// variable is the name of a setting in the environment.
func variable(key string) string {
	return "TENDER_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
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

// ParseLevel reads a log level by name.
func ParseLevel(level string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return 0, &KeyError{"log-level", fmt.Errorf("%q: use debug, info, warn or error", level)}
	}
	return l, nil
}

// Logger makes the daemons' logger: text on w, from a level by name.
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	l, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	return LeveledLogger(w, l), nil
}

// LeveledLogger is Logger with a level that may change.
func LeveledLogger(w io.Writer, l slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
}
