package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// TrustDomain is the fleet's.
const TrustDomain = "fleet.example"

// Fleet is a control plane and its agents. It belongs to one test.
type Fleet struct {
	tb  testing.TB
	net *transporttest.Net
	dir string
	// Level is what the log of the test gets; LevelWarn unless changed.
	Level slog.Level
	// Patience multiplies Raft's time-outs; 0 means 1. Beats between replicas are
	// most of the work where much time passes.
	Patience int
	// Tune, when set, may change how a replica is started.
	Tune func(id fleet.ReplicaID, cfg *controlplane.Config)
	// TuneAgent, when set, may change how an agent joins and is started.
	TuneAgent func(cfg *agent.Config)
	Replicas  []*Replica
	// Clock is how far the clocks of agents' machines are ahead that join or
	// start from now on; Notice is what the last one to join was told.
	Clock  time.Duration
	Notice string
	hosts  int
}

// New returns a fleet without members, on n or, when that is nil, on loopback.
func New(tb testing.TB, n *transporttest.Net) *Fleet {
	return &Fleet{tb: tb, net: n, dir: tb.TempDir(), Level: slog.LevelWarn}
}

// Replica is one member of the control plane.
type Replica struct {
	*controlplane.Replica
	ID   fleet.ReplicaID
	Addr string
	f    *Fleet
	dir  string
	life
}

// Leading reports whether the replica's leader loop runs.
func (r *Replica) Leading() bool { return r.Replica != nil && r.Status().Term != 0 }

// life is a goroutine that can be ended and begun again.
type life struct {
	cancel context.CancelFunc
	done   chan error
}

func (l *life) begin(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.done = cancel, make(chan error, 1)
	done := l.done
	go func() { done <- run(ctx) }()
}

// ended reports whether it has ended by itself; end still tells how.
func (l *life) ended() bool { return len(l.done) > 0 }

// end waits for everything that begin started.
func (l *life) end() error {
	if l.cancel == nil {
		return nil
	}
	l.cancel()
	l.cancel = nil
	return <-l.done
}

// conn opens a socket of an address, or of any free port on loopback.
func (f *Fleet) conn(addr string) net.PacketConn {
	f.tb.Helper()
	if f.net != nil {
		return f.net.Conn(addr)
	}
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		f.tb.Fatal(err)
	}
	return c
}

// host is the address of the next machine of a subnet.
func (f *Fleet) host(subnet, port int) string {
	f.hosts++
	if f.net == nil {
		return fmt.Sprintf("127.%d.%d.%d:0", subnet, f.hosts/250, f.hosts%250+1)
	}
	return fmt.Sprintf("10.%d.%d.%d:%d", subnet, f.hosts/250, f.hosts%250+1, port)
}

func (f *Fleet) log(who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(f.tb.Output(), &slog.HandlerOptions{Level: f.Level})).With("at", who)
}

func (f *Fleet) fatal(err error) {
	f.tb.Helper()
	if err != nil {
		f.tb.Fatal(err)
	}
}

// Trio brings up three replicas; the first leads.
func (f *Fleet) Trio() { f.Up(3) }

// Up brings up n replicas; the first leads.
func (f *Fleet) Up(n int) {
	f.tb.Helper()
	for i := range n {
		id := fleet.ReplicaID(fmt.Sprintf("r%d", i+1))
		conn := f.conn(f.host(0, 7443))
		r := &Replica{ID: id, Addr: conn.LocalAddr().String(), f: f, dir: filepath.Join(f.dir, string(id))}
		if i == 0 {
			f.found(r)
		} else {
			_, err := controlplane.Join(f.tb.Context(), f.Line(pki.KindReplica, 1), controlplane.JoinOptions{
				DataDir: r.dir, ID: id, Addr: r.Addr, Conn: f.conn(f.host(2, 1000)),
			})
			f.fatal(err)
		}
		f.Replicas = append(f.Replicas, r)
		f.tb.Cleanup(r.Stop)
		r.start(conn)
		f.Await(fmt.Sprintf("all know that %s is a voter", id), 30*time.Second, f.complete)
	}
}

// complete reports whether every replica knows all of them as voters. Until
// then the loss of one may be the loss of a majority.
func (f *Fleet) complete() bool {
	for _, r := range f.Replicas {
		voters := 0
		for _, m := range r.Status().Replicas {
			if m.Voter {
				voters++
			}
		}
		if voters < len(f.Replicas) || r.Status().Leader == "" {
			return false
		}
	}
	return true
}

