package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// maxProxyReply bounds what a proxy may answer to a CONNECT.
const maxProxyReply = 16 << 10

// machineTCP dials as the machine's other programs do: directly, or through
// the proxy that HTTPS_PROXY and NO_PROXY name for the address.
func machineTCP(ctx context.Context, network, addr string) (net.Conn, error) {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	if err != nil {
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	return dialVia(ctx, proxy, network, addr)
}

// dialVia dials through an HTTP proxy; a nil proxy is none.
func dialVia(ctx context.Context, proxy *url.URL, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: -1} // sessions ping for themselves
	if proxy == nil {
		return dialer.DialContext(ctx, network, addr)
	}
	port := map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	if port == "" {
		return nil, fmt.Errorf("proxy %s: only http and https proxies can be used", proxy.Redacted())
	}
	if p := proxy.Port(); p != "" {
		port = p
	}
	conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)
	}
	if proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) }) // shows in the call
	err = connect(conn, proxy, addr)
	if !stop() {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("proxy %s: %w", proxy.Redacted(), err), conn.Close())
	}
	return conn, nil
}

// connect asks the proxy at the other end of conn for addr.
func connect(conn net.Conn, proxy *url.URL, addr string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxProxyReply))
	resp, err := http.ReadResponse(r, req) //nolint:bodyclose // what follows is the tunnel
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("it refuses %s: %s", addr, resp.Status)
	case r.Buffered() > 0:
		return errors.New("it sent more than an answer") // who listens never speaks first
	}
	return nil
}
