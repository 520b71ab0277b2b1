package cluster_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// TestSessionWithoutUDP: a machine whose network drops UDP joins, is given work
// and reports over TCP, and moves to QUIC when UDP passes. Time is real here,
// on loopback: yamux shares timers between connections, which a bubble forbids.
func TestSessionWithoutUDP(t *testing.T) {
	t.Parallel()
	f := cluster.New(t, nil)
	f.Tune = func(_ fleet.ReplicaID, cfg *controlplane.Config) {
		ln, err := net.Listen("tcp", cfg.Conn.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		cfg.API = ln
	}
	var gate atomic.Pointer[transporttest.Gate]
	f.TuneAgent = func(cfg *agent.Config) {
		gate.Store(transporttest.NewGate(cfg.Conn, true))
		cfg.Conn, cfg.DialTCP, cfg.SeekQUIC = gate.Load(), (&net.Dialer{}).DialContext, time.Second
	}
	f.Up(1)
	a := f.Agent("behind-a-firewall") // joins over TCP, too
	if got := a.Link(); got != "tcp" {
		t.Fatalf("the link is %q, want tcp", got)
	}
	f.Submit("t1", "sleep", "1h")
	f.Reach("t1", fleet.TaskRunning, 10*time.Second)

	gate.Load().Shut(false)
	f.Await("the session is over QUIC", 20*time.Second, func() bool { return a.Link() == "quic" })
	f.Submit("t2", "exit", "0")
	f.Reach("t2", fleet.TaskFinished, 10*time.Second)
	if got := f.State("t1"); got != fleet.TaskRunning {
		t.Errorf("the task that ran through the change is %v", got)
	}
}
