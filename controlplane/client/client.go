package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/tenderfleet/tender/pki"
)

const (
	// alpn names what a client speaks on the replicas' port.
	alpn = pki.ALPNHTTP1
	// callTime bounds one attempt of a call that does not wait or stream.
	callTime = 30 * time.Second
	dialTime = 5 * time.Second
	// patience bounds how long a call waits for a leader; an election takes
	// about a second.
	patience = 10 * time.Second
	retryMin = 100 * time.Millisecond
	retryMax = time.Second
	maxHops  = 3
	// maxAnswer bounds what is read into memory.
	maxAnswer = 64 << 20
)

// Config says where the control plane is and who asks.
type Config struct {
	// Servers are HOST:PORT; any replica will do, the leader saves a step.
	Servers []string
	// Credential is the caller's. It is also used to follow the way from a
	// socket to the leader.
	Credential *pki.Credential
	// Token is a bearer token, shown instead of the credential's certificate.
	Token string
	// Pin is the pin of the fleet's root, by which servers are verified where
	// there is a token; without it the credential's roots are.
	Pin string
	// Socket is a replica's unix socket, used when there are no Servers.
	Socket string
	// Version is what the caller calls itself.
	Version string
	// Dial replaces the network to the Servers; nil is the machine's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client calls the API. It is safe for concurrent use.
type Client struct {
	targets   []target
	preferred atomic.Int32 // index of the server that answered last
	tls       *http.Client // nil without a credential or token
	token     string
	agent     string
}

// target is one way to a replica.
type target struct {
	name string // for people
	base string // of its URLs
	http *http.Client
}

// New returns a client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	c := &Client{agent: "tender/" + cfg.Version, token: cfg.Token}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	if conf := tlsOf(cfg); conf != nil {
		c.tls = newHTTP(&http.Transport{DialContext: cfg.Dial, TLSClientConfig: conf})
	}
	for _, s := range cfg.Servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return nil, fmt.Errorf("server %q: write HOST:PORT", s)
		}
		if c.tls == nil {
			return nil, errors.New("a server needs a credential, or a token and the pin of the fleet's root; get them with: tender login")
		}
		c.targets = append(c.targets, target{name: s, base: "https://" + s, http: c.tls})
	}
	if len(c.targets) == 0 && cfg.Socket != "" {
		c.targets = append(c.targets, target{name: cfg.Socket, base: "http://tender", http: newHTTP(&http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "unix", cfg.Socket)
			},
		})})
	}
	if len(c.targets) == 0 {
		return nil, errors.New("neither a server nor a socket is given")
	}
	return c, nil
}

// tlsOf is how servers are verified, and what is shown to them; nil when there
// is nothing to do either with. A token is sent only to a verified replica.
func tlsOf(cfg Config) *tls.Config {
	switch {
	case cfg.Token != "" && cfg.Pin != "":
		return pki.PinnedTLS(cfg.Pin, alpn)
	case cfg.Credential == nil:
		return nil
	}
	conf := pki.ClientTLS(pki.NewHolder(cfg.Credential), nil, alpn)
	if cfg.Token != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{}, nil // the token says who asks
		}
	}
	return conf
}

func newHTTP(t *http.Transport) *http.Client {
	t.TLSHandshakeTimeout = dialTime
	t.IdleConnTimeout = time.Minute
	t.ExpectContinueTimeout = dialTime
	// A program that submits many tasks does so several at a time; a handshake
	// costs more than ten calls.
	t.MaxIdleConnsPerHost = 16
	return &http.Client{
		Transport: t,
		// Followed by hand: the body goes along, and a socket leads to TLS.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close ends idle connections.
func (c *Client) Close() {
	for _, t := range c.targets {
		t.http.CloseIdleConnections()
	}
	if c.tls != nil {
		c.tls.CloseIdleConnections()
	}
}

// request is one call, before it has an address.
type request struct {
	method string
	path   string
	query  url.Values
	body   []byte
	// limit bounds one attempt, body included; 0 for a stream.
	limit time.Duration
	// binary: body is no JSON.
	binary bool
	// open, when not nil, gives the body of size bytes instead: it is read as it is
	// sent, and asked for again with each attempt.
	open func() (io.ReadCloser, error)
	size int64
	// header is added to each attempt.
	header http.Header
}

// fetch sends a request with in as its body, unless that is nil, and decodes
// the answer.
func fetch[T any](ctx context.Context, c *Client, r request, in any) (T, error) {
	var out T
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("encode request: %w", err)
		}
		r.body = body
	}
	if r.limit == 0 {
		r.limit = callTime
	}
	err := c.send(ctx, r, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&out)
	})
	return out, err
}

