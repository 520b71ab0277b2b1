package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/fleet"
)

var (
	bucketHead  = []byte("head")
	bucketTasks = []byte("tasks")
	keyVersion  = []byte("version")
	keyHeld     = []byte("held")    // term and generation, 8 bytes each
	keyContact  = []byte("contact") // the last one with the control plane
	keyLives    = []byte("lives")
)

// version of the file's format. A file of a newer one is refused. It is raised a
// release after the one that can read the new format: an agent on trial must not
// write what the version before, which may have to go on, cannot read.
const version = 1

// ErrInUse: another agent has the file open.
var ErrInUse = errors.New("another tender-agent uses this state directory")

// File is an open checkpoint. It is safe for concurrent use.
type File struct {
	db  *bbolt.DB
	enc cbor.EncMode
	dec cbor.DecMode
}

// Changes are what one step of the core made durable.
type Changes struct {
	Save   []lifecycle.Record
	Forget []fleet.TaskID
	Head   *lifecycle.SaveHead
}

// Empty reports whether there is nothing to write.
func (c *Changes) Empty() bool { return len(c.Save) == 0 && len(c.Forget) == 0 && c.Head == nil }

// Open opens or creates the file. The caller closes it.
func Open(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open checkpoint: %w; the agent needs a state directory it can write", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open checkpoint %s: %w; stop it first", path, ErrInUse)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open checkpoint: %w; the agent needs a state directory it can write", err)
	case err != nil:
		return nil, fmt.Errorf("open checkpoint %s: %w", path, err)
	}
	f := &File{db: db}
	f.enc, _ = cbor.EncOptions{Time: cbor.TimeRFC3339Nano}.EncMode() // constant options
	f.dec, _ = cbor.DecOptions{}.DecMode()
	if err := f.init(); err != nil {
		return nil, errors.Join(fmt.Errorf("open checkpoint %s: %w", path, err), db.Close())
	}
	return f, nil
}

func (f *File) init() error {
	return f.db.Update(func(tx *bbolt.Tx) error {
		head, err := tx.CreateBucketIfNotExists(bucketHead)
		if err != nil {
			return err
		}
		if v := head.Get(keyVersion); v != nil && (len(v) != 1 || v[0] > version) {
			return fmt.Errorf("it was written by a newer version of tender-agent (format %v, this one reads %d); install that version again", v, version)
		}
		if err := head.Put(keyVersion, []byte{version}); err != nil {
			return err
		}
		_, err = tx.CreateBucketIfNotExists(bucketTasks)
		return err
	})
}

// Close frees the file.
func (f *File) Close() error { return f.db.Close() }

// Load reads everything.
func (f *File) Load() (head lifecycle.Head, records []lifecycle.Record, err error) {
	err = f.db.View(func(tx *bbolt.Tx) error {
		if held := tx.Bucket(bucketHead).Get(keyHeld); len(held) == 16 {
			head.Term, head.Generation = binary.BigEndian.Uint64(held), binary.BigEndian.Uint64(held[8:])
		}
		if v := tx.Bucket(bucketHead).Get(keyContact); v != nil {
			if err := f.dec.Unmarshal(v, &head.Contact); err != nil {
				return fmt.Errorf("last contact: %w", err)
			}
		}
		return tx.Bucket(bucketTasks).ForEach(func(k, v []byte) error {
			var r lifecycle.Record
			if err := f.dec.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("record of task %s: %w", k, err)
			}
			records = append(records, r)
			return nil
		})
	})
	if err != nil {
		err = fmt.Errorf("load checkpoint: %w", err)
	}
	return head, records, err
}

// Begin counts the lives of the agent and returns the number of this one: with
// it, sessions of one agent can be told in their order.
func (f *File) Begin() (life uint64, err error) {
	err = f.db.Update(func(tx *bbolt.Tx) error {
		head := tx.Bucket(bucketHead)
		if v := head.Get(keyLives); len(v) == 8 {
			life = binary.BigEndian.Uint64(v)
		}
		life++
		return head.Put(keyLives, binary.BigEndian.AppendUint64(nil, life))
	})
	if err != nil {
		err = fmt.Errorf("write checkpoint: %w", err)
	}
	return life, err
}

// Write makes changes durable, all or none.
func (f *File) Write(c Changes) error {
	if c.Empty() {
		return nil
	}
	err := f.db.Update(func(tx *bbolt.Tx) error {
		tasks := tx.Bucket(bucketTasks)
		for _, r := range c.Save {
			data, err := f.enc.Marshal(r)
			if err != nil {
				return err
			}
			if err := tasks.Put([]byte(r.Assignment.Task), data); err != nil {
				return err
			}
		}
		for _, id := range c.Forget {
			if err := tasks.Delete([]byte(id)); err != nil {
				return err
			}
		}
		if c.Head == nil {
			return nil
		}
		data, err := f.enc.Marshal(c.Head.Contact)
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketHead).Put(keyContact, data); err != nil {
			return err
		}
		held := binary.BigEndian.AppendUint64(nil, c.Head.Term)
		return tx.Bucket(bucketHead).Put(keyHeld, binary.BigEndian.AppendUint64(held, c.Head.Generation))
	})
	if err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}
