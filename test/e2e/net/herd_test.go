package net_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// herd is how many agents come back at a time. They are real, but for their
// containers, and run in this process.
const herd = 60

func (w *world) herdReturns(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	line, err := pki.ParseJoinLine(w.Token(t, client.CreateToken{Uses: herd}))
	must(t, err)
	dir := t.TempDir()
	ids := map[string]bool{}
	for i := range herd {
		state := filepath.Join(dir, fmt.Sprint(i))
		conn, err := w.udp("o1")
		must(t, err)
		id, err := agent.Join(ctx, line, agent.JoinOptions{StateDir: state, Hostname: "herd", Conn: conn})
		must(t, err)
		ids[string(id)] = true
		conn, err = w.udp("o1")
		must(t, err)
		cpus := fleet.Whole(1)
		running.Go(func() {
			err := agent.Run(ctx, agent.Config{
				StateDir: state, Executor: executor.NewMemory(nil), Devices: gpu.Static{}, Version: "herd", Conn: conn, DialTCP: w.Dial(),
				Offer: agent.Offer{CPUs: &cpus}, Logs: tasklog.Dir(filepath.Join(state, "logs")),
			})
			if err != nil && ctx.Err() == nil {
				t.Errorf("agent %s: %v", id, err)
			}
		})
	}
	connected := func() (n int, at map[string]int) {
		agents, err := w.Agents(t.Context())
		at = map[string]int{}
		for _, a := range agents {
			if err == nil && ids[a.ID] && a.State == client.AgentConnected {
				n++
				at[a.Replica]++
			}
		}
		return n, at
	}
	await := func(what string) map[string]int {
		t.Helper()
		n, at := connected()
		for end := time.Now().Add(40 * time.Second); n < herd; n, at = connected() {
			if time.Now().After(end) {
				t.Fatalf("%s: %d of %d are connected, at %v", what, n, herd, at)
			}
			pass(t, 100*time.Millisecond)
		}
		return at
	}
	t.Logf("sessions: %v", await("at first"))
	old := w.Leader(t)
	old.Kill(t)
	began := time.Now()
	w.successor(t, old, soon)
	// Those of the dead replica notice by its silence.
	for n, at := connected(); n == herd && at[old.ID] > 0 && time.Since(began) < 20*time.Second; n, at = connected() {
		pass(t, 100*time.Millisecond)
	}
	at := await("after the death of a replica")
	took := time.Since(began)
	t.Logf("sessions: %v, %.1f s after the death of %s", at, took.Seconds(), old.ID)
	if at[old.ID] != 0 {
		t.Errorf("%d sessions are with the dead replica", at[old.ID])
	}
	// Silence is noticed by a beat without an answer, however late the next one
	// is due; then begins the way to another replica.
	if took > linkpolicy.Default+linkpolicy.Grace+5*time.Second {
		t.Errorf("the last was back after %v", took)
	}
}
