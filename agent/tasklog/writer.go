package tasklog

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// DefaultMaxBytes is where a log file is rotated unless told otherwise.
const DefaultMaxBytes = 10 << 20

// The two files of a task, and what an old one ends in.
const (
	stdoutName = "stdout.log"
	stderrName = "stderr.log"
	oldSuffix  = ".1"
)

// Writer returns the one argument that makes Main write to dir.
func Writer(dir string, maxBytes int64) string {
	return url.Values{"dir": {dir}, "max": {strconv.FormatInt(maxBytes, 10)}}.Encode()
}

// Main is the whole life of a writer process as a shim starts it: the task's
// stdout is file 3, its stderr file 4, and a byte on file 5 says that the task
// may begin. args is what Writer returned. It ends when the task has closed
// both streams, and returns the exit code.
func Main(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "this command is for container shims only")
		return 2
	}
	// The shim sends TERM when the task is deleted, and a service manager may
	// at any time; both streams end soon after, and nothing of them is lost.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	err := write(args[0], os.NewFile(3, "stdout"), os.NewFile(4, "stderr"), os.NewFile(5, "ready"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// write copies both streams until they end. It says ready only when it could
// open its files: the executor looks for them.
func write(arg string, stdout, stderr io.Reader, ready io.WriteCloser) error {
	v, err := url.ParseQuery(arg)
	if err != nil {
		return err
	}
	dir := v.Get("dir")
	limit, err := strconv.ParseInt(v.Get("max"), 10, 64)
	if err != nil || limit <= 0 || !filepath.IsAbs(dir) {
		return fmt.Errorf("bad argument %q", arg)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	// Readers learn from this lock whether more can come. The kernel lets go
	// of it however this process ends.
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH); err != nil {
		return err
	}
	out, err := openRotating(filepath.Join(dir, stdoutName), limit)
	if err != nil {
		return err
	}
	errs, err := openRotating(filepath.Join(dir, stderrName), limit)
	if err != nil {
		return err
	}
	if _, err := ready.Write([]byte{0}); err != nil {
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { out.copyFrom(stdout) })
	wg.Go(func() { errs.copyFrom(stderr) })
	wg.Wait()
	return nil
}

// alive reports whether a writer is at work in dir.
func alive(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

// rotating is a file that starts anew when it is full.
type rotating struct {
	path  string
	limit int64
	file  *os.File // nil while it cannot be opened
	size  int64
}

func openRotating(path string, limit int64) (*rotating, error) {
	r := &rotating{path: path, limit: limit}
	return r, r.open()
}

func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	r.file, r.size = f, st.Size()
	return nil
}

// copyFrom drains src to its end whatever happens to the file: a task must
// never block or die because its log cannot be written.
func (r *rotating) copyFrom(src io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		r.write(buf[:n])
		if err != nil {
			break
		}
	}
	if r.file != nil {
		_ = r.file.Close()
	}
}

// write appends p, rotating between lines where it can.
func (r *rotating) write(p []byte) {
	for len(p) > 0 {
		n := len(p)
		if room := r.limit - r.size; int64(n) > room {
			n = bytes.LastIndexByte(p[:max(0, room)], '\n') + 1
			if n == 0 && r.size == 0 {
				n = int(room) // one line longer than a whole file
			}
		}
		if n > 0 && r.file != nil {
			m, _ := r.file.Write(p[:n])
			r.size += int64(m)
		}
		p = p[n:]
		if len(p) > 0 || r.file == nil {
			r.rotate()
			if r.file == nil {
				return // this chunk is lost; the next tries again
			}
		}
	}
}

func (r *rotating) rotate() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
		// Where it cannot be renamed, an unlimited log would fill the disk.
		if os.Rename(r.path, r.path+oldSuffix) != nil && os.Truncate(r.path, 0) != nil {
			return
		}
	}
	_ = r.open() // leaves file nil on failure
}
