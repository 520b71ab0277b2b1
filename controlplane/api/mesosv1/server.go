package mesosv1

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Path is where schedulers post their calls.
const Path = "/api/v1/scheduler"

// headerStream tells the streams of one framework apart.
const headerStream = "Mesos-Stream-Id"

const (
	bodyTime  = 15 * time.Second
	callTime  = 15 * time.Second
	writeTime = 30 * time.Second
	// lookAgain is how long a stream may outlive its principal's revocation.
	lookAgain = time.Second
	// maxCalls bounds the calls that are read at once, each up to MaxCall.
	maxCalls = 64
)

// Config is what a Server knows of its replica. The functions do not block.
type Config struct {
	ID      fleet.ReplicaID
	Addr    string // HOST:PORT of the HTTPS port
	Version string
	// Leader says who leads and where; empty when nobody is known to.
	Leader func() (id fleet.ReplicaID, addr string)
	// Lead is the hub of this replica's term, nil while it does not lead.
	Lead func() *Hub
	// State gives fn this replica's own copy of the state.
	State func(fn func(*state.State))
	// Bundle is access.Gate's.
	Bundle func() *pki.Bundle
	// Remote is from where an agent's session comes, empty for none.
	Remote func(fleet.AgentID) string
	// Image is what tasks run in that name none; DefaultImage when empty.
	Image string
	// Forward carries what a Local handler passes on to the leader, with the
	// replica's own certificate.
	Forward http.RoundTripper
	Log     *slog.Logger
}

// Server answers the calls of schedulers. It is safe for concurrent use.
type Server struct {
	Config
	gate  access.Gate
	slots chan struct{}
}

// New makes the Server of a replica.
func New(c Config) *Server {
	if c.Image == "" {
		c.Image = DefaultImage
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		Config: c, slots: make(chan struct{}, maxCalls),
		gate: access.Gate{Replica: c.ID, State: c.State, Now: time.Now, Bundle: c.Bundle},
	}
}

// asker says who sends a request; the error is an *access.Refusal. It is asked
// again while a stream lasts.
type asker func(*http.Request) (access.Principal, error)

// ServeHTTP answers on the port that all principals reach, as the leader; other
// replicas redirect to it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hub := s.Lead()
	if hub == nil {
		// The leader judges what is shown; who shows nothing is told nothing.
		if _, err := access.Show(r); err != nil {
			refuse(w, err)
			return
		}
		s.redirect(w)
		return
	}
	if err := s.answer(w, r, hub, s.gate.Who); err != nil {
		refuse(w, err)
	}
}

// redirect is Mesos's, which leaves the scheme out: it is that of the request.
func (s *Server) redirect(w http.ResponseWriter) {
	id, addr := s.Leader()
	if id == s.ID || addr == "" { // it begins to lead
		refuse(w, unavailable("no replica leads yet"))
		return
	}
	w.Header().Set("Location", "//"+addr+Path)
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func unavailable(text string) error { return &Refusal{http.StatusServiceUnavailable, text} }

// refuse answers a request that comes to nothing.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	if no, ok := errors.AsType[*access.Refusal](err); ok {
		status = http.StatusForbidden
		if no.Unknown {
			status = http.StatusUnauthorized
			w.Header().Add("WWW-Authenticate", `Basic realm="tender", charset="UTF-8"`)
			w.Header().Add("WWW-Authenticate", `Bearer realm="tender"`)
			w.Header().Set("Connection", "close") // strangers hold no connections
		}
	} else if no, ok := errors.AsType[*Refusal](err); ok {
		status = no.Status
	}
	switch status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, err.Error(), status)
}

// answer does what a request asks of the leader. The order of its checks is
// Mesos's.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, hub *Hub, who asker) error {
	p, err := who(r)
	if err == nil {
		err = p.May(access.ActOnTasks)
	}
	if err != nil {
		return err
	}
	call, err := s.read(w, r)
	if err != nil {
		return err
	}
	if call.GetType() == pb.Call_SUBSCRIBE {
		return s.subscribe(w, r, hub, call, p, who)
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	status, err := s.call(ctx, r, hub, call, p)
	if err != nil {
		return err
	}
	w.WriteHeader(status)
	return nil
}

