package net_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

type (
	loss    = bed.Loss
	quality = bed.Quality
)

// world is a trio on a bed and an agent at each of two sites.
type world struct {
	*harness.Fleet
	bed     *bed.Bed
	agents  []*harness.Agent
	witness []witness
}

// witness is a task that runs on an agent all the time.
type witness struct {
	task string
	pid  uint32
}

// scenario is a fault and what must come of it. do may leave the fault behind:
// it is ended after it.
type scenario struct {
	name string
	do   func(*testing.T)
}

func newWorld(t *testing.T, runArgs ...string) *world {
	t.Helper()
	b := bed.Start(t, bed.Config{Replicas: 3, Sites: []int{1, 1}})
	w := &world{bed: b, Fleet: harness.NewFleetOn(t, b, 3, runArgs...)}
	for i := range 2 {
		node := fmt.Sprintf("a%d", i+1)
		a := w.Join(t, harness.AgentOptions{
			Runtime: harness.NewRuntime(t), Node: node, Site: fmt.Sprintf("site%d", i+1), Args: []string{"--offer-cpus", "100"},
		})
		a.Start(t)
		w.agents = append(w.agents, a)
	}
	for _, a := range w.agents {
		a.Connected(t)
		id := w.Submit(t, client.Submit{Name: "witness", Command: untilTouched(), Agent: a.ID})
		w.Running(t, id)
		w.witness = append(w.witness, witness{id, a.Runtime.PID(t, id)})
	}
	return w
}

// play runs scenarios one after another, and ends the witnesses.
func (w *world) play(t *testing.T, scenarios []scenario) {
	t.Helper()
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			began := time.Now()
			func() {
				defer w.heal(t)
				s.do(t)
			}()
			done := time.Now()
			w.whole(t)
			t.Logf("%.1f s, and whole again after %.1f s more", done.Sub(began).Seconds(), time.Since(done).Seconds())
		})
	}
	for i, x := range w.witness {
		end(t, w.agents[i], x.task)
		if task := w.End(t, x.task); task.State != "TASK_FINISHED" {
			t.Error(harness.Tell(task))
		}
	}
}

// together are scenarios of different machines, at the same time.
func together(scenarios ...scenario) func(*testing.T) {
	return func(t *testing.T) {
		var all sync.WaitGroup
		for _, s := range scenarios {
			all.Go(func() { t.Run(s.name, s.do) })
		}
		all.Wait()
	}
}

// heal ends every fault.
func (w *world) heal(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	must(t, w.bed.Heal(ctx))
	for _, k := range []bed.Kind{bed.Replica, bed.Router, bed.Agent} {
		for _, n := range w.bed.Nodes(k) {
			must(t, w.bed.Restore(ctx, n.Name))
		}
	}
	for _, r := range w.Replicas {
		if ended(r.Process()) {
			r.Start(t)
		}
		r.Process().Resume(t)
	}
	for _, a := range w.agents {
		if ended(a.Process()) {
			a.Start(t)
		}
		a.Process().Resume(t)
	}
}

func ended(p *harness.Process) bool {
	select {
	case <-p.Ended():
		return true
	default:
		return false
	}
}

// whole checks that nothing is left of a fault.
func (w *world) whole(t *testing.T) {
	t.Helper()
	w.agreed(t)
	for _, a := range w.agents {
		a.Connected(t)
	}
	if t.Failed() { // the next scenario is to tell of itself
		w.sweep(t)
	}
	for i, x := range w.witness {
		a := w.agents[i]
		w.Await(t, x.task, "the witness is known to run", func(task client.Task) bool { return task.State == "TASK_RUNNING" })
		if pid := a.Runtime.PID(t, x.task); pid != x.pid || !harness.Alive(pid) {
			t.Errorf("the witness on %s was process %d and is %d", a.ID, x.pid, pid)
		}
		if n := a.Runtime.Starts(x.task); n != 1 {
			t.Errorf("the witness on %s was started %d times", a.ID, n)
		}
		id := w.Submit(t, client.Submit{Name: "probe", Command: []string{"true"}, Agent: a.ID})
		if task := w.End(t, id); task.State != "TASK_FINISHED" {
			t.Errorf("a task after it: %s", harness.Tell(task))
		}
	}
	for i, a := range w.agents {
		var held []string
		harness.Eventually(t, "only the witness is left on "+a.ID, func() bool {
			var err error
			held, err = a.Runtime.Containers(t.Context())
			return err == nil && slices.Equal(held, []string{w.witness[i].task})
		})
	}
}

