package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/capacity"
	"github.com/tenderfleet/tender/agent/checkpoint"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/agent/tasklog"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Config is how an agent runs.
type Config struct {
	StateDir string
	Executor executor.Executor
	Devices  gpu.Devices
	Logs     tasklog.Dir
	// Offer limits what is given to the pool; nil fields mean all there is.
	Offer   Offer
	Version string
	// BootID changes when the machine restarts; empty is the machine's own.
	BootID string
	// Conn replaces the UDP socket that the agent dials from; Run closes it.
	Conn net.PacketConn
	Log  *slog.Logger
	// Ready is called once, when the first session is established.
	Ready func()
	// Offers replace Offer while the agent runs; nil for none.
	Offers <-chan Offer
	// Settings tells what is wrong with the agent's settings, "" when nothing;
	// operators see it. It must not block; nil is nothing.
	Settings func() string
	// Turn is called by the loop that everything goes through, each second at
	// least: where it is not, the agent hangs. It must not block.
	Turn func(Sign)
}

// Sign is what a running agent tells of itself at each turn of its loop.
type Sign struct {
	// Connected: there is a session with the control plane.
	Connected bool
	// Tasks run or are being started; Spooled updates wait for the control plane.
	Tasks, Spooled int
	// Runtime is what is wrong with the container runtime, empty when nothing.
	Runtime string
}

// Offer is the part of the machine that the pool may use.
type Offer struct {
	CPUs, Mem, Disk *fleet.Scalar
	// NoGPUs keeps all GPUs out of the pool.
	NoGPUs bool
	// Ports of the host that tasks may be given; the agent keeps nobody from
	// using others.
	Ports fleet.Ranges
	// Custom are amounts of names that the fleet's owner chose.
	Custom []fleet.Amount
	// Reserve is set aside for roles, statically: no call can undo it. Where the
	// machine has less, it goes as far as that reaches, in this order.
	Reserve []Reservation
}

// Reservation is a part of the machine for one role.
type Reservation struct {
	Role fleet.Role
	// Resources are its amounts; GPUs are counted by GPUs.
	Resources fleet.Resources
	GPUs      int
}

// Agent is a running agent.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	cred    *pki.Holder
	id      fleet.AgentID
	host    string
	epoch   uint64 // of the last session; the dial loop's alone
	file    *checkpoint.File
	core    *lifecycle.Agent
	events  chan lifecycle.Event
	listed  chan struct{} // closed after the first answer of the executor
	probing chan struct{} // one for each check under way

	mu       sync.Mutex
	starting map[fleet.TaskID]context.CancelFunc
	ended    map[fleet.TaskID]chan struct{} // closed when a task's output is complete
	link     *link                          // nil while there is no session
	capacity fleet.Capacity
	devices  []gpu.Device
	runtime  string // what is wrong with the container runtime, "" when nothing
	running  int
	spooled  int
	ready    sync.Once
	meter    capacity.Meter // used by one session at a time
}

// remembered is agent.json.
type remembered struct {
	Replicas []string `json:"replicas"`
}

func pkiDir(state string) string { return filepath.Join(state, "pki") }

// ErrJoined: the machine already belongs to a control plane.
var ErrJoined = errors.New("this machine has joined already")

// JoinOptions describe the machine that joins.
type JoinOptions struct {
	StateDir string
	Hostname string // what the agent's id is made from
	// Conn replaces the UDP socket; Join closes it once it asks.
	Conn net.PacketConn
}

// Join makes this machine an agent. The key is made here and never leaves.
// Nothing is stored unless the control plane admits the machine.
func Join(ctx context.Context, line pki.JoinLine, o JoinOptions) (fleet.AgentID, error) {
	stateDir := o.StateDir
	if line.Kind != pki.KindAgent {
		return "", fmt.Errorf("this join line is of kind %s, not agent; make one with: tender token create", line.Kind)
	}
	old, err := pki.LoadDir(pkiDir(stateDir))
	switch {
	case err == nil:
		return "", fmt.Errorf("%w as %s of %s; to join another control plane, stop tender-agent and remove %s", ErrJoined, old.Identity.ID, old.Identity.TrustDomain, stateDir)
	case !errors.Is(err, pki.ErrNotJoined):
		return "", err
	}
	if err := checkWritable(stateDir); err != nil {
		return "", err
	}
	key, err := pki.NewKey()
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	req, err := enroll.NewRequest(line, key, o.Hostname)
	if err != nil {
		return "", err
	}
	reply, err := transport.EnrolFrom(ctx, o.Conn, line, req)
	if err != nil {
		return "", err
	}
	cred, err := reply.Credential(key)
	if err != nil {
		return "", err
	}
	addrs := reply.Replicas
	if len(addrs) == 0 {
		addrs = line.Addrs
	}
	if err := remember(stateDir, addrs); err != nil {
		return "", err
	}
	if err := pki.SaveDir(pkiDir(stateDir), cred); err != nil {
		return "", err
	}
	return fleet.AgentID(cred.Identity.ID), nil
}