// read takes a call from a request.
func (s *Server) read(w http.ResponseWriter, r *http.Request) (*pb.Call, error) {
	body, err := s.body(w, r)
	if err != nil {
		return nil, err
	}
	return DecodeCall(r.Header.Get("Content-Type"), body)
}

// body reads a request's body, within the limits of time and size.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method != http.MethodPost {
		return nil, &Refusal{http.StatusMethodNotAllowed, "calls are sent by POST"}
	}
	if _, err := bodyEncoding(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Now().Add(bodyTime))
	_ = ctl.SetWriteDeadline(time.Now().Add(bodyTime + callTime + writeTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxCall))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &Refusal{http.StatusRequestEntityTooLarge, "the call is larger than " + strconv.Itoa(MaxCall) + " bytes"}
	}
	if err != nil {
		return nil, &Refusal{http.StatusBadRequest, "the call cannot be read"}
	}
	_ = ctl.SetReadDeadline(time.Time{})
	return body, nil
}

// call does all calls but SUBSCRIBE and returns the status of the answer.
func (s *Server) call(ctx context.Context, r *http.Request, hub *Hub, call *pb.Call, p access.Principal) (int, error) {
	id := fleet.FrameworkID(call.GetFrameworkId().GetValue())
	st := hub.stream(id)
	known, principal := s.framework(id)
	if st != nil {
		known, principal = true, st.principal
	}
	given := r.Header.Values(headerStream)
	switch {
	case !known:
		return 0, invalid("Framework cannot be found")
	case principal != p.String():
		return 0, invalid("%s", notYours)
	case st == nil:
		return 0, &Refusal{http.StatusForbidden, "Framework is not subscribed"}
	case len(given) == 0:
		return 0, invalid("All non-subscribe calls should include the '%s' header", headerStream)
	case len(given) > 1 || given[0] != st.id:
		return 0, invalid("The stream ID %.128q included in this request didn't match the stream ID currently associated with framework ID %s", given[0], id)
	}
	c := caller{s: s, st: st, info: st.description(), by: p.String(), who: p}
	events, err := c.events(call)
	if err != nil {
		return 0, err
	}
	if len(events) > 0 {
		if err := hub.step(ctx, events...); err != nil {
			return 0, unavailable("the leader does not answer: " + err.Error())
		}
	}
	for _, o := range c.operations {
		st.push(item{event: operationEvent(o)})
	}
	if call.GetType() == pb.Call_UPDATE_FRAMEWORK {
		return http.StatusOK, nil
	}
	return http.StatusAccepted, nil
}

// framework says whether there is a framework that was not torn down, and whose
// it is.
func (s *Server) framework(id fleet.FrameworkID) (known bool, principal string) {
	s.State(func(st *state.State) {
		if f := st.Frameworks[id]; f != nil && f.Ended.IsZero() {
			known, principal = true, f.Info.Principal
		}
	})
	return known, principal
}

func (s *Server) agent(id fleet.AgentID) (a *fleet.Agent) {
	s.State(func(st *state.State) { a = st.Agents[id] })
	return a
}

// master is what SUBSCRIBED says of this replica.
func (s *Server) master() *pb.MasterInfo {
	host, port, _ := net.SplitHostPort(s.Addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	m := &pb.MasterInfo{
		Id: new(string(s.ID)), Ip: new(uint32(0)), Port: new(uint32(n)), Hostname: &host, Version: &s.Version,
		Address: &pb.Address{Hostname: &host, Port: new(int32(n))},
	}
	// Mesos has the address as a number whose bytes are in network order.
	if ip := net.ParseIP(host).To4(); ip != nil {
		*m.Ip = uint32(ip[0]) | uint32(ip[1])<<8 | uint32(ip[2])<<16 | uint32(ip[3])<<24
		m.Address.Ip = &host
	}
	return m
}

var _ http.Handler = (*Server)(nil)

// unsubscribe tells the leader that a stream is gone. The request has ended, so
// it is given its own time.
func unsubscribe(hub *Hub, st *stream) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	_ = hub.step(ctx, leader.Unsubscribe{Framework: st.framework, Conn: st.conn}) // the term has ended: nobody to tell
}
