package enroll_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"slices"
	"testing"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/pkitest"
)

func TestSignRenewal(t *testing.T) {
	ca := pkitest.New(t, domain)
	peer, other := ca.Identity(pki.KindAgent, "a1"), ca.Identity(pki.KindAgent, "a2")
	key := pkitest.Key(t)
	chain, err := enroll.SignRenewal(t.Context(), ca, peer, pkitest.Request(t, key, x509.CertificateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.NewCredential(chain, key, ca.Bundle())
	if err != nil || c.Identity != peer {
		t.Errorf("got %v, %v", c, err)
	}
	for name, csr := range map[string][]byte{
		"certificate of another identity claiming an agent's id": pkitest.Request(t, key, x509.CertificateRequest{URIs: []*url.URL{other.URI()}}),
		"the id in the subject":                                  pkitest.Request(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a2"}}),
		"junk":                                                   []byte("junk"),
	} {
		if _, err := enroll.SignRenewal(t.Context(), ca, peer, csr); !errors.Is(err, pki.ErrCSR) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine that joins pins the keys that its packages are to be signed by; one
// that would not understand the field is served without, and only agents have
// a use for it.
func TestReleaseKeys(t *testing.T) {
	const key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
	for name, tt := range map[string]struct {
		kind       pki.Kind
		capability int
		want       []string
	}{
		"an agent":        {pki.KindAgent, enroll.Capability, []string{key}},
		"an older agent":  {pki.KindAgent, 2, nil},
		"an operator":     {pki.KindOperator, enroll.Capability, nil},
		"another replica": {pki.KindReplica, enroll.Capability, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, func(c *enroll.Config) { c.ReleaseKeys = func() []string { return []string{key} } })
			req := request(t, f.line(tt.kind), pkitest.Key(t))
			req.Capability = tt.capability
			reply, err := ask(t, f.srv, req)
			if err != nil || !slices.Equal(reply.ReleaseKeys, tt.want) {
				t.Errorf("got %q, %v, want %q", reply.ReleaseKeys, err, tt.want)
			}
		})
	}
	bad := enroll.Reply{Identity: "spiffe://x/agent/a", Chain: [][]byte{{1}}, ReleaseKeys: []string{"RWQf6LRC"}}
	if err := bad.Check(); !errors.Is(err, enroll.ErrMessage) {
		t.Errorf("a broken key: %v", err)
	}
	bad.ReleaseKeys = slices.Repeat([]string{key}, enroll.MaxReleaseKeys+1)
	if err := bad.Check(); !errors.Is(err, enroll.ErrMessage) {
		t.Errorf("too many keys: %v", err)
	}
}
