package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// Under fake time and over a network in memory: the leader is cut off from the
// others for a minute.
func TestTheLeaderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, 5*time.Millisecond)
		c := newTrio(t, "", nil)
		c.conn = n.Conn
		c.start(3)
		old := c.all[0]
		term := registrartest.AwaitLeading(t, old.Raft)
		registrartest.Propose(t, old.Raft, registrartest.Submit("before"))

		n.Cut(old.cfg.Addr)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := old.Propose(ctx, registrartest.Submit("lost"))
		if !errors.Is(err, registrar.ErrTimeout) {
			t.Errorf("the leader that is cut off: %v, want ErrTimeout", err)
		}
		if d := time.Since(began); d > 2*registrar.DefaultLease {
			t.Errorf("it took %v to find out", d)
		}
		if l := <-old.Leadership(); l.Leading {
			t.Errorf("the leader that is cut off says %+v", l)
		}
		lead := c.leader(c.without(old)...)
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("a new leader after %v", d)
		}
		if got := registrartest.AwaitLeading(t, lead.Raft); got <= term {
			t.Errorf("term %d after %d", got, term)
		}
		registrartest.Propose(t, lead.Raft, registrartest.Submit("after"))
		time.Sleep(time.Minute)
		if id, _ := lead.Leader(); string(id) != lead.id {
			t.Errorf("after a minute %s leads", id)
		}

		n.Heal(old.cfg.Addr)
		c.agree()
		if id, _ := lead.Leader(); string(id) != lead.id {
			t.Errorf("the return of %s made %s the leader", old.id, id)
		}
		if st, _, err := old.Follow(t.Context()); err != nil || st.Tasks["lost"] != nil || st.Tasks["after"] == nil {
			t.Errorf("the old leader holds %d tasks, %v", len(st.Tasks), err)
		}
		for _, r := range c.all {
			c.down(r)
		}
	})
}

// The transport may be any of Raft's.
func TestInjectedTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var trans []*raft.InmemTransport
		var all []*registrar.Raft
		for i := range 3 {
			addr, tr := raft.NewInmemTransport(raft.ServerAddress(fmt.Sprintf("r%d", i+1)))
			for _, o := range trans {
				tr.Connect(o.LocalAddr(), o)
				o.Connect(addr, tr)
			}
			trans = append(trans, tr)
			r, err := registrar.Open(registrar.Config{
				ID: fleet.ReplicaID(addr), Addr: string(addr), Transport: tr, Bootstrap: i == 0,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			all = append(all, r)
		}
		registrartest.AwaitLeading(t, all[0])
		for i, tr := range trans[1:] {
			if err := all[0].AddVoter(t.Context(), fleet.ReplicaID(tr.LocalAddr()), string(tr.LocalAddr())); err != nil {
				t.Fatalf("replica %d: %v", i+2, err)
			}
		}
		for i := range 100 {
			registrartest.Propose(t, all[0], registrartest.Submit(fmt.Sprintf("t%d", i)))
		}
		for _, r := range all {
			for hash(r) != hash(all[0]) {
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
}
