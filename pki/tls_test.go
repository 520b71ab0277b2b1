package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

// handshake runs both ends over a pipe and returns what each made of the other.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(b, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("k"))
		}
		done <- err
		b.Close()
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		// In TLS 1.3 the client is done before the server has judged it.
		_, clientErr = c.Read(make([]byte, 1))
	}
	a.Close()
	return clientErr, <-done
}

func allowAll(pki.Identity, *x509.Certificate, string) error { return nil }

func TestMutualTLS(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	other := pkitest.New(t, "fleet.example")
	foreign := pkitest.New(t, "sub.fleet.example")
	now := time.Now()
	day := 24 * time.Hour
	withURIs := func(uris ...string) pkitest.Option {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range uris {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	replica := ca.Credential(t, pki.KindReplica, "r1")
	agent := ca.Credential(t, pki.KindAgent, "a1")
	tests := []struct {
		name           string
		client, server *pki.Credential
		clientWant     string // part of the client's error, "" for none
		serverWant     string
	}{
		{name: "agent and replica", client: agent, server: replica},
		{name: "replica and replica", client: ca.Credential(t, pki.KindReplica, "r2"), server: replica},
		{
			name:   "agent of another fleet with the same trust domain",
			client: other.Credential(t, pki.KindAgent, "a1"), server: replica,
			clientWant: "unknown authority",
		},
		{
			name:   "agent certificate with a second identity",
			client: ca.Credential(t, pki.KindAgent, "a1", withURIs("spiffe://fleet.example/agent/a1", "spiffe://fleet.example/agent/a2")), server: replica,
			serverWant: "2 URI names",
		},
		{
			name: "agent certificate with a host name beside its identity",
			client: ca.Credential(t, pki.KindAgent, "a1", func(c *x509.Certificate) {
				c.DNSNames = []string{"a1.example"}
			}), server: replica,
			serverWant: "names beside",
		},
		{
			name:   "agent certificate without identity",
			client: ca.Credential(t, pki.KindAgent, "a1", withURIs()), server: replica,
			serverWant: "0 URI names",
		},
		{
			name:   "expired agent",
			client: ca.Credential(t, pki.KindAgent, "a1", pkitest.Validity(now.Add(-9*day), now.Add(-day))), server: replica,
			serverWant: "expired",
		},
		{
			name: "agent certificate without clientAuth",
			client: ca.Credential(t, pki.KindAgent, "a1", func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}), server: replica,
			serverWant: "incompatible key usage",
		},
		{
			name:   "agent posing as a replica",
			client: agent, server: ca.Credential(t, pki.KindAgent, "r1"),
			clientWant: "incompatible key usage",
		},
		{
			name:   "agent posing as a replica, with serverAuth",
			client: agent, server: ca.Credential(t, pki.KindAgent, "r1", func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}),
			clientWant: "not a replica",
		},
		{
			name:   "clock of the agent a day behind",
			client: agent, server: ca.Credential(t, pki.KindReplica, "r1", pkitest.Validity(now.Add(day), now.Add(2*day))),
			clientWant: "set the clock",
		},
		{
			name:   "clock of the agent a day ahead",
			client: agent, server: ca.Credential(t, pki.KindReplica, "r1", pkitest.Validity(now.Add(-2*day), now.Add(-day))),
			clientWant: "if the clock is wrong, set it",
		},
		{
			name:   "trust domain below ours, which Go's name constraints let pass",
			client: agent, server: ca.Credential(t, pki.KindReplica, "r1", withURIs("spiffe://sub.fleet.example/replica/r1")),
			clientWant: "another trust domain",
		},
		{
			name:   "client of a trust domain below ours",
			client: ca.Credential(t, pki.KindAgent, "a1", withURIs("spiffe://sub.fleet.example/agent/a1")), server: replica,
			serverWant: "another trust domain",
		},
		{
			name:   "trust domain outside the name constraint",
			client: agent, server: ca.Credential(t, pki.KindReplica, "r1", withURIs("spiffe://evil.example/replica/r1")),
			clientWant: "not permitted",
		},
		{
			name:   "replica of another fleet",
			client: agent, server: foreign.Credential(t, pki.KindReplica, "r1"),
			clientWant: "unknown authority",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := pki.ServerTLS(pki.NewHolder(tt.server), allowAll, "agent/1", pki.ALPNEnrol)
			client := pki.ClientTLS(pki.NewHolder(tt.client), nil, "agent/1")
			cerr, serr := handshake(t, client, server)
			check := func(side string, err error, want string) {
				t.Helper()
				if want == "" && tt.clientWant == "" && tt.serverWant == "" && err != nil {
					t.Errorf("%s: %v", side, err)
				}
				if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("%s error %v does not say %q", side, err, want)
				}
			}
			if (tt.clientWant != "" || tt.serverWant != "") && cerr == nil {
				t.Error("the client got through")
			}
			check("client", cerr, tt.clientWant)
			check("server", serr, tt.serverWant)
		})
	}
}

