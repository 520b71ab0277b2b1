package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/tenderfleet/tender/pki"
)

// tcpSession is a Session on TLS over TCP, for where UDP does not pass. yamux
// carries its streams; what yamux lacks (why a session ended, the reset of a
// stream, when the peer is done with one) goes over the first stream, which the
// dialling side opens.
type tcpSession struct {
	conn    *muxConn
	mux     *yamux.Session
	control *yamux.Stream
	dialled bool
	peer    pki.Identity
	ctx     context.Context
	cancel  context.CancelCauseFunc
	accept  chan *tcpStream
	done    chan struct{} // closed when its goroutines have ended

	sending sync.Mutex // one frame on control at a time
	opening sync.Mutex // makes streams known before the peer can speak of them

	mu      sync.Mutex
	streams map[uint32]*tcpStream
	places  map[uint32]struct{} // streams opened here that the peer has not done with
	arrived int                 // live streams that the peer opened
	newest  uint32              // the latest of those
	early   map[uint32]struct{} // reset before they were taken in
	over    bool
}

var _ Session = (*tcpSession)(nil)

// muxWriteTime bounds how long one frame may wait for the network.
const muxWriteTime = 5 * time.Second

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	// Never full: what is open at a time is bounded by MaxStreams, here and in
	// the peer, and one stream is the control stream.
	c.AcceptBacklog = 2 * MaxStreams
	c.EnableKeepAlive = false // keepAlive below pings only while nothing comes
	c.ConnectionWriteTimeout = muxWriteTime
	c.StreamOpenTimeout, c.StreamCloseTimeout = 0, 0
	c.LogOutput = io.Discard // what matters comes back as errors
	return c
}

// newTCPSession takes over a connection whose handshake is complete. A side
// that listens waits for the dialler's first stream, until ctx ends.
func newTCPSession(ctx context.Context, conn *tls.Conn, dialled bool, t timing) (*tcpSession, error) {
	s := &tcpSession{
		conn: newMuxConn(conn, t.idle), dialled: dialled,
		accept: make(chan *tcpStream, MaxStreams), done: make(chan struct{}),
		streams: map[uint32]*tcpStream{}, places: map[uint32]struct{}{}, early: map[uint32]struct{}{},
	}
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		id, err := pki.IdentityOf(certs[0])
		if err != nil {
			return nil, err
		}
		s.peer = id
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(s.readControl)
	wg.Go(s.takeStreams)
	if t.keep > 0 {
		wg.Go(func() { s.keepAlive(t.keep) })
	}
	go func() {
		wg.Wait()
		close(s.done)
	}()
	return s, nil
}

func (s *tcpSession) begin(ctx context.Context) (err error) {
	if s.dialled {
		if s.mux, err = yamux.Client(s.conn, muxConfig()); err != nil {
			return err
		}
		s.control, err = s.mux.OpenStream()
	} else {
		if s.mux, err = yamux.Server(s.conn, muxConfig()); err != nil {
			return err
		}
		if s.control, err = s.mux.AcceptStreamWithContext(ctx); err == nil {
			s.newest = s.control.StreamID()
		}
	}
	if err != nil {
		err = errors.Join(s.translate(err), s.mux.Close())
	}
	return err
}

func (s *tcpSession) link() string             { return "tcp" }
func (s *tcpSession) remoteAddr() string       { return s.conn.RemoteAddr().String() }
func (s *tcpSession) received() uint64         { return s.conn.reads.Load() }
func (s *tcpSession) Peer() pki.Identity       { return s.peer }
func (s *tcpSession) Context() context.Context { return s.ctx }

func (s *tcpSession) bytes() (sent, received uint64) {
	if c, ok := s.conn.raw.(*countedConn); ok {
		return c.sent.Load(), c.received.Load()
	}
	return 0, 0
}

// wait returns when everything of the session has ended, which after Close is
// within the lingering time.
func (s *tcpSession) wait() { <-s.done }

