package server

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// saved writes a snapshot with this text, after a first try that failed.
func saved(text string) func(context.Context, func() (io.Writer, error)) error {
	return func(_ context.Context, begin func() (io.Writer, error)) error {
		for _, part := range []string{"half of what another leader had", text} {
			w, err := begin()
			if err != nil {
				return err
			}
			if _, err := io.WriteString(w, part); err != nil {
				return err
			}
		}
		return nil
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestBackupsAndWhatStaysOfThem(t *testing.T) {
	data, dir := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(data, "root"), 0o700), os.WriteFile(filepath.Join(data, "root", "root.key"), []byte("sealed"), 0o600),
		os.Mkdir(filepath.Join(dir, "mine"), 0o700), os.Mkdir(filepath.Join(dir, unfinished+"20260101T000000Z"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	b := backup{dir: dir, data: data, keep: 2, now: func() time.Time { return now }}
	var path string
	for range 4 {
		var err error
		if path, err = b.run(t.Context(), saved("state")); err != nil {
			t.Fatal(err)
		}
		now = now.Add(24 * time.Hour)
	}
	if got := names(t, dir); got != "20261103T030000Z 20261104T030000Z mine" {
		t.Errorf("of four, two stay, and what is not ours: %s", got)
	}
	if got := names(t, path); got != "fleet.snap root.key" {
		t.Errorf("a backup has %s", got)
	}
	if text, err := os.ReadFile(filepath.Join(path, "fleet.snap")); err != nil || string(text) != "state" {
		t.Errorf("the snapshot is %q, %v", text, err)
	}
	// A trio that cannot be asked costs no old backup.
	down := errors.New("no leader")
	_, err := b.run(t.Context(), func(context.Context, func() (io.Writer, error)) error { return down })
	if !errors.Is(err, down) || names(t, dir) != "20261103T030000Z 20261104T030000Z mine" {
		t.Errorf("a failure: %v, left %s", err, names(t, dir))
	}
}
