// Package packages keeps a replica's copies of packages of tender-agent: files
// named by their digests, in one directory, beside the replicated state that
// says which of them count.
//
//	store, err := packages.Open(dir)
//	in, err := store.Create()               // a file that nobody sees yet
//	defer in.Discard()
//	_, err = io.Copy(in, body)              // the caller checks what it is
//	err = in.Keep(sum)                      // durable, and there for Open
//	store.Sweep(named, time.Now(), time.Hour)
//
// A crash leaves a file whole or not at all. Methods may be called concurrently.
package packages

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ErrNone: the store has no such file.
var ErrNone = errors.New("no such package here")

const unfinished = ".new-"

// Store is a directory of packages.
type Store struct {
	dir string

	mu sync.Mutex
	// unnamed is since when a sweep has found a file that nothing names.
	unnamed map[string]time.Time
}

// Open makes the directory and removes what a crash left unfinished there.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("packages: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return nil, fmt.Errorf("packages: %w", err)
	}
	return &Store{dir: dir, unnamed: map[string]time.Time{}}, nil
}

// path is where a file of that digest is; empty for what is no digest.
func (s *Store) path(sum string) string {
	if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" {
		return ""
	}
	return filepath.Join(s.dir, sum)
}

// Has reports whether the store has a file.
func (s *Store) Has(sum string) bool {
	path := s.path(sum)
	if path == "" {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// Open opens a file for reading; the caller closes it. The error is ErrNone
// where the store does not have it.
func (s *Store) Open(sum string) (*os.File, error) {
	path := s.path(sum)
	if path == "" {
		return nil, ErrNone
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	return f, err
}

// Incoming is a file that is being written. It belongs to one goroutine.
type Incoming struct {
	s *Store
	f *os.File
}

// Create begins a file; Keep or Discard ends it.
func (s *Store) Create() (*Incoming, error) {
	f, err := os.CreateTemp(s.dir, unfinished+"*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("packages: %w", err)
	}
	return &Incoming{s, f}, nil
}

// Write implements io.Writer.
func (in *Incoming) Write(p []byte) (int, error) { return in.f.Write(p) }

// Reread returns what was written, from its beginning.
func (in *Incoming) Reread() (io.Reader, error) {
	_, err := in.f.Seek(0, io.SeekStart)
	return in.f, err
}

// Keep makes the file one of the store's, under the digest that the caller has
// found it to have.
func (in *Incoming) Keep(sum string) error {
	path := in.s.path(sum)
	if path == "" {
		return fmt.Errorf("packages: %.80q is no SHA-256 in hex", sum)
	}
	if err := errors.Join(in.f.Sync(), in.f.Close()); err != nil {
		return fmt.Errorf("packages: %w", err)
	}
	if err := os.Rename(in.f.Name(), path); err != nil {
		return fmt.Errorf("packages: %w", err)
	}
	d, err := os.Open(in.s.dir)
	if err != nil {
		return fmt.Errorf("packages: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Discard removes the file, unless it was kept.
func (in *Incoming) Discard() {
	_ = in.f.Close()
	_ = os.Remove(in.f.Name())
}

// Sweep removes the files that named has not wanted for an age, by the caller's
// clock: an upload comes before its record. It returns what it removed.
func (s *Store) Sweep(named func(sum string) bool, now time.Time, age time.Duration) (removed []string, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("packages: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	since := map[string]time.Time{}
	for _, e := range entries {
		name := e.Name()
		if s.path(name) == "" || named(name) {
			continue
		}
		first, known := s.unnamed[name]
		if !known {
			first = now
		}
		if since[name] = first; now.Sub(first) < age {
			continue
		}
		if rerr := os.Remove(filepath.Join(s.dir, name)); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		delete(since, name)
		removed = append(removed, name)
	}
	s.unnamed = since
	return removed, err
}
