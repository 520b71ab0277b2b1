package registrar

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// SmallSegments makes the log's files so small that compaction removes some:
// entries stay readable in the newest file even when they have been deleted.
func SmallSegments(c *Config) { c.segment = 8 << 10 }

// FirstLog is the oldest entry that the log still has.
func (r *Raft) FirstLog() uint64 {
	i, err := r.stores.log.FirstIndex()
	if err != nil {
		panic(err)
	}
	return i
}

// Applied is the last entry that the state holds.
func (r *Raft) Applied() uint64 {
	r.m.mu.RLock()
	defer r.m.mu.RUnlock()
	return r.m.applied
}

// Disk is a log's disk that fails or dawdles as a test wants it to.
type Disk struct {
	mu    sync.Mutex
	err   error
	pause time.Duration
}

// Fail makes every write fail with err; nil ends that.
func (d *Disk) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// Slow makes every write take so long more.
func (d *Disk) Slow(pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pause = pause
}

func (d *Disk) now() (time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pause, d.err
}

// Use puts a replica's log on the disk.
func (d *Disk) Use(c *Config) {
	c.disk = func(w wal) wal { return badWAL{w, d} }
	c.space = func() (uint64, error) {
		if _, full := d.now(); full == nil {
			return 1 << 40, nil
		}
		return 0, nil
	}
}

// badWAL writes the first half of what it then says could not be written.
type badWAL struct {
	wal
	d *Disk
}

func (b badWAL) StoreLogs(logs []*raft.Log) error {
	pause, err := b.d.now()
	time.Sleep(pause)
	if err != nil {
		_ = b.wal.StoreLogs(logs[:(len(logs)+1)/2])
		return err
	}
	return b.wal.StoreLogs(logs)
}

func (b badWAL) SetUint64(key []byte, val uint64) error {
	if _, err := b.d.now(); err != nil {
		return err
	}
	return b.wal.SetUint64(key, val)
}

func (b badWAL) Set(key, val []byte) error {
	if _, err := b.d.now(); err != nil {
		return err
	}
	return b.wal.Set(key, val)
}
