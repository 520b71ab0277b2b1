package registrar

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
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
	guard     *guard         // nil in memory
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

// openStores opens what lies in the directory of cfg, or makes it. Whoever
// cannot go on with a store is told by fatal.
func openStores(cfg *Config, fatal func(error)) (*stores, error) {
	if cfg.Dir == "" {
		mem := raft.NewInmemStore()
		return &stores{log: mem, stable: mem, snapshots: raft.NewInmemSnapshotStore()}, nil
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &stores{closers: []func() error{lock.Close}}
	if err := s.open(cfg, fatal); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the log in %s: %w", cfg.Dir, err), s.close())
	}
	return s, nil
}

func (s *stores) open(cfg *Config, fatal func(error)) error {
	dir := filepath.Join(cfg.Dir, "wal")
	// The log's metadata hold this replica's vote.
	_, err := os.Stat(filepath.Join(dir, metadb.FileName))
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh && cfg.Member {
		return fmt.Errorf("%w: %s held it once. A replica that has forgotten its vote could help two others to lead at once, so it must not go on. "+
			"Remove it (tender replica remove %s, on another replica), empty its data directory, and let it join again (tender token create --kind replica; tenderd join)",
			ErrForgotten, dir, cfg.ID)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	space := cfg.space
	if space == nil {
		space = func() (uint64, error) { return freeSpace(dir) }
	}
	g, err := newGuard(&guard{
		open:  func() (wal, error) { return openWAL(dir, cfg) },
		space: space, need: cfg.Reserve, fatal: fatal, log: cfg.Log,
	})
	if err != nil {
		return readable(dir, err)
	}
	s.closers = append([]func() error{g.close}, s.closers...)
	if err := g.check(); err != nil {
		return readable(dir, err)
	}
	cache, err := raft.NewLogCache(cachedLogs, g)
	if err != nil {
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, keptSnapshots, hclogTo(cfg.Log, "snapshot"))
	if err != nil {
		return err
	}
	if err := checkSnapshots(filepath.Join(cfg.Dir, "snapshots"), snaps, g); err != nil {
		return err
	}
	s.log, s.stable, s.snapshots, s.guard = cachedLog{cache, g}, g, snaps, g
	if !cfg.Member && cfg.Born != nil {
		return cfg.Born()
	}
	return nil
}

// cachedLog is a cache that says why the disk is full; Raft's own says only
// what the text was.
type cachedLog struct {
	*raft.LogCache
	g *guard
}

// StoreLog implements raft.LogStore.
func (c cachedLog) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (c cachedLog) StoreLogs(logs []*raft.Log) error {
	err := c.LogCache.StoreLogs(logs)
	if _, full := c.g.fault(); err != nil && full != nil {
		return full
	}
	return err
}

// readable says what to do about a log that cannot be read.
func readable(dir string, err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: make space there, then start this replica again", err)
	}
	if errors.Is(err, errDamaged) || errors.Is(err, types.ErrCorrupt) {
		return fmt.Errorf("%s: %w; %s", dir, err, damagedNext)
	}
	return err
}

// fileWAL is a log with the metadata that its own Close leaves open and locked.
type fileWAL struct {
	*raftwal.WAL
	meta *metadb.BoltMetaDB
}

func (w fileWAL) Close() error { return errors.Join(w.WAL.Close(), w.meta.Close()) }

func openWAL(dir string, cfg *Config) (wal, error) {
	meta := &metadb.BoltMetaDB{}
	w, err := raftwal.Open(dir, raftwal.WithLogger(hclogTo(cfg.Log, "wal")), raftwal.WithMetaStore(meta), raftwal.WithSegmentSize(cfg.segment))
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	if cfg.disk != nil {
		return cfg.disk(fileWAL{w, meta}), nil
	}
	return fileWAL{w, meta}, nil
}

// checkSnapshots refuses a newest snapshot that does not read back as it was
// written, and one that the log does not go on from.
func checkSnapshots(dir string, snaps *raft.FileSnapshotStore, g *guard) error {
	list, err := snaps.List()
	if err != nil {
		return fmt.Errorf("listing the snapshots in %s: %w", dir, err)
	}
	newest := uint64(0)
	if len(list) > 0 {
		newest = list[0].Index
		_, r, err := snaps.Open(list[0].ID)
		if err != nil {
			return fmt.Errorf("%s: %w: %w; %s", filepath.Join(dir, list[0].ID), errDamaged, err, damagedNext)
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	first, err := g.FirstIndex()
	if err != nil {
		return err
	}
	if first > newest+1 {
		return fmt.Errorf("%s: %w: the newest snapshot ends with entry %d, and the log begins with %d; %s", dir, errDamaged, newest, first, damagedNext)
	}
	return nil
}

// freeSpace is what a user without privileges may still write.
func freeSpace(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("looking for space in %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec // a size is positive
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