// checkWritable finds out before a token is used that nothing could be stored.
func checkWritable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w; run as root or give a writable one with --state", err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("state directory: %w; run as root or give a writable one with --state", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func remember(stateDir string, replicas []string) error {
	data, err := json.MarshalIndent(remembered{Replicas: replicas}, "", "  ")
	if err != nil {
		return fmt.Errorf("remember replicas: %w", err)
	}
	tmp := filepath.Join(stateDir, "agent.json.new")
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("remember replicas: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(stateDir, "agent.json")); err != nil {
		return fmt.Errorf("remember replicas: %w", err)
	}
	return nil
}

func recall(stateDir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(stateDir, "agent.json"))
	if err != nil {
		return nil, fmt.Errorf("read addresses of the replicas: %w; join again", err)
	}
	var r remembered
	if err := json.Unmarshal(data, &r); err != nil || len(r.Replicas) == 0 {
		return nil, fmt.Errorf("read addresses of the replicas: %s names none (%w); join again", filepath.Join(stateDir, "agent.json"), err)
	}
	return r.Replicas, nil
}

// Run runs the agent until ctx ends. Tasks go on without it.
func Run(ctx context.Context, cfg Config) error {
	a, replicas, err := open(cfg)
	if err != nil {
		return err
	}
	defer a.file.Close() //nolint:errcheck // every write was synced
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.loop(ctx, g) })
	g.Go(func() error { return a.watch(ctx) })
	g.Go(func() error { return a.dialLoop(ctx, replicas) })
	g.Go(func() error { return a.recoverTasks(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func open(cfg Config) (*Agent, []string, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.BootID == "" {
		cfg.BootID = capacity.BootID()
	}
	cred, err := pki.LoadDir(pkiDir(cfg.StateDir))
	if err != nil {
		return nil, nil, err
	}
	replicas, err := recall(cfg.StateDir)
	if err != nil {
		return nil, nil, err
	}
	file, err := checkpoint.Open(filepath.Join(cfg.StateDir, "agent.db"))
	if err != nil {
		return nil, nil, err
	}
	term, generation, records, err := file.Load()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	life, err := file.Begin()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	host, _ := os.Hostname() // for people; empty is harmless
	a := &Agent{
		cfg: cfg, log: cfg.Log, epoch: life << 24, cred: pki.NewHolder(cred), id: fleet.AgentID(cred.Identity.ID), host: host, file: file,
		core:   lifecycle.New(records, term, generation),
		events: make(chan lifecycle.Event, 256), listed: make(chan struct{}), probing: make(chan struct{}, maxProbes),
		starting: map[fleet.TaskID]context.CancelFunc{}, ended: map[fleet.TaskID]chan struct{}{},
	}
	for _, r := range records {
		ch := make(chan struct{})
		if r.Phase == lifecycle.Ended {
			close(ch)
		}
		a.ended[r.Assignment.Task] = ch
	}
	a.log.Info("agent starts", "agent", a.id, "records", len(records), "generation", generation)
	return a, replicas, nil
}

// recoverTasks tells the core what truly runs, as soon as the runtime answers.
func (a *Agent) recoverTasks(ctx context.Context) error {
	var once sync.Once
	defer once.Do(func() { close(a.listed) })
	for {
		ids, err := a.cfg.Executor.List(ctx)
		if err == nil {
			a.emit(ctx, lifecycle.Recovered{Held: ids})
			once.Do(func() { close(a.listed) })
			return nil
		}
		a.setRuntime(err)
		once.Do(func() { close(a.listed) })
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
}

func (a *Agent) emit(ctx context.Context, ev lifecycle.Event) {
	select {
	case a.events <- ev:
	case <-ctx.Done():
	}
}

// sleep waits and reports whether ctx still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
