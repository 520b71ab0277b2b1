package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
)

// Link connects the two identities and returns the agent's and the replica's
// end. It cleans up after the test.
type Link func(t *testing.T, agent, replica pki.Identity) (a, r transport.Session)

// The identities that Run asks a Link for.
var (
	Agent   = pki.Identity{TrustDomain: "fleet.example", Kind: pki.KindAgent, ID: "a1"}
	Replica = pki.Identity{TrustDomain: "fleet.example", Kind: pki.KindReplica, ID: "r1"}
)

// Run holds an implementation to the contract of transport.Session.
func Run(t *testing.T, link Link) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, ends)
	}{
		{"peers know each other", peers},
		{"both ends export the same", exports},
		{"streams open both ways", bothWays},
		{"kind is checked", kinds},
		{"half close", halfClose},
		{"reset", resets},
		{"reset unblocks", resetUnblocks},
		{"deadline", deadlines},
		{"blocked write ends at its deadline", writeDeadline},
		{"large transfer", large},
		{"concurrent streams", concurrent},
		{"stream limit", streamLimit},
		{"accept ends with its context", acceptContext},
		{"open ends with its context", openContext},
		{"the peer sees code and reason", closeReason},
		{"close unblocks everything", closeUnblocks},
		{"first close counts", firstClose},
		{"long reason", longReason},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, r := link(t, Agent, Replica)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			tc.test(t, ends{a: a, r: r, ctx: ctx})
		})
	}
}

// exports: a proof that is bound to a connection is worth nothing on another.
func exports(t *testing.T, e ends) {
	get := func(s transport.Session, label string) string {
		return string(must[[]byte](t)(transport.Exporter(s, label, 32)))
	}
	same := get(e.a, "x")
	if got := get(e.r, "x"); got != same || len(same) != 32 {
		t.Errorf("the ends export %x and %x", same, got)
	}
	if get(e.r, "y") == same {
		t.Error("two labels export the same")
	}
}

// ends are a linked pair and the patience of one test.
type ends struct {
	a, r transport.Session
	ctx  context.Context
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// stream opens one of kind "control" from the agent and accepts it.
func (e ends) stream(t *testing.T) (opened, accepted transport.Stream) {
	t.Helper()
	opened = must[transport.Stream](t)(e.a.Open(e.ctx, "control"))
	accepted = must[transport.Stream](t)(e.r.Accept(e.ctx))
	return opened, accepted
}

func peers(t *testing.T, e ends) {
	if got := e.a.Peer(); got != Replica {
		t.Errorf("the agent's peer is %v", got)
	}
	if got := e.r.Peer(); got != Agent {
		t.Errorf("the replica's peer is %v", got)
	}
	if l := transport.LinkOf(e.a); l == "unknown" || l != transport.LinkOf(e.r) {
		t.Errorf("the links are %q and %q", l, transport.LinkOf(e.r))
	}
	if e.a.Context().Err() != nil || e.r.Context().Err() != nil {
		t.Error("a context is done while the session lives")
	}
}

func bothWays(t *testing.T, e ends) {
	for _, tc := range []struct {
		from, to transport.Session
		kind     transport.StreamKind
	}{{e.a, e.r, "control"}, {e.r, e.a, "logs"}, {e.a, e.r, "renew"}} {
		out := must[transport.Stream](t)(tc.from.Open(e.ctx, tc.kind))
		in := must[transport.Stream](t)(tc.to.Accept(e.ctx)) // nothing was written yet
		if in.Kind() != tc.kind || out.Kind() != tc.kind {
			t.Errorf("kinds %q and %q, want %q", out.Kind(), in.Kind(), tc.kind)
		}
		echo(t, out, in, "ping")
		echo(t, in, out, "pong")
	}
}

func echo(t *testing.T, from, to transport.Stream, text string) {
	t.Helper()
	must[int](t)(from.Write([]byte(text)))
	got := make([]byte, len(text))
	must[int](t)(io.ReadFull(to, got))
	if string(got) != text {
		t.Errorf("%q arrived as %q", text, got)
	}
}

func kinds(t *testing.T, e ends) {
	long := transport.StreamKind(bytes.Repeat([]byte("x"), 33))
	for _, bad := range []transport.StreamKind{"", "Control", "a b", long} {
		if _, err := e.a.Open(e.ctx, bad); err == nil {
			t.Errorf("a stream of kind %q was opened", bad)
		}
	}
	must[transport.Stream](t)(e.a.Open(e.ctx, long[:32]))
	if in := must[transport.Stream](t)(e.r.Accept(e.ctx)); in.Kind() != long[:32] {
		t.Errorf("kind %q", in.Kind())
	}
}

func halfClose(t *testing.T, e ends) {
	out, in := e.stream(t)
	must[int](t)(out.Write([]byte("all I have")))
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if got := must[[]byte](t)(io.ReadAll(in)); string(got) != "all I have" {
		t.Errorf("read %q", got)
	}
	if _, err := out.Write([]byte("more")); err == nil {
		t.Error("a write after Close went through")
	}
	echo(t, in, out, "the other direction still works")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v, want io.EOF itself", err)
	}
	out.Reset()
	if _, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read after a reset that came too late: %v, want io.EOF", err)
	}
}

