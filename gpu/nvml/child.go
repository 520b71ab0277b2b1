package nvml

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// child is one running probe. Its methods belong to the goroutine that started
// it; a goroutine of its own reads what it says and reaps it.
type child struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stdout  io.Closer
	stderr  *tail
	replies chan reply    // closed when the child said its last word
	quit    chan struct{} // closed when nobody listens any more
	exited  chan struct{} // closed once the process is reaped

	readErr error // set before replies is closed; nil for a plain end
	lastID  uint64
}

// errHang: the child did not answer in time.
var errHang = errors.New("the driver does not answer")

func startChild(cfg Config) (*child, error) {
	c := &child{
		cmd: exec.Command(cfg.Path, cfg.Args...), stderr: &tail{},
		replies: make(chan reply), quit: make(chan struct{}), exited: make(chan struct{}),
	}
	c.cmd.Env, c.cmd.Stderr = cfg.Env, c.stderr
	c.cmd.WaitDelay = time.Second
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the GPU probe: %w", err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the GPU probe: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the GPU probe: %w", err)
	}
	c.stdin, c.stdout = stdin, stdout
	go c.read(stdout)
	return c, nil
}

func (c *child) read(stdout io.Reader) {
	defer close(c.exited)
	defer func() { _ = c.cmd.Wait() }() // its status tells less than its last words
	defer close(c.replies)
	r := bufio.NewReaderSize(stdout, maxLine)
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		var p reply
		if err == nil {
			p, err = decodeReply(line)
		}
		if err != nil {
			c.readErr = err
			return
		}
		select {
		case c.replies <- p:
		case <-c.quit:
			return
		}
	}
}

// send writes a request. It cannot block: one request is under way at a time,
// and the largest fits into the pipe.
func (c *child) send(q request) (uint64, error) {
	c.lastID++
	q.ID = c.lastID
	line, err := json.Marshal(q)
	if err == nil {
		_, err = c.stdin.Write(append(line, '\n'))
	}
	if err != nil {
		return 0, fmt.Errorf("ask the GPU probe: %w", c.death(err))
	}
	return q.ID, nil
}

// death says why the child ended, in its own last words if it had any.
func (c *child) death(err error) error {
	select {
	case <-c.exited: // the last words are complete
	case <-time.After(time.Second):
	}
	if words := c.stderr.String(); words != "" {
		return fmt.Errorf("the GPU probe ended: %s", words)
	}
	if err == nil {
		err = c.readErr
	}
	if err == nil {
		return errors.New("the GPU probe ended")
	}
	return fmt.Errorf("the GPU probe ended: %w", err)
}

// stop ends the child, gently or at once, and reports whether it is gone. A
// process that is stuck in the kernel outlives even SIGKILL.
func (c *child) stop(gently bool) bool {
	close(c.quit)
	_ = c.stdin.Close()
	if !gently || !c.gone(2*time.Second) {
		_ = c.cmd.Process.Kill()
	}
	if c.gone(2 * time.Second) {
		return true
	}
	_ = c.stdout.Close()
	return false
}

func (c *child) gone(within time.Duration) bool {
	select {
	case <-c.exited:
		return true
	case <-time.After(within):
		return false
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
}