// Close waits until its reason is on its way, a second at most; the goroutines
// end once the peer has hung up, or after as much again.
func (s *tcpSession) Close(code Code, reason string) error {
	if !s.end(&CloseError{Code: code, Reason: shorten(reason)}) {
		return nil
	}
	s.conn.linger()
	// Either fails where the peer has hung up already, be it on this very word.
	if s.send(muxFrame{kind: frameClose, number: uint64(code), reason: shorten(reason)}) != nil || s.conn.CloseWrite() != nil {
		return s.mux.Close()
	}
	return nil // our reader ends when the peer hangs up
}

// end makes cause the reason for the session's end, once, and unblocks every
// stream. It reports whether it was first.
func (s *tcpSession) end(cause error) bool {
	s.mu.Lock()
	first := !s.over
	s.over = true
	streams := s.streams
	s.streams = nil
	s.mu.Unlock()
	if !first {
		return false
	}
	s.cancel(cause)
	for _, st := range streams {
		st.interrupt()
	}
	return true
}

// lost ends a session whose connection has failed.
func (s *tcpSession) lost(err error) {
	s.end(s.translate(err))
	_ = s.mux.Close() // it has failed already
}

// protocol ends a session whose peer does what no honest one does.
func (s *tcpSession) protocol(text string) { _ = s.Close(CodeProtocol, text) }

// translate finds the kind of a failure of the connection, where what reading
// met comes first: a refusal by the peer arrives there.
func (s *tcpSession) translate(err error) error {
	if cause := s.conn.failure(); cause != nil {
		err = cause
	}
	return translateTCP(err)
}

// translateTCP turns the errors of TLS, TCP and yamux into this package's.
func translateTCP(err error) error {
	if err == nil {
		return nil
	}
	if kind := alertKind(err); kind != nil {
		return &kindError{kind, err}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, yamux.ErrTimeout),
		errors.Is(err, yamux.ErrConnectionWriteTimeout), errors.Is(err, syscall.ETIMEDOUT):
		return &kindError{ErrIdle, err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &kindError{ErrPeerRestarted, err} // it left without a word
	}
	return err
}

// alertKind recognises a TLS alert of the peer. crypto/tls hides its type for
// connections over TCP, but not its text.
func alertKind(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return nil
	}
	for code, kind := range alerts {
		if op.Err.Error() == tls.AlertError(uint8(code&0xff)).Error() {
			return kind
		}
	}
	return nil
}

func (s *tcpSession) send(f muxFrame) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	_, err := s.control.Write(f.append(nil))
	return err
}

// readControl carries out what the peer says on the first stream. It is who
// decides why a session ended that was not closed here: the peer's goodbye is
// read before the end of the connection is.
func (s *tcpSession) readControl() {
	r := bufio.NewReaderSize(s.control, 512)
	for {
		f, err := readMuxFrame(r)
		switch {
		case errors.Is(err, errBadFrame):
			s.protocol(err.Error())
			return
		case err != nil:
			s.lost(err)
			return
		}
		switch f.kind {
		case frameReset:
			s.peerReset(uint32(f.number))
		case frameDone:
			s.peerDone(uint32(f.number))
		case frameClose:
			s.end(&CloseError{Code: Code(f.number), Reason: f.reason, Remote: true})
			_ = s.mux.Close() // nothing more is owed to a peer that has hung up
			return
		}
	}
}

// keepAlive pings when nothing has come for that long, and gives up when
// nothing comes then either.
func (s *tcpSession) keepAlive(every time.Duration) {
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		}
		before := s.conn.last.Load()
		if wait := every - time.Since(time.Unix(0, before)); wait > 0 {
			timer.Reset(wait)
			continue
		}
		if _, err := s.mux.Ping(); err != nil && s.conn.last.Load() == before {
			s.lost(err)
			return
		}
		timer.Reset(every)
	}
}

// takeStreams takes in what the peer opens. yamux accepts any stream number, so
// they are judged here.
func (s *tcpSession) takeStreams() {
	for {
		yst, err := s.mux.AcceptStream()
		if err != nil {
			return
		}
		if err := s.take(yst); err != nil {
			s.protocol(err.Error())
			return
		}
	}
}

