package pki_test

import (
	"crypto"
	"crypto/x509"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

// A replica in a rotation of the root shows its issuer twice: signed by the new
// root, and by the old one for those who were away all the while. (A new root
// signed by the old one would not do: a root here lets one intermediate follow
// and no second one.)
func TestReplicaBetweenTwoRoots(t *testing.T) {
	const domain = "fleet.example"
	old := pkitest.New(t, domain)
	fresh := pkitest.New(t, domain)
	// One key, two certificates of one name.
	csr := pkitest.Request(t, fresh.IssuingKey, x509.CertificateRequest{})
	again, err := pki.SignIntermediate(old.Root, old.RootKey, csr, domain, time.Now(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cred := fresh.Credential(t, pki.KindReplica, "r1")
	replica, err := pki.NewCredential(
		[][]byte{cred.Leaf().Raw, fresh.Intermediate.Raw, again.Raw, fresh.Root.Raw}, cred.Chain.PrivateKey.(crypto.Signer),
		&pki.Bundle{Version: 2, Roots: []*x509.Certificate{fresh.Root, old.Root}},
	)
	if err != nil {
		t.Fatal(err)
	}
	server := func() *pki.Holder { return pki.NewHolder(replica) }
	bundle := func(ca *pkitest.CA, roots ...*x509.Certificate) *pki.Holder {
		c := ca.Credential(t, pki.KindAgent, "a1")
		c.Bundle = &pki.Bundle{Version: 1, Roots: roots}
		return pki.NewHolder(c)
	}
	other := pkitest.New(t, domain)
	for _, tc := range []struct {
		name   string
		client *pki.Holder
		ok     bool
	}{
		{"an agent that was away for the whole rotation", bundle(old, old.Root), true},
		{"one that has both roots", bundle(old, fresh.Root, old.Root), true},
		{"one that has the new root alone", bundle(fresh, fresh.Root), true},
		{"one of another fleet", bundle(other, other.Root), false},
	} {
		clientErr, serverErr := handshake(t, pki.ClientTLS(tc.client, nil, "agent/1"), pki.ServerTLS(server(), allowAll, "agent/1"))
		if ok := clientErr == nil && serverErr == nil; ok != tc.ok {
			t.Errorf("%s: %v, %v", tc.name, clientErr, serverErr)
		}
	}
	// And as a client, of a replica that was away.
	late := old.Credential(t, pki.KindReplica, "r2")
	if _, err := handshake(t, pki.ClientTLS(server(), nil, "raft/1"), pki.ServerTLS(pki.NewHolder(late), allowAll, "raft/1")); err != nil {
		t.Errorf("a replica that was away: %v", err)
	}
	// Join lines of before hold as long as the old root is in the bundle.
	done := *replica
	done.Bundle = &pki.Bundle{Version: 3, Roots: []*x509.Certificate{fresh.Root}}
	for _, tc := range []struct {
		name string
		pin  string
		cred *pki.Credential
		ok   bool
	}{
		{"a new line", pki.Pin(fresh.Root), replica, true},
		{"an old line", pki.Pin(old.Root), replica, true},
		{"a new line after the rotation", pki.Pin(fresh.Root), &done, true},
		{"an old line after the rotation", pki.Pin(old.Root), &done, false},
	} {
		err, _ := handshake(t, pki.PinnedTLS(tc.pin, pki.ALPNEnrol), pki.ServerTLS(pki.NewHolder(tc.cred), allowAll, pki.ALPNEnrol))
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
