package packages_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/packages"
)

func open(t *testing.T, dir string) *packages.Store {
	t.Helper()
	s, err := packages.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keep(t *testing.T, s *packages.Store, sum, text string) {
	t.Helper()
	in, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Discard()
	if _, err := io.WriteString(in, text); err != nil {
		t.Fatal(err)
	}
	if r, err := in.Reread(); err != nil {
		t.Fatal(err)
	} else if again, err := io.ReadAll(r); err != nil || string(again) != text {
		t.Fatalf("read again: %q, %v", again, err)
	}
	if err := in.Keep(sum); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "packages")
	s := open(t, dir)
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	if _, err := s.Open(a); !errors.Is(err, packages.ErrNone) || s.Has(a) {
		t.Errorf("an empty store has it: %v", err)
	}
	keep(t, s, a, "one")
	keep(t, s, b, "two")
	f, err := s.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil || string(got) != "one" || !s.Has(a) {
		t.Errorf("%q, %v", got, err)
	}
	// What was written when the machine stopped is no file, and is gone after.
	left, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(left, "half"); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	// A sweep leaves what is named, and for an hour what is not.
	now := time.Now()
	named := func(sum string) bool { return sum == a }
	for after, want := range []int{0: 0, 1: 0, 2: 1} {
		gone, err := s.Sweep(named, now.Add(time.Duration(after)*40*time.Minute), time.Hour)
		if err != nil || len(gone) != want || want == 1 && gone[0] != b {
			t.Errorf("sweep %d: %v, %v", after, gone, err)
		}
	}
	if !s.Has(a) || s.Has(b) {
		t.Error("the wrong file is gone")
	}
}

func TestNamesAreDigests(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"", "..", "../" + strings.Repeat("a", 61), strings.Repeat("A", 64), strings.Repeat("a", 63)} {
		if _, err := s.Open(name); !errors.Is(err, packages.ErrNone) || s.Has(name) {
			t.Errorf("%q: %v", name, err)
		}
		in, err := s.Create()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Keep(name); err == nil {
			t.Errorf("%q is kept", name)
		}
		in.Discard()
	}
}
