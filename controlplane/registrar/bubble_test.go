package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
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

func TestTrio(t *testing.T) {
	registrartest.RunInBubbles(t, func(t *testing.T) registrartest.Registrar {
		return inMemory(t).all[0].Raft
	})
}

func TestFollowersSendToTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTrio(t, "", nil)
		c.conn = transporttest.NewNet(t, time.Millisecond).Conn
		c.start(3)
		follower := c.all[1]
		want := &registrar.NotLeaderError{Leader: "r1", Addr: c.all[0].cfg.Addr}
		_, err := follower.Propose(t.Context(), registrartest.Submit("t1"))
		for _, err := range []error{
			err,
			follower.Read(t.Context(), func(*state.State) {}),
			follower.AddVoter(t.Context(), "r9", "127.0.0.1:9"),
			follower.Transfer(t.Context()),
		} {
			var got *registrar.NotLeaderError
			if !errors.As(err, &got) || *got != *want || !errors.Is(err, registrar.ErrNotLeader) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		for _, r := range c.all {
			members := r.Replicas()
			for i, m := range members {
				if m.ID != c.all[i].cfg.ID || m.Addr != c.all[i].cfg.Addr || !m.Voter || m.Leader != (i == 0) {
					t.Errorf("%s sees %+v", r.id, m)
				}
			}
			if members[0].LastContact.IsZero() {
				t.Errorf("%s has not heard from the leader", r.id)
			}
		}
	})
}

// inMemory starts a trio on a network in memory; r1 leads.
func inMemory(t *testing.T) *trio {
	c := newTrio(t, "", nil)
	c.conn = transporttest.NewNet(t, time.Millisecond).Conn
	c.start(3)
	return c
}

func TestTransferAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inMemory(t)
		if err := c.all[0].Transfer(t.Context()); err != nil {
			t.Fatal(err)
		}
		lead := c.leader(c.without(c.all[0])...)
		gone := c.without(lead)[0]
		if err := lead.Remove(t.Context(), gone.cfg.ID); err != nil {
			t.Fatal(err)
		}
		if n := len(lead.Replicas()); n != 2 {
			t.Errorf("%d replicas after one of three was removed", n)
		}
		registrartest.Propose(t, lead.Raft, registrartest.Submit("t1"))
		// It may come back, with what it had.
		for range 2 { // the second time it is there
			if err := lead.AddVoter(t.Context(), gone.cfg.ID, gone.cfg.Addr); err != nil {
				t.Fatal(err)
			}
		}
		c.agree()
		for _, m := range lead.Replicas() {
			if !m.Voter || time.Since(m.LastContact) > registrar.DefaultLease {
				t.Errorf("%+v", m)
			}
		}
	})
}

// A newcomer that does not answer must not cost a single replica its majority.
func TestANewcomerThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, time.Millisecond)
		c := newTrio(t, "", nil)
		c.conn = n.Conn
		c.start(1)
		lead := c.all[0]
		registrartest.AwaitLeading(t, lead.Raft)
		n.Cut("10.0.0.2:7443")
		err := lead.AddVoter(t.Context(), "r2", "10.0.0.2:7443")
		if err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "10.0.0.2:7443") {
			t.Errorf("AddVoter: %v", err)
		}
		if got := lead.Replicas(); len(got) != 1 {
			t.Errorf("members: %+v", got)
		}
		// One that comes while it is waited for is added.
		added := make(chan error, 1)
		go func() { added <- lead.AddVoter(t.Context(), "r2", "10.0.0.2:7443") }()
		time.Sleep(4 * time.Second)
		c.all = append(c.all, c.up("r2", "10.0.0.2:7443", false))
		n.Heal("10.0.0.2:7443")
		if err := <-added; err != nil {
			t.Error(err)
		}
		select {
		case l := <-lead.Leadership():
			t.Errorf("leadership changed: %+v", l)
		default:
		}
		registrartest.Propose(t, lead.Raft, registrartest.Submit("t1"))
		c.agree()
	})
}

// The certificate, not the message, says which replica speaks.
func TestSessionsOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, time.Millisecond)
		c := newTrio(t, "", nil)
		c.conn = n.Conn
		c.start(3)
		stranger, err := transport.Listen(transport.Config{
			Conn: n.Conn("10.0.0.9:7443"), Holder: pki.NewHolder(c.ca.Credential(t, pki.KindReplica, "r9")),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		s, err := stranger.Dial(t.Context(), c.all[1].cfg.Addr, transport.ALPNRaft, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-s.Context().Done()
		var closed *transport.CloseError
		if err := context.Cause(s.Context()); !errors.As(err, &closed) || !strings.Contains(closed.Reason, "not a member") {
			t.Errorf("a stranger's session ended with %v", err)
		}

		// r4 is to be at an address where r9 answers: nobody is taken for another.
		if err := c.all[0].AddVoter(t.Context(), "r4", "10.0.0.9:7443"); err == nil {
			t.Error("r9 was added as r4")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if s, err := stranger.Accept(ctx, transport.ALPNRaft); err == nil && s.Context().Err() == nil {
			t.Errorf("%s opened a session to the wrong replica", s.Peer())
		}
	})
}

// A leader's death is noticed when its time-out is over, by those who miss it.
func TestElectionsAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, time.Millisecond)
		c := newTrio(t, "", nil)
		c.conn = n.Conn
		c.start(3)
		slow := 0
		for i := range 50 {
			old := c.leader(c.all...)
			c.agree()
			time.Sleep(time.Duration(i*17%100) * time.Millisecond)
			n.Cut(old.cfg.Addr)
			began := time.Now()
			lead := c.leader(c.without(old)...)
			if took := time.Since(began); took > registrar.DefaultHeartbeat*115/100 {
				t.Logf("election %d took %v", i, took)
				slow++
			}
			n.Heal(old.cfg.Addr)
			registrartest.Propose(t, lead.Raft, registrartest.Submit(fmt.Sprintf("t%d", i)))
			c.agree()
		}
		// A session over which its end was cut off a moment ago may be slow still.
		if slow > 2 {
			t.Errorf("%d of 50 elections were slow", slow)
		}
	})
}

// A follower that alone does not hear its leader changes nothing.
func TestOneWhoDoesNotHearItsLeaderIsNotElected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.NewNet(t, time.Millisecond)
		c := newTrio(t, "", nil)
		c.conn = n.Conn
		c.start(3)
		lead := c.leader(c.all...)
		term := registrartest.AwaitLeading(t, lead.Raft)
		for _, r := range c.without(lead) {
			n.Cut(r.cfg.Addr)
			time.Sleep(10 * time.Second)
			n.Heal(r.cfg.Addr)
			registrartest.Propose(t, lead.Raft, registrartest.Submit("t-"+r.id))
			c.agree()
		}
		select {
		case l := <-lead.Leadership():
			t.Errorf("leadership changed: %+v after term %d", l, term)
		default:
		}
	})
}
