package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	// maxProbes bounds how many checks are under way at once: a thousand tasks
	// that hang must not become a thousand processes more.
	maxProbes = 32
	// maxBody bounds what is read of an answer, so that a server can end it.
	maxBody = 4 << 10
)

// probe performs one check and emits what it found.
func (a *Agent) probe(ctx context.Context, p lifecycle.Probe) {
	select {
	case a.probing <- struct{}{}:
		defer func() { <-a.probing }()
	case <-ctx.Done():
		return
	}
	ev := lifecycle.Probed{Task: p.Task, Health: p.Health}
	prober, ok := a.cfg.Executor.(executor.Prober)
	if !ok {
		ev.Text = "this agent cannot look into its tasks"
		a.emit(ctx, ev)
		return
	}
	var err error
	ev.Result, err = ask(ctx, prober, p)
	if ctx.Err() != nil {
		return // the process ends; the next one goes on
	}
	var answer *net.OpError
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		ev.Result, ev.Text = fleet.CheckResult{}, fmt.Sprintf("no answer within %v", p.Check.Within())
	case errors.Is(err, executor.ErrCannotRun):
		ev.Text = err.Error()
	case errors.As(err, &answer), errors.Is(err, errHTTP):
		ev.Result, ev.Text = fleet.CheckResult{Known: true}, err.Error()
	default:
		ev.Unable = true
		if !errors.Is(err, executor.ErrNotFound) { // it has ended, as Wait will say
			a.log.Warn("task not checked; it is tried again", "task", p.Task, "check", p.Check.Kind, "error", err)
		}
	}
	a.emit(ctx, ev)
}

// ask asks a task how it is, within the check's time.
func ask(ctx context.Context, x executor.Prober, p lifecycle.Probe) (fleet.CheckResult, error) {
	c := p.Check
	if c.Kind == fleet.CheckCommand {
		name := "check"
		if p.Health {
			name = "health"
		}
		code, err := x.Exec(ctx, p.Task, executor.Exec{Name: name, Args: c.Command, Env: c.Env, Timeout: c.Within()})
		return fleet.CheckResult{Known: err == nil, ExitCode: code}, err
	}
	within, cancel := context.WithTimeout(ctx, c.Within())
	defer cancel()
	var r fleet.CheckResult
	var err error
	if c.Kind == fleet.CheckHTTP {
		r, err = askHTTP(within, x, p.Task, &c)
	} else {
		r, err = askTCP(within, x, p.Task, c.Port)
	}
	// A connection's deadline may pass a moment before the context knows.
	if by, ok := within.Deadline(); err != nil && ok && !time.Now().Before(by) {
		err = context.DeadlineExceeded // whatever it was doing then
	}
	return r, err
}

func askTCP(ctx context.Context, x executor.Prober, id fleet.TaskID, port int) (fleet.CheckResult, error) {
	conn, err := x.Dial(ctx, id, port)
	if err != nil {
		return fleet.CheckResult{}, err
	}
	_ = conn.Close() // it was there, which was the question
	return fleet.CheckResult{Known: true, Connected: true}, nil
}

// errHTTP is the kind of what is no HTTP, which is not this agent's fault.
var errHTTP = errors.New("no HTTP answer")

func askHTTP(ctx context.Context, x executor.Prober, id fleet.TaskID, c *fleet.Check) (fleet.CheckResult, error) {
	conn, err := x.Dial(ctx, id, c.Port)
	if err != nil {
		return fleet.CheckResult{}, err
	}
	defer conn.Close() //nolint:errcheck // it has served its purpose
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		// The task is asked by its own machine: there is no name to verify.
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer tr.CloseIdleConnections()
	scheme, path := c.Scheme, c.Path
	if scheme == "" {
		scheme = "http"
	}
	if path == "" {
		path = "/"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port))+path, nil)
	if err != nil {
		return fleet.CheckResult{}, fmt.Errorf("%w: %v", errHTTP, err)
	}
	req.Header.Set("User-Agent", "tender-agent")
	resp, err := tr.RoundTrip(req) // not a client: redirects are an answer, too
	if err != nil {
		return fleet.CheckResult{}, fmt.Errorf("%w: %v", errHTTP, err)
	}
	defer resp.Body.Close()                                        //nolint:errcheck // it was read
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // the status is the answer
	return fleet.CheckResult{Known: true, StatusCode: resp.StatusCode}, nil
}
