package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/e2e/bed"
)

// Fleet is a control plane and what has joined it.
type Fleet struct {
	*client.Client // an operator's, who knows all replicas
	Replicas       []*Replica
	// Operator is the operator's credential.
	Operator *pki.Credential
	owner    testing.TB // the test that made it, which its programs end with
	bed      *bed.Bed   // where they run; nil is loopback
	dir      string
	made     int // replicas, those that were removed too
	agents   int
}

// Replica is one tenderd.
type Replica struct {
	ID, Addr, Data, Socket string
	// Plain is an address that PlainAddr stands for in its arguments.
	Plain string
	// Node is the node of the bed that it runs on, empty on loopback.
	Node  string
	fleet *Fleet
	args  []string
	proc  *Process
}

// PlainAddr stands, in the arguments of a replica, for a free address of its
// own on loopback.
const PlainAddr = "{plain}"

// NewFleet makes a control plane of n replicas, each of which votes, by init
// and join lines. runArgs go to every `tenderd run`.
func NewFleet(t testing.TB, n int, runArgs ...string) *Fleet {
	t.Helper()
	return newFleet(t, nil, n, runArgs)
}

// NewFleetOn is NewFleet on a bed: replica r1 runs on the node c1, r2 on c2,
// and calls come from the node o1.
func NewFleetOn(t testing.TB, b *bed.Bed, n int, runArgs ...string) *Fleet {
	t.Helper()
	return newFleet(t, b, n, runArgs)
}

func newFleet(t testing.TB, b *bed.Bed, n int, runArgs []string) *Fleet {
	t.Helper()
	// Sockets have paths of at most 107 bytes, which t.TempDir exceeds.
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the fleet's directory: %v", err)
		}
	})
	f := &Fleet{owner: t, bed: b, dir: dir}
	first := f.replica(t, runArgs)
	f.tenderd(t, first.Node, "", "init", "--data", first.Data, "--addr", first.Addr, "--id", first.ID, "--trust-domain", "e2e.test")
	if f.Operator, err = pki.LoadDir(filepath.Join(first.Data, "operator")); err != nil {
		t.Fatal(err)
	}
	f.connect(t)
	first.Start(t)
	f.Leader(t)
	for range n - 1 {
		f.Extend(t, runArgs...)
	}
	return f
}

// Extend adds a replica by a join line and waits until it votes.
func (f *Fleet) Extend(t testing.TB, runArgs ...string) *Replica {
	t.Helper()
	line := f.Token(t, client.CreateToken{Kind: "replica"})
	r := f.replica(t, runArgs)
	f.tenderd(t, r.Node, line, "join", "--data", r.Data, "--addr", r.Addr, "--id", r.ID, "-")
	r.Start(t)
	f.connect(t)
	f.voters(t, len(f.Replicas))
	return r
}

// Remove takes a replica out of the control plane, and ends it.
func (f *Fleet) Remove(t testing.TB, r *Replica) {
	t.Helper()
	if _, err := f.RemoveReplica(t.Context(), r.ID, client.RemoveReplica{}); err != nil {
		t.Fatalf("remove %s: %v", r.ID, err)
	}
	r.Kill(t)
	f.Replicas = slices.DeleteFunc(f.Replicas, func(x *Replica) bool { return x == r })
	f.connect(t)
	f.voters(t, len(f.Replicas))
}

// voters waits until that many replicas vote, as each of them sees it.
func (f *Fleet) voters(t testing.TB, n int) {
	t.Helper()
	for _, r := range f.Replicas {
		c := r.Client(t)
		Eventually(t, fmt.Sprintf("%s sees %d voters", r.ID, n), func() bool {
			doc, err := c.Replicas(t.Context())
			count := 0
			for _, m := range doc.Replicas {
				if m.Voter {
					count++
				}
			}
			return err == nil && count == n && doc.Leader != ""
		})
	}
}

