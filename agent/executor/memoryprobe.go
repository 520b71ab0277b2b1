package executor

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

var _ Prober = (*Memory)(nil)

// SetExec replaces what programs do that are run inside running tasks; nil
// means ExecCommands.
func (m *Memory) SetExec(exec func(ctx context.Context, t Task, e Exec) (int, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exec = exec
}

// ExecCommands reads a program's arguments:
//
//	exit 3      ends at once with code 3
//	exit VAR    ends at once with the code in that environment variable
//	sleep 10s   ends after 10 s with code 0
//
// There are no others.
func ExecCommands(ctx context.Context, t Task, e Exec) (int, error) {
	args := append(slices.Clone(e.Args), "", "")
	switch args[0] {
	case "exit":
		code := args[1]
		for _, env := range []map[string]string{t.Spec.Env, e.Env} {
			if v, ok := env[args[1]]; ok {
				code = v
			}
		}
		return strconv.Atoi(code)
	case "sleep":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			return 0, fmt.Errorf("%w: %v", ErrCannotRun, err)
		}
		select {
		case <-time.After(d):
			return 0, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	default:
		return 0, fmt.Errorf("%w: no program %q", ErrCannotRun, args[0])
	}
}

// Exec runs a program as SetExec says.
func (m *Memory) Exec(ctx context.Context, id fleet.TaskID, e Exec) (int, error) {
	mt, exec, err := m.running(id)
	if err != nil {
		return 0, fmt.Errorf("run %q in %s: %w", e.Args, id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	go func() { // the program ends with its task
		select {
		case <-mt.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	code, err := exec(ctx, mt.task, e)
	switch {
	case mt.ended():
		return 0, fmt.Errorf("run %q in %s: %w", e.Args, id, ErrNotFound)
	case err != nil:
		return 0, fmt.Errorf("run %q in %s: %w", e.Args, id, err)
	}
	return code, nil
}

// Dial connects to a task whose command is "serve PORT": it says "hello" and
// hangs up.
func (m *Memory) Dial(_ context.Context, id fleet.TaskID, port int) (net.Conn, error) {
	mt, _, err := m.running(id)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	if !slices.Equal(mt.task.Spec.Command, []string{"serve", strconv.Itoa(port)}) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	near, far := net.Pipe()
	go func() {
		_, _ = far.Write([]byte("hello")) // nobody need listen
		_ = far.Close()
	}()
	return near, nil
}

func (m *Memory) running(id fleet.TaskID) (*memoryTask, func(context.Context, Task, Exec) (int, error), error) {
	mt, _, err := m.find(id)
	if err != nil {
		return nil, nil, err
	}
	if mt.ended() {
		return nil, nil, ErrNotFound
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.exec == nil {
		return mt, ExecCommands, nil
	}
	return mt, m.exec, nil
}
