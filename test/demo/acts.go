package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/fakenvml"
	"github.com/tenderfleet/tender/test/image"
)

func (s *stage) buildNetwork(ctx context.Context) error {
	if err := bed.Clean(ctx, prefix); err != nil { // of a demo that was killed
		return err
	}
	b, err := bed.Up(ctx, bed.Config{Prefix: prefix, Replicas: 3, Sites: []int{2}})
	if err != nil {
		return err
	}
	s.bed = b
	for _, n := range b.Nodes(bed.Replica) {
		tell("server %s at %s", n.Name, n.Addr)
	}
	for _, n := range b.Nodes(bed.Agent) {
		tell("machine %s at %s, behind the router", n.Name, n.Addr)
	}
	if err := b.CheckNAT(ctx); err != nil {
		return err
	}
	tell("the NAT is real: a machine reaches a server, no server reaches a machine")
	return nil
}

func (s *stage) formTrio(ctx context.Context) error {
	for _, n := range s.bed.Nodes(bed.Replica) {
		data, addr := filepath.Join(s.dir, n.Name), n.Addr.String()+":7443"
		var out string
		var err error
		if n.Name == "c1" {
			out, err = s.tool(ctx, n.Name, "tenderd", "init", "--data", data, "--addr", addr, "--id", n.Name, "--trust-domain", "demo.tender")
		} else {
			var line string
			if line, _, err = s.tender(ctx, "c1", "token", "create", "--kind", "replica"); err != nil {
				return err
			}
			out, err = s.tool(ctx, n.Name, "tenderd", "join", "--data", data, "--addr", addr, "--id", n.Name, strings.TrimSpace(line))
		}
		if err != nil {
			return err
		}
		tell("%s: %s", n.Name, firstLine(out))
		if err := s.start(ctx, n.Name, n.Name, "tenderd", "run", "--data", data, "--socket", s.socket(n.Name)); err != nil {
			return err
		}
		if err := s.waitLeader(ctx, "c1"); err != nil {
			return err
		}
	}
	c, err := s.client("c1")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := eventually(ctx, 20*time.Second, func() (bool, error) {
		r, err := c.Replicas(ctx)
		voters := 0
		for _, m := range r.Replicas {
			if m.Voter {
				voters++
			}
		}
		return voters == 3, err
	}); err != nil {
		return fmt.Errorf("three voters: %w", err)
	}
	tell("three voters agree on one log, over mutual TLS on the one port 7443")
	return nil
}

func firstLine(s string) string { l, _, _ := strings.Cut(s, "\n"); return l }

func (s *stage) waitLeader(ctx context.Context, node string) error {
	c, err := s.client(node)
	if err != nil {
		return err
	}
	defer c.Close()
	return eventually(ctx, 20*time.Second, func() (bool, error) {
		_, err := c.Tasks(ctx, client.TaskFilter{})
		return err == nil, err
	})
}

// joinAgents starts a containerd of its own for each machine, with the demo's
// image, and gives the second machine two fake GPUs.
func (s *stage) joinAgents(ctx context.Context) error {
	binary, err := exec.LookPath("containerd")
	if err != nil {
		return fmt.Errorf("%w; install it: make deps", err)
	}
	text, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	archive, err := image.Build(image.Options{
		Name: imageName, Env: []string{"NVIDIA_VISIBLE_DEVICES=all"},
		Files: map[string]image.File{"/text": {Data: text}},
	})
	if err != nil {
		return err
	}
	root, err := fakenvml.DriverRoot(filepath.Join(s.dir, "driver"), fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140))
	if err != nil {
		return err
	}
	line, _, err := s.tender(ctx, "c1", "token", "create", "--site", "warehouse", "--uses", "2")
	if err != nil {
		return err
	}
	for _, n := range s.bed.Nodes(bed.Agent) {
		dir := filepath.Join(s.dir, "ctd-"+n.Name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		d := ctrd.New(dir, binary)
		if err := d.Run(); err != nil {
			return err
		}
		s.daemons[n.Name] = d
		if err := importImage(ctx, d, archive); err != nil {
			return err
		}
		state := filepath.Join(s.dir, n.Name)
		out, err := s.tool(ctx, n.Name, "tender-agent", "join", "--state", state, "--name", n.Name, strings.TrimSpace(line))
		if err != nil {
			return err
		}
		tell("%s: %s", n.Name, firstLine(out))
		driver := filepath.Join(s.dir, "no-driver")
		if n.Name == "a2" {
			driver = root.Dir
		}
		err = s.start(ctx, n.Name, n.Name, "tender-agent", "run", "--state", state,
			"--containerd", d.Address, "--namespace", d.Namespace, "--driver-root", driver)
		if err != nil {
			return err
		}
	}
	c, err := s.client("c1")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := eventually(ctx, 20*time.Second, func() (bool, error) {
		agents, err := c.Agents(ctx)
		ok := len(agents) == 2
		for _, a := range agents {
			ok = ok && a.State == client.AgentConnected && a.Total.CPUs != "0" && (a.ID != "a2" || len(a.GPUs) == 2)
		}
		return ok, err
	}); err != nil {
		return fmt.Errorf("two agents: %w", err)
	}
	out, _, err := s.tender(ctx, "c1", "agents")
	if err != nil {
		return err
	}
	for l := range strings.Lines(out) {
		tell("  %s", strings.TrimRight(l, "\n"))
	}
	return nil
}

