package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// mesosFramework is the version of the npm package that the tests drive. It
// speaks JSON over plain HTTP and was written for Mesos. The Makefile reads it
// here.
const mesosFramework = "0.5.3"

// npmEnv names the directory that `make npm` installs it in.
const npmEnv = "TENDER_NPM"

// nodeScheduler is the package at work.
type nodeScheduler struct{ *harness.Process }

// startNode starts it at a replica's plain port.
func startNode(t *testing.T, r *harness.Replica, name string) nodeScheduler {
	t.Helper()
	modules := filepath.Join(os.Getenv(npmEnv), "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "mesos-framework", "package.json")); err != nil || os.Getenv(npmEnv) == "" {
		t.Fatalf("the npm package mesos-framework %s is not in $%s: make npm; then %s=DIRECTORY", mesosFramework, npmEnv, npmEnv)
	}
	_, port, err := net.SplitHostPort(r.Plain)
	if err != nil {
		t.Fatal(err)
	}
	return nodeScheduler{harness.Spawn(t, name, "/usr/bin/env", "NODE_PATH="+modules, "node", "testdata/scheduler.js", port, name, harness.Image, t.TempDir())}
}

// said is one thing that it told.
type said struct {
	What, ID, Stream, Task, State, Reason, UUID, Text string
	N                                                 int
}

// told lists what it has told.
func (n nodeScheduler) told() (all []said) {
	for l := range strings.Lines(n.Log()) {
		var s said
		if strings.HasPrefix(l, "{") && json.Unmarshal([]byte(l), &s) == nil {
			all = append(all, s)
		}
	}
	return all
}

// count is how often it told something.
func (n nodeScheduler) count(ok func(said) bool) int {
	c := 0
	for _, s := range n.told() {
		if ok(s) {
			c++
		}
	}
	return c
}

// tells waits until it has told something that often, and returns the last.
func (n nodeScheduler) tells(t *testing.T, what string, times int, ok func(said) bool) (last said) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("it tells %d times: %s", times, what), func() bool {
		select {
		case <-n.Ended():
			t.Fatalf("it has ended:\n%s", n.Log())
		default:
		}
		c := 0
		for _, s := range n.told() {
			if ok(s) {
				last, c = s, c+1
			}
		}
		return c >= times
	})
	return last
}

func is(what string) func(said) bool { return func(s said) bool { return s.What == what } }

func state(name string) func(said) bool {
	return func(s said) bool { return s.What == "update" && s.State == name && s.Reason == "" }
}

// A scheduler that nobody here wrote runs containers, outlives the leader, and
// takes everything down.
func TestAMesosSchedulerOfNpmRunsContainers(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 3, "--scheduler-listen", harness.PlainAddr, "--scheduler-trust", "npm", "--scheduler-default-image", harness.Image)
	if _, err := f.CreatePrincipal(t.Context(), client.CreatePrincipal{ID: "npm", Kind: "framework", Roles: []string{"*"}}); err != nil {
		t.Fatal(err)
	}
	old := f.Leader(t)
	var follower *harness.Replica
	for _, r := range f.Replicas {
		if r != old {
			follower = r
		}
	}
	n := startNode(t, follower, "npm")
	first := n.tells(t, "subscribed", 1, is("subscribed"))
	n.tells(t, "a task runs", 3, state("TASK_RUNNING"))
	n.tells(t, "an update is acknowledged", 6, is("sent_acknowledge")) // STARTING and RUNNING
	tasks, err := f.Tasks(t.Context(), client.TaskFilter{})
	if err != nil || len(tasks.Tasks) != 3 {
		t.Fatalf("there are %d tasks (%v), want 3", len(tasks.Tasks), err)
	}
	containers, err := a.Runtime.Containers(t.Context())
	if err != nil || len(containers) != 3 {
		t.Errorf("there are the containers %v (%v), want 3", containers, err)
	}
	for _, task := range tasks.Tasks {
		if task.Framework != first.ID || task.Network != "host" || task.Image != harness.Image {
			t.Errorf("task %+v is not as the scheduler %s wants it", task, first.ID)
		}
	}
	// A task runs before it has printed anything.
	harness.Eventually(t, "the tasks have printed what they should", func() bool {
		printed := map[string]int{}
		for _, task := range tasks.Tasks {
			out, _ := f.Output(t, task.ID)
			printed[out]++
		}
		return printed["command runs\n"] == 2 && printed["docker runs\n"] == 1
	})

	began := time.Now()
	old.Kill(t)
	again := n.tells(t, "subscribed", 2, is("subscribed"))
	t.Logf("the leader was killed; the scheduler is subscribed again after %v", time.Since(began).Round(10*time.Millisecond))
	if again.ID != first.ID || again.Stream == first.Stream {
		t.Errorf("it is %s on stream %s, and was %s on stream %s", again.ID, again.Stream, first.ID, first.Stream)
	}
	end(t, a.Runtime, tasks.Tasks[0].ID)
	n.tells(t, "a task has finished", 1, state("TASK_FINISHED"))
	n.tells(t, "its update is acknowledged", 7, is("sent_acknowledge"))
	if c := n.count(state("TASK_FINISHED")); c != 1 {
		t.Errorf("it was told %d times that the task has finished", c)
	}
	for _, task := range tasks.Tasks {
		if c := a.Runtime.Starts(task.ID); c != 1 {
			t.Errorf("the container of %s was started %d times", task.ID, c)
		}
	}

	if err := syscall.Kill(n.PID(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	n.tells(t, "sent_teardown", 1, is("sent_teardown"))
	for _, task := range tasks.Tasks[1:] {
		if got := f.End(t, task.ID); got.State != "TASK_KILLED" {
			t.Errorf("after the teardown: %s", harness.Tell(got))
		}
	}
	for _, s := range n.told() {
		if s.What == "error" {
			t.Logf("it noticed: %s", s.Text)
		}
	}
}
