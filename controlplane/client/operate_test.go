package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Changes find the leader with their documents, whatever their method and
// however many levels a role has.
func TestOperatorsAreSentToTheLeader(t *testing.T) {
	ca := pkitest.New(t, apitest.TrustDomain)
	f := apitest.New()
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	g := follower(serveTLS(t, ca, "r1", operators, api.Handler(f, remote(f))))
	follows := serveTLS(t, ca, "r2", operators, api.Handler(g, remote(g)))
	c := newClient(t, client.Config{Servers: []string{follows}, Credential: ca.Credential(t, pki.KindOperator, "ann")})
	ctx := t.Context()
	if r, err := c.SetWeight(ctx, "a/b/c", "2.5"); err != nil || r.Role != "a/b/c" || r.Weight != "2.5" {
		t.Errorf("weight: %+v, %v", r, err)
	}
	if r, err := c.SetWeight(ctx, "*", "3"); err != nil || r.Role != "*" {
		t.Errorf("weight of *: %+v, %v", r, err)
	}
	quota := client.SetQuota{Quotas: []client.Quota{{Role: "a/b", Limit: client.Quantities{"cpus": "1", "mem": "2G"}}}}
	if r, err := c.SetQuota(ctx, quota); err != nil || len(r) != 1 || r[0].Limit["mem"] != "2048" {
		t.Errorf("quota: %+v, %v", r, err)
	}
	if err := c.ClearQuota(ctx, "a/b"); err != nil {
		t.Errorf("clear: %v", err)
	}
	var p *client.Problem
	if err := c.ClearQuota(ctx, "a/b"); !errors.As(err, &p) || p.Code != client.CodeNotFound {
		t.Errorf("clear again: %v", err)
	}
	reserve := client.Reserve{Role: "a", Resources: client.Quantities{"cpus": "2"}}
	if a, err := c.Reserve(ctx, "a1", reserve); err != nil || len(a.Total.Reserved) != 1 || a.Total.Reserved[0].Principal != "operator/ann" {
		t.Errorf("reserve: %+v, %v", a, err)
	}
	if a, err := c.Unreserve(ctx, "a1", reserve); err != nil || len(a.Total.Reserved) != 0 {
		t.Errorf("unreserve: %+v, %v", a, err)
	}
	grace := client.Duration(time.Second)
	if a, err := c.DrainAgent(ctx, "a1", client.StartDrain{MaxGrace: &grace}); err != nil || a.Availability != client.AgentDrained {
		t.Errorf("drain: %+v, %v", a, err)
	}
	if a, err := c.WaitDrain(ctx, "a1", "", time.Second); err != nil || a.Drain == nil {
		t.Errorf("wait: %+v, %v", a, err)
	}
	for _, e := range audit(t, f) {
		if e.By != "operator/ann" {
			t.Errorf("not by who asked: %+v", e)
		}
	}
	if n := len(audit(t, f)); n < 7 {
		t.Errorf("%d entries in the audit log", n)
	}
}
