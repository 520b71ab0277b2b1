package transport_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
)

// connectProxy is an HTTP proxy that passes connections on, for who knows the
// password.
func connectProxy(t *testing.T, password string) *url.URL {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	serve := func(c net.Conn) {
		defer c.Close()
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		r := http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
		if _, p, _ := r.BasicAuth(); p != password {
			io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
			return
		}
		to, err := net.Dial("tcp", req.Host)
		if err != nil {
			io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
			return
		}
		defer to.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(to, c); to.Close() }()
		io.Copy(c, to)
	}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	return &url.URL{Scheme: "http", Host: ln.Addr().String(), User: url.UserPassword("site", "secret")}
}

func TestSessionThroughAProxy(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for password, works := range map[string]bool{"secret": true, "another": false} {
		proxy := connectProxy(t, password)
		cfg := f.blockedConfig(f.holder(pki.KindAgent, "a1"))
		cfg.DialTCP = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return transport.DialVia(ctx, proxy, network, addr)
		}
		d := f.dialer(cfg)
		if works {
			f.connect(d)
			continue
		}
		_, err := d.Dial(t.Context(), f.addr, transport.ALPNAgent, nil)
		if err == nil || !strings.Contains(err.Error(), "407") || strings.Contains(err.Error(), "secret") {
			t.Errorf("with the wrong password: %v", err)
		}
	}
}
