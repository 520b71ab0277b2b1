package cli

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/transport/fleet"
)

// buffer is written by one goroutine and read by another.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func newBuffer() *buffer { return &buffer{changed: make(chan struct{})} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await returns once text was written.
func (b *buffer) await(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		b.mu.Lock()
		changed, s := b.changed, b.b.String()
		b.mu.Unlock()
		if strings.Contains(s, text) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("never written: %q; written: %q", text, s)
		}
	}
}

func listenUnix(t *testing.T, h http.Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, h)
	return socket
}

func serveOn(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	srv := api.NewServer(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// command is a tender that runs.
type command struct {
	out, err *buffer
	signals  chan os.Signal
	code     chan int
}

func start(t *testing.T, socket string, args ...string) *command {
	t.Helper()
	c := &command{out: newBuffer(), err: newBuffer(), signals: make(chan os.Signal), code: make(chan int, 1)}
	env := []string{"HOME=" + t.TempDir(), "TENDER_SOCKET=" + socket}
	go func() {
		c.code <- Run(t.Context(), args, env, Streams{In: strings.NewReader(""), Out: c.out, Err: c.err, Signals: c.signals})
	}()
	return c
}

func fleetOf(t *testing.T) (*apitest.Fleet, string) {
	t.Helper()
	f := apitest.New()
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	return f, listenUnix(t, api.Handler(f, f.Options()))
}

const image = "docker.io/library/busybox:1.36"

func TestInterruptStopsTheTask(t *testing.T) {
	f, socket := fleetOf(t)
	c := start(t, socket, "run", "--attach", image, "wait")
	c.err.await(t, "placed on agent a1")
	f.Print("busybox-1", false, "working\n")
	c.out.await(t, "working\n")
	c.signals <- os.Interrupt
	if code := <-c.code; code != 143 {
		t.Errorf("exit code %d", code)
	}
	want := "busybox-1 is placed on agent a1\nstopping busybox-1; Ctrl-C again leaves it and returns\nbusybox-1: TASK_KILLED: stopped on request; ended by signal 15\n"
	if got := c.err.String(); got != want {
		t.Errorf("said %q", got)
	}
}

func TestSecondInterruptLeavesTheTask(t *testing.T) {
	f, socket := fleetOf(t)
	c := start(t, socket, "run", "--attach", image, "hold")
	c.err.await(t, "placed on agent a1")
	c.signals <- os.Interrupt
	c.err.await(t, "stopping")
	c.signals <- os.Interrupt
	if code := <-c.code; code != 130 || f.State("busybox-1") != fleet.TaskStarting {
		t.Errorf("exit code %d; the task is %v", code, f.State("busybox-1"))
	}
	c.err.await(t, "left busybox-1 as it is; follow it with: tender task logs -f busybox-1")
}

func TestInterruptBeforeTheTaskExists(t *testing.T) {
	asked := make(chan struct{})
	socket := listenUnix(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	c := start(t, socket, "run", "--attach", image)
	<-asked
	c.signals <- os.Interrupt
	if code := <-c.code; code != 125 {
		t.Errorf("exit code %d", code)
	}
	c.err.await(t, "ended by a signal (interrupt)")
}

// The way to the control plane breaks while a task is attached: in the middle
// of the output, and for a while altogether. Nothing is printed twice.
func TestAttachOutlivesBrokenConnections(t *testing.T) {
	f := apitest.New()
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	inner := api.Handler(f, f.Options())
	var streams, broken atomic.Int32
	socket := listenUnix(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/logs") && streams.Add(1) == 1 {
			inner.ServeHTTP(&cutOff{ResponseWriter: w, left: 2}, r)
			return
		}
		if r.URL.Query().Has("wait") && broken.Add(1) <= 3 {
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(w, r)
	}))
	c := start(t, socket, "run", "--attach", image, "wait")
	f.Print("busybox-1", false, "")
	for _, line := range []string{"one\n", "two\n", "three\n", "four\n"} {
		c.err.await(t, "placed")
		f.Print("busybox-1", false, line)
		c.out.await(t, line)
	}
	f.Finish("busybox-1", 7)
	if code := <-c.code; code != 7 {
		t.Errorf("exit code %d", code)
	}
	if got := c.out.String(); got != "one\ntwo\nthree\nfour\n" {
		t.Errorf("printed %q", got)
	}
	c.err.await(t, "the connection broke off; trying again")
	c.err.await(t, "the output broke off (read logs: unexpected EOF); trying again")
}

// cutOff ends the connection after some writes.
type cutOff struct {
	http.ResponseWriter
	left int
}

func (w *cutOff) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}

func (w *cutOff) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// The agent leaves before all output was read: the exit code is still known.
func TestOutputThatCannotBeHad(t *testing.T) {
	f := apitest.New()
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	inner := api.Handler(f, f.Options())
	socket := listenUnix(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/logs") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"title":"t","detail":"the agent has no output of this task","code":"not_found"}`))
			return
		}
		inner.ServeHTTP(w, r)
	}))
	c := start(t, socket, "run", "--attach", image, "exit", "3")
	if code := <-c.code; code != 3 {
		t.Errorf("exit code %d", code)
	}
	c.err.await(t, "the output is not complete: the agent has no output of this task\nread it later with: tender task logs busybox-1\n")
}
