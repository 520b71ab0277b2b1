package cluster

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

// Scheduler is an outside framework that speaks Mesos's v1 API over HTTP. It
// belongs to one goroutine.
type Scheduler struct {
	// URL is where it posts; a redirection changes it.
	URL string
	// Token is shown with each request, empty for none.
	Token    string
	Encoding mesosv1.Encoding
	HTTP     *http.Client
	// ID and Stream are what the last subscription gave.
	ID, Stream string
	// Wait bounds the wait for an event; a minute unless changed.
	Wait   time.Duration
	tb     testing.TB
	events chan *pb.Event
	later  []*pb.Event
	body   io.Closer
}

// NewScheduler makes one that posts to a base URL.
func NewScheduler(tb testing.TB, c *http.Client, base, token string) *Scheduler {
	s := &Scheduler{URL: base + mesosv1.Path, Token: token, HTTP: c, Wait: time.Minute, tb: tb}
	tb.Cleanup(s.Disconnect)
	return s
}

// Post sends a body and returns the answer, whose body the caller closes.
func (s *Scheduler) Post(body []byte, header http.Header) *http.Response {
	s.tb.Helper()
	req, err := http.NewRequestWithContext(s.tb.Context(), http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		s.tb.Fatal(err)
	}
	req.Header.Set("Content-Type", s.Encoding.ContentType())
	req.Header.Set("Accept", s.Encoding.ContentType())
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		s.tb.Fatal(err)
	}
	return resp
}

func (s *Scheduler) post(call *pb.Call, header http.Header) *http.Response {
	s.tb.Helper()
	body, err := s.Encoding.Append(nil, call)
	if err != nil {
		s.tb.Fatal(err)
	}
	return s.Post(body, header)
}