// sweep ends what a failed scenario has left running.
func (w *world) sweep(t *testing.T) {
	t.Helper()
	list, err := w.Tasks(t.Context(), client.TaskFilter{Limit: 100_000})
	must(t, err)
	for _, task := range list.Tasks {
		if !slices.ContainsFunc(w.witness, func(x witness) bool { return x.task == task.ID }) {
			_, err := w.StopTask(t.Context(), task.ID, client.Stop{Grace: new(client.Duration)})
			must(t, err)
		}
	}
}

// agreed waits until all replicas follow one leader, and returns it.
func (w *world) agreed(t *testing.T) *harness.Replica {
	t.Helper()
	leaders := map[string]*harness.Replica{}
	for _, r := range w.Replicas {
		leaders[r.ID] = r
	}
	var leader string
	var seen []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		all := true
		seen, leader = nil, ""
		for _, r := range w.Replicas {
			doc := see(t, r)
			seen = append(seen, fmt.Sprintf("%s sees leader %q, term %d", r.ID, doc.Leader, doc.Term))
			all = all && doc.Leader != "" && (leader == "" || leader == doc.Leader)
			leader = doc.Leader
		}
		if all {
			return leaders[leader]
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the replicas do not agree: %s", strings.Join(seen, "; "))
	return nil
}

// see is the control plane as one replica sees it; nothing if it is silent.
func see(t *testing.T, r *harness.Replica) client.Replicas {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	doc, _ := r.Client(t).Replicas(ctx)
	return doc
}

// successor waits until another replica leads, and says how long it took.
func (w *world) successor(t *testing.T, old *harness.Replica, within time.Duration) *harness.Replica {
	t.Helper()
	began := time.Now()
	for time.Since(began) < 30*time.Second {
		for _, r := range w.Replicas {
			if r == old {
				continue
			}
			if doc := see(t, r); doc.Leader == r.ID && doc.Term > 0 {
				took := time.Since(began)
				t.Logf("%s leads after %.1f s", r.ID, took.Seconds())
				if took > within {
					t.Errorf("a new leader took %.1f s, want it within %v", took.Seconds(), within)
				}
				return r
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("nobody leads")
	return nil
}

// others are the replicas but one.
func (w *world) others(r *harness.Replica) []*harness.Replica {
	return slices.DeleteFunc(slices.Clone(w.Replicas), func(x *harness.Replica) bool { return x == r })
}

// term is the highest that a replica which answers has seen as leader.
func (w *world) term(t *testing.T) (highest uint64) {
	t.Helper()
	for _, r := range w.Replicas {
		highest = max(highest, see(t, r).Term)
	}
	return highest
}

// udp opens a socket on a node.
func (w *world) udp(node string) (conn net.PacketConn, err error) {
	err = w.bed.In(node, func() (err error) {
		conn, err = net.ListenUDP("udp4", nil)
		return err
	})
	return conn, err
}

// sh is a shell script as a command.
func sh(script string) []string { return []string{"sh", "-c", script} }

// untilTouched is a task that ends with code 0 once end has touched a file in
// its root.
func untilTouched() []string {
	return sh("echo began; until [ -e /tmp/end ]; do sleep 0.1; done; echo ended")
}

// end ends such a task, through the view that the kernel gives of its root.
func end(t *testing.T, a *harness.Agent, id string) {
	t.Helper()
	touch(t, a.Runtime.PID(t, id))
}

func touch(t *testing.T, pid uint32) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(harness.Proc(pid), "root/tmp/end"), nil, 0o644))
}

// once checks that a task ran to its end a single time.
func (w *world) once(t *testing.T, a *harness.Agent, id string) {
	t.Helper()
	if task := w.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	if n := a.Runtime.Starts(id); n != 1 {
		t.Errorf("the container of %s was started %d times", id, n)
	}
}

// last is when a task's last status was, by the clock of who saw it.
func last(task client.Task) time.Time { return task.History[len(task.History)-1].Time }

// run starts a task on an agent that ends when it is touched.
func (w *world) run(t *testing.T, a *harness.Agent) (id string, pid uint32) {
	t.Helper()
	id = w.Submit(t, client.Submit{Command: untilTouched(), Agent: a.ID})
	w.Running(t, id)
	return id, a.Runtime.PID(t, id)
}

// cpu is the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	var ticks time.Duration
	for _, s := range f[11:13] { // utime and stime, see proc(5)
		n, err := strconv.Atoi(s)
		must(t, err)
		ticks += time.Duration(n)
	}
	return ticks * time.Second / 100
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pass lets time go by; a fault lasts as long as it is said to.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