func (f *Fleet) replica(t testing.TB, runArgs []string) *Replica {
	t.Helper()
	f.made++
	id := fmt.Sprintf("r%d", f.made)
	r := &Replica{ID: id, Addr: freeAddr(t), Data: filepath.Join(f.dir, id), Socket: filepath.Join(f.dir, id+".sock"), Plain: freeAddr(t), fleet: f}
	if f.bed != nil {
		r.Node = "c" + id[1:]
		r.Addr = f.bed.Addr(r.Node).String() + ":7443"
	}
	r.args = append([]string{"run", "--data", r.Data, "--listen", r.Addr, "--socket", r.Socket, "--log-level", logLevel(t)}, runArgs...)
	for i, arg := range r.args {
		r.args[i] = strings.ReplaceAll(arg, PlainAddr, r.Plain)
	}
	f.Replicas = append(f.Replicas, r)
	return r
}

// connect makes the client anew, with all addresses.
func (f *Fleet) connect(t testing.TB) {
	t.Helper()
	f.Client = f.ClientOf(t, f.Replicas...)
}

// ClientOf is a client of the operator's that asks these replicas, in order.
func (f *Fleet) ClientOf(t testing.TB, replicas ...*Replica) *client.Client {
	t.Helper()
	cfg := client.Config{Credential: f.Operator, Version: "e2e", Dial: f.Dial()}
	for _, r := range replicas {
		cfg.Servers = append(cfg.Servers, r.Addr)
	}
	return newClient(t, cfg)
}

