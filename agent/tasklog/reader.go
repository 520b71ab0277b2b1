package tasklog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// ErrNoLogs: there is no log of that task here, or not any more.
var ErrNoLogs = errors.New("no logs of that task on this machine")

// pollEvery is how often a follower looks for more.
const pollEvery = 100 * time.Millisecond

// settle bounds how long the reader waits for a writer after the task ended:
// a process that escaped the container may hold the streams open.
const settle = 5 * time.Second

// Dir is the directory that holds one directory per task.
type Dir string

// Options say what to read.
type Options struct {
	// Follow goes on reading until the task has ended.
	Follow bool
	// Tail, when above 0, starts with that many last lines of each stream;
	// less than 0 starts with what comes next.
	Tail int
	// Stdout and Stderr choose; neither means both.
	Stdout, Stderr bool
	// Ended is closed when the task has ended. Reading then still waits for
	// the writer, so that no last line is missed.
	Ended <-chan struct{}
}

// Path is the directory of one task's logs.
func (d Dir) Path(id fleet.TaskID) string { return filepath.Join(string(d), string(id)) }

// Make makes the directory of a task's logs. Its owner can delete what a writer
// of another user makes in it, and read it where d has the set-group-ID bit,
// which the new directory inherits. Idempotent.
func (d Dir) Make(id fleet.TaskID) error {
	if err := fleet.CheckID("task id", string(id)); err != nil {
		return err
	}
	if err := os.MkdirAll(d.Path(id), 0o750); err != nil {
		return fmt.Errorf("make the directory of the task's logs: %w", err)
	}
	return nil
}

// Remove deletes a task's logs. Idempotent.
func (d Dir) Remove(id fleet.TaskID) error {
	if err := fleet.CheckID("task id", string(id)); err != nil {
		return err
	}
	return os.RemoveAll(d.Path(id))
}

// Read hands the task's output to emit, in chunks of up to 64 KiB that emit
// must not keep. The order within a stream is kept; between the two it is not
// known. It returns nil when all was read, emit's error, or that of ctx.
func (d Dir) Read(ctx context.Context, id fleet.TaskID, o Options, emit func(stderr bool, data []byte) error) error {
	if err := fleet.CheckID("task id", string(id)); err != nil {
		return err
	}
	if !o.Stdout && !o.Stderr {
		o.Stdout, o.Stderr = true, true
	}
	dir := d.Path(id)
	if _, err := os.Stat(dir); err != nil && !o.Follow {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("task %s: %w", id, ErrNoLogs)
		}
		return err
	}
	var streams []*stream
	for i, want := range []bool{o.Stdout, o.Stderr} {
		if want {
			name := []string{stdoutName, stderrName}[i]
			s := &stream{path: filepath.Join(dir, name), emit: func(p []byte) error { return emit(i == 1, p) }}
			defer s.close()
			if err := s.seek(o.Tail); err != nil {
				return err
			}
			streams = append(streams, s)
		}
	}
	return read(ctx, dir, o, streams)
}

// read drains the streams, again and again when more may come.
func read(ctx context.Context, dir string, o Options, streams []*stream) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var deadline time.Time
	for {
		// Asked before draining: what a writer wrote before it ended is then
		// surely drained.
		last := !o.Follow && !closed(o.Ended)
		if closed(o.Ended) {
			if deadline.IsZero() {
				deadline = time.Now().Add(settle)
			}
			last = !alive(dir) || time.Now().After(deadline)
		}
		for _, s := range streams {
			if err := s.drain(ctx); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		case <-onceClosed(o.Ended, deadline):
		}
	}
}

// onceClosed returns ended until it was seen closed: afterwards the ticker
// sets the pace.
func onceClosed(ended <-chan struct{}, seen time.Time) <-chan struct{} {
	if seen.IsZero() {
		return ended
	}
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stream reads one log across rotations.
type stream struct {
	path string
	emit func([]byte) error
	file *os.File
	buf  []byte
}

func (s *stream) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

// drain emits all there is, through as many rotations as happened.
func (s *stream) drain(ctx context.Context) error {
	if s.buf == nil {
		s.buf = make([]byte, 64<<10)
	}
	for {
		if s.file != nil {
			if err := s.copy(ctx); err != nil {
				return err
			}
		}
		more, err := s.next(ctx)
		if err != nil || !more {
			return err
		}
	}
}

func (s *stream) copy(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := s.file.Read(s.buf)
		if n > 0 {
			if err := s.emit(s.buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// next opens the file that follows the current one, which was drained; false
// when there is none yet.
func (s *stream) next(ctx context.Context) (bool, error) {
	newest, err := openIfThere(s.path)
	if newest == nil {
		return false, err // not begun, or just being rotated
	}
	if s.file != nil {
		if same(s.file, newest) {
			_ = newest.Close()
			return false, nil
		}
		// It may have grown between the drain and its rotation.
		if err := s.copy(ctx); err != nil {
			_ = newest.Close()
			return false, err
		}
	}
	old, err := openIfThere(s.path + oldSuffix)
	if err != nil {
		_ = newest.Close()
		return false, err
	}
	if old != nil && (s.file == nil || !same(s.file, old)) {
		_ = newest.Close()
		s.replace(old)
		return true, nil
	}
	if old != nil {
		_ = old.Close()
	}
	s.replace(newest)
	return true, nil
}

func openIfThere(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func (s *stream) replace(f *os.File) {
	s.close()
	s.file = f
}

func same(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// seek puts the stream where the wanted tail begins; 0 is the very beginning.
func (s *stream) seek(tail int) error {
	if tail == 0 {
		return nil
	}
	want := max(tail, 0)
	for _, path := range []string{s.path, s.path + oldSuffix} {
		f, err := openIfThere(path)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		at, found, err := tailOffset(f, want)
		if err == nil {
			_, err = f.Seek(at, io.SeekStart)
		}
		if err != nil {
			_ = f.Close()
			return err
		}
		s.replace(f)
		if want -= found; want <= 0 {
			break
		}
	}
	return nil
}

// tailOffset returns where the last n lines of f begin and how many lines
// there are from there on. A last line without its newline counts.
func tailOffset(f *os.File, n int) (offset int64, lines int, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if n == 0 || st.Size() == 0 {
		return st.Size(), 0, nil
	}
	buf := make([]byte, 64<<10)
	end := st.Size() - 1 // the newline of the last line begins no other
	for end > 0 {
		start := max(0, end-int64(len(buf)))
		chunk := buf[:end-start]
		if _, err := f.ReadAt(chunk, start); err != nil {
			return 0, 0, err
		}
		for {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			if lines++; lines == n {
				return start + int64(i) + 1, lines, nil
			}
			chunk = chunk[:i]
		}
		end = start
	}
	return 0, lines + 1, nil
}
