package api_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

const image = "docker.io/library/busybox:1.36"

// serve serves a fleet on a unix socket and returns a client of it.
func serve(t *testing.T, h http.Handler) *client.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.NewServer(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	c, err := client.New(client.Config{Socket: socket, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newFleet(t *testing.T) (*apitest.Fleet, *client.Client) {
	t.Helper()
	f := apitest.New()
	return f, serve(t, api.Handler(f, f.Options()))
}

func device(n int) gpu.Device {
	return gpu.Device{
		UUID: gpu.UUID(fmt.Sprintf("GPU-%d", n)), Model: "NVIDIA RTX A6000", MemoryMB: 49140,
		ComputeMajor: 8, ComputeMinor: 6, Driver: "570.00", Health: gpu.Healthy,
	}
}

func submit(t *testing.T, c *client.Client, s client.Submit) client.Task {
	t.Helper()
	if s.Image == "" {
		s.Image = image
	}
	if s.CPUs == "" {
		s.CPUs = "1"
	}
	task, err := c.Submit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func problem(t *testing.T, err error) *client.Problem {
	t.Helper()
	var p *client.Problem
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want a problem", err)
	}
	return p
}

func TestTaskRunsToItsEnd(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384, device(1)), fleet.Agent{Site: "lab"})
	task := submit(t, c, client.Submit{Command: []string{"exit", "3"}, Mem: "1.5G", GPUs: "1", Env: map[string]string{"TOKEN": "secret"}, KillGrace: client.Duration(time.Minute)})

	three := 3
	want := client.Task{
		ID: "busybox-1", Name: "busybox", Framework: "run", Role: "*", State: "TASK_FAILED", Message: "exited with code 3",
		Reason: "COMMAND_EXECUTOR_FAILED", ExitCode: &three, Agent: "a1",
		Submitted: apitest.Epoch, Launched: apitest.Epoch, Ended: apitest.Epoch,
		Needs:     client.Needs{CPUs: "1", Mem: "1536", Disk: "0", GPUs: 1},
		Resources: &client.Resources{CPUs: "1", Mem: "1536", Disk: "0", GPUs: []string{"GPU-1"}},
		Image:     image, Command: []string{"exit", "3"}, Env: []string{"TOKEN"}, KillGrace: client.Duration(time.Minute),
		History: []client.Status{
			{Time: apitest.Epoch, State: "TASK_STAGING", Message: "waiting for an offer"},
			{Time: apitest.Epoch, State: "TASK_STAGING", Message: "assigned to agent a1"},
			{Time: apitest.Epoch, State: "TASK_STARTING"},
			{Time: apitest.Epoch, State: "TASK_RUNNING"},
			{Time: apitest.Epoch, State: "TASK_FAILED", Message: "exited with code 3", Reason: "COMMAND_EXECUTOR_FAILED", ExitCode: &three},
		},
	}
	task.Revision = ""
	if d := cmp.Diff(want, task); d != "" {
		t.Errorf("the task (-want +got):\n%s", d)
	}
	live, err := c.Tasks(t.Context(), client.TaskFilter{})
	if err != nil || len(live.Tasks) != 0 {
		t.Errorf("live tasks: %v, %v", live, err)
	}
	all, err := c.Tasks(t.Context(), client.TaskFilter{All: true, Agent: "a1", Role: "*"})
	if err != nil || len(all.Tasks) != 1 || all.Tasks[0].History != nil {
		t.Errorf("all tasks: %v, %v", all, err)
	}
}

func TestListIsBoundedAndNewestFirst(t *testing.T) {
	f, c := newFleet(t)
	for range 3 {
		f.Advance(time.Second)
		submit(t, c, client.Submit{Name: "t"})
	}
	l, err := c.Tasks(t.Context(), client.TaskFilter{Limit: 2})
	if err != nil || len(l.Tasks) != 2 || l.Tasks[0].ID != "t-3" || l.Omitted != 1 {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestWhyTaskWaits(t *testing.T) {
	f, c := newFleet(t)
	task := submit(t, c, client.Submit{Name: "big", CPUs: "64"})
	if w := task.Waiting; w == nil || w.Reason != "no agent has joined the fleet yet" || w.Never {
		t.Errorf("without agents: %+v", w)
	}
	for _, id := range []fleet.AgentID{"a1", "a2", "a3"} {
		f.AddAgent(id, apitest.Capacity(8, 16384), fleet.Agent{})
	}
	f.AddAgent("gone", apitest.Capacity(8, 16384), fleet.Agent{})
	if _, err := c.RevokeAgent(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	f.Disconnect("a3")
	why, err := c.Why(t.Context(), task.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := client.Why{
		Task: "big-1", State: "TASK_STAGING",
		Waiting: &client.Waiting{Reason: "2 agents: not enough cpus: needs 64, has 8; 1 agent: disconnected", Never: true},
		Agents: []client.Refusal{
			{Agent: "a1", Reason: "not enough cpus: needs 64, has 8"},
			{Agent: "a2", Reason: "not enough cpus: needs 64, has 8"},
			{Agent: "a3", Reason: "disconnected"},
		},
	}
	if d := cmp.Diff(want, why); d != "" {
		t.Errorf("why (-want +got):\n%s", d)
	}
}

func TestWaitEndsWithTheChange(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%t", told), func(t *testing.T) {
			f := apitest.New()
			o := f.Options()
			if !told {
				o.Changed = nil // then it looks by itself
			}
			c := serve(t, api.Handler(f, o))
			f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
			task := submit(t, c, client.Submit{Command: []string{"wait"}})
			type result struct {
				task client.Task
				err  error
			}
			got := make(chan result, 1)
			go func() {
				task, err := c.WaitTask(t.Context(), task.ID, task.Revision, time.Minute)
				got <- result{task, err}
			}()
			f.Finish("busybox-1", 0)
			if r := <-got; r.err != nil || r.task.State != "TASK_FINISHED" {
				t.Errorf("got %s, %v", r.task.State, r.err)
			}
		})
	}
}

func TestWaitEndsByItself(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	task := submit(t, c, client.Submit{Command: []string{"wait"}})
	again, err := c.WaitTask(t.Context(), task.ID, task.Revision, 10*time.Millisecond)
	if err != nil || again.Revision != task.Revision {
		t.Errorf("got %+v, %v", again, err)
	}
}

func TestStop(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	running := submit(t, c, client.Submit{Command: []string{"wait"}})
	waiting := submit(t, c, client.Submit{CPUs: "64"})
	for _, id := range []string{running.ID, waiting.ID} {
		task, err := c.StopTask(t.Context(), id, client.Stop{})
		if err != nil || task.State != "TASK_KILLED" {
			t.Errorf("stop %s: %s, %v", id, task.State, err)
		}
		if _, err := c.StopTask(t.Context(), id, client.Stop{}); err != nil {
			t.Errorf("stop %s again: %v", id, err)
		}
	}
	p := problem(t, second(c.StopTask(t.Context(), "nobody", client.Stop{})))
	if p.Code != client.CodeNotFound || p.Detail != `there is no task "nobody"` || p.Next != "list them with: tender ps --all" {
		t.Errorf("stop of nobody: %+v", p)
	}
}

func second[T any](_ T, err error) error { return err }

func TestLogs(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	task := submit(t, c, client.Submit{Command: []string{"wait"}})
	long := strings.Repeat("x", 100_000)
	f.Print("busybox-1", false, long)
	f.Print("busybox-1", true, "oops\n")
	var out, errs bytes.Buffer
	emit := func(stderr bool, data []byte) error {
		w := &out
		if stderr {
			w = &errs
			f.Finish("busybox-1", 0) // while it is being followed
		}
		w.Write(data)
		return nil
	}
	err := c.Logs(t.Context(), task.ID, client.LogOptions{Follow: true, Tail: -1, Stdout: true, Stderr: true}, emit)
	if err != nil || out.String() != long || errs.String() != "oops\n" {
		t.Errorf("got %d bytes, %q, %v", out.Len(), errs.String(), err)
	}
	out.Reset()
	err = c.Logs(t.Context(), task.ID, client.LogOptions{Tail: 0, Stdout: true}, emit)
	if err != nil || out.Len() != 0 {
		t.Errorf("no tail: got %q, %v", out.String(), err)
	}
}

func TestLogsThatCannotBeHad(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	waiting := submit(t, c, client.Submit{CPUs: "64"})
	running := submit(t, c, client.Submit{Command: []string{"wait"}})
	logs := func(id string) *client.Problem {
		return problem(t, c.Logs(t.Context(), id, client.LogOptions{Stdout: true}, nil))
	}
	if p := logs(waiting.ID); p.Code != client.CodeNotStarted {
		t.Errorf("waiting: %+v", p)
	}
	f.Disconnect("a1")
	if p := logs(running.ID); p.Code != client.CodeUnavailable {
		t.Errorf("disconnected: %+v", p)
	}
	if _, err := c.StopTask(t.Context(), waiting.ID, client.Stop{}); err != nil {
		t.Fatal(err)
	}
	if p := logs(waiting.ID); p.Code != client.CodeNotFound {
		t.Errorf("never placed: %+v", p)
	}
}

func TestAgents(t *testing.T) {
	f, c := newFleet(t)
	bad := device(2)
	bad.Health, bad.Reason = gpu.Unhealthy, "XID 79"
	f.AddAgent("a1", apitest.Capacity(8, 16384, device(1), bad), fleet.Agent{
		Site: "lab", Labels: map[string]string{"disk": "ssd"}, CertNotAfter: apitest.Epoch.Add(71 * time.Hour),
	})
	f.AddAgent("a2", apitest.Capacity(1, 1024), fleet.Agent{})
	task := submit(t, c, client.Submit{Command: []string{"wait"}, GPUs: "1", Agent: "a1"})
	f.Disconnect("a2")
	agents, err := c.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	want := []client.Agent{{
		ID: "a1", Site: "lab", Labels: map[string]string{"disk": "ssd"}, Hostname: "a1.example", State: client.AgentConnected,
		Link: "quic", Remote: "192.0.2.7:40404", Version: "v1.2.3", Joined: apitest.Epoch, Since: apitest.Epoch, LastSeen: apitest.Epoch,
		CertNotAfter: apitest.Epoch.Add(71 * time.Hour), CertDaysLeft: &two,
		Total: client.Resources{CPUs: "8", Mem: "16384", Disk: "100000", GPUs: []string{"GPU-1"}},
		Free:  &client.Resources{CPUs: "7", Mem: "16384", Disk: "100000", GPUs: []string{}},
		Used:  client.Resources{CPUs: "1", Mem: "0", Disk: "0", GPUs: []string{"GPU-1"}}, Availability: client.AgentActive,
		GPUs: []client.GPU{
			{UUID: "GPU-1", Model: "NVIDIA RTX A6000", Memory: 49140, Compute: "8.6", Driver: "570.00", Health: "healthy", Task: task.ID},
			{UUID: "GPU-2", Model: "NVIDIA RTX A6000", Memory: 49140, Compute: "8.6", Driver: "570.00", Health: "unhealthy", Reason: "XID 79"},
		},
		Tasks:    []string{task.ID},
		Readings: &client.Readings{Time: apitest.Epoch, CPUPercent: 12, FreeMem: 1000, FreeDisk: 50000},
	}}
	if len(agents) != 2 || agents[1].State != client.AgentDisconnected || agents[1].Free != nil {
		t.Errorf("agents: %+v", agents)
	}
	if d := cmp.Diff(want, agents[:1]); d != "" {
		t.Errorf("agents (-want +got):\n%s", d)
	}
	f.Advance(2 * time.Minute)
	if a, err := c.Agent(t.Context(), "a2"); err != nil || a.State != client.AgentUnreachable {
		t.Errorf("after two minutes: %s, %v", a.State, err)
	}
	if p := problem(t, second(c.Agent(t.Context(), "nobody"))); p.Code != client.CodeNotFound {
		t.Errorf("nobody: %+v", p)
	}
	if p := problem(t, second(c.RevokeAgent(t.Context(), "nobody"))); p.Code != client.CodeNotFound {
		t.Errorf("revoke nobody: %+v", p)
	}
	if a, err := c.RevokeAgent(t.Context(), "a1"); err != nil || a.State != client.AgentRevoked {
		t.Errorf("revoke: %s, %v", a.State, err)
	}
	if f.State("busybox-1") != fleet.TaskGoneByOperator {
		t.Errorf("its task is %v", f.State("busybox-1"))
	}
}

func TestOffers(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(2, 1024, device(1)), fleet.Agent{Site: "lab"})
	f.Subscribe("outsider")
	list, err := c.Offers(t.Context())
	if err != nil || len(list.Offers) != 1 || list.Inverse == nil {
		t.Fatalf("offers: %+v, %v", list, err)
	}
	o := list.Offers[0]
	if o.ID != "o1-1" || o.Framework != "outsider" || o.Agent != "a1" || o.Site != "lab" ||
		o.Resources.CPUs != "2" || len(o.GPUs) != 1 || !o.Expires.Equal(apitest.Epoch.Add(30*time.Second)) {
		t.Errorf("got %+v", o)
	}
}

func TestReplicasAndVersion(t *testing.T) {
	_, c := newFleet(t)
	r, err := c.Replicas(t.Context())
	if err != nil || r.Self != "r1" || r.Leader != "r1" || r.Term != 1 || len(r.Replicas) != 3 || !r.Replicas[0].Leader || r.Replicas[1].Leader {
		t.Errorf("replicas: %+v, %v", r, err)
	}
	v, err := c.ServerVersion(t.Context())
	if err != nil || v.Version != "v1.2.3" {
		t.Errorf("version: %+v, %v", v, err)
	}
}

func TestTokens(t *testing.T) {
	f, c := newFleet(t)
	made, err := c.CreateToken(t.Context(), client.CreateToken{Site: "lab", Labels: map[string]string{"disk": "ssd"}, Uses: 5, TTL: client.Duration(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	line, err := pki.ParseJoinLine(made.Line)
	if err != nil {
		t.Fatal(err)
	}
	if line.Kind != pki.KindAgent || line.TrustDomain != apitest.TrustDomain || !line.Expires.Equal(apitest.Epoch.Add(24*time.Hour)) {
		t.Errorf("line: %+v", line)
	}
	if !strings.HasPrefix(pki.HashSecret(line.Secret), made.ID) {
		t.Errorf("id %s is not of the secret", made.ID)
	}
	f.Advance(time.Minute)
	if _, err := c.CreateToken(t.Context(), client.CreateToken{Kind: "operator"}); err != nil {
		t.Fatal(err)
	}
	tokens, err := c.Tokens(t.Context())
	if err != nil || len(tokens) != 2 {
		t.Fatalf("tokens: %+v, %v", tokens, err)
	}
	made.Line = ""
	if d := cmp.Diff(made, tokens[0]); d != "" {
		t.Errorf("listed (-made +listed):\n%s", d)
	}
	if tokens[1].Kind != "operator" || tokens[1].Uses != 1 || !tokens[1].Expires.Equal(apitest.Epoch.Add(61*time.Minute)) {
		t.Errorf("defaults: %+v", tokens[1])
	}
	if err := c.DeleteToken(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	if p := problem(t, c.DeleteToken(t.Context(), made.ID)); p.Code != client.CodeNotFound {
		t.Errorf("deleted twice: %+v", p)
	}
	if p := problem(t, c.DeleteToken(t.Context(), "ab")); p.Code != client.CodeBadRequest {
		t.Errorf("short id: %+v", p)
	}
	for _, bad := range []client.CreateToken{
		{Kind: "framework"},
		{Kind: "friend"},
		{Kind: "agent", Roles: []string{"a"}},
		{Kind: "framework", Roles: []string{"a"}, AllRoles: true},
		{Kind: "operator", Site: "lab"},
		{Uses: -1},
		{Uses: 10_001},
		{TTL: -1},
		{TTL: client.Duration(91 * 24 * time.Hour)},
		{Site: "No Such"},
		{Labels: map[string]string{"A": "b"}},
	} {
		if p := problem(t, second(c.CreateToken(t.Context(), bad))); p.Code != client.CodeInvalid {
			t.Errorf("%+v: %+v", bad, p)
		}
	}
}
