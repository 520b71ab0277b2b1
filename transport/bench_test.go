package transport_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/transport"
)

// crowdEnv tells the re-executed test binary to be the agents, so that the
// benchmark measures the replica's memory alone.
const crowdEnv = "TENDER_TEST_CROWD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crowdEnv); dir != "" {
		if err := crowd(dir); err != nil {
			fmt.Fprintln(os.Stderr, "crowd:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crowdSize leaves room for its sockets under a limit of 1024 open files.
const crowdSize = 800

// BenchmarkIdleSessions connects agents with a control stream each, as an idle
// fleet has, and reports what one costs the replica.
func BenchmarkIdleSessions(b *testing.B) {
	for b.Loop() {
		idleSessions(b)
	}
}

func idleSessions(b *testing.B) {
	dir := b.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crowdEnv+"="+dir)
	child.Stderr = os.Stderr
	toChild, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	defer child.Wait()
	defer toChild.Close() // ends the child
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil { // the credential is there
		b.Fatal(err)
	}
	cred, err := pki.LoadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	e, err := transport.Listen(transport.Config{Addr: "127.0.0.1:0", Holder: pki.NewHolder(cred), Allow: everybody})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()

	ctx, cancel := context.WithTimeout(b.Context(), time.Minute) // the child may fail
	defer cancel()
	heap, rss := memory()
	fmt.Fprintln(toChild, e.Addr())
	var served errgroup.Group
	for range crowdSize {
		s, err := e.Accept(ctx, transport.ALPNAgent)
		if err != nil {
			b.Fatal(err)
		}
		served.Go(func() error { return serve(ctx, s) })
	}
	if _, err := lines.ReadString('\n'); err != nil { // every agent had an answer
		b.Fatal(err)
	}
	heapNow, rssNow := memory()
	b.ReportMetric(float64(heapNow-heap)/crowdSize, "heap-B/session")
	b.ReportMetric(float64(rssNow-rss)/crowdSize, "rss-B/session")
	toChild.Close()
	e.Close()
	served.Wait()
}

// serve echoes on the control stream until the session ends.
func serve(ctx context.Context, s transport.Session) error {
	st, err := s.Accept(ctx)
	if err != nil {
		return err
	}
	var b [1]byte
	for {
		if _, err := st.Read(b[:]); err != nil {
			return err
		}
		if _, err := st.Write(b[:]); err != nil {
			return err
		}
	}
}

// memory is what the process holds after a collection: heap and stacks in use,
// and pages resident.
func memory() (inUse, resident int64) {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var size, pages int64
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		fmt.Sscan(string(statm), &size, &pages)
	}
	return int64(m.HeapInuse + m.StackInuse), pages * int64(os.Getpagesize())
}

// crowd is the child: an authority, the replica's credential in dir, and
// agents with certificates of their own, since equal ones share memory.
func crowd(dir string) error {
	tb := &noTB{}
	ca := pkitest.New(tb, "fleet.example")
	if err := pki.SaveDir(dir, ca.Credential(tb, pki.KindReplica, "r1")); err != nil {
		return err
	}
	fmt.Println("credential saved")
	in := bufio.NewReader(os.Stdin)
	addr, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	addr = strings.TrimSpace(addr)
	var g errgroup.Group
	g.SetLimit(16)
	for i := range crowdSize {
		g.Go(func() error {
			d, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(ca.Credential(tb, pki.KindAgent, fmt.Sprint("a", i)))})
			if err != nil {
				return err
			}
			return hello(d, addr)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Println("all connected")
	_, err = io.Copy(io.Discard, in)
	return err
}

func hello(d *transport.Dialer, addr string) error {
	s, err := d.Dial(context.Background(), addr, transport.ALPNAgent, nil)
	if err != nil {
		return err
	}
	st, err := s.Open(context.Background(), "control")
	if err != nil {
		return err
	}
	if _, err := st.Write([]byte{1}); err != nil {
		return err
	}
	_, err = io.ReadFull(st, make([]byte, 1))
	return err
}

// noTB lets the child use helpers made for tests.
type noTB struct{ testing.TB }

func (*noTB) Helper()           {}
func (*noTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// BenchmarkConnect is a whole handshake with both ends in one process.
func BenchmarkConnect(b *testing.B) {
	ca := pkitest.New(b, "fleet.example")
	e, err := transport.Listen(transport.Config{
		Addr: "127.0.0.1:0", Holder: pki.NewHolder(ca.Credential(b, pki.KindReplica, "r1")), Allow: everybody,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	d, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(ca.Credential(b, pki.KindAgent, "a1"))})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for b.Loop() {
		s, err := d.Dial(b.Context(), e.Addr().String(), transport.ALPNAgent, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Accept(b.Context(), transport.ALPNAgent); err != nil {
			b.Fatal(err)
		}
		s.Close(transport.CodeOK, "")
	}
}
