package mesosv1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
)

const (
	// findTime is how long a call waits for a replica to lead: old clients give
	// up at the first refusal, and an election takes less.
	findTime = 8 * time.Second
	findPace = 50 * time.Millisecond
	// silence ends a stream that is passed on when not even heartbeats come.
	silence = 3 * heartbeat
	// maxEvent bounds a record that is passed on.
	maxEvent = 64 << 20
)

// Local returns a handler for a listener on this machine's loopback, without
// TLS, for schedulers that cannot do more. It never redirects: it passes calls
// on to whichever replica leads, over TLS, and the stream ends in order when
// that changes.
//
// Requests show a token, as everywhere. Where trusted names a framework's
// principal, those that show nothing are taken for it; they must then name the
// machine as "localhost" or by a loopback address, so that no page in a browser
// can be made to reach it under another name.
func (s *Server) Local(trusted string) http.Handler {
	l := &local{s: s, trusted: trusted}
	mux := http.NewServeMux()
	mux.Handle(Path, l)
	return http.NewCrossOriginProtection().Handler(mux)
}

type local struct {
	s       *Server
	trusted string
}

// who says who asks.
func (l *local) who(r *http.Request) (p access.Principal, err error) {
	if l.trusted == "" || len(r.Header.Values("Authorization")) > 0 {
		return l.s.gate.Who(r)
	}
	if !isLoopback(r.Host) {
		return p, &access.Refusal{Text: "this request shows no token and is not for localhost"}
	}
	l.s.State(func(st *state.State) {
		p, err = access.Authenticate(st, time.Now(), access.Shown{
			Certificate: pki.Identity{TrustDomain: st.TrustDomain, Kind: pki.KindFramework, ID: l.trusted},
		})
	})
	return p, err
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

func (l *local) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := l.serve(w, r); err != nil {
		refuse(w, err)
	}
}

// serve finds the leader and has it answer.
func (l *local) serve(w http.ResponseWriter, r *http.Request) error {
	p, err := l.who(r)
	if err == nil {
		err = p.May(access.ActOnTasks)
	}
	if err != nil {
		return err
	}
	body, err := l.s.body(w, r)
	if err != nil {
		return err
	}
	call, err := DecodeCall(r.Header.Get("Content-Type"), body)
	if err != nil {
		return err
	}
	subscribe := call.GetType() == pb.Call_SUBSCRIBE
	for end := time.Now().Add(findTime); ; {
		if hub := l.s.Lead(); hub != nil {
			r.Body = io.NopCloser(bytes.NewReader(body))
			return l.s.answer(w, r, hub, l.who)
		}
		if id, addr := l.s.Leader(); addr != "" && id != l.s.ID {
			answered, err := l.pass(w, r, body, p, addr, subscribe)
			if answered || err != nil && !subscribe {
				return err
			}
		}
		if time.Now().After(end) {
			return unavailable("no replica leads yet; try again shortly")
		}
		select {
		case <-time.After(findPace):
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
}

// pass sends a call to the leader and passes its answer on. It reports false
// when there was none, or one that says to look elsewhere.
func (l *local) pass(w http.ResponseWriter, r *http.Request, body []byte, p access.Principal, addr string, subscribe bool) (answered bool, err error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+Path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	for _, name := range []string{"Content-Type", "Accept", headerStream} {
		out.Header[name] = r.Header.Values(name)
	}
	access.PassOn(out, p)
	resp, err := l.s.Forward.RoundTrip(out)
	if err != nil {
		return false, unavailable("the leader does not answer; try again shortly")
	}
	defer resp.Body.Close() //nolint:errcheck // what it was for has been read
	if resp.StatusCode == http.StatusTemporaryRedirect || resp.StatusCode == http.StatusServiceUnavailable {
		return false, nil
	}
	for _, name := range []string{"Content-Type", headerStream, "X-Content-Type-Options"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(resp.StatusCode)
	if subscribe && resp.StatusCode == http.StatusOK {
		stop := context.AfterFunc(ctx, func() { _ = resp.Body.Close() }) //nolint:errcheck // ends the reading
		defer stop()
		l.relay(ctx, w, r, resp.Body, addr, cancel)
		return true, nil
	}
	_, _ = io.Copy(w, io.LimitReader(resp.Body, 64<<10)) // the asker is gone: nobody to tell
	return true, nil
}

var errSilent = errors.New("the leader is silent")

// relay passes a stream on, record by record as it was written. It ends without
// an error: that is how the scheduler sees the end of a stream.
func (l *local) relay(ctx context.Context, w http.ResponseWriter, r *http.Request, from io.Reader, addr string, cancel context.CancelCauseFunc) {
	ctl := http.NewResponseController(w)
	_ = ctl.SetWriteDeadline(time.Now().Add(writeTime))
	if ctl.Flush() != nil {
		return
	}
	heard := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() { // ends with relay
		defer close(done)
		l.watch(ctx, r, addr, heard, cancel)
	}()
	in, to := NewRecordReader(from, maxEvent), NewRecordWriter(w)
	for {
		record, err := in.ReadRecord()
		if err == nil {
			_ = ctl.SetWriteDeadline(time.Now().Add(writeTime))
			err = to.WriteRecord(record)
		}
		if err != nil {
			cancel(err)
			<-done
			return
		}
		select {
		case heard <- struct{}{}:
		default:
		}
	}
}

// watch ends a relay when another replica leads, when the one that does is
// silent, or when the right to ask has ended.
func (l *local) watch(ctx context.Context, r *http.Request, addr string, heard <-chan struct{}, cancel context.CancelCauseFunc) {
	look, quiet := time.NewTicker(lookAgain), time.NewTimer(silence)
	defer look.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
			quiet.Reset(silence)
		case <-quiet.C:
			cancel(errSilent)
			return
		case <-look.C:
			_, err := l.who(r)
			if _, now := l.s.Leader(); err != nil || now != "" && now != addr || l.s.Lead() != nil {
				cancel(err)
				return
			}
		}
	}
}