// Subscribe subscribes, for the first time or again, wherever the leader is.
// The event SUBSCRIBED, or ERROR, is the next one.
func (s *Scheduler) Subscribe(info *pb.FrameworkInfo, change ...func(*pb.Call)) {
	s.tb.Helper()
	s.Disconnect()
	call := &pb.Call{Type: pb.Call_SUBSCRIBE.Enum(), Subscribe: &pb.Call_Subscribe{FrameworkInfo: info}}
	if info.Id = nil; s.ID != "" {
		call.FrameworkId, info.Id = &pb.FrameworkID{Value: &s.ID}, &pb.FrameworkID{Value: &s.ID}
	}
	for _, c := range change {
		c(call)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		resp := s.post(call, nil)
		switch resp.StatusCode {
		case http.StatusOK:
			s.Stream, s.body = resp.Header.Get("Mesos-Stream-Id"), resp.Body
			s.events, s.later = make(chan *pb.Event, 1024), nil
			go s.read(resp.Body, s.events)
			return
		case http.StatusTemporaryRedirect:
			s.URL = "https:" + resp.Header.Get("Location")
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode/100 == 4 || time.Since(began) > s.Wait {
			s.tb.Fatalf("subscribe: %s: %s", resp.Status, text)
		}
	}
}

// read ends with the stream.
func (s *Scheduler) read(body io.Reader, events chan<- *pb.Event) {
	defer close(events)
	records := mesosv1.NewRecordReader(body, 64<<20)
	for {
		record, err := records.ReadRecord()
		if err != nil {
			return
		}
		ev := &pb.Event{}
		if err := s.Encoding.Unmarshal(record, ev); err != nil {
			s.tb.Errorf("event %q: %v", record, err)
			return
		}
		events <- ev
	}
}

// Disconnect breaks the stream off.
func (s *Scheduler) Disconnect() {
	if s.body != nil {
		_ = s.body.Close()
		for range s.events { //nolint:revive // until its reader has ended
		}
		s.body = nil
	}
}

// Next returns the next event of a type. Those of other types are kept, but for
// heartbeats.
func (s *Scheduler) Next(t pb.Event_Type) *pb.Event {
	s.tb.Helper()
	for i, ev := range s.later {
		if ev.GetType() == t {
			s.later = append(s.later[:i:i], s.later[i+1:]...)
			return ev
		}
	}
	limit := time.After(s.Wait)
	for {
		select {
		case ev, ok := <-s.events:
			switch {
			case !ok:
				s.tb.Fatalf("the stream ended before %s; there were %v", t, types(s.later))
			case ev.GetType() == t:
				return ev
			case ev.GetType() == pb.Event_ERROR:
				s.tb.Fatalf("ERROR instead of %s: %s", t, ev.GetError().GetMessage())
			case ev.GetType() != pb.Event_HEARTBEAT:
				s.later = append(s.later, ev)
			}
		case <-limit:
			s.tb.Fatalf("no %s within %v; there were %v", t, s.Wait, types(s.later))
		}
	}
}

func types(events []*pb.Event) (list []pb.Event_Type) {
	for _, ev := range events {
		list = append(list, ev.GetType())
	}
	return list
}

// Quiet returns the events that come within a time.
func (s *Scheduler) Quiet(d time.Duration) []*pb.Event {
	end := time.After(d)
	for {
		select {
		case ev, ok := <-s.events:
			if !ok {
				got := s.later
				s.later = nil
				return got
			}
			s.later = append(s.later, ev)
		case <-end:
			got := s.later
			s.later = nil
			return got
		}
	}
}

// Ended waits until the replica has ended the stream.
func (s *Scheduler) Ended() {
	s.tb.Helper()
	for limit := time.After(s.Wait); ; {
		select {
		case _, ok := <-s.events:
			if !ok {
				return
			}
		case <-limit:
			s.tb.Fatalf("the stream has not ended within %v", s.Wait)
		}
	}
}

// Subscribed reads the answer to a subscription and keeps the id.
func (s *Scheduler) Subscribed() *pb.Event_Subscribed {
	s.tb.Helper()
	ev := s.Next(pb.Event_SUBSCRIBED).GetSubscribed()
	s.ID = ev.GetFrameworkId().GetValue()
	return ev
}

// Try sends a call and returns the status and the text of the answer.
func (s *Scheduler) Try(call *pb.Call) (status int, text string) {
	s.tb.Helper()
	call.FrameworkId = &pb.FrameworkID{Value: &s.ID}
	resp := s.post(call, http.Header{"Mesos-Stream-Id": {s.Stream}})
	defer resp.Body.Close() //nolint:errcheck // it is read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.tb.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Call sends a call that must be accepted.
func (s *Scheduler) Call(call *pb.Call) {
	s.tb.Helper()
	want := http.StatusAccepted
	if call.GetType() == pb.Call_UPDATE_FRAMEWORK {
		want = http.StatusOK
	}
	if status, text := s.Try(call); status != want {
		s.tb.Fatalf("%s: %d: %s", call.GetType(), status, text)
	}
}

// Offer returns the next offer; those that come along are kept.
func (s *Scheduler) Offer() *pb.Offer {
	s.tb.Helper()
	list := s.Next(pb.Event_OFFERS).GetOffers().GetOffers()
	for _, o := range list[1:] {
		s.later = append(s.later, &pb.Event{Type: pb.Event_OFFERS.Enum(), Offers: &pb.Event_Offers{Offers: []*pb.Offer{o}}})
	}
	return list[0]
}

// Update returns the next status.
func (s *Scheduler) Update() *pb.TaskStatus {
	s.tb.Helper()
	return s.Next(pb.Event_UPDATE).GetUpdate().GetStatus()
}

// Acknowledge acknowledges a status.
func (s *Scheduler) Acknowledge(st *pb.TaskStatus) {
	s.tb.Helper()
	s.Call(&pb.Call{Type: pb.Call_ACKNOWLEDGE.Enum(), Acknowledge: &pb.Call_Acknowledge{
		AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
	}})
}

// Accept launches tasks on offers.
func (s *Scheduler) Accept(offers []*pb.Offer, ops ...*pb.Offer_Operation) {
	s.tb.Helper()
	a := &pb.Call_Accept{Operations: ops}
	for _, o := range offers {
		a.OfferIds = append(a.OfferIds, o.GetId())
	}
	s.Call(&pb.Call{Type: pb.Call_ACCEPT.Enum(), Accept: a})
}

// LaunchOp is the operation LAUNCH.
func LaunchOp(tasks ...*pb.TaskInfo) *pb.Offer_Operation {
	return &pb.Offer_Operation{Type: pb.Offer_Operation_LAUNCH.Enum(), Launch: &pb.Offer_Operation_Launch{TaskInfos: tasks}}
}

// TaskInfo is a task of one processor and 64 MiB on an offer's agent, whose
// command is one of executor.Commands.
func TaskInfo(o *pb.Offer, id string, command ...string) *pb.TaskInfo {
	return &pb.TaskInfo{
		Name: &id, TaskId: &pb.TaskID{Value: &id}, AgentId: o.GetAgentId(),
		Resources: []*pb.Resource{Amount("cpus", 1), Amount("mem", 64)},
		Command:   &pb.CommandInfo{Shell: new(false), Value: &command[0], Arguments: command},
	}
}

// Amount is a scalar resource.
func Amount(name string, v float64) *pb.Resource {
	return &pb.Resource{Name: &name, Type: pb.Value_SCALAR.Enum(), Scalar: &pb.Value_Scalar{Value: &v}}
}

// Framework is a framework in one role.
func Framework(role string, caps ...pb.FrameworkInfo_Capability_Type) *pb.FrameworkInfo {
	info := &pb.FrameworkInfo{User: new("root"), Name: new("test"), Role: &role}
	for _, c := range caps {
		info.Capabilities = append(info.Capabilities, &pb.FrameworkInfo_Capability{Type: c.Enum()})
	}
	return info
}
