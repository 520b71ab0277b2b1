package harness

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"

	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/test/image"
)

// Image is the image that every runtime has.
const Image = image.DefaultName

// Runtime is a private containerd with an image, and a look behind the agent's
// back.
type Runtime struct {
	*ctrd.Daemon
	Client *client.Client

	mu     sync.Mutex
	starts map[string]int
	// cut: an agent was killed, maybe in the middle of a start.
	cut atomic.Bool
}

// NewRuntime starts a containerd. When the test ends, whatever tasks have left
// fails it.
func NewRuntime(t testing.TB, more ...image.Options) *Runtime {
	t.Helper()
	r := &Runtime{Daemon: ctrd.Start(t, ctrd.Debian(t)), starts: map[string]int{}}
	var err error
	if r.Client, err = client.New(r.Address, client.WithDefaultNamespace(r.Namespace)); err != nil {
		t.Fatal(err)
	}
	for _, o := range append([]image.Options{{Name: Image}}, more...) {
		archive, err := image.Build(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Client.Import(t.Context(), bytes.NewReader(archive), client.WithAllPlatforms(true)); err != nil {
			t.Fatalf("import %s: %v", o.Name, err)
		}
	}
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(context.Background(), r.Namespace))
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for ctx.Err() == nil { // the daemon may be restarted
			r.count(ctx)
			time.Sleep(10 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		r.remains(t)
		cancel()
		<-counted
		_ = r.Client.Close() // the daemon ends next
		if r.cut.Load() {
			r.EndIdleShims(t)
		}
		r.CheckClean(t)
	})
	return r
}

// count counts the starts of containers as containerd tells of them.
func (r *Runtime) count(ctx context.Context) {
	envelopes, errs := r.Client.EventService().Subscribe(ctx, `topic=="/tasks/start"`)
	for {
		select {
		case <-errs:
			return
		case e := <-envelopes:
			if e.Namespace != r.Namespace {
				continue
			}
			var start events.TaskStart
			if typeurl.UnmarshalTo(e.Event, &start) == nil {
				task := start.ContainerID
				if c, err := r.Client.ContainerService().Get(namespaces.WithNamespace(ctx, r.Namespace), task); err == nil {
					task = c.Labels["tender.task"] // the container may have another name
				}
				r.mu.Lock()
				r.starts[task]++
				r.mu.Unlock()
			}
		}
	}
}

// Starts is how often the task's container was started.
func (r *Runtime) Starts(task string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts[task]
}

// PID is the process id of a running task's first process.
func (r *Runtime) PID(t testing.TB, task string) uint32 {
	t.Helper()
	c, err := r.Client.LoadContainer(t.Context(), task)
	if err != nil {
		t.Fatalf("container of %s: %v", task, err)
	}
	p, err := c.Task(t.Context(), nil)
	if err != nil {
		t.Fatalf("process of %s: %v", task, err)
	}
	return p.Pid()
}

// Containers lists the containers that there are.
func (r *Runtime) Containers(ctx context.Context) ([]string, error) {
	list, err := r.Client.ContainerService().List(namespaces.WithNamespace(ctx, r.Namespace))
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids, err
}

// settle gives the agent the time to remove the containers of ended tasks. One
// that containerd refused to remove, it tries again half a minute later.
func (r *Runtime) settle(t testing.TB) {
	if t.Failed() {
		return
	}
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ids, err := r.Containers(context.Background()); err != nil || len(ids) == 0 {
			return
		}
	}
}

// remains reports what is left and removes it.
func (r *Runtime) remains(t testing.TB) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), r.Namespace), time.Minute)
	defer cancel()
	var left []string
	containers, err := r.Client.Containers(ctx)
	if err != nil {
		t.Errorf("what is left in containerd: %v", err)
		return
	}
	for _, c := range containers {
		left = append(left, "container "+c.ID())
		if p, err := c.Task(ctx, nil); err == nil {
			_, _ = p.Delete(ctx, client.WithProcessKill)
		}
		_ = c.Delete(ctx, client.WithSnapshotCleanup)
	}
	err = r.Client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive {
			left = append(left, "snapshot "+i.Name)
		}
		return nil
	})
	if err != nil {
		left = append(left, fmt.Sprintf("snapshots not read: %v", err))
	}
	leases, err := r.Client.LeasesService().List(ctx)
	if err != nil {
		left = append(left, fmt.Sprintf("leases not read: %v", err))
	}
	for _, l := range leases {
		// Those of an agent that was killed while it held one end by themselves.
		if l.Labels["containerd.io/gc.expire"] == "" {
			left = append(left, "lease "+l.ID)
		}
	}
	if len(left) > 0 && !t.Failed() {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if t.Failed() { // a failed test must not leave processes, whatever it proves
		for _, pid := range r.Shims("") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Alive reports whether a process exists.
func Alive(pid uint32) bool { return syscall.Kill(int(pid), 0) == nil }

// Proc is the kernel's directory about a process.
func Proc(pid uint32) string { return fmt.Sprintf("/proc/%d", pid) }