// Login gives the operator a new credential, by a join line made at a replica.
func (f *Fleet) Login(t testing.TB) {
	t.Helper()
	tok, err := f.Leader(t).Client(t).CreateToken(t.Context(), client.CreateToken{Kind: "operator", TTL: client.Duration(10 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	f.made++ // a name of its own
	dir := filepath.Join(f.dir, fmt.Sprintf("operator-%d", f.made))
	path, argv := f.on(f.Replicas[0].Node, "tender", "login", "--credentials", dir, "--name", filepath.Base(dir), "-")
	if _, stderr, code := Run(t, tok.Line, path, argv...); code != 0 {
		t.Fatalf("tender login: %s", stderr)
	}
	if f.Operator, err = pki.LoadDir(dir); err != nil {
		t.Fatal(err)
	}
	f.connect(t)
}

// Dial connects to replicas; nil where the machine's own network reaches them.
func (f *Fleet) Dial() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if f.bed == nil {
		return nil
	}
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = f.bed.In("o1", func() error {
			conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// on is how a program runs on a node.
func (f *Fleet) on(node, program string, args ...string) (path string, argv []string) {
	if f.bed == nil {
		return Program(program), args
	}
	argv = f.bed.Argv(node, append([]string{Program(program)}, args...)...)
	return argv[0], argv[1:]
}

func newClient(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Start runs the replica, for the first time or again, and waits until its
// socket answers.
func (r *Replica) Start(t testing.TB) {
	t.Helper()
	path, args := r.fleet.on(r.Node, "tenderd", r.args...)
	r.proc = spawn(r.fleet.owner, t, r.ID, path, args...)
	Eventually(t, r.ID+" opens its socket", func() bool {
		select {
		case <-r.proc.Ended():
			t.Fatalf("%s has ended:\n%s", r.ID, r.proc.Log())
		default:
		}
		c, err := net.Dial("unix", r.Socket)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// Kill ends the replica as a crash would.
func (r *Replica) Kill(t testing.TB) { r.proc.Kill(t) }

// Process is the running replica, or the last one.
func (r *Replica) Process() *Process { return r.proc }

// Client is one that uses this replica's socket.
func (r *Replica) Client(t testing.TB) *client.Client {
	return newClient(t, client.Config{Socket: r.Socket, Version: "e2e"})
}

// Leader waits for a leader that the replicas agree on, and returns it.
func (f *Fleet) Leader(t testing.TB) *Replica {
	t.Helper()
	var leader *Replica
	Eventually(t, "a replica leads", func() bool {
		for _, r := range f.Replicas {
			c, err := client.New(client.Config{Socket: r.Socket})
			if err != nil {
				return false
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // it may be paused
			doc, err := c.Replicas(ctx)
			cancel()
			c.Close()
			// Only the leader knows for sure, and its term is not 0.
			if err == nil && doc.Leader == r.ID && doc.Term > 0 {
				leader = r
				return true
			}
		}
		return false
	})
	return leader
}

// Token makes a join token and returns its line.
func (f *Fleet) Token(t testing.TB, c client.CreateToken) string {
	t.Helper()
	if c.TTL == 0 {
		c.TTL = client.Duration(10 * time.Minute)
	}
	tok, err := f.CreateToken(t.Context(), c)
	if err != nil {
		t.Fatalf("make a join token: %v", err)
	}
	return tok.Line
}

// Submit queues a task and returns its id. CPUs and memory have defaults.
func (f *Fleet) Submit(t testing.TB, s client.Submit) string {
	t.Helper()
	task, err := f.Client.Submit(t.Context(), Complete(s))
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	return task.ID
}

// Complete fills in what most tests do not care about.
func Complete(s client.Submit) client.Submit {
	if s.Image == "" {
		s.Image = Image
	}
	if s.CPUs == "" {
		s.CPUs = "0.1"
	}
	if s.Mem == "" {
		s.Mem = "32"
	}
	return s
}

// Await waits until a task is as wanted.
func (f *Fleet) Await(t testing.TB, id, what string, ok func(client.Task) bool) client.Task {
	t.Helper()
	var task client.Task
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if task, err = f.WaitTask(t.Context(), id, task.Revision, time.Second); err == nil && ok(task) {
			return task
		}
	}
	t.Fatalf("task %s, not within %v: %s\nlast seen: %s\nlast error: %v", id, patience, what, Tell(task), err)
	return task
}

// Running waits until a task runs.
func (f *Fleet) Running(t testing.TB, id string) client.Task {
	t.Helper()
	return f.Await(t, id, "it runs", func(task client.Task) bool {
		if task.Terminal() {
			t.Fatalf("task %s has ended: %s", id, Tell(task))
		}
		return task.State == "TASK_RUNNING"
	})
}

// End waits until a task has ended.
func (f *Fleet) End(t testing.TB, id string) client.Task {
	t.Helper()
	return f.Await(t, id, "it has ended", client.Task.Terminal)
}

// Output returns what a task has printed so far.
func (f *Fleet) Output(t testing.TB, id string) (stdout, stderr string) {
	t.Helper()
	err := f.Logs(t.Context(), id, client.LogOptions{Tail: -1, Stdout: true, Stderr: true}, func(isErr bool, data []byte) error {
		if isErr {
			stderr += string(data)
		} else {
			stdout += string(data)
		}
		return nil
	})
	if err != nil {
		t.Errorf("logs of %s: %v", id, err)
	}
	return stdout, stderr
}

// Tell writes a task for people.
func Tell(task client.Task) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %q", task.State, task.Agent)
	if task.Waiting != nil {
		fmt.Fprintf(&b, ", waiting: %s", task.Waiting.Reason)
	}
	for _, h := range task.History {
		fmt.Fprintf(&b, "\n  %s %s %s %s", h.Time.Format("15:04:05.000"), h.State, h.Reason, h.Message)
	}
	return b.String()
}

func (f *Fleet) tenderd(t testing.TB, node, stdin string, args ...string) {
	t.Helper()
	path, argv := f.on(node, "tenderd", args...)
	if _, stderr, code := Run(t, stdin, path, argv...); code != 0 {
		t.Fatalf("tenderd %s: %s", args[0], stderr)
	}
}

// logLevel is what tells most, but not where the time counts.
func logLevel(t testing.TB) string {
	if _, bench := t.(*testing.B); bench {
		return "warn"
	}
	return "debug"
}

// freeAddr returns an address on loopback whose port nobody uses, TCP or UDP.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return addr
		}
	}
	t.Fatal("no port is free for both TCP and UDP")
	return ""
}