func (s *tcpSession) take(yst *yamux.Stream) error {
	id := yst.StreamID()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return nil
	case s.mine(id) || id <= s.newest:
		return fmt.Errorf("stream %d does not follow %d", id, s.newest)
	case s.arrived >= MaxStreams:
		return fmt.Errorf("more than %d streams at a time", MaxStreams)
	}
	s.newest = id
	s.arrived++
	st := &tcpStream{ses: s, yst: yst}
	if _, ok := s.early[id]; ok {
		delete(s.early, id)
		st.wasReset = true
	}
	s.streams[id] = st
	s.accept <- st // it has room for all that may be open
	return nil
}

// mine reports whether a stream of that number is opened here: the dialling
// side's are odd.
func (s *tcpSession) mine(id uint32) bool { return (id%2 == 1) == s.dialled }

func (s *tcpSession) peerReset(id uint32) {
	s.opening.Lock() // a stream of ours may not be in the books yet
	defer s.opening.Unlock()
	s.mu.Lock()
	st := s.streams[id]
	early := st == nil && !s.mine(id) && id > s.newest
	if early {
		s.early[id] = struct{}{}
	}
	flood := len(s.early) > MaxStreams
	s.mu.Unlock()
	switch {
	case flood:
		s.protocol("resets of streams that were never opened")
	case st != nil && st.isResetting():
		st.settle() // both sides did it at once
	default:
		if st != nil {
			st.abort(false)
		}
		if s.mine(id) {
			_ = s.send(muxFrame{kind: frameDone, number: uint64(id)}) // fails with the session
		}
	}
}

func (s *tcpSession) peerDone(id uint32) {
	s.mu.Lock()
	st := s.streams[id]
	delete(s.places, id)
	s.mu.Unlock()
	if st != nil && st.isResetting() {
		st.settle()
	}
}

func (s *tcpSession) Open(ctx context.Context, kind StreamKind) (Stream, error) {
	if err := kind.check(); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
	}
	st, err := s.open(kind)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", s.cause(err))
	}
	if _, err := st.yst.Write(append([]byte{byte(len(kind))}, kind...)); err != nil {
		return nil, fmt.Errorf("open stream: %w", s.cause(err))
	}
	return st, nil
}

// open leaves it to its caller to find out why it failed: that may wait for
// readControl, which in turn may wait for opening.
func (s *tcpSession) open(kind StreamKind) (*tcpStream, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	over, full := s.over, len(s.places) >= MaxStreams
	s.mu.Unlock()
	switch {
	case over:
		return nil, net.ErrClosed
	case full:
		return nil, ErrTooManyStreams
	}
	yst, err := s.mux.OpenStream()
	if err != nil {
		return nil, err
	}
	st := &tcpStream{ses: s, yst: yst, kind: kind, taken: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, net.ErrClosed
	}
	s.streams[yst.StreamID()] = st
	s.places[yst.StreamID()] = struct{}{}
	return st, nil
}

// cause is why a call on the session or a stream failed with err: once the
// session is over, or as good as over, that is the reason.
func (s *tcpSession) cause(err error) error {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over || s.mux.IsClosed() {
		<-s.ctx.Done() // readControl is about to say
		return context.Cause(s.ctx)
	}
	if errors.Is(err, yamux.ErrConnectionWriteTimeout) {
		// The frame may still go out: the stream's content is unsure from here.
		s.lost(err)
		return context.Cause(s.ctx)
	}
	return err
}

func (s *tcpSession) Accept(ctx context.Context) (Stream, error) {
	for {
		select { // an ended session hands out nothing
		case <-s.ctx.Done():
			return nil, fmt.Errorf("accept stream: %w", context.Cause(s.ctx))
		default:
		}
		var st *tcpStream
		select {
		case st = <-s.accept:
		case <-ctx.Done():
			return nil, fmt.Errorf("accept stream: %w", context.Cause(ctx))
		case <-s.ctx.Done():
			return nil, fmt.Errorf("accept stream: %w", context.Cause(s.ctx))
		}
		if !st.handOut() {
			continue // the peer has reset it meanwhile
		}
		kind, err := readKind(ctx, st)
		if err == nil {
			st.kind = kind
			return st, nil
		}
		st.Reset()
		if errors.Is(err, errBadKind) {
			s.protocol(err.Error())
			return nil, fmt.Errorf("accept stream: %w", err)
		}
	}
}