// Start starts a stopped replica at its old address.
func (r *Replica) Start() { r.f.tb.Helper(); r.start(r.f.conn(r.Addr)) }

func (r *Replica) start(conn net.PacketConn) {
	r.f.tb.Helper()
	cfg := controlplane.Config{DataDir: r.dir, Conn: conn, Version: "test", Log: r.f.log(string(r.ID))}
	cfg.Patience = r.f.Patience
	if r.f.Tune != nil {
		r.f.Tune(r.ID, &cfg)
	}
	cp, err := controlplane.Open(cfg)
	r.f.fatal(err)
	r.Replica = cp
	r.begin(cp.Serve)
}

// Stop ends a replica in order and waits for it.
func (r *Replica) Stop() {
	if err := r.end(); err != nil {
		r.f.tb.Errorf("%s: %v", r.ID, err)
	}
}

// Await polls until cond holds and returns how long that took, to the
// millisecond at first and to a hundredth later on.
func (f *Fleet) Await(what string, limit time.Duration, cond func() bool) time.Duration {
	f.tb.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > limit {
			f.tb.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(max(time.Millisecond, time.Since(began)/100))
	}
	return time.Since(began)
}

// Leader waits for the replica that leads. Those that are cut off step down
// by themselves within a second.
func (f *Fleet) Leader() *Replica {
	f.tb.Helper()
	var found *Replica
	f.Await("a leader", 30*time.Second, func() bool {
		found = nil
		for _, r := range f.Replicas {
			if r.Leading() {
				found = r
			}
		}
		return found != nil
	})
	return found
}

// Others are the replicas but one.
func (f *Fleet) Others(than *Replica) []*Replica {
	var out []*Replica
	for _, r := range f.Replicas {
		if r != than {
			out = append(out, r)
		}
	}
	return out
}

// Propose commits commands through the leader; a refusal ends the test.
func (f *Fleet) Propose(cmds ...state.Command) []state.Result {
	f.tb.Helper()
	for i := range cmds {
		cmds[i].Time = time.Now()
	}
	results, err := f.Leader().Propose(f.tb.Context(), cmds...)
	f.fatal(err)
	for _, r := range results {
		f.fatal(r.Err())
	}
	return results
}

// Line makes a join line, as `tender token create` does.
func (f *Fleet) Line(kind pki.Kind, uses int) pki.JoinLine {
	f.tb.Helper()
	line := f.Leader().Join(kind)
	line.Secret, line.Expires = pki.NewSecret(), time.Now().Add(time.Hour)
	f.Propose(state.Command{PutToken: &state.Token{
		Hash: pki.HashSecret(line.Secret), Kind: state.IdentityKind(kind), Site: "berlin", Uses: uses, Expires: line.Expires,
	}})
	return line
}

// Submission is a task of one processor for the built-in framework.
func Submission(id fleet.TaskID, command ...string) state.Command {
	return state.Command{Time: time.Now(), Submit: &state.Submit{
		ID: id, Framework: framework.RunID, Role: "default",
		Spec: fleet.TaskSpec{Name: string(id), Image: "docker.io/library/busybox:1.36", Command: command, Network: fleet.NetworkNone},
		Need: fleet.Need{CPUs: fleet.Whole(1), Mem: fleet.Whole(64)},
	}}
}

// Submit queues a task; command is one of executor.Commands.
func (f *Fleet) Submit(id fleet.TaskID, command ...string) {
	f.tb.Helper()
	f.Propose(Submission(id, command...))
}

// Task is a task as the leader holds it.
func (f *Fleet) Task(id fleet.TaskID) (t state.Task) {
	f.tb.Helper()
	f.Leader().Stale(func(s *state.State) {
		if p := s.Tasks[id]; p != nil {
			t = *p
		}
	})
	return t
}

// State is the state of a task, 0 when nobody knows it.
func (f *Fleet) State(id fleet.TaskID) fleet.TaskState { f.tb.Helper(); return f.Task(id).State }

// Reach waits until a task is in a state and returns how long that took.
func (f *Fleet) Reach(id fleet.TaskID, want fleet.TaskState, limit time.Duration) time.Duration {
	f.tb.Helper()
	return f.Await(fmt.Sprintf("%s is %v", id, want), limit, func() bool { return f.State(id) == want })
}

// Tasks lists the tasks that the leader knows, in order.
func (f *Fleet) Tasks() (ids []fleet.TaskID) {
	f.tb.Helper()
	f.Leader().Stale(func(s *state.State) { ids = state.SortedKeys(s.Tasks) })
	return ids
}
