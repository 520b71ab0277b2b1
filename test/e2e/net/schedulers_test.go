package net_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
)

// schedulers: a framework's id is a promise of the trio, not of a leader. Who
// comes with that of a removed one is refused, and who went holds no offers that
// nobody can use (chronos#520).
func (w *world) schedulers(t *testing.T) {
	p, err := w.CreatePrincipal(t.Context(), client.CreatePrincipal{ID: "sched", Kind: "framework", Roles: []string{"*"}})
	must(t, err)
	caller := &http.Client{
		Transport:     &http.Transport{DialContext: w.Dial(), TLSClientConfig: pki.PinnedTLS(p.Pin, pki.ALPNHTTP1)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer caller.CloseIdleConnections()
	old := w.Leader(t)
	s := cluster.NewScheduler(t, caller, "https://"+old.Addr, p.Token)
	s.Subscribe(cluster.Framework("*"))
	s.Subscribed()
	first := s.Offer()

	old.Kill(t)
	s.Ended()
	next := w.successor(t, old, soon)
	s.URL = strings.ReplaceAll(s.URL, old.Addr, next.Addr)
	id := s.ID
	s.Subscribe(cluster.Framework("*"))
	if s.Subscribed(); s.ID != id {
		t.Errorf("it was %s and is %s", id, s.ID)
	}
	again := s.Offer()
	if again.GetId().GetValue() == first.GetId().GetValue() {
		t.Errorf("the offer %s of the leader before is made again", first.GetId().GetValue())
	}
	if status, text := s.Try(&pb.Call{Type: pb.Call_DECLINE.Enum(), Decline: &pb.Call_Decline{OfferIds: []*pb.OfferID{first.GetId()}}}); status != http.StatusAccepted {
		t.Errorf("an old offer is declined: %d %s", status, text)
	}

	// What is on offer to one that goes without a word is free at once.
	w.agents[0].Connected(t)
	s.Disconnect()
	began := time.Now()
	w.once(t, w.agents[0], w.Submit(t, client.Submit{Command: []string{"true"}, Agent: w.agents[0].ID}))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a task waited %v for what the scheduler had been offered", took)
	}
	s.Subscribe(cluster.Framework("*"))
	s.Subscribed()
	s.Call(&pb.Call{Type: pb.Call_TEARDOWN.Enum()})
	s.Ended()
	s.Subscribe(cluster.Framework("*"))
	if text := s.Next(pb.Event_ERROR).GetError().GetMessage(); text != "Framework has been removed" {
		t.Errorf("with the id of a framework that was removed it is told %q", text)
	}
	_, err = w.RevokePrincipal(t.Context(), "sched")
	must(t, err)
}
