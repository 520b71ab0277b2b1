package registrar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Defaults of Config. With these time-outs a new leader is found in about a
// second; shorter ones give needless elections on a busy small machine.
const (
	DefaultHeartbeat         = 500 * time.Millisecond
	DefaultElection          = 500 * time.Millisecond
	DefaultLease             = 250 * time.Millisecond
	DefaultSnapshotThreshold = 8192
	DefaultTrailingLogs      = 10240
	DefaultSnapshotInterval  = 2 * time.Minute
	DefaultReserve           = 64 << 20
)

// maxAppendEntries bounds one message to a replica that lags: entries may be
// MaxBytes each.
const maxAppendEntries = 16

// Config says who a replica is and where it keeps its log.
type Config struct {
	ID fleet.ReplicaID
	// Addr is where the other replicas reach this one, host:port.
	Addr string
	// Dir holds the log and the snapshots; it is made when missing. Empty: they
	// are kept in memory, for tests.
	Dir string
	// Bootstrap makes a new control plane of this one voter. It does nothing
	// where Dir holds one.
	Bootstrap bool
	// Member says that Dir has held a log. If it does not now, Open refuses with
	// ErrForgotten: such a replica could vote twice in one term.
	Member bool
	// Born, when set, is called without Member once Dir holds a log and before
	// that is used: the caller keeps Member.
	Born func() error
	// Version is what the replica tells the others that it runs.
	Version string
	// Tell, when set, adds to what the replica says of itself, and Answer answers
	// the questions of members (see Ask) with JSON. Both are called concurrently.
	Tell   func(*About)
	Answer func(ctx context.Context, from fleet.ReplicaID, question []byte) []byte
	// Reserve is how many bytes of free space a leader wants: see Health. A log
	// that ran out of space goes on when there are as many again.
	Reserve uint64
	// Capability, when not 0, is taken for this version's: tests make older and
	// newer versions of it.
	Capability uint64

	// Endpoint carries the sessions between replicas. The caller closes it,
	// after Close.
	Endpoint Endpoint
	// Transport, when set, is used instead of Endpoint (tests).
	Transport Transport

	// The times and sizes of Raft; zero means the default.
	Heartbeat, Election, Lease      time.Duration
	SnapshotThreshold, TrailingLogs uint64
	SnapshotInterval                time.Duration

	Log *slog.Logger

	segment int                    // size of the log's files; zero means raft-wal's default
	disk    func(wal) wal          // changes the log on disk (tests)
	space   func() (uint64, error) // instead of the disk's (tests)
}

func (c *Config) populate() error {
	if err := fleet.CheckID("replica", string(c.ID)); err != nil {
		return err
	}
	if c.Addr == "" {
		return errors.New("no address under which the other replicas reach this one")
	}
	if c.Endpoint == nil && c.Transport == nil {
		return errors.New("no endpoint")
	}
	setDefault(&c.Heartbeat, DefaultHeartbeat)
	setDefault(&c.Election, DefaultElection)
	setDefault(&c.Lease, DefaultLease)
	setDefault(&c.SnapshotThreshold, DefaultSnapshotThreshold)
	setDefault(&c.TrailingLogs, DefaultTrailingLogs)
	setDefault(&c.SnapshotInterval, DefaultSnapshotInterval)
	setDefault(&c.Reserve, DefaultReserve)
	setDefault(&c.Capability, state.Capability)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c *Config) raft() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.ID)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = c.Heartbeat, c.Election, c.Lease
	rc.SnapshotThreshold, rc.SnapshotInterval, rc.TrailingLogs = c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs
	rc.MaxAppendEntries = maxAppendEntries
	// A removed replica stays a silent follower, so that its owner decides.
	rc.ShutdownOnRemove = false
	rc.NoLegacyTelemetry = true
	rc.Logger = hclogTo(c.Log, "raft")
	return rc
}

