package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// maxFile bounds a file with settings.
const maxFile = 1 << 20

// layer is one file with settings.
type layer struct {
	path   string
	values map[string]any
	lines  map[string]int // where each key is, from 1
	err    error          // why it could not be read
}

// dropIns is the directory of the files that go before file.
func dropIns(file string) string {
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".conf.d"
}

// readLayers reads a file and its drop-ins. A file that was not asked for may be
// missing.
func readLayers(file string, explicit bool) []layer {
	var out []layer
	if l, there := readLayer(file); there || explicit {
		out = append(out, l)
	}
	names, err := filepath.Glob(filepath.Join(dropIns(file), "*.yaml"))
	if err != nil { // the path has a pattern in it
		return append(out, layer{path: dropIns(file), err: err})
	}
	for _, name := range names { // in order
		if l, there := readLayer(name); there {
			out = append(out, l)
		}
	}
	return out
}

func readLayer(path string) (l layer, there bool) {
	l = layer{path: path, values: map[string]any{}, lines: map[string]int{}}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%s: %d bytes are too many for settings", path, info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		l.err = fmt.Errorf("read settings: %w", err)
		return l, !errors.Is(err, fs.ErrNotExist)
	}
	l.locate(data)
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00")) // a dot in a key is no path
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		l.err = fmt.Errorf("%s: %w", path, unwrapParse(err))
		return l, true
	}
	l.values = v.AllSettings()
	l.ungroup()
	return l, true
}

// locate finds the lines of the keys: one begins its line, or is indented and
// belongs to the group before it.
func (l *layer) locate(data []byte) {
	group := ""
	for i, line := range bytes.Split(data, []byte("\n")) {
		key, _, ok := bytes.Cut(line, []byte(":"))
		name := strings.ToLower(strings.Trim(strings.TrimSpace(string(key)), `"'`))
		if !ok || name == "" || strings.ContainsAny(string(line[:1]), "#-") {
			continue
		}
		if strings.ContainsAny(string(line[:1]), " \t") {
			name = member(group, name)
		} else {
			group = name
		}
		if l.lines[name] == 0 {
			l.lines[name] = i + 1
		}
	}
}

// ungroup takes settings out of their groups: link: {quiet_hours: X} is
// link-quiet-hours.
func (l *layer) ungroup() {
	for _, group := range slices.Sorted(maps.Keys(l.values)) {
		members, ok := l.values[group].(map[string]any)
		if !ok {
			continue
		}
		delete(l.values, group)
		for key, value := range members {
			name := member(group, key)
			if _, twice := l.values[name]; twice {
				l.err = fmt.Errorf("%s:%d: %s of %s is the setting %s, which is there as well", l.path, l.lines[group], key, group, name)
				return
			}
			l.values[name] = value
			if l.lines[name] == 0 { // on the line of its group
				l.lines[name] = l.lines[group]
			}
		}
	}
}

func member(group, key string) string { return group + "-" + strings.ReplaceAll(key, "_", "-") }

// unwrapParse takes viper's own words from an error: what is left has the line.
func unwrapParse(err error) error {
	if p, ok := errors.AsType[viper.ConfigParseError](err); ok {
		return errors.Unwrap(p)
	}
	return err
}

// check finds keys that nothing reads and values of the wrong form.
func (l *layer) check(flags *pflag.FlagSet) error {
	var known []string
	flags.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(l.values)) {
		f := flags.Lookup(key)
		if f == nil {
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q%s", l.path, l.lines[key], key, suggest(key, known)))
			continue
		}
		if err := checkValue(f, l.values[key]); err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %s: %w", l.path, l.lines[key], key, err))
		}
	}
	return errors.Join(errs...)
}

// checkValue gives a value of a file to the flag of its name, which knows the
// form. The flag is the check's own.
func checkValue(f *pflag.Flag, value any) error {
	list, isList := value.([]any)
	_, isMap := value.(map[string]any)
	switch {
	case isMap:
		return errors.New("has keys of its own; groups are one level deep")
	case isList && !isSlice(f):
		return fmt.Errorf("is a list; one value is wanted (%s)", f.Value.Type())
	case !isList:
		list = []any{value}
	}
	for _, v := range list {
		if err := setAll(f, fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}

func isSlice(f *pflag.Flag) bool {
	return strings.HasSuffix(f.Value.Type(), "Slice") || strings.HasSuffix(f.Value.Type(), "Array")
}

// setAll checks the form of a value as text.
func setAll(f *pflag.Flag, text string) error {
	if err := f.Value.Set(text); err != nil {
		return fmt.Errorf("%q is no %s (%s)", text, f.Value.Type(), f.Usage)
	}
	return nil
}
