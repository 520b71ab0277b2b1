package bench_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// wireAgent speaks agent/1 and does nothing else: no checkpoint, no container.
// Each task is reported in all states at once, as soon as it is assigned.
type wireAgent struct {
	id     fleet.AgentID
	states []fleet.TaskState
	conn   *wire.Conn
	seen   map[fleet.TaskID]bool
}

// room is more than any benchmark takes.
var room = fleet.Resources{CPUs: fleet.Whole(10_000_000), Mem: fleet.Whole(1_000_000_000), Disk: fleet.Whole(1000)}

// startWireAgent connects an agent that has joined. It ends with ctx, or with
// its session: then failed is called.
func startWireAgent(ctx context.Context, b *testing.B, a *cluster.Agent, leader string, failed context.CancelCauseFunc, states ...fleet.TaskState) (ended <-chan struct{}) {
	b.Helper()
	dialer, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(a.Credential())})
	if err != nil {
		b.Fatal(err)
	}
	session, err := dialer.Dial(ctx, leader, transport.ALPNAgent, nil)
	if err != nil {
		b.Fatal(err)
	}
	st, err := session.Open(ctx, transport.StreamControl)
	if err != nil {
		b.Fatal(err)
	}
	w := &wireAgent{id: a.ID, states: states, conn: wire.NewConn(st, wire.MaxControl), seen: map[fleet.TaskID]bool{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer dialer.Close()
		if err := w.run(); err != nil {
			failed(fmt.Errorf("agent %s: %w", a.ID, err))
		}
	}()
	context.AfterFunc(ctx, func() { session.Close(transport.CodeOK, "") })
	return done
}

func (w *wireAgent) run() error {
	if err := w.conn.Send(wire.Hello{Capability: wire.Capability, Agent: w.id, Capacity: fleet.Capacity{Total: room}}); err != nil {
		return err
	}
	if err := w.conn.Send(wire.Pull{Full: true}); err != nil {
		return err
	}
	for {
		msg, err := w.conn.Recv()
		if err != nil {
			return err
		}
		if d, ok := msg.(wire.DesiredSet); ok {
			if err := w.take(d.Desired); err != nil {
				return err
			}
		}
	}
}

func (w *wireAgent) take(d fleet.Desired) error {
	if err := w.conn.Send(wire.Pull{Generation: d.Generation}); err != nil {
		return err
	}
	var updates []fleet.StatusUpdate
	for _, a := range d.Assignments {
		if w.seen[a.Task] {
			continue
		}
		w.seen[a.Task] = true
		for i, s := range w.states {
			st := fleet.Status{Task: a.Task, State: s, Time: time.Now(), ExitCode: -1}
			if s == fleet.TaskFinished {
				st.ExitCode = 0
			}
			seq := uint64(i + 1)
			updates = append(updates, fleet.StatusUpdate{ID: fleet.UpdateID(fmt.Sprintf("%s-%d", a.Task, seq)), Seq: seq, Status: st})
		}
	}
	for len(updates) > 0 {
		n := min(len(updates), 512)
		if err := w.conn.Send(wire.Report{Updates: updates[:n]}); err != nil {
			return err
		}
		updates = updates[n:]
	}
	return nil
}
