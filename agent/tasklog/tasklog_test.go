package tasklog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// TestMain makes this binary the writer too, as the agent's binary is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "log" {
		syscall.Exit(Main(os.Args[2:])) // under the race detector os.Exit takes a second
	}
	os.Exit(m.Run())
}

// writer is a writer process as a shim starts it.
type writer struct {
	stdout, stderr *os.File
	cmd            *exec.Cmd
}

func startWriter(t *testing.T, d Dir, id fleet.TaskID, limit int64) *writer {
	t.Helper()
	w := &writer{cmd: exec.Command(os.Args[0], "log", Writer(d.Path(id), limit))}
	var ends []*os.File
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	out, outW := pipe()
	errs, errsW := pipe()
	readyR, ready := pipe()
	w.stdout, w.stderr = outW, errsW
	ends = append(ends, out, errs, ready)
	w.cmd.ExtraFiles = ends
	w.cmd.Stderr = os.Stderr
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range ends {
		_ = f.Close()
	}
	if n, err := readyR.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("the writer did not get ready: %v", err)
	}
	return w
}

// end closes both streams, as the end of a task does.
func (w *writer) end(t *testing.T) {
	t.Helper()
	_ = w.stdout.Close()
	_ = w.stderr.Close()
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("writer: %v", err)
	}
}

// collect returns what Read emits.
func collect(ctx context.Context, d Dir, id fleet.TaskID, o Options) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = d.Read(ctx, id, o, func(isErr bool, data []byte) error {
		if isErr {
			errs.Write(data)
		} else {
			out.Write(data)
		}
		return nil
	})
	return out.String(), errs.String(), err
}

func TestStreamsStayApartAndRaw(t *testing.T) {
	d := Dir(t.TempDir())
	w := startWriter(t, d, "a", DefaultMaxBytes)
	fmt.Fprint(w.stdout, "one\ntwo\x00\xff no newline")
	fmt.Fprint(w.stderr, "oops\n")
	w.end(t)
	stdout, stderr, err := collect(t.Context(), d, "a", Options{})
	if err != nil || stdout != "one\ntwo\x00\xff no newline" || stderr != "oops\n" {
		t.Errorf("stdout %q, stderr %q, error %v", stdout, stderr, err)
	}
	stdout, stderr, err = collect(t.Context(), d, "a", Options{Stderr: true})
	if err != nil || stdout != "" || stderr != "oops\n" {
		t.Errorf("stderr only: stdout %q, stderr %q, error %v", stdout, stderr, err)
	}
	st, err := os.Stat(filepath.Join(d.Path("a"), "stdout.log"))
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("stdout.log: %v, error %v", st.Mode(), err)
	}
	for range 2 {
		if err := d.Remove("a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err = collect(t.Context(), d, "a", Options{}); !errors.Is(err, ErrNoLogs) {
		t.Errorf("after removal: error %v", err)
	}
}

