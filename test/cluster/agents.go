package cluster

import (
	"context"
	"encoding/json"
	"errors"
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
	// Boot is the machine's boot id.
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
	a, err := f.join(f.Line(pki.KindAgent, 1), name, devices...)
	f.fatal(err)
	return a
}

// JoinBy joins an agent by a line of before.
func (f *Fleet) JoinBy(line pki.JoinLine, name string) *Agent {
	f.tb.Helper()
	a, err := f.join(line, name)
	f.fatal(err)
	return a
}

// TryJoinBy is JoinBy with a line that may be refused.
func (f *Fleet) TryJoinBy(line pki.JoinLine, name string) error {
	f.tb.Helper()
	_, err := f.join(line, name)
	return err
}

func (f *Fleet) join(line pki.JoinLine, name string, devices ...gpu.Device) (*Agent, error) {
	f.tb.Helper()
	a := &Agent{f: f, Addr: f.host(1, 2000), Exec: executor.NewMemory(nil), Devices: devices, Boot: "boot-" + name, dir: filepath.Join(f.dir, name)}
	cfg := a.config()
	id, err := agent.Join(f.tb.Context(), line, agent.JoinOptions{
		StateDir: a.dir, Hostname: name, Conn: cfg.Conn, DialTCP: cfg.DialTCP,
		Now: cfg.Now, Notice: func(text string) { f.Notice = text },
	})
	if err != nil {
		return nil, err
	}
	a.ID = id
	f.tb.Cleanup(a.Stop)
	return a, nil
}

// Start starts the agent's process.
func (a *Agent) Start() {
	a.f.tb.Helper()
	cfg := a.config()
	a.begin(func(ctx context.Context) error { return agent.Run(ctx, cfg) })
}

// config opens the agent's socket.
func (a *Agent) config() agent.Config {
	a.f.tb.Helper()
	cpus, mem, disk := fleet.Whole(4), fleet.Whole(4096), fleet.Whole(10_000)
	cfg := agent.Config{
		StateDir: a.dir, Executor: a.Exec, Devices: a.Devices, Version: "test", BootID: a.Boot,
		Offer: agent.Offer{CPUs: &cpus, Mem: &mem, Disk: &disk},
		Logs:  tasklog.Dir(filepath.Join(a.dir, "logs")),
		Now:   a.f.now(),
		Conn:  a.f.conn(a.Addr), Log: a.f.log(string(a.ID)),
		// In a bubble hours of the machine pass at once: its own readings would jump.
		Meter: func(_ string, r *fleet.Readings) { r.CPUPercent, r.FreeMemMB, r.FreeDiskMB = 5, 4096, 10_000 },
	}
	if a.f.TuneAgent != nil {
		a.f.TuneAgent(&cfg)
	}
	return cfg
}

// Link is what carries the agent's session: "quic", "tcp", or "" without one.
func (a *Agent) Link() string {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	a.f.fatal(err)
	if s := soft.Agents[a.ID]; s.Connected {
		return s.Link
	}
	return ""
}

// now is the clock of a machine that starts.
func (f *Fleet) now() func() time.Time {
	off := f.Clock
	return func() time.Time { return time.Now().Add(off) }
}

// Dir is a part of the agent's state directory.
func (a *Agent) Dir(part string) string { return filepath.Join(a.dir, part) }

// Stop ends the agent's process; its tasks run on.
func (a *Agent) Stop() {
	if err := a.end(); err != nil {
		a.f.tb.Errorf("agent %s: %v", a.ID, err)
	}
}

// Leave has the agent leave the fleet; Left waits until it has, and checks that
// its process has ended for that reason.
func (a *Agent) Leave(grace time.Duration) {
	a.f.tb.Helper()
	a.f.fatal(agent.Leave(a.dir, grace))
}

// Left: see Leave.
func (a *Agent) Left(limit time.Duration) time.Duration {
	a.f.tb.Helper()
	took := a.f.Await(string(a.ID)+" has left", limit, a.ended)
	if err := a.end(); !errors.Is(err, agent.ErrLeft) {
		a.f.tb.Errorf("agent %s: %v", a.ID, err)
	}
	return took
}

// Connected reports whether the leader has a session of the agent.
func (a *Agent) Connected() bool {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	return err == nil && soft.Agents[a.ID].Connected
}

// Clone is another machine with a copy of the agent's disk. It does not run yet.
func (a *Agent) Clone(name string) *Agent {
	a.f.tb.Helper()
	b := &Agent{f: a.f, ID: a.ID, Addr: a.f.host(1, 2000), Exec: executor.NewMemory(nil), Boot: "boot-" + name, dir: filepath.Join(a.f.dir, name)}
	a.f.fatal(os.CopyFS(b.dir, os.DirFS(a.dir)))
	a.f.fatal(os.Chmod(filepath.Join(b.dir, "pki", "key.pem"), 0o600)) // CopyFS makes it readable
	a.f.tb.Cleanup(b.Stop)
	return b
}

// Session is the replica that has the agent's session, as far as the leader
// knows, and since when; nil while there is none.
func (a *Agent) Session() (*Replica, time.Time) {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	if s := soft.Agents[a.ID]; err == nil && s.Connected {
		for _, r := range a.f.Replicas {
			if r.ID == s.Replica {
				return r, s.Since
			}
		}
	}
	return nil, time.Time{}
}

// Remote is the address that the agent's session comes from.
func (a *Agent) Remote() string {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	a.f.fatal(err)
	return soft.Agents[a.ID].Remote
}

// LastSeen is when the leader last had a message of the agent.
func (a *Agent) LastSeen() time.Time {
	soft, err := a.f.Leader().Soft(a.f.tb.Context())
	a.f.fatal(err)
	return soft.Agents[a.ID].LastSeen
}

// Print is what a task prints.
func (a *Agent) Print(id fleet.TaskID, line string) {
	a.f.tb.Helper()
	dir := filepath.Join(a.dir, "logs", string(id))
	a.f.fatal(os.MkdirAll(dir, 0o700))
	a.f.fatal(os.WriteFile(filepath.Join(dir, "stdout.log"), []byte(line+"\n"), 0o600))
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
