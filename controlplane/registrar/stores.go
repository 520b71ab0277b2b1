package registrar

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

const (
	keptSnapshots = 2
	// cachedLogs spares reading back what is about to be sent to the others.
	cachedLogs = 128
)

// stores are what Raft keeps.
type stores struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	closers   []func() error // in the order to call
}

func (s *stores) close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c())
	}
	s.closers = nil
	return errors.Join(errs...)
}

func openStores(dir string, segment int, log *slog.Logger) (*stores, error) {
	if dir == "" {
		mem := raft.NewInmemStore()
		return &stores{log: mem, stable: mem, snapshots: raft.NewInmemSnapshotStore()}, nil
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &stores{closers: []func() error{lock.Close}}
	if err := s.open(dir, segment, log); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the log in %s: %w", dir, err), s.close())
	}
	return s, nil
}

func (s *stores) open(dir string, segment int, log *slog.Logger) error {
	walDir := filepath.Join(dir, "wal")
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		return err
	}
	// The log's own Close leaves its metadata open (and locked): it is given
	// one that can be closed here.
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(walDir, wal.WithLogger(hclogTo(log, "wal")), wal.WithMetaStore(meta), wal.WithSegmentSize(segment))
	if err != nil {
		return errors.Join(err, meta.Close())
	}
	s.closers = append([]func() error{w.Close, meta.Close}, s.closers...)
	cache, err := raft.NewLogCache(cachedLogs, w)
	if err != nil {
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, hclogTo(log, "snapshot"))
	if err != nil {
		return err
	}
	s.log, s.stable, s.snapshots = cache, w, snaps
	return nil
}

// lockDir makes the directory and locks it. It is also the place where one
// that cannot be written is noticed, before anything else touches it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unusable(dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another tenderd: stop it first (systemctl status tenderd), or give this one another data directory", dir)
		}
		return nil, unusable(dir, err)
	}
	return f, nil
}

func unusable(dir string, err error) error {
	return fmt.Errorf("cannot use the directory %s for the replicated log: %w: let tenderd's user own it and write there, or name another data directory", dir, err)
}
