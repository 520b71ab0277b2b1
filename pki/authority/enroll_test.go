package authority

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/enroll/enrolltest"
	"github.com/tenderfleet/tender/pki/pkitest"
)

var _ enroll.Signer = (*Authority)(nil)

// From a join line to a session: the whole way, with the real authority.
func TestJoinThenDialThenRenew(t *testing.T) {
	a, ca := start(t, nil)
	reg := enrolltest.NewRegistry(domain, time.Now)
	srv, err := enroll.NewServer(enroll.Config{
		Registry: reg, Signer: a, Bundle: ca.Bundle, Replicas: func() []string { return []string{"r1:8750"} },
		RootKey: func(context.Context) (enroll.SignAuthority, error) {
			return func(_ context.Context, _ pki.Identity, csr []byte) (*x509.Certificate, error) {
				return pki.SignIntermediate(ca.Root, ca.RootKey, csr, domain, time.Now(), 24*time.Hour)
			}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	join := func(kind pki.Kind) (*pki.Credential, enroll.Reply) {
		t.Helper()
		line := pki.JoinLine{
			Kind: kind, Addrs: []string{"r1:8750"}, Pin: pki.Pin(a.Root()), Secret: pki.NewSecret(),
			TrustDomain: domain, Expires: time.Now().Add(time.Hour),
		}
		reg.Add(line.Secret, enroll.Grant{Kind: kind, Expires: line.Expires, UsesLeft: 1})
		key := pkitest.Key(t)
		req, err := enroll.NewRequest(line, key, "host1")
		if err != nil {
			t.Fatal(err)
		}
		if kind == pki.KindReplica {
			req.Addr = "r2:8750"
			req.IntermediateCSR = request(t)
		}
		near, far := enrolltest.Pipe()
		served := make(chan error, 1)
		go func() { served <- srv.Serve(t.Context(), far, "192.0.2.1:1") }()
		reply, err := enroll.Join(t.Context(), near, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if err := reply.Verify(line, req.CSR, time.Now()); err != nil {
			t.Fatal(err)
		}
		cred, err := reply.Credential(key)
		if err != nil {
			t.Fatal(err)
		}
		return cred, reply
	}
	agentCred, _ := join(pki.KindAgent)
	replicaCred, _ := join(pki.KindReplica)

	agentHolder := pki.NewHolder(agentCred)
	dial := func() pki.Identity {
		t.Helper()
		var peer pki.Identity
		server := pki.ServerTLS(pki.NewHolder(replicaCred), func(id pki.Identity, _ *x509.Certificate, _ string) error {
			peer = id
			return nil
		}, "agent/1")
		x, y := net.Pipe()
		defer x.Close()
		done := make(chan error, 1)
		go func() { done <- tls.Server(y, server).Handshake(); y.Close() }()
		if err := tls.Client(x, pki.ClientTLS(agentHolder, nil, "agent/1")).Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return peer
	}
	peer := dial()
	if peer != agent("host1") {
		t.Fatalf("the replica sees %s", peer)
	}

	key := pkitest.Key(t)
	chain, err := enroll.SignRenewal(t.Context(), a, peer, pkitest.Request(t, key, x509.CertificateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := pki.NewCredential(chain, key, agentCred.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	agentHolder.Set(renewed)
	if again := dial(); again != peer {
		t.Errorf("after renewal the replica sees %s", again)
	}
}