// send finds a replica that serves the request and hands read its answer.
func (c *Client) send(ctx context.Context, r request, read func(io.Reader) error) error {
	end := time.Now().Add(patience)
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := c.round(ctx, r, read)
		if !transient(err) || time.Now().Add(wait).After(end) {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// round asks each server once until one grants or refuses the request.
func (c *Client) round(ctx context.Context, r request, read func(io.Reader) error) error {
	first := int(c.preferred.Load())
	var failed []Attempt
	var refused error
	for i := range c.targets {
		n := (first + i) % len(c.targets)
		err := c.attempt(ctx, c.targets[n], r, read)
		var sent *sendError
		switch {
		case err == nil:
			c.preferred.Store(int32(n)) //nolint:gosec // a handful of servers
			return nil
		case transient(err):
			refused = err
		case !errors.As(err, &sent):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", c.targets[n].name, context.Cause(ctx))
		case sent.reached && r.method != http.MethodGet && !refusedTLS(err):
			return &UnreachableError{Attempts: []Attempt{{c.targets[n].name, sent.err}}, Unknown: true}
		default:
			failed = append(failed, Attempt{c.targets[n].name, sent.err})
		}
	}
	if refused != nil {
		return refused
	}
	return &UnreachableError{Attempts: failed}
}

// transient reports whether the same request may succeed a little later. What
// a stream says after output has come must not have it sent again.
func transient(err error) bool {
	var p *Problem
	var stream *StreamError
	return errors.As(err, &p) && !errors.As(err, &stream) && (p.Code == CodeNoLeader || p.Code == CodeBusy)
}

// sendError is a request that got no answer. reached says that it may have got
// as far as the server.
type sendError struct {
	err     error
	reached bool
}

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// attempt sends the request to one server and on to the leader it names.
func (c *Client) attempt(ctx context.Context, t target, r request, read func(io.Reader) error) error {
	if r.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.limit)
		defer cancel()
	}
	address := t.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	for hop := range maxHops {
		resp, err := c.exchange(ctx, t.http, address, r)
		if err != nil {
			if hop > 0 && ctx.Err() == nil {
				err = lostLeader(address, r, err)
			}
			return err
		}
		if resp.StatusCode != http.StatusTemporaryRedirect {
			defer resp.Body.Close() //nolint:errcheck // read to its end or given up
			if resp.StatusCode >= 300 {
				return readProblem(resp)
			}
			if err := read(resp.Body); err != nil {
				return answerError(r, err)
			}
			return nil
		}
		next, err := c.redirect(resp)
		if err != nil {
			return err
		}
		address, t.http = next, c.tls
	}
	return NewProblem(CodeNoLeader, "try again shortly", "the replicas do not agree on who leads")
}

// lostLeader is about a leader that others named and that does not answer. It
// may have died a moment ago, so that the others will soon choose another one.
func lostLeader(address string, r request, err error) error {
	sent, ok := errors.AsType[*sendError](err)
	if !ok || refusedTLS(err) || sent.reached && r.method != http.MethodGet {
		return err
	}
	u, _ := url.Parse(address) // it has been used
	return NewProblem(CodeNoLeader, advice(sent.err), "the replicas name %s as their leader, and it does not answer: %s", u.Host, cause(sent.err))
}

// answerError is about an answer that broke off. The request had been granted.
func answerError(r request, err error) error {
	if r.limit == 0 {
		return err // of a stream: what the caller or the server said
	}
	return &sendError{err: fmt.Errorf("read answer: %w", err), reached: true}
}

func (c *Client) exchange(ctx context.Context, h *http.Client, address string, r request) (*http.Response, error) {
	var reached atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { reached.Store(true) }}
	body := io.Reader(bytes.NewReader(r.body))
	if r.open != nil {
		opened, err := r.open()
		if err != nil {
			return nil, err
		}
		body = opened // closed by who sends it
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if r.open != nil {
		req.ContentLength = r.size
		req.Header.Set("Expect", "100-continue") // who does not lead says so first
	}
	maps.Copy(req.Header, r.header)
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json")
	switch {
	case r.binary:
		req.Header.Set("Content-Type", "application/octet-stream")
	case r.body != nil:
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" && req.URL.Scheme == "https" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := h.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the address is named by who reports it
		}
		return nil, &sendError{err: err, reached: reached.Load()}
	}
	return resp, nil
}

// redirect returns where the leader has the same resource.
func (c *Client) redirect(resp *http.Response) (string, error) {
	defer resp.Body.Close() //nolint:errcheck // nothing is read from it
	u, err := resp.Location()
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", NewProblem(CodeInternal, "install the same version everywhere", "the server redirects to no address that can be used")
	}
	if c.tls == nil {
		return "", NewProblem(CodeNotLeader, "run the command on that machine, or log in once with: tender login",
			"this replica does not lead; %s does, and without a credential only its own socket can be used", u.Host)
	}
	return u.String(), nil
}

func readProblem(resp *http.Response) error {
	p := &Problem{}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err := json.Unmarshal(data, p); err != nil || p.Code == "" {
		return NewProblem(CodeInternal, "check that the address is a replica of the fleet and of the same version",
			"the server answered %s instead of a document of this API", resp.Status)
	}
	return p
}
