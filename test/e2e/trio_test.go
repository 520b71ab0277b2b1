package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// submitted are tasks that the control plane has said yes to.
type submitted struct {
	mu  sync.Mutex
	ids []string
}

func (s *submitted) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
}

// Replicas are killed at random while work comes in: nothing that was accepted
// is lost.
func TestReplicasAreKilledAtRandom(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 3)
	var accepted submitted
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				task, err := f.Client.Submit(t.Context(), harness.Complete(client.Submit{Command: []string{"true"}}))
				if err == nil {
					accepted.add(task.ID)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		r := f.Replicas[rng.IntN(len(f.Replicas))]
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		r.Kill(t)
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		r.Start(t)
	}
	f.Leader(t)
	time.Sleep(time.Second)
	close(stop)
	wg.Wait()
	list, err := f.Tasks(t.Context(), client.TaskFilter{All: true, Limit: 10000})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, task := range list.Tasks {
		known[task.ID] = true
	}
	for _, id := range accepted.ids {
		if !known[id] {
			t.Errorf("task %s was accepted and is lost", id)
		}
	}
	if len(accepted.ids) < 100 {
		t.Errorf("only %d tasks were accepted", len(accepted.ids))
	}
	t.Logf("%d tasks accepted over 12 kills", len(accepted.ids))
}

