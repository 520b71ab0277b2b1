package harness

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Process is one running program.
type Process struct {
	name   string
	cmd    *exec.Cmd
	out    *output
	done   chan struct{} // closed when it has ended
	killed *atomic.Bool  // set by Kill; may be nil
}

// spawner starts programs from one thread that lives as long as the test does:
// the kernel ends a program with the thread that started it (Pdeathsig), and
// so even when the test is killed.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Spawn starts a program. It is ended when the test ends.
func Spawn(t testing.TB, name, path string, args ...string) *Process {
	t.Helper()
	return spawn(t, t, name, path, args...)
}

// spawn starts a program that is ended when owner ends, which may outlive t.
func spawn(owner, t testing.TB, name, path string, args ...string) *Process {
	t.Helper()
	p := &Process{name: name, cmd: exec.Command(path, args...), out: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	// Signals meant for the test do not reach it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawner() <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells
		close(p.done)
	}()
	owner.Cleanup(func() {
		p.Stop(owner)
		if owner.Failed() {
			owner.Logf("the end of the log of %s:\n%s", name, p.out.tail(128<<10))
		}
	})
	return p
}

// Run runs a program to its end.
func Run(t testing.TB, stdin, path string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("run %s: %v", filepath.Base(path), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what it has printed.
func (p *Process) Log() string { return p.out.tail(1 << 20) }

// Ended is closed when it has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Kill ends it as a crash would.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if p.killed != nil {
		p.killed.Store(true)
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Pause stops it where it is, as a machine does that is suspended; Resume has
// it go on.
func (p *Process) Pause(t testing.TB) { p.signal(t, syscall.SIGSTOP) }

// Resume ends Pause.
func (p *Process) Resume(t testing.TB) { p.signal(t, syscall.SIGCONT) }

func (p *Process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("send %v to %s: %v", sig, p.name, err)
	}
}

// stopTime is what a program has to end in order. A leader whose peers have just
// died waits 2 s for a successor, 5 s for proposals and then for calls under way.
const stopTime = 25 * time.Second

// Stop asks it to end, which it must do in time and without an error.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > 5*time.Second {
			t.Logf("%s took %v to end", p.name, took.Round(10*time.Millisecond))
		}
	}()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a test may have failed since Pause
	select {
	case <-p.done:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s was asked to end and did so with %v", p.name, p.cmd.ProcessState)
		}
	case <-time.After(stopTime):
		t.Errorf("%s did not end within %v of TERM", p.name, stopTime)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // the goroutines, for the log
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			p.Kill(t)
		}
	}
}

// Says waits until the program prints text.
func (p *Process) Says(t testing.TB, text string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%s says %q", p.name, text), func() bool { return strings.Contains(p.Log(), text) })
}

// output keeps the end of what a program prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxOutput = 1 << 20

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > maxOutput {
		o.buf.Next(maxOutput / 2)
	}
	return o.buf.Write(b)
}

func (o *output) tail(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.buf.Bytes()
	return string(b[max(0, len(b)-n):])
}