// Raft is one replica of the registrar.
type Raft struct {
	cfg    Config
	log    *slog.Logger
	m      *machine
	raft   *raft.Raft
	stores *stores
	trans  *tracker
	layer  *layer // nil with an injected transport

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	wg     sync.WaitGroup

	spawning sync.Mutex // orders spawn and Close

	queue      chan *proposal
	leadership chan Leadership

	establishing chan struct{} // held while a term's barrier runs
	established  uint64        // the term whose barrier has been applied

	readMu   sync.Mutex
	nextRead *readRound
	readWake chan struct{}

	capability atomic.Uint64 // of all voters, as the caller says; 0: ask the state

	failing sync.Mutex
	failure error         // what this replica cannot go on from
	failed  chan struct{} // closed then

	closeOnce sync.Once
	closeErr  error
}

// Open starts this replica. It does not wait for a leader. A replica that is
// new and does not bootstrap waits to be added by the leader (AddVoter).
func Open(cfg Config) (*Raft, error) {
	if err := cfg.populate(); err != nil {
		return nil, fmt.Errorf("registrar: %w", err)
	}
	r := &Raft{
		cfg: cfg, log: cfg.Log, m: newMachine(),
		queue:        make(chan *proposal, MaxCommands),
		leadership:   make(chan Leadership, 1),
		establishing: make(chan struct{}, 1),
		readWake:     make(chan struct{}, 1),
		failed:       make(chan struct{}),
	}
	r.m.known, r.m.fail = cfg.Capability, r.fail
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.open(); err != nil {
		r.cancel()
		return nil, fmt.Errorf("registrar: %w", err)
	}
	return r, nil
}

func (r *Raft) open() (err error) {
	if r.stores, err = openStores(&r.cfg, r.fail); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = r.stores.close()
		}
	}()
	trans := r.cfg.Transport
	if trans == nil {
		r.layer = newLayer(r.cfg.Endpoint, r.cfg.Addr, r.log)
		trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: r.layer, MaxPool: 3, Timeout: rpcTimeout, Logger: hclogTo(r.log, "raft_net"),
		})
	}
	r.trans = newTracker(trans)
	rc := r.cfg.raft()
	if err = r.bootstrap(rc, trans); err == nil {
		r.raft, err = raft.NewRaft(rc, (*fsm)(r.m), r.stores.log, r.stores.stable, r.stores.snapshots, r.trans)
	}
	if err == nil && r.Failure() != nil { // an older snapshot could be read
		err = r.raft.Shutdown().Error()
		err = errors.Join(r.Failure(), err)
	}
	if err != nil {
		if r.layer != nil {
			_ = trans.Close()
		}
		if f := r.Failure(); f != nil {
			err = f // Raft says only that it failed
		}
		return fmt.Errorf("starting raft: %w", err)
	}
	if r.layer != nil {
		r.layer.start(r)
	}
	r.wg.Go(func() { r.receive(trans.Consumer()) })
	r.wg.Go(r.hastenLoop)
	r.wg.Go(r.leadershipLoop)
	r.wg.Go(r.proposeLoop)
	r.wg.Go(r.readLoop)
	return nil
}

func (r *Raft) bootstrap(rc *raft.Config, trans Transport) error {
	if !r.cfg.Bootstrap {
		return nil
	}
	err := raft.BootstrapCluster(rc, r.stores.log, r.stores.stable, r.stores.snapshots, trans, raft.Configuration{
		Servers: []raft.Server{{ID: rc.LocalID, Address: raft.ServerAddress(r.cfg.Addr)}},
	})
	if errors.Is(err, raft.ErrCantBootstrap) { // done at an earlier start
		return nil
	}
	return err
}

// closeGrace is how long Close waits for proposals in flight. A leader that is
// cut off answers them when its lease ends, well before this.
const closeGrace = 5 * time.Second

// Close ends this replica's part and waits for its goroutines. Proposals that
// wait fail; a leader goes without handing over (see Transfer).
func (r *Raft) Close() error {
	r.closeOnce.Do(func() { r.closeErr = r.shut() })
	return r.closeErr
}