func TestTail(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.MkdirAll(d.Path("a"), 0o750); err != nil {
		t.Fatal(err)
	}
	var all []string
	for i := range 20000 { // several blocks of the backward search
		all = append(all, fmt.Sprintf("line %d\n", i))
	}
	split := len(all) - 3
	for name, lines := range map[string][]string{"stdout.log.1": all[:split], "stdout.log": all[split:]} {
		if err := os.WriteFile(filepath.Join(d.Path("a"), name), []byte(strings.Join(lines, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{-1, 0, 1, 3, 4, 15000, 20000, 30000} {
		want := strings.Join(all[len(all)-max(0, min(n, len(all))):], "")
		switch n {
		case 0:
			want = strings.Join(all, "")
		case -1:
			want = ""
		}
		got, _, err := collect(t.Context(), d, "a", Options{Tail: n})
		if err != nil || got != want {
			t.Errorf("tail %d: %d bytes, want %d; error %v", n, len(got), len(want), err)
		}
	}
}

func TestRotationKeepsOneOldFileAndWholeLines(t *testing.T) {
	d := Dir(t.TempDir())
	w := startWriter(t, d, "a", 100)
	var all string
	for i := range 50 {
		line := fmt.Sprintf("line number %d\n", i)
		all += line
		fmt.Fprint(w.stdout, line)
	}
	fmt.Fprint(w.stderr, strings.Repeat("x", 250)) // one line, longer than a file
	w.end(t)
	stdout, stderr, err := collect(t.Context(), d, "a", Options{})
	if err != nil || !strings.HasSuffix(all, stdout) || !strings.HasPrefix(stdout, "line") || len(stdout) < 100 || len(stdout) > 200 {
		t.Errorf("stdout is not the last lines, or of %d bytes: %q, error %v", len(stdout), stdout, err)
	}
	if stderr != strings.Repeat("x", 150) {
		t.Errorf("stderr: %d bytes", len(stderr))
	}
	entries, err := os.ReadDir(d.Path("a"))
	if err != nil || len(entries) != 4 {
		t.Errorf("files: %v, error %v", entries, err)
	}
}

func TestFollowThroughRotationsToTheEnd(t *testing.T) {
	d := Dir(t.TempDir())
	ended := make(chan struct{})
	type result struct {
		stdout, stderr string
		err            error
	}
	results := make(chan result)
	lines := make(chan string, 1000)
	go func() {
		var r result
		// It begins before the task does.
		r.err = d.Read(t.Context(), "a", Options{Follow: true, Ended: ended}, func(isErr bool, data []byte) error {
			if isErr {
				r.stderr += string(data)
				return nil
			}
			r.stdout += string(data)
			lines <- string(data)
			return nil
		})
		results <- r
	}()
	w := startWriter(t, d, "a", 1000)
	var all string
	for i := range 8 { // each batch is read before the next, so none is rotated away unseen
		batch := strings.Repeat(fmt.Sprintf("batch %d\n", i), 100)
		all += batch
		fmt.Fprint(w.stdout, batch)
		for got := 0; got < len(batch); {
			got += len(<-lines)
		}
	}
	close(ended) // the task has ended; its writer has not
	fmt.Fprint(w.stdout, "last words\n")
	w.end(t)
	r := <-results
	if r.err != nil || r.stderr != "" {
		t.Errorf("stderr %q, error %v", r.stderr, r.err)
	}
	if r.stdout != all+"last words\n" {
		t.Errorf("%d bytes were followed, want %d", len(r.stdout), len(all)+11)
	}
}

func TestReadEndsWithItsContextAndItsConsumer(t *testing.T) {
	d := Dir(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := collect(ctx, d, "nothing-yet", Options{Follow: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	w := startWriter(t, d, "a", 100)
	fmt.Fprint(w.stdout, "x\n")
	w.end(t)
	full := errors.New("consumer is gone")
	err := d.Read(t.Context(), "a", Options{Follow: true}, func(bool, []byte) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
	if err := d.Read(t.Context(), "../evil", Options{}, nil); err == nil {
		t.Error("a task id with a slash was accepted")
	}
}

// A log that cannot be written must not stop its task.
func TestWriterDrainsWithoutItsFiles(t *testing.T) {
	d := Dir(t.TempDir())
	w := startWriter(t, d, "a", 64)
	if err := os.RemoveAll(d.Path("a")); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // far more than the pipe holds
		fmt.Fprint(w.stdout, strings.Repeat("y", 1000)+"\n")
	}
	w.end(t)
}

type errWriteCloser struct{}

func (errWriteCloser) Write([]byte) (int, error) { return 0, errors.New("no") }
func (errWriteCloser) Close() error              { return nil }

func TestWriterRefusesBadArguments(t *testing.T) {
	for _, arg := range []string{"", "dir=relative&max=10", "dir=/x&max=0", "dir=%zz", Writer(t.TempDir(), 10)} {
		if err := write(arg, bytes.NewReader(nil), bytes.NewReader(nil), errWriteCloser{}); err == nil {
			t.Errorf("%q was accepted", arg)
		}
	}
	if code := Main(nil); code != 2 {
		t.Errorf("without arguments the exit code is %d", code)
	}
}
