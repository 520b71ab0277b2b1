package containerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/transport/fleet"
)

// An agent that dies while it checks a task leaves the check's process. The
// next check of that name takes its place.
func TestACheckThatADeadAgentLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	sleeper := task("checked", []string{"sleep", "1000"})
	if err := x.Start(t.Context(), sleeper); err != nil {
		t.Fatal(err)
	}
	name := containerName(sleeper.ID)
	processes := func() int {
		r, err := x.client.TaskService().ListPids(t.Context(), &tasks.ListPidsRequest{ContainerID: name})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Processes)
	}
	dead, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		_, err := dead.Exec(t.Context(), sleeper.ID, executor.Exec{Name: "health", Args: sh("sleep 1000 & sleep 1000; exit 1"), Timeout: time.Hour})
		left <- err
	}()
	eventually(t, "the first check runs", func() bool { return processes() == 4 })
	// It clears up nothing.
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	<-left
	for range 3 {
		code, err := x.Exec(t.Context(), sleeper.ID, executor.Exec{Name: "health", Args: sh("exit 3"), Timeout: time.Minute})
		if err != nil || code != 3 {
			t.Errorf("the next check: code %d, error %v", code, err)
		}
	}
	eventually(t, "only the task is left", func() bool { return processes() == 1 })
	if err := x.Remove(t.Context(), sleeper.ID); err != nil {
		t.Fatal(err)
	}
	w.checkClean(t)
}

// A check has what the task has, and no more.
func TestWhatACheckIsGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	sleeper := task("checked", []string{"sleep", "1000"})
	sleeper.Spec.User, sleeper.Spec.WorkDir, sleeper.Spec.ReadOnly = "1000:1000", "/tmp", true
	if err := x.Start(t.Context(), sleeper); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"the task's user":                 `test "$(id -u):$(id -g)" = 1000:1000`,
		"its directory":                   `test "$PWD" = /tmp`,
		"no capabilities":                 `grep -q '^CapEff:.*0000000000000000' /proc/self/status`,
		"no new privileges":               `grep -q '^NoNewPrivs:.*1' /proc/self/status`,
		"seccomp":                         `grep -q '^Seccomp:.*2' /proc/self/status`,
		"its root":                        `! touch /x 2>/dev/null`,
		"its processes":                   `test "$(cat /proc/1/cmdline | tr '\0' ' ')" = "sleep 1000 "`,
		"no devices, whatever it asks":    `test "$NVIDIA_VISIBLE_DEVICES" = void`,
		"nothing to read":                 `test -z "$(cat)"`,
		"room for any output, and no log": `head -c 1000000 /dev/zero && head -c 1000000 /dev/zero >&2`,
	} {
		code, err := x.Exec(t.Context(), sleeper.ID, executor.Exec{
			Name: "health", Args: sh(script), Env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}, Timeout: 20 * time.Second,
		})
		if err != nil || code != 0 {
			t.Errorf("%s: code %d, error %v", name, code, err)
		}
	}
	if err := x.Remove(t.Context(), sleeper.ID); err != nil {
		t.Fatal(err)
	}
	if out := logsOf(t, x, sleeper.ID); out != "" {
		t.Errorf("checks wrote %d bytes into the task's log", len(out))
	}
	w.checkClean(t)
}

// A dial must not leave a thread of the agent in a task's network.
func TestADialLeavesNoThreadBehind(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	x := w.open(t)
	server := task("server", sh("exec httpd -f -p 127.0.0.1:8080"))
	if err := x.Start(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		c, err := x.Dial(t.Context(), server.ID, 8080)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	eventually(t, "the server listens", func() bool { return dial() == nil })
	for range 50 {
		if err := dial(); err != nil {
			t.Fatal(err)
		}
		if ns := networksOfThreads(t); len(ns) != 1 {
			t.Fatalf("threads are in the networks %v", ns)
		}
	}
	host := server
	host.ID, host.Spec.Network = "host", fleet.NetworkHost
	host.Spec.Command = []string{"sleep", "1000"}
	if err := x.Start(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := x.Dial(ctx, host.ID, 8080); err == nil {
		_ = c.Close()
		t.Error("a task of the host's network was reached on another task's port")
	} else if errors.Is(err, executor.ErrNotFound) {
		t.Error(err)
	}
	for _, id := range []fleet.TaskID{server.ID, host.ID} {
		if err := x.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	w.checkClean(t)
}

// networksOfThreads are the network namespaces that threads of this process
// are in.
func networksOfThreads(t *testing.T) map[string]bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil { // a thread may have ended
			out[ns] = true
		}
	}
	return out
}