func importImage(ctx context.Context, d *ctrd.Daemon, archive []byte) error {
	c, err := containerd.New(d.Address)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing is left to lose
	if _, err = c.Import(namespaces.WithNamespace(ctx, d.Namespace), bytes.NewReader(archive)); err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	return nil
}

func (s *stage) countWords(ctx context.Context) error {
	text, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	want := len(strings.Fields(string(text)))
	began := time.Now()
	out, _, err := s.tender(ctx, "c2", "run", "--attach", "--name", "wordcount", "--cpus", "0.5", "--mem", "64", imageName, "--", "wc", "-w", "/text")
	if err != nil {
		return err
	}
	got, err := strconv.Atoi(strings.Fields(out + " ?")[0])
	if err != nil || got != want {
		return fmt.Errorf("the task counted %q, there are %d words", out, want)
	}
	tell("tender run --attach ... wc -w /text     (asked of c2, which does not lead)")
	tell("the container on a machine that nobody can reach counted %d words in %.2f s: right", got, time.Since(began).Seconds())
	return nil
}

// useGPUs runs two tasks side by side. The image asks for all GPUs, as many
// images do; each must see one, and not the other's.
func (s *stage) useGPUs(ctx context.Context) error {
	type answer struct {
		out string
		err error
	}
	answers := make(chan answer, 2)
	for i := range 2 {
		go func() {
			out, _, err := s.tender(ctx, "c1", "run", "--attach", "--name", fmt.Sprintf("gpu%d", i), "--cpus", "0.1", "--mem", "32",
				"--gpus", "1", "--gpu-model", "A6000", imageName, "--", "sh", "-c",
				"ls /dev | grep '^nvidia[0-9]'; echo visible=$NVIDIA_VISIBLE_DEVICES; sleep 2")
			answers <- answer{out, err}
		}()
	}
	var seen []string
	for range 2 {
		a := <-answers
		if a.err != nil {
			return a.err
		}
		lines := strings.Fields(a.out)
		if len(lines) != 2 || lines[1] != "visible=void" {
			return fmt.Errorf("a task with one GPU sees %q", a.out)
		}
		seen = append(seen, lines[0])
	}
	slices.Sort(seen)
	if !slices.Equal(seen, []string{"nvidia0", "nvidia1"}) {
		return fmt.Errorf("the two tasks saw %q", seen)
	}
	tell("one saw /dev/%s and nothing else, the other /dev/%s, at the same time", seen[0], seen[1])
	out, _, err := s.tender(ctx, "c1", "run", "--gpus", "0.5", imageName)
	if err == nil {
		return fmt.Errorf("half a GPU was accepted: %s", out)
	}
	tell("half a GPU is refused, in Mesos's words")
	return nil
}

func (s *stage) killLeader(ctx context.Context) error {
	out, _, err := s.tender(ctx, "c1", "run", "--name", "long", "--cpus", "0.1", "--mem", "32", imageName, "--",
		"sh", "-c", "i=0; while [ $i -lt 8 ]; do echo tick $i; i=$((i+1)); sleep 1; done")
	if err != nil {
		return err
	}
	id := strings.TrimSpace(out)
	leader, err := s.waitRunning(ctx, id)
	if err != nil {
		return err
	}
	tell("task %s runs; the leader is %s: kill -9", id, leader)
	s.stop(leader, syscall.SIGKILL)
	died := time.Now()
	other := "c1"
	if leader == other {
		other = "c2"
	}
	if err := s.waitLeader(ctx, other); err != nil {
		return fmt.Errorf("new leader: %w", err)
	}
	tell("a new leader answers %.1f s later", time.Since(died).Seconds())
	c, err := s.client(other)
	if err != nil {
		return err
	}
	defer c.Close()
	var task client.Task
	if err := eventually(ctx, 60*time.Second, func() (bool, error) {
		task, err = c.Task(ctx, id)
		return err == nil && task.Terminal(), err
	}); err != nil {
		return fmt.Errorf("the end of the task: %w", err)
	}
	if task.State != "TASK_FINISHED" {
		return fmt.Errorf("the task ended %s: %s", task.State, task.Message)
	}
	logs, _, err := s.tender(ctx, other, "task", "logs", id)
	if err != nil {
		return err
	}
	if n := strings.Count(logs, "tick"); n != 8 {
		return fmt.Errorf("the task ticked %d times instead of 8: it was not left alone", n)
	}
	tell("the task finished: 8 ticks, started once; its output came through the new leader")
	return nil
}

func (s *stage) waitRunning(ctx context.Context, id string) (leader string, err error) {
	c, err := s.client("c1")
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := eventually(ctx, 20*time.Second, func() (bool, error) {
		t, err := c.Task(ctx, id)
		return t.State == "TASK_RUNNING", err
	}); err != nil {
		return "", fmt.Errorf("task %s runs: %w", id, err)
	}
	r, err := c.Replicas(ctx)
	if err != nil {
		return "", err
	}
	if r.Leader == "" || s.procs[r.Leader] == nil {
		return "", errors.New("nobody leads")
	}
	return r.Leader, nil
}