func TestClockErrorNamesBothTimes(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	now := time.Now()
	r := ca.Credential(t, pki.KindReplica, "r1", pkitest.Validity(now, now.Add(time.Hour)))
	pinned := pki.PinnedTLS(pki.Pin(ca.Root), pki.ALPNEnrol)
	mutual := pki.ClientTLS(pki.NewHolder(ca.Credential(t, pki.KindAgent, "a1")), nil, "agent/1")
	server := pki.ServerTLS(pki.NewHolder(r), allowAll, "agent/1", pki.ALPNEnrol)
	for _, tt := range []struct {
		off  time.Duration
		kind error
	}{{-24 * time.Hour, pki.ErrNotYetValid}, {24 * time.Hour, pki.ErrExpired}} {
		for name, cfg := range map[string]*tls.Config{"pinned": pinned, "mutual": mutual} {
			t.Run(fmt.Sprint(name, tt.off), func(t *testing.T) {
				at := now.Add(tt.off)
				cfg.Time = func() time.Time { return at }
				err, _ := handshake(t, cfg, server)
				if !errors.Is(err, tt.kind) {
					t.Fatalf("got %v, want %v", err, tt.kind)
				}
				const layout = "2006-01-02 15:04:05Z"
				for _, want := range []string{
					at.UTC().Format(layout), r.Leaf().NotBefore.Format(layout),
					r.Leaf().NotAfter.Format(layout), "replica/r1", "timedatectl",
				} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q lacks %q", err, want)
					}
				}
			})
		}
	}
}

func TestPinnedTLS(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	other := pkitest.New(t, "fleet.example")
	pin := pki.Pin(ca.Root)
	replica := ca.Credential(t, pki.KindReplica, "r1")

	leafOnly := ca.Credential(t, pki.KindReplica, "r1")
	leafOnly.Chain.Certificate = leafOnly.Chain.Certificate[:2]

	// An impostor that shows the true root behind a chain of its own.
	impostor := other.Credential(t, pki.KindReplica, "r1")
	impostor.Chain.Certificate[2] = ca.Root.Raw

	tests := []struct {
		name   string
		server *pki.Credential
		want   error // nil: accepted
		text   string
	}{
		{name: "the replica of the line", server: replica},
		{name: "chain stored without root", server: leafOnly},
		{name: "another fleet", server: other.Credential(t, pki.KindReplica, "r1"), want: pki.ErrWrongPin, text: "new join line"},
		{name: "true root behind another chain", server: impostor, text: "unknown authority"},
		{name: "an agent of the fleet", server: ca.Credential(t, pki.KindAgent, "a1"), text: "incompatible key usage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := pki.ServerTLS(pki.NewHolder(tt.server), nil, pki.ALPNEnrol)
			err, _ := handshake(t, pki.PinnedTLS(pin, pki.ALPNEnrol), server)
			switch {
			case tt.want == nil && tt.text == "":
				if err != nil {
					t.Fatal(err)
				}
			case err == nil:
				t.Fatal("accepted")
			case tt.want != nil && !errors.Is(err, tt.want), !strings.Contains(err.Error(), tt.text):
				t.Fatalf("got %v", err)
			}
		})
	}
}

