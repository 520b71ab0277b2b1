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
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/agent/capacity"
	"github.com/tenderfleet/tender/agent/checkpoint"
	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/agent/linkpolicy"
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
	// DialTCP replaces how it opens connections over TCP: with a Conn and
	// without a DialTCP it opens none.
	Conn    net.PacketConn
	DialTCP func(ctx context.Context, network, addr string) (net.Conn, error)
	// Link is what the link to the control plane may cost.
	Link Link
	// Meter replaces how the momentary part of readings is read off the machine,
	// and Route which local address leads to a remote one.
	Meter func(dir string, r *fleet.Readings)
	Route func(remote string) string
	// Account counts what the link carries. Who fetches images must share it; nil
	// is one of the agent's own, with Link.Policy.
	Account *Account
	// SeekQUIC is how long after it fell back to TCP the agent first looks
	// whether UDP passes again; later looks are rarer. Zero is a minute.
	SeekQUIC time.Duration
	// SeekHome is the least time before a session moves back to the agent's first
	// replica; zero is ten minutes.
	SeekHome time.Duration
	// Now replaces the machine's clock where it is compared with the fleet's.
	Now func() time.Time
	Log *slog.Logger
	// Ready is called once, when the first session is established.
	Ready func()
	// Offers replace Offer while the agent runs; nil for none.
	Offers <-chan Offer
	// Settings tells what is wrong with the agent's settings, "" when nothing;
	// operators see it. It must not block; nil is nothing.
	Settings func() string
	// Upgrades is how another version of the agent gets onto this machine; nil: not
	// by its control plane.
	Upgrades *Upgrades
	// Turn is called by the loop that everything goes through, each second at
	// least: where it is not, the agent hangs. It must not block.
	Turn func(Sign)
	// Watch is told what shows whether this version of the agent is sound; it must
	// not block. Nil: nobody asks.
	Watch func(gate.Event)
	// Upgrade tells what the machine's own watch over versions of the agent says of
	// the last one; it must not block. Nil is nothing to tell.
	Upgrade func() fleet.UpgradeStatus
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
	cfg   Config
	log   *slog.Logger
	cred  *pki.Holder
	id    fleet.AgentID
	host  string
	epoch uint64 // of the last session; the dial loop's alone
	// patience is the dial loop's alone, too.
	patience patience
	file     *checkpoint.File
	core     *lifecycle.Agent
	events   chan lifecycle.Event
	listed   chan struct{} // closed after the first answer of the executor
	looked   chan struct{} // closed once the devices were read
	began    time.Time
	probing  chan struct{} // one for each check under way
	upgrade  *upgrader

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
	seen     sync.Once    // closes looked
	offset   atomic.Int64 // see clockOff
	leave    struct {     // whom the wish to leave was told last
		to *link
		at time.Time
	}
	keep *linkpolicy.Keepalive // how long to be silent
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
	// Conn replaces the UDP socket; Join closes it once it asks. DialTCP is as
	// in Config.
	Conn    net.PacketConn
	DialTCP func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now replaces the machine's clock.
	Now func() time.Time
	// Notice is told what a person should know, in a sentence; it may be nil.
	Notice func(text string)
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
	reply, offset, err := transport.EnrolAnyClock(ctx, transport.DialerConfig{Conn: o.Conn, DialTCP: o.DialTCP, Now: o.Now}, line, req)
	if err != nil {
		return "", err
	}
	if offset != 0 && o.Notice != nil {
		o.Notice(transport.ClockNotice(offset))
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
	if err := keepKeys(stateDir, reply.ReleaseKeys); err != nil {
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
	if err := replaceFile(filepath.Join(stateDir, "agent.json"), append(data, '\n')); err != nil {
		return fmt.Errorf("remember replicas: %w", err)
	}
	return nil
}

// replaceFile has a file hold data, or what it held before: after a loss of power
// as well.
func replaceFile(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
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

// Run runs the agent until ctx ends, which is no error, or the machine has left
// its fleet: ErrLeft. Tasks go on without it.
func Run(ctx context.Context, cfg Config) error {
	a, replicas, err := open(cfg)
	if err != nil {
		return err
	}
	defer a.file.Close() //nolint:errcheck // every write was synced, and a second time does nothing
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.loop(ctx, g) })
	g.Go(func() error { return a.watch(ctx) })
	g.Go(func() error { return a.dialLoop(ctx, replicas) })
	g.Go(func() error { return a.recoverTasks(ctx) })
	g.Go(func() error { return a.upgrade.run(ctx) })
	err = g.Wait()
	switch {
	case errors.Is(err, ErrLeft):
		return errors.Join(a.file.Close(), Forget(cfg.StateDir), err)
	case errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

func open(cfg Config) (*Agent, []string, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Account == nil {
		cfg.Account = OpenAccount(cfg.StateDir, cfg.Link.Policy, cfg.Log)
	}
	if cfg.Meter == nil {
		cfg.Meter = new(capacity.Meter).Read
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
	head, records, err := file.Load()
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
		keep:   linkpolicy.NewKeepalive(cfg.Link.Keepalive),
		core:   lifecycle.New(records, head, cfg.BootID),
		events: make(chan lifecycle.Event, 256), listed: make(chan struct{}), probing: make(chan struct{}, maxProbes),
		looked: make(chan struct{}), began: time.Now(),
		starting: map[fleet.TaskID]context.CancelFunc{}, ended: map[fleet.TaskID]chan struct{}{},
	}
	a.upgrade = newUpgrader(a)
	for _, r := range records {
		ch := make(chan struct{})
		if r.Phase == lifecycle.Ended {
			close(ch)
		}
		a.ended[r.Assignment.Task] = ch
	}
	a.log.Info("agent starts", "agent", a.id, "records", len(records), "generation", head.Generation)
	return a, replicas, nil
}

// recoverTasks tells the core what truly runs, as soon as the runtime answers.
func (a *Agent) recoverTasks(ctx context.Context) error {
	var once sync.Once
	defer once.Do(func() { close(a.listed) })
	for {
		callCtx, cancel := context.WithTimeout(ctx, lookEvery)
		ids, err := a.cfg.Executor.List(callCtx)
		cancel()
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