func resets(t *testing.T, e ends) {
	out, in := e.stream(t)
	out.Reset()
	out.Reset()
	if _, err := out.Write([]byte("x")); !errors.Is(err, transport.ErrStreamReset) {
		t.Errorf("own write: %v", err)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, transport.ErrStreamReset) {
		t.Errorf("the peer's read: %v", err)
	}
	for { // its buffer may take some bytes before the news arrives
		if _, err := in.Write(make([]byte, 4096)); err != nil {
			if !errors.Is(err, transport.ErrStreamReset) {
				t.Errorf("the peer's write: %v", err)
			}
			break
		}
	}
	in.Reset()
	out, in = e.stream(t) // the session goes on
	echo(t, out, in, "next")
}

func resetUnblocks(t *testing.T, e ends) {
	out, in := e.stream(t)
	done := make(chan error, 2)
	go func() { _, err := in.Read(make([]byte, 1)); done <- err }()
	go func() { _, err := io.Copy(in, endless{}); done <- err }()
	out.Reset()
	for range 2 {
		if err := <-done; !errors.Is(err, transport.ErrStreamReset) {
			t.Errorf("%v, want ErrStreamReset", err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func deadlines(t *testing.T, e ends) {
	out, in := e.stream(t)
	start := time.Now()
	in.SetDeadline(start.Add(40 * time.Millisecond))
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want os.ErrDeadlineExceeded", err)
	}
	if took := time.Since(start); took < 40*time.Millisecond {
		t.Errorf("the deadline came after %v", took)
	}
	in.SetDeadline(time.Time{})
	echo(t, out, in, "after the deadline")

	// One set while the read is blocked.
	done := make(chan error, 1)
	go func() { _, err := in.Read(make([]byte, 1)); done <- err }()
	in.SetDeadline(time.Now())
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("blocked read: %v", err)
	}
}

func writeDeadline(t *testing.T, e ends) {
	out, in := e.stream(t)
	out.SetDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := io.Copy(out, endless{}) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%v, want os.ErrDeadlineExceeded", err)
	}
	if n > 8<<20 {
		t.Errorf("%d bytes were taken though nobody reads", n)
	}
	out.SetDeadline(time.Time{})
	out.Close()
	got, err := io.Copy(io.Discard, in)
	if err != nil || got < n {
		t.Errorf("read %d of at least %d bytes: %v", got, n, err)
	}
}

func large(t *testing.T, e ends) {
	out, in := e.stream(t)
	sent := bytes.Repeat([]byte("0123456789abcde\n"), 3<<16) // 3 MiB
	go func() {
		out.Write(sent)
		out.Close()
	}()
	if got := must[[]byte](t)(io.ReadAll(in)); !bytes.Equal(got, sent) {
		t.Errorf("%d bytes arrived of %d, or others", len(got), len(sent))
	}
}

func concurrent(t *testing.T, e ends) {
	var wg sync.WaitGroup
	serve := func(s transport.Session) {
		for range 20 {
			in, err := s.Accept(e.ctx)
			if err != nil {
				t.Error(err)
				return
			}
			wg.Go(func() {
				io.Copy(in, in)
				in.Close()
			})
		}
	}
	call := func(s transport.Session, text string) {
		out, err := s.Open(e.ctx, "call")
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(out, text)
		out.Close()
		if got, err := io.ReadAll(out); err != nil || string(got) != text {
			t.Errorf("%q came back as %q, %v", text, got, err)
		}
	}
	wg.Go(func() { serve(e.a) })
	wg.Go(func() { serve(e.r) })
	for i := range 20 {
		wg.Go(func() { call(e.a, fmt.Sprint("from the agent ", i)) })
		wg.Go(func() { call(e.r, fmt.Sprint("from the replica ", i)) })
	}
	wg.Wait()
}

func streamLimit(t *testing.T, e ends) {
	var open []transport.Stream
	for range transport.MaxStreams {
		open = append(open, must[transport.Stream](t)(e.a.Open(e.ctx, "x")))
	}
	if _, err := e.a.Open(e.ctx, "x"); !errors.Is(err, transport.ErrTooManyStreams) {
		t.Fatalf("one more: %v, want ErrTooManyStreams", err)
	}
	for _, out := range open {
		in := must[transport.Stream](t)(e.r.Accept(e.ctx))
		in.Reset()
		if _, err := out.Read(make([]byte, 1)); !errors.Is(err, transport.ErrStreamReset) {
			t.Fatal(err)
		}
		out.Reset()
	}
	for { // the place comes back when the peer says so
		_, err := e.a.Open(e.ctx, "x")
		if err == nil {
			return
		}
		if !errors.Is(err, transport.ErrTooManyStreams) {
			t.Fatal(err)
		}
		wait(t, e.ctx)
	}
}

// wait lets a moment pass while a test polls.
func wait(t *testing.T, ctx context.Context) {
	t.Helper()
	select {
	case <-time.After(2 * time.Millisecond):
	case <-ctx.Done():
		t.Fatal("waited in vain")
	}
}

func acceptContext(t *testing.T, e ends) {
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(e.ctx)
	done := make(chan error, 1)
	go func() { _, err := e.r.Accept(ctx); done <- err }()
	cancel(why)
	if err := <-done; !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's end", err)
	}
	out, in := e.stream(t)
	echo(t, out, in, "the session is unharmed")
}