// The leader's process is stopped for ten seconds and goes on: what it answers
// then is not from before.
func TestAPausedLeaderTellsNothingOld(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 3)
	old := f.Leader(t)
	pid := old.Process().PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	harness.Eventually(t, "another replica leads", func() bool {
		for _, r := range f.Replicas {
			if r == old {
				continue
			}
			if doc, err := r.Client(t).Replicas(t.Context()); err == nil && doc.Leader == r.ID && doc.Term > 0 {
				return true
			}
		}
		return false
	})
	t.Logf("another one leads after %v", time.Since(began).Round(10*time.Millisecond))
	id := f.Submit(t, client.Submit{Command: []string{"true"}})
	// They wait in its socket until it goes on, and it takes itself for the leader.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := old.Client(t).Task(t.Context(), id)
			var p *client.Problem
			if errors.As(err, &p) && p.Code == client.CodeNotFound {
				t.Errorf("a task that the trio has accepted: %v", err)
			}
		})
	}
	time.Sleep(time.Until(began.Add(10 * time.Second)))
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	harness.Eventually(t, "it follows", func() bool {
		doc, err := old.Client(t).Replicas(t.Context())
		return err == nil && doc.Leader != "" && doc.Leader != old.ID
	})
	if _, err := old.Client(t).Task(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// onSmallDisk moves a replica's data to a file system of so many MiB.
func onSmallDisk(t *testing.T, r *harness.Replica, mib int) {
	t.Helper()
	r.Kill(t)
	aside := r.Data + ".aside"
	sh := func(format string, args ...any) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	sh("mv %s %s && mkdir %s && mount -t tmpfs -o size=%dm tender-e2e %s", r.Data, aside, r.Data, mib, r.Data)
	t.Cleanup(func() {
		r.Process().Stop(t)
		if err := syscall.Unmount(r.Data, 0); err != nil {
			t.Errorf("unmount %s: %v", r.Data, err)
		}
	})
	sh("cp -a %s/. %s/ && rm -rf %s", aside, r.Data, aside)
	r.Start(t)
}

// A replica's disk fills up, for real. It hands over while there is some space,
// takes part in nothing when there is none, and goes on when there is again.
func TestAReplicasDiskIsFull(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 3)
	r := f.Leader(t)
	onSmallDisk(t, r, 160)
	disk := func() *client.ReplicaDisk {
		doc, err := f.TrioReplicas(t.Context())
		if err != nil {
			return nil
		}
		for _, m := range doc.Replicas {
			if m.ID == r.ID {
				return m.Disk
			}
		}
		return nil
	}
	harness.Eventually(t, "it has space", func() bool { d := disk(); return d != nil && !d.Low })
	haveLead(t, f, r)
	filler := filepath.Join(r.Data, "filler")
	out, _ := exec.CommandContext(t.Context(), "dd", "if=/dev/zero", "of="+filler, "bs=1M").CombinedOutput()
	if !strings.Contains(string(out), "No space left") {
		t.Fatalf("the disk is not full:\n%s", out)
	}
	harness.Eventually(t, "it says so", func() bool { d := disk(); return d != nil && d.Low })
	harness.Eventually(t, "it does not lead", func() bool { return f.Leader(t) != r })

	// The log is written in files of 64 MiB that are allocated in advance.
	env := map[string]string{"FILL": strings.Repeat("x", 30<<10), "MORE": strings.Repeat("y", 30<<10)}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 400 {
				if _, err := f.Client.Submit(t.Context(), harness.Complete(client.Submit{Command: []string{"true"}, Env: env})); err != nil {
					t.Errorf("with one full disk: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	harness.Eventually(t, "it can write nothing", func() bool { d := disk(); return d != nil && strings.Contains(d.Fault, "no space left") })
	r.Process().Says(t, "the disk is full")
	id := f.Submit(t, client.Submit{Command: []string{"true"}})

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "it goes on", func() bool {
		doc, err := f.TrioReplicas(t.Context())
		for _, m := range doc.Replicas {
			if m.ID == r.ID && m.Disk != nil && m.Disk.Fault == "" && m.Lag == 0 {
				return err == nil
			}
		}
		return false
	})
	select {
	case <-r.Process().Ended():
		t.Errorf("it has ended:\n%s", r.Process().Log())
	default:
	}
	if _, err := r.Client(t).Task(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// haveLead ends leaders until a replica leads.
func haveLead(t *testing.T, f *harness.Fleet, r *harness.Replica) {
	t.Helper()
	for range 20 {
		lead := f.Leader(t)
		if lead == r {
			return
		}
		lead.Kill(t)
		lead.Start(t)
	}
	t.Fatalf("replica %s does not come to lead", r.ID)
}

// A replica that lost its log and not its identity does not start, and says how
// it comes back.
func TestAReplicaThatLostItsLog(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 3)
	r := f.Replicas[2]
	r.Kill(t)
	if err := os.RemoveAll(filepath.Join(r.Data, "raft")); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := harness.Run(t, "", harness.Program("tenderd"), "run", "--data", r.Data, "--listen", r.Addr, "--socket", r.Socket)
	if code != 78 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"the log of this replica is gone", "tender replica remove r3", "tenderd join"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q does not say %q", stderr, want)
		}
	}
	stdout, stderr, code := harness.Run(t, "", harness.Program("tender"), "--socket", f.Replicas[0].Socket, "replica", "remove", "r3", "--yes")
	if code != 0 || strings.Contains(stdout, "r3") {
		t.Errorf("remove: code %d\n%s%s", code, stdout, stderr)
	}
	if err := os.RemoveAll(r.Data); err != nil {
		t.Fatal(err)
	}
	line := f.Token(t, client.CreateToken{Kind: "replica"})
	if stdout, stderr, code := harness.Run(t, line, harness.Program("tenderd"), "join", "--data", r.Data, "--addr", r.Addr, "--id", "r3", "-"); code != 0 || !strings.Contains(stdout, "as replica r3-") {
		t.Fatalf("join: code %d\n%s%s", code, stdout, stderr)
	}
	r.Start(t)
	harness.Eventually(t, "it votes", func() bool {
		doc, err := f.TrioReplicas(t.Context())
		voters := 0
		for _, m := range doc.Replicas {
			if m.Voter {
				voters++
			}
		}
		return err == nil && voters == 3
	})
}

// The way back when all replicas are lost, as the manual has it.
func TestAControlPlaneIsMadeOfASnapshot(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 3)
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	dir := t.TempDir()
	file := filepath.Join(dir, "fleet.snap")
	for _, r := range f.Replicas { // wherever the leader is
		if stdout, stderr, code := harness.Run(t, "", harness.Program("tender"), "--socket", r.Socket, "snapshot", "save", file); code != 0 || !strings.Contains(stdout, "1 running") {
			t.Fatalf("save through %s: code %d\n%s%s", r.ID, code, stdout, stderr)
		}
	}
	later := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, later)
	first := f.Replicas[0]
	for _, r := range f.Replicas {
		r.Kill(t)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-r", filepath.Join(first.Data, "root"), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, r := range f.Replicas {
		if err := os.RemoveAll(r.Data); err != nil {
			t.Fatal(err)
		}
	}
	stdout, stderr, code := harness.Run(t, "", harness.Program("tenderd"), "restore", "--data", first.Data, "--from", file, "--addr", first.Addr, "--id", "n1",
		"--root-key", filepath.Join(dir, "root", "root.key"), "--root-passphrase", filepath.Join(dir, "root", "passphrase"))
	if code != 0 || !strings.Contains(stdout, "replica n1 of e2e.test is ready") || !strings.Contains(stderr, "1 agents are to be settled") {
		t.Fatalf("restore: code %d\n%s%s", code, stdout, stderr)
	}
	f.Replicas = f.Replicas[:1]
	first.ID = "n1"
	first.Start(t)
	a.Connected(t)
	f.Running(t, id)
	pid := a.Runtime.PID(t, later)
	if !harness.Alive(pid) {
		t.Error("a task that the snapshot does not know was killed")
	}
	held := f.Submit(t, client.Submit{Command: []string{"true"}})
	time.Sleep(2 * time.Second)
	if task, err := f.Task(t.Context(), held); err != nil || task.State != "TASK_STAGING" {
		t.Errorf("before the agent is settled a task is %s, %v", task.State, err)
	}
	if stdout, stderr, code := harness.Run(t, "", harness.Program("tender"), "--socket", first.Socket, "agent", "settle", "--all", "--yes"); code != 0 {
		t.Fatalf("settle: code %d\n%s%s", code, stdout, stderr)
	}
	if task := f.End(t, held); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	harness.Eventually(t, "what nobody knows is stopped", func() bool { return !harness.Alive(pid) })
	end(t, a.Runtime, id)
	if task := f.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	if n := a.Runtime.Starts(id); n != 1 {
		t.Errorf("its container was started %d times", n)
	}
}
