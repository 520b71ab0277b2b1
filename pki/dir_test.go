package pki_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

func TestDir(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	dir := filepath.Join(t.TempDir(), "state", "identity")
	if _, err := pki.LoadDir(dir); !errors.Is(err, pki.ErrNotJoined) {
		t.Fatalf("empty: %v", err)
	}
	first := ca.Credential(t, pki.KindAgent, "a1")
	first.Bundle.Version = 5
	if err := pki.SaveDir(dir, first); err != nil {
		t.Fatal(err)
	}
	got, err := pki.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Identity != first.Identity || got.Bundle.Version != 5 || !got.Leaf().Equal(first.Leaf()) || len(got.Chain.Certificate) != 3 {
		t.Errorf("got %+v", got)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	names := dirNames(t, dir)
	if strings.Join(names, " ") != "bundle.pem cert.pem key.pem" {
		t.Errorf("files %v", names)
	}
	for _, n := range names {
		if info, err := os.Stat(filepath.Join(dir, n)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", n, info.Mode(), err)
		}
	}
}

func dirNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A crash between any two renames leaves one whole credential: the old one or
// the new one.
func TestDirCrash(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	before, after := ca.Credential(t, pki.KindAgent, "a1"), ca.Credential(t, pki.KindAgent, "a1")
	after.Bundle.Version = 2
	order := []string{"bundle.pem", "key.pem", "cert.pem"}
	for _, hadOld := range []bool{true, false} {
		for done := 0; done <= len(order); done++ {
			dir, made := t.TempDir(), t.TempDir()
			if hadOld {
				if err := pki.SaveDir(dir, before); err != nil {
					t.Fatal(err)
				}
			}
			if err := pki.SaveDir(made, after); err != nil {
				t.Fatal(err)
			}
			for i, n := range order {
				to := filepath.Join(dir, n)
				if i >= done {
					to += ".new"
				}
				if err := os.Rename(filepath.Join(made, n), to); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time without anything to repair
				got, err := pki.LoadDir(dir)
				switch {
				case !hadOld && done < 2:
					if !errors.Is(err, pki.ErrNotJoined) {
						t.Errorf("first join, crash after %d renames: %v", done, err)
					}
				case err != nil:
					t.Errorf("crash after %d renames: %v", done, err)
				case done < 2 && !got.Leaf().Equal(before.Leaf()), done >= 2 && !got.Leaf().Equal(after.Leaf()):
					t.Errorf("crash after %d renames: the wrong certificate", done)
				}
			}
		}
	}
}

func TestDirRefuses(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"key others can read": {func(d string) error { return os.Chmod(filepath.Join(d, "key.pem"), 0o644) }, "chmod 600"},
		"damaged key":         {func(d string) error { return os.WriteFile(filepath.Join(d, "key.pem"), []byte("x"), 0o600) }, "key"},
		"damaged certificate": {func(d string) error { return os.WriteFile(filepath.Join(d, "cert.pem"), []byte("x"), 0o600) }, "cert.pem"},
		"bundle without version": {func(d string) error {
			return os.WriteFile(filepath.Join(d, "bundle.pem"), ca.Bundle().PEM(), 0o600)
		}, "no version"},
		"certificate of another": {func(d string) error {
			other := t.TempDir()
			if err := pki.SaveDir(other, ca.Credential(t, pki.KindAgent, "a2")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, "cert.pem"), filepath.Join(d, "cert.pem"))
		}, "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := pki.SaveDir(dir, ca.Credential(t, pki.KindAgent, "a1")); err != nil {
				t.Fatal(err)
			}
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := pki.LoadDir(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
