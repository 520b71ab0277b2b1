package registrar_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// replica is one replica with its own port.
type replica struct {
	*registrar.Raft
	id       string
	cfg      registrar.Config
	endpoint *transport.Endpoint
	socket   *socket // nil where conn was given
}

// trio is up to three replicas on loopback or on any other network of packets.
type trio struct {
	tb  testing.TB
	ca  *pkitest.CA
	dir string // empty: everything in memory
	// tune changes every replica's configuration before it is opened.
	tune func(*registrar.Config)
	// conn makes a replica's socket; nil means UDP on loopback.
	conn func(addr string) net.PacketConn
	// plain gives the replicas real UDP sockets, which cannot go silent.
	plain bool
	all   []*replica
}

func newTrio(tb testing.TB, dir string, tune func(*registrar.Config)) *trio {
	return &trio{tb: tb, ca: pkitest.New(tb, "fleet.example"), dir: dir, tune: tune}
}

// socket is a UDP port on loopback that can go silent, as when its machine
// loses power.
type socket struct {
	net.PacketConn
	off atomic.Bool
}

func (s *socket) WriteTo(p []byte, a net.Addr) (int, error) {
	if s.off.Load() {
		return len(p), nil
	}
	return s.PacketConn.WriteTo(p, a)
}

func (s *socket) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, a, err := s.PacketConn.ReadFrom(p)
		if err != nil || !s.off.Load() {
			return n, a, err
		}
	}
}

// up starts replica id at addr ("127.0.0.1:0" picks a port).
func (c *trio) up(id, addr string, bootstrap bool) *replica {
	c.tb.Helper()
	r := &replica{id: id}
	var conn net.PacketConn
	if c.conn != nil {
		conn = c.conn(addr)
	} else {
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			c.tb.Fatal(err)
		}
		r.socket = &socket{PacketConn: udp}
		conn = r.socket
		if c.plain {
			conn = udp
		}
	}
	var err error
	r.endpoint, err = transport.Listen(transport.Config{
		Conn:   conn,
		Holder: pki.NewHolder(c.ca.Credential(c.tb, pki.KindReplica, id)),
		Allow:  func(pki.Identity, *x509.Certificate, string) error { return nil },
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	r.cfg = registrar.Config{
		ID: fleet.ReplicaID(id), Addr: r.endpoint.Addr().String(), Bootstrap: bootstrap,
		Endpoint: r.endpoint, Log: slog.New(slog.NewTextHandler(c.tb.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	}
	if c.dir != "" {
		r.cfg.Dir = filepath.Join(c.dir, id)
	}
	if c.tune != nil {
		c.tune(&r.cfg)
	}
	if r.Raft, err = registrar.Open(r.cfg); err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { c.down(r) })
	return r
}

// down closes a replica in order.
func (c *trio) down(r *replica) {
	if err := r.Close(); err != nil {
		c.tb.Errorf("close %s: %v", r.id, err)
	}
	if err := r.endpoint.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.tb.Errorf("close endpoint of %s: %v", r.id, err)
	}
}

// start brings up n replicas; the first leads.
func (c *trio) start(n int) {
	c.tb.Helper()
	for i := range n {
		c.all = append(c.all, c.up(fmt.Sprintf("r%d", i+1), c.addrOf(i), i == 0))
	}
	first := c.all[0]
	c.await("the first replica leads", func() bool { id, _ := first.Leader(); return string(id) == first.id })
	for _, r := range c.all[1:] {
		c.atLeader(func(lead *replica) error { return lead.AddVoter(c.tb.Context(), r.cfg.ID, r.cfg.Addr) })
	}
	for _, r := range c.all {
		c.await(r.id+" knows all", func() bool { return len(r.Replicas()) == n })
	}
}

func (c *trio) addrOf(i int) string {
	if c.conn != nil {
		return fmt.Sprintf("10.0.0.%d:7443", i+1)
	}
	return "127.0.0.1:0"
}

// await polls until cond holds: raft's threads and sockets are real here.
func (c *trio) await(what string, cond func() bool) {
	c.tb.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.tb.Fatalf("not within 30 s: %s", what)
		}
	}
}

// leader waits until one of the replicas serves reads.
func (c *trio) leader(among ...*replica) *replica {
	c.tb.Helper()
	var found *replica
	c.await("a leader", func() bool {
		for _, r := range among {
			ctx, cancel := context.WithTimeout(c.tb.Context(), time.Second)
			err := r.Read(ctx, func(*state.State) {})
			cancel()
			if err == nil {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// without lists all replicas but one.
func (c *trio) without(out *replica) []*replica {
	var rest []*replica
	for _, r := range c.all {
		if r != out {
			rest = append(rest, r)
		}
	}
	return rest
}

// atLeader runs what a leader does until it succeeds: on a busy machine the
// replicas may elect another one at any time.
func (c *trio) atLeader(do func(lead *replica) error) {
	c.tb.Helper()
	c.await("the leader does it", func() bool {
		err := do(c.leader(c.all...))
		if err != nil && !errors.Is(err, registrar.ErrNotLeader) && !errors.Is(err, registrar.ErrTimeout) {
			c.tb.Fatal(err)
		}
		return err == nil
	})
}

// propose repeats commands until they are committed. They must bear that.
func (c *trio) propose(cmds ...state.Command) {
	c.tb.Helper()
	c.atLeader(func(lead *replica) error {
		_, err := lead.Propose(c.tb.Context(), cmds...)
		return err
	})
}

// agree waits until all replicas hold the same state as the leader.
func (c *trio) agree() {
	c.tb.Helper()
	c.await("all hold the leader's state", func() bool {
		var want [32]byte
		if c.leader(c.all...).Read(c.tb.Context(), func(s *state.State) { want = registrar.Hash(s) }) != nil {
			return false
		}
		for _, r := range c.all {
			if hash(r.Raft) != want {
				return false
			}
		}
		return true
	})
}

func hash(r registrartest.Registrar) (h [32]byte) {
	r.Stale(func(s *state.State) { h = registrar.Hash(s) })
	return h
}
