package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// asked is an executor whose tasks are what a scenario says.
type asked struct {
	executor.Executor
	exec func(context.Context, executor.Exec) (int, error)
	addr string
	err  error
}

func (x *asked) Exec(ctx context.Context, _ fleet.TaskID, e executor.Exec) (int, error) {
	return x.exec(ctx, e)
}

func (x *asked) Dial(ctx context.Context, _ fleet.TaskID, _ int) (net.Conn, error) {
	if x.err != nil {
		return nil, x.err
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", x.addr)
}

func probeOnce(t *testing.T, x executor.Executor, c fleet.Check) lifecycle.Probed {
	t.Helper()
	a := &Agent{
		cfg: Config{Executor: x}, log: slog.New(slog.DiscardHandler),
		events: make(chan lifecycle.Event, 1), probing: make(chan struct{}, 1),
	}
	a.probe(t.Context(), lifecycle.Probe{Task: "t", Health: true, Check: c})
	ev := (<-a.events).(lifecycle.Probed)
	if ev.Task != "t" || !ev.Health {
		t.Errorf("the answer is of another check: %+v", ev)
	}
	return ev
}

func TestChecksByHTTP(t *testing.T) {
	mux := http.NewServeMux()
	followed := false
	mux.HandleFunc("/teapot", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/followed", http.StatusFound) })
	mux.HandleFunc("/followed", func(http.ResponseWriter, *http.Request) { followed = true })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/" && r.URL.RequestURI() != "/q?a=%20" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	for _, tc := range []struct {
		scheme, path string
		status       int
		text         string
	}{
		{"", "", 200, ""},
		{"http", "/q?a=%20", 200, ""},
		{"", "/nothing", 404, ""},
		{"", "/teapot", 418, ""},
		{"", "/away", 302, ""},
		{"", "/endless", 200, ""},
		{"", "/slow", -1, "no answer within 300ms"},
		{"https", "/", 200, ""}, // with a certificate that nobody has signed
		{"https", "/slow", -1, "no answer within 300ms"},
	} {
		x := &asked{addr: plain.Listener.Addr().String()}
		if tc.scheme == "https" {
			x.addr = secure.Listener.Addr().String()
		}
		c := fleet.Check{Kind: fleet.CheckHTTP, Port: 8080, Scheme: tc.scheme, Path: tc.path, Timeout: 300 * time.Millisecond}
		if tc.text == "" {
			c.Timeout = time.Minute
		}
		want := lifecycle.Probed{Task: "t", Health: true, Text: tc.text}
		if tc.status > 0 {
			want.Result = fleet.CheckResult{Known: true, StatusCode: tc.status}
		}
		if got := probeOnce(t, x, c); got != want {
			t.Errorf("%s %s: %+v, want %+v", tc.scheme, tc.path, got, want)
		}
	}
	if followed {
		t.Error("a redirect was followed")
	}
	x := &asked{addr: plain.Listener.Addr().String()}
	got := probeOnce(t, x, fleet.Check{Kind: fleet.CheckHTTP, Port: 8080, Scheme: "https"})
	if got.Unable || !got.Result.Known || got.Result.StatusCode != 0 || !strings.Contains(got.Text, "no HTTP answer") {
		t.Errorf("TLS to a server without: %+v", got)
	}
}

func TestChecksByTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &asked{addr: l.Addr().String()}
	c := fleet.Check{Kind: fleet.CheckTCP, Port: 1}
	if got := probeOnce(t, x, c); got.Result != (fleet.CheckResult{Known: true, Connected: true}) {
		t.Errorf("somebody listens: %+v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := probeOnce(t, x, c); got.Unable || got.Result != (fleet.CheckResult{Known: true}) || !strings.Contains(got.Text, "refused") {
		t.Errorf("nobody listens: %+v", got)
	}
}

func TestChecksByCommand(t *testing.T) {
	command := fleet.Check{Kind: fleet.CheckCommand, Command: []string{"probe", "it"}, Env: map[string]string{"A": "b"}, Timeout: time.Second}
	var given executor.Exec
	for _, tc := range []struct {
		name string
		code int
		err  error
		want lifecycle.Probed
	}{
		{"a code", 3, nil, lifecycle.Probed{Result: fleet.CheckResult{Known: true, ExitCode: 3}}},
		{"too long", 0, fmt.Errorf("x: %w", context.DeadlineExceeded), lifecycle.Probed{Text: "no answer within 1s"}},
		{"no program", 0, fmt.Errorf("%w: not found", executor.ErrCannotRun), lifecycle.Probed{Text: "the program cannot be run: not found"}},
		{"no runtime", 0, executor.ErrUnavailable, lifecycle.Probed{Unable: true}},
		{"it has ended", 0, executor.ErrNotFound, lifecycle.Probed{Unable: true}},
		{"anything else", 0, errors.New("the kernel is on holiday"), lifecycle.Probed{Unable: true}},
	} {
		x := &asked{exec: func(_ context.Context, e executor.Exec) (int, error) { given = e; return tc.code, tc.err }}
		tc.want.Task, tc.want.Health = "t", true
		if got := probeOnce(t, x, command); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
	if given.Name != "health" || given.Timeout != time.Second || given.Args[1] != "it" || given.Env["A"] != "b" {
		t.Errorf("it was run as %+v", given)
	}
}

func TestAnExecutorThatCannotAsk(t *testing.T) {
	var plain struct{ executor.Executor }
	got := probeOnce(t, plain, fleet.Check{Kind: fleet.CheckTCP, Port: 1})
	if got.Unable || got.Result.Known || got.Text == "" {
		t.Errorf("%+v", got)
	}
}

// What is reserved for a role is the task's like anything else.
func TestATaskHasItsReservedResources(t *testing.T) {
	a := &Agent{looked: make(chan struct{}), devices: []gpu.Device{{UUID: "GPU-1", Health: gpu.Healthy}}}
	close(a.looked)
	got, err := a.task(t.Context(), fleet.Assignment{Task: "t", Resources: fleet.Resources{
		CPUs: 500,
		Parts: []fleet.Part{{
			Class:     fleet.Class{Reserved: []fleet.Reservation{{Role: "r"}}},
			Resources: fleet.Resources{CPUs: 500, Mem: fleet.Whole(64), GPUs: []gpu.UUID{"GPU-1"}},
		}},
	}})
	if err != nil || got.Resources.CPUs != 1000 || got.Resources.Mem != fleet.Whole(64) || len(got.Devices) != 1 {
		t.Errorf("it is started with %+v, devices %v, error %v", got.Resources, got.Devices, err)
	}
}