// Only exactly enrol/1 opens the door without a certificate.
func TestEnrolDoor(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	h := pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1"))
	for _, tt := range []struct {
		name   string
		served []string
		offer  []string
		want   string
	}{
		{"enrol", []string{"agent/1", pki.ALPNEnrol}, []string{pki.ALPNEnrol}, ""},
		{"agent without certificate", []string{"agent/1", pki.ALPNEnrol}, []string{"agent/1"}, "didn't provide a certificate"},
		{"enrol among others", []string{"agent/1", pki.ALPNEnrol}, []string{pki.ALPNEnrol, "agent/1"}, "didn't provide a certificate"},
		{"others then enrol", []string{"agent/1", pki.ALPNEnrol}, []string{"raft/1", pki.ALPNEnrol}, "unsupported application protocols"},
		{"no protocol", []string{"agent/1", pki.ALPNEnrol}, nil, "didn't provide a certificate"},
		{"enrol not served", []string{"agent/1"}, []string{pki.ALPNEnrol}, "unsupported application protocols"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := pki.PinnedTLS(pki.Pin(ca.Root), "")
			client.NextProtos = tt.offer
			cerr, serr := handshake(t, client, pki.ServerTLS(h, allowAll, tt.served...))
			if tt.want == "" {
				if cerr != nil || serr != nil {
					t.Fatal(cerr, serr)
				}
				return
			}
			if cerr == nil || serr == nil || !strings.Contains(serr.Error(), tt.want) {
				t.Fatalf("client %v, server %v, want %q", cerr, serr, tt.want)
			}
		})
	}
}

// Without a certificate HTTP is all there is to speak, where it is served; a
// certificate that is shown is judged all the same.
func TestHTTPDoor(t *testing.T) {
	ca, other := pkitest.New(t, "fleet.example"), pkitest.New(t, "fleet.example")
	h := pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1"))
	ann := ca.Credential(t, pki.KindReader, "ann")
	ended := ca.Credential(t, pki.KindReader, "ann", pkitest.Validity(time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)))
	web := []string{"agent/1", "raft/1", pki.ALPNEnrol, "h2", "http/1.1"}
	banned := func(id pki.Identity, _ *x509.Certificate, _ string) error {
		return fmt.Errorf("%s is revoked", id.Short())
	}
	for _, tt := range []struct {
		name   string
		served []string
		offer  []string
		shows  *pki.Credential
		allow  pki.Authorize
		want   string // part of the server's error, "" for none
		speaks string
	}{
		{"both", web, []string{"h2", "http/1.1"}, nil, nil, "", "h2"},
		{"the old one", web, []string{"http/1.1"}, nil, nil, "", "http/1.1"},
		{"with a certificate", web, []string{"http/1.1"}, ann, allowAll, "", "http/1.1"},
		{"with a banned one", web, []string{"http/1.1"}, ann, banned, "reader/ann is revoked", ""},
		{"with an ended one", web, []string{"http/1.1"}, ended, allowAll, "expired", ""},
		{"with one of another fleet", web, []string{"h2"}, other.Credential(t, pki.KindReader, "ann"), allowAll, "unknown authority", ""},
		{"a session", web, []string{"agent/1"}, nil, nil, "didn't provide a certificate", ""},
		{"a session behind HTTP", web, []string{"h2", "agent/1"}, nil, nil, "didn't provide a certificate", ""},
		{"HTTP behind a session", web, []string{"raft/1", "http/1.1"}, nil, nil, "didn't provide a certificate", ""},
		{"HTTP and enrol", web, []string{"http/1.1", pki.ALPNEnrol}, nil, nil, "didn't provide a certificate", ""},
		{"no protocol", web, nil, nil, nil, "didn't provide a certificate", ""},
		{"HTTP where it is not served", []string{"agent/1", pki.ALPNEnrol}, []string{"h2", "http/1.1"}, nil, nil, "unsupported application protocols", ""},
		{"HTTP/1 where only HTTP/2 is", []string{"h2"}, []string{"http/1.1"}, nil, nil, "no verified certificate", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := pki.PinnedTLS(pki.Pin(ca.Root), "")
			client.NextProtos = tt.offer
			if tt.shows != nil {
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.shows.Chain, nil }
			}
			var spoke string
			verify := client.VerifyConnection
			client.VerifyConnection = func(cs tls.ConnectionState) error {
				spoke = cs.NegotiatedProtocol
				return verify(cs)
			}
			cerr, serr := handshake(t, client, pki.ServerTLS(h, tt.allow, tt.served...))
			if tt.want == "" {
				if cerr != nil || serr != nil || spoke != tt.speaks {
					t.Fatalf("client %v, server %v, they speak %q", cerr, serr, spoke)
				}
				return
			}
			if cerr == nil || serr == nil || !strings.Contains(serr.Error(), tt.want) {
				t.Fatalf("client %v, server %v, want %q", cerr, serr, tt.want)
			}
		})
	}
}