// spawn runs fn in a goroutine that Close waits for; false once closing.
func (r *Raft) spawn(fn func()) bool {
	r.spawning.Lock()
	defer r.spawning.Unlock()
	if r.ctx.Err() != nil {
		return false
	}
	r.wg.Go(fn)
	return true
}

func (r *Raft) shut() error {
	r.spawning.Lock()
	r.cancel()
	r.spawning.Unlock()
	r.m.close() // first: a full follower blocks the state machine
	// Raft forgets futures that are in flight when it is shut down, so those
	// who wait for one are waited for before.
	done := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(done)
	}()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
		r.log.Warn("proposals still in flight at close")
	}
	if r.stores.guard != nil {
		r.stores.guard.end()
	}
	if r.layer != nil {
		r.layer.hangUp()
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.raft.Shutdown().Error() }()
	var errs []error
	if r.Failure() == nil {
		errs = append(errs, <-stopped)
	} else {
		// A part of Raft may hang for good: it is left to the end of the process.
		select {
		case err := <-stopped:
			errs = append(errs, err)
		case <-time.After(failedGrace):
			return fmt.Errorf("registrar: close: %w", r.Failure())
		}
	}
	if r.layer != nil {
		r.layer.wait()
	}
	errs = append(errs, r.stores.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("registrar: close: %w", err)
	}
	return nil
}

// failedGrace is how long a replica that has failed waits for its Raft.
const failedGrace = time.Second

// fail notes what this replica cannot go on from.
func (r *Raft) fail(err error) {
	r.failing.Lock()
	defer r.failing.Unlock()
	if r.failure == nil {
		r.failure = err
		r.log.Error("this replica cannot go on", "error", err)
		close(r.failed)
	}
}

// Failed is closed when this replica cannot go on: Failure says why. The owner
// closes it, and ends.
func (r *Raft) Failed() <-chan struct{} { return r.failed }

// Failure is why this replica cannot go on, nil while it can.
func (r *Raft) Failure() error {
	r.failing.Lock()
	defer r.failing.Unlock()
	return r.failure
}

// Stale calls fn with the state of this replica, which may lag behind the
// leader's. It waits for nobody. fn must be quick and must not keep or change
// the state.
func (r *Raft) Stale(fn func(*state.State)) { r.m.read(fn) }

// Follow returns the state of this replica and a channel with every entry
// applied after it, in order. Called after Leadership said that this replica
// leads, the state holds everything that earlier terms committed.
//
// The owner drains the channel until ctx ends: a full channel stops the state
// machine, and with it every Propose and Read. The channel is closed when ctx
// ends, when the registrar closes, and when the state is replaced by a snapshot
// (never while leading): then follow again.
func (r *Raft) Follow(ctx context.Context) (*state.State, <-chan Entry, error) {
	return r.m.follow(ctx)
}

// fsm is the machine as Raft sees it.
type fsm machine

var _ raft.ConfigurationStore = (*fsm)(nil)

func (f *fsm) Apply(l *raft.Log) any {
	if err := sound(l); err != nil {
		(*machine)(f).stop(fmt.Errorf("%w; %s", err, damagedNext))
		return []state.Result(nil)
	}
	return (*machine)(f).apply(l.Index, l.Data)
}

// StoreConfiguration only counts: such an entry changes nothing here, and Read
// waits until every entry before it has been applied.
func (f *fsm) StoreConfiguration(index uint64, _ raft.Configuration) { (*machine)(f).advance(index) }

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	m := (*machine)(f)
	st, err := readSnapshot(r, m.known)
	if err != nil {
		m.stop(err)
		return err
	}
	m.restore(st)
	return nil
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := (*machine)(f).stopped(); err != nil {
		return nil, err // Raft counts entries that were not applied
	}
	return &frozen{(*machine)(f).clone()}, nil
}

// frozen is a state that is written while the machine goes on.
type frozen struct{ st *state.State }

func (z *frozen) Persist(sink raft.SnapshotSink) error {
	data, err := EncodeState(z.st)
	if err == nil {
		_, err = sink.Write(data)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing a snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (z *frozen) Release() { z.st = nil }
