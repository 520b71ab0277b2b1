package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

var _ executor.Prober = (*Executor)(nil)

// errNotRunning has the kind that becomes executor.ErrNotFound.
var errNotRunning = fmt.Errorf("the task does not run: %w", errdefs.ErrNotFound)

// Exec runs a program inside the task's container.
func (x *Executor) Exec(ctx context.Context, id fleet.TaskID, e executor.Exec) (int, error) {
	code, err := x.exec(ctx, x.name(id), "exec-"+e.Name, e)
	return code, x.wrap(ctx, "run "+strconv.Quote(strings.Join(e.Args, " "))+" in task "+string(id), err)
}

func (x *Executor) exec(ctx context.Context, name, execID string, e executor.Exec) (int, error) {
	spec, err := x.containerSpec(ctx, name)
	if err != nil {
		return 0, err
	}
	p := spec.Process
	p.Args, p.Terminal = e.Args, false
	p.Env = environment(p.Env, e.Env)
	process, err := typeurl.MarshalAny(p)
	if err != nil {
		return 0, err
	}
	select {
	case x.execing <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	// As with a start: a cancelled call may have had its effect.
	launch, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	pid, err := x.launchExec(launch, &tasks.ExecProcessRequest{
		ContainerID: name, ExecID: execID, Spec: typeurl.MarshalProto(process), Stdout: nowhere, Stderr: nowhereElse,
	})
	<-x.execing
	if err != nil {
		return 0, x.execError(ctx, name, err)
	}
	within, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	r, err := x.client.TaskService().Wait(within, &tasks.WaitRequest{ContainerID: name, ExecID: execID})
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if over := ended(within); err != nil && over != nil {
		x.endExec(clean, name, execID, pid)
		return 0, over
	}
	x.deleteExec(clean, name, execID)
	if err != nil {
		return 0, x.execError(ctx, name, native(err))
	}
	return int(r.ExitStatus), nil
}

// What a check prints goes nowhere. With no streams at all the shim would open
// /dev/null to be read only, and a program that prints would fail; with one
// name for both it would end both with the first that is closed, and a program
// that goes on printing would hang.
const (
	nowhere     = "/dev/null"
	nowhereElse = "/dev/./null"
)

// launchExec creates and starts the process, in place of one with its name.
func (x *Executor) launchExec(ctx context.Context, req *tasks.ExecProcessRequest) (pid uint32, err error) {
	_, err = x.client.TaskService().Exec(ctx, req)
	if err = native(err); errdefs.IsAlreadyExists(err) {
		x.endExec(ctx, req.ContainerID, req.ExecID, 0)
		_, err = x.client.TaskService().Exec(ctx, req)
		err = native(err)
	}
	if err != nil {
		return 0, err
	}
	r, err := x.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: req.ContainerID, ExecID: req.ExecID})
	if err != nil {
		x.endExec(ctx, req.ContainerID, req.ExecID, 0)
		return 0, native(err)
	}
	return r.Pid, nil
}

// execError tells a task that has ended from a program that cannot be run.
func (x *Executor) execError(ctx context.Context, name string, err error) error {
	if errdefs.IsUnavailable(err) {
		return err
	}
	if _, runErr := x.pid(ctx, name); errdefs.IsNotFound(runErr) {
		return runErr
	}
	if err = launchError(err); errors.Is(err, executor.ErrInvalid) {
		return fmt.Errorf("%w: %s", executor.ErrCannotRun, strings.TrimPrefix(err.Error(), executor.ErrInvalid.Error()+": "))
	}
	return err
}

// endExec kills a process with what it has started, and deletes it. runc makes
// it the leader of a process group of its own.
func (x *Executor) endExec(ctx context.Context, name, execID string, pid uint32) {
	if pid == 0 { // started by an agent before this one
		if r, err := x.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: name, ExecID: execID}); err == nil {
			pid = r.Process.Pid
		}
	}
	if pid > 1 && inContainer(pid, name) {
		_ = syscall.Kill(-int(pid), syscall.SIGKILL)
	}
	_, err := x.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: name, ExecID: execID, Signal: uint32(syscall.SIGKILL)})
	if err == nil {
		_, _ = x.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: name, ExecID: execID})
	}
	x.deleteExec(ctx, name, execID)
}

func (x *Executor) deleteExec(ctx context.Context, name, execID string) {
	_, err := x.client.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: name, ExecID: execID})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		x.log.DebugContext(ctx, "the process of a check is not deleted; the next one of its name does it", "container", name, "error", err)
	}
}

// inContainer makes sure that a process id is still the container's.
func inContainer(pid uint32, name string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && strings.Contains(string(b), "/"+name)
}

func (x *Executor) containerSpec(ctx context.Context, name string) (*specs.Spec, error) {
	c, err := x.client.ContainerService().Get(ctx, name)
	if err != nil {
		return nil, err
	}
	v, err := typeurl.UnmarshalAny(c.Spec)
	if err != nil {
		return nil, err
	}
	spec, ok := v.(*specs.Spec)
	if !ok || spec.Process == nil || spec.Linux == nil {
		return nil, fmt.Errorf("the container's description is a %T", v)
	}
	return spec, nil
}

// pid is the process id of the task's first process, while it runs.
func (x *Executor) pid(ctx context.Context, name string) (uint32, error) {
	r, err := x.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: name})
	if err = native(err); err != nil {
		return 0, err
	}
	if r.Process.Status != tasktypes.Status_RUNNING {
		return 0, errNotRunning
	}
	return r.Process.Pid, nil
}

// Dial connects to a port of the loopback address that the task sees.
func (x *Executor) Dial(ctx context.Context, id fleet.TaskID, port int) (net.Conn, error) {
	c, err := x.dial(ctx, x.name(id), port)
	if refused := (*net.OpError)(nil); errors.As(err, &refused) {
		return nil, err // the task's answer
	}
	return c, x.wrap(ctx, "dial port "+strconv.Itoa(port)+" of task "+string(id), err)
}

func (x *Executor) dial(ctx context.Context, name string, port int) (net.Conn, error) {
	spec, err := x.containerSpec(ctx, name)
	if err != nil {
		return nil, err
	}
	pid, err := x.pid(ctx, name)
	if err != nil {
		return nil, err
	}
	own := slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if !own {
		return dialLoopback(ctx, port)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // opened to read
	// The id is the task's as long as the task runs, and so was the namespace.
	if again, err := x.pid(ctx, name); err != nil || again != pid {
		return nil, cmp.Or(err, errNotRunning)
	}
	return dialIn(ctx, ns, port)
}

func dialLoopback(ctx context.Context, port int) (net.Conn, error) {
	// One address and no name: the socket is made by the calling goroutine.
	var d net.Dialer
	return d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// dialIn dials inside a network namespace. A socket stays in the namespace it
// was made in, so only its making needs a thread that is there. The goroutine
// is its own, so that a thread which cannot go back ends with it.
func dialIn(ctx context.Context, ns *os.File, port int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() { done <- r }()
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			r.err = err
			return
		}
		defer home.Close() //nolint:errcheck // opened to read
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			r.err = fmt.Errorf("enter the task's network namespace: %w; the agent needs to be root", err)
			return
		}
		r.conn, r.err = dialLoopback(ctx, port)
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	r := <-done
	return r.conn, r.err
}