func openContext(t *testing.T, e ends) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if _, err := e.a.Open(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func closeReason(t *testing.T, e ends) {
	if err := e.r.Close(transport.CodeDraining, "back in a minute"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		s      transport.Session
		remote bool
	}{{e.a, true}, {e.r, false}} {
		select {
		case <-tc.s.Context().Done():
		case <-e.ctx.Done():
			t.Fatal("the session's context does not end")
		}
		want := transport.CloseError{Code: transport.CodeDraining, Reason: "back in a minute", Remote: tc.remote}
		sees := func(what string, err error) {
			t.Helper()
			if ce, ok := errors.AsType[*transport.CloseError](err); !ok || *ce != want {
				t.Errorf("remote %v: %s: %v, want %v", tc.remote, what, err, &want)
			}
		}
		sees("cause", context.Cause(tc.s.Context()))
		_, err := tc.s.Open(e.ctx, "x")
		sees("open", err)
		_, err = tc.s.Accept(e.ctx)
		sees("accept", err)
	}
}

func closeUnblocks(t *testing.T, e ends) {
	out, in := e.stream(t)
	var fails []chan error
	block := func(f func() error) {
		c := make(chan error, 1)
		fails = append(fails, c)
		go func() { c <- f() }()
	}
	for _, s := range []transport.Session{e.a, e.r} {
		block(func() error { _, err := s.Accept(e.ctx); return err })
	}
	for _, s := range []transport.Stream{out, in} {
		block(func() error { _, err := s.Read(make([]byte, 1)); return err })
	}
	block(func() error { _, err := io.Copy(out, endless{}); return err })
	e.a.Close(transport.CodeReplaced, "")
	for i, c := range fails {
		select {
		case err := <-c:
			if ce, ok := errors.AsType[*transport.CloseError](err); !ok || ce.Code != transport.CodeReplaced {
				t.Errorf("blocked call %d: %v, want a CloseError", i, err)
			}
		case <-e.ctx.Done():
			t.Fatalf("blocked call %d is still blocked", i)
		}
	}
}

func firstClose(t *testing.T, e ends) {
	e.a.Close(transport.CodeTooOld, "first")
	e.a.Close(transport.CodeOK, "second")
	<-e.r.Context().Done()
	for _, s := range []transport.Session{e.a, e.r} {
		if ce, ok := errors.AsType[*transport.CloseError](context.Cause(s.Context())); !ok || ce.Reason != "first" {
			t.Errorf("cause %v", context.Cause(s.Context()))
		}
	}
}

func longReason(t *testing.T, e ends) {
	long := string(bytes.Repeat([]byte("€"), 1000))
	e.r.Close(transport.CodeProtocol, long)
	<-e.a.Context().Done()
	ce, ok := errors.AsType[*transport.CloseError](context.Cause(e.a.Context()))
	if !ok || ce.Code != transport.CodeProtocol || len(ce.Reason) == 0 || len(ce.Reason) > len(long) {
		t.Errorf("cause %v", context.Cause(e.a.Context()))
	}
}
