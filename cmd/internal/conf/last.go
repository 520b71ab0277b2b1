package conf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// lastName is the file in the state directory with the settings that held last.
const lastName = "settings.last.json"

// LoadOrLast is Load for a daemon that must run: when the files are broken, it
// returns the settings that held last, and without such what is sound of the
// files, with broken saying what is wrong. Only mistakes on the command line and
// in the environment are errors, as those are no file's.
func (l *Loader) LoadOrLast() (s *Settings, broken, err error) {
	layers := l.layers()
	s, broken = l.d.read(l.cmdline, layers)
	if broken == nil {
		return s, nil, nil
	}
	sound := slices.DeleteFunc(layers, func(x layer) bool { return x.err != nil || x.check(l.d.all()) != nil })
	for {
		s, err = l.d.read(l.cmdline, sound)
		placed, ok := errors.AsType[*placedError](err)
		if !ok || placed.path == "" {
			break
		}
		sound = slices.DeleteFunc(sound, func(x layer) bool { return x.path == placed.path })
	}
	if err != nil {
		return nil, nil, err
	}
	if last, there := readLayer(filepath.Join(s.GetString(l.d.State), lastName)); there && last.err == nil {
		if kept, err := l.d.read(l.cmdline, []layer{last}); err == nil {
			return kept, fmt.Errorf("%w; the settings that held last are used", broken), nil
		}
	}
	return s, fmt.Errorf("%w; the files in error are left out", broken), nil
}

// Keep makes the settings of the files those that held last.
func (s *Settings) Keep() error {
	merged := map[string]any{}
	for _, l := range s.layers {
		maps.Copy(merged, l.values)
	}
	data, err := json.MarshalIndent(merged, "", "  ") // JSON is YAML
	if err != nil {
		return fmt.Errorf("keep settings: %w", err)
	}
	path := filepath.Join(s.GetString(s.d.State), lastName)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data)+"\n" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), lastName+".*")
	if err != nil {
		return fmt.Errorf("keep settings: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("keep settings: %w", err)
	}
	return nil
}