// The registry's decision ends the handshake; nobody decides means nobody may.
func TestAuthorizeDecides(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	h := pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1"))
	client := pki.ClientTLS(pki.NewHolder(ca.Credential(t, pki.KindAgent, "a1")), nil, "agent/1")
	banned := errors.New("agent/a1 is revoked")
	var saw pki.Identity
	_, err := handshake(t, client, pki.ServerTLS(h, func(id pki.Identity, leaf *x509.Certificate, alpn string) error {
		saw = id
		if alpn != "agent/1" || leaf == nil {
			t.Errorf("alpn %q leaf %v", alpn, leaf)
		}
		return banned
	}, "agent/1"))
	if !errors.Is(err, banned) || saw != ca.Identity(pki.KindAgent, "a1") {
		t.Errorf("got %v for %v", err, saw)
	}
	if _, err := handshake(t, client, pki.ServerTLS(h, nil, "agent/1")); err == nil {
		t.Error("a nil Authorize let somebody in")
	}
	noALPN := pki.ClientTLS(pki.NewHolder(ca.Credential(t, pki.KindAgent, "a1")), nil, "")
	if _, err := handshake(t, noALPN, pki.ServerTLS(h, allowAll, "agent/1")); err == nil {
		t.Error("a client without protocol got in")
	}
	wrong := errors.New("not the replica I asked for")
	picky := pki.ClientTLS(pki.NewHolder(ca.Credential(t, pki.KindAgent, "a1")), func(pki.Identity) error { return wrong }, "agent/1")
	if err, _ := handshake(t, picky, pki.ServerTLS(h, allowAll, "agent/1")); !errors.Is(err, wrong) {
		t.Errorf("expect was not asked: %v", err)
	}
}

// A renewal, and a new root, take effect under configurations already in use.
func TestHolderSwaps(t *testing.T) {
	ca, next := pkitest.New(t, "fleet.example"), pkitest.New(t, "fleet.example")
	server := pki.NewHolder(nil)
	serverTLS := pki.ServerTLS(server, allowAll, "agent/1")
	client := pki.NewHolder(ca.Credential(t, pki.KindAgent, "a1"))
	clientTLS := pki.ClientTLS(client, nil, "agent/1")
	if _, err := handshake(t, clientTLS, serverTLS); err == nil || !strings.Contains(err.Error(), "join first") {
		t.Fatalf("before joining: %v", err)
	}
	server.Set(ca.Credential(t, pki.KindReplica, "r1"))
	if c, s := handshake(t, clientTLS, serverTLS); c != nil || s != nil {
		t.Fatal(c, s)
	}
	both := &pki.Bundle{Version: 2, Roots: append(ca.Bundle().Roots, next.Root)}
	for _, h := range []*pki.Holder{server, client} {
		c := *h.Get()
		c.Bundle = both
		h.Set(&c)
	}
	renewed := next.Credential(t, pki.KindAgent, "a1")
	renewed.Bundle = both
	client.Set(renewed)
	if c, s := handshake(t, clientTLS, serverTLS); c != nil || s != nil {
		t.Fatal("after rotation:", c, s)
	}
}

func TestResumptionIsOff(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	cfg := pki.ServerTLS(pki.NewHolder(ca.Credential(t, pki.KindReplica, "r1")), allowAll, "agent/1", pki.ALPNEnrol)
	for _, protos := range [][]string{{"agent/1"}, {pki.ALPNEnrol}} {
		c, err := cfg.GetConfigForClient(&tls.ClientHelloInfo{SupportedProtos: protos})
		if err != nil {
			t.Fatal(err)
		}
		if !c.SessionTicketsDisabled || c.MinVersion != tls.VersionTLS13 {
			t.Errorf("%v: tickets %v, version %x", protos, !c.SessionTicketsDisabled, c.MinVersion)
		}
	}
}
