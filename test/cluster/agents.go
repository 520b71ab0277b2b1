package cluster

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Agent is one machine. Its tasks survive the agent, as containers do.
type Agent struct {
	ID   fleet.AgentID
	Addr string
	Exec *executor.Memory
	// Devices are the machine's GPUs.
	Devices gpu.Static
	// Boot is the life of the machine; empty: that of this one.
	Boot string
	f    *Fleet
	dir  string
	life
}

// Agent joins a machine of four processors and starts its agent.
func (f *Fleet) Agent(name string, devices ...gpu.Device) *Agent {
	f.tb.Helper()
	a := f.Joined(name, devices...)
	a.Start()
	f.Await(name+" is connected", 30*time.Second, a.Connected)
	return a
}

// Joined is an agent that has joined and does not run yet.
func (f *Fleet) Joined(name string, devices ...gpu.Device) *Agent {
	f.tb.Helper()
	a := &Agent{f: f, Addr: f.host(1, 2000), Exec: executor.NewMemory(nil), Devices: devices, dir: filepath.Join(f.dir, name)}
	id, err := agent.Join(f.tb.Context(), f.Line(pki.KindAgent, 1), agent.JoinOptions{
		StateDir: a.dir, Hostname: name, Conn: f.conn(a.Addr),
	})
	f.fatal(err)
	a.ID = id
	f.tb.Cleanup(a.Stop)
	return a
}

// Start starts the agent's process.
func (a *Agent) Start() {
	a.f.tb.Helper()
	cpus, mem, disk := fleet.Whole(4), fleet.Whole(4096), fleet.Whole(10_000)
	cfg := agent.Config{
		StateDir: a.dir, Executor: a.Exec, Devices: a.Devices, Version: "test", Boot: a.Boot,
		Offer: agent.Offer{CPUs: &cpus, Mem: &mem, Disk: &disk},
		Logs:  tasklog.Dir(filepath.Join(a.dir, "logs")),
		Conn:  a.f.conn(a.Addr), Log: a.f.log(string(a.ID)),
	}
	a.begin(func(ctx context.Context) error { return agent.Run(ctx, cfg) })
}

// Stop ends the agent's process; its tasks run on.
func (a *Agent) Stop() {
	if err := a.end(); err != nil {
		a.f.tb.Errorf("agent %s: %v", a.ID, err)
	}
}

// Connected reports whether the leader has a session of the agent.
func (a *Agent) Connected() bool {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	return err == nil && soft.Agents[a.ID].Connected
}

// LastSeen is when the leader last had a message of the agent.
func (a *Agent) LastSeen() time.Time {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	a.f.fatal(err)
	return soft.Agents[a.ID].LastSeen
}

// Credential is what the agent has on disk.
func (a *Agent) Credential() *pki.Credential {
	a.f.tb.Helper()
	c, err := pki.LoadDir(filepath.Join(a.dir, "pki"))
	a.f.fatal(err)
	return c
}

// Know has a stopped agent know these replicas and no others.
func (a *Agent) Know(addrs ...string) {
	a.f.tb.Helper()
	data, err := json.Marshal(map[string][]string{"replicas": addrs})
	a.f.fatal(err)
	a.f.fatal(os.WriteFile(filepath.Join(a.dir, "agent.json"), data, 0o600))
}
