package mesosv1

import (
	"net/http"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// subscribe answers SUBSCRIBE with a stream of events, which lasts until the
// scheduler, the leader's term or the right to it ends.
func (s *Server) subscribe(w http.ResponseWriter, r *http.Request, hub *Hub, call *pb.Call, p access.Principal, who asker) error {
	enc, err := Negotiate(r.Header.Values("Accept"))
	if err != nil {
		return err
	}
	if len(r.Header.Values(headerStream)) > 0 {
		return invalid("Subscribe calls should not include the '%s' header", headerStream)
	}
	in := call.GetSubscribe().GetFrameworkInfo()
	if in.Principal != nil && !isPrincipal(in.GetPrincipal(), p.String()) {
		return invalid("Authenticated principal '%s' does not match principal '%.64s' set in `FrameworkInfo`", p.ID, in.GetPrincipal())
	}
	out := writer{w: w, enc: enc, records: NewRecordWriter(w), ctl: http.NewResponseController(w)}
	ev, err := s.registration(call, p)
	if err != nil {
		out.begin(newUUID())
		out.write(errorEvent(err.Error()))
		return nil
	}
	st, no := hub.open(ev.Info)
	if no == notYours {
		out.begin(newUUID())
		out.write(errorEvent(no))
		return nil
	}
	if no != "" {
		return unavailable(no)
	}
	defer hub.close(st)
	ev.Conn = st.conn
	if err := hub.step(r.Context(), ev); err != nil {
		return unavailable("the leader does not answer: " + err.Error())
	}
	defer unsubscribe(hub, st)
	s.Log.Info("scheduler subscribes", "framework", ev.Info.ID, "name", ev.Info.Name, "by", ev.By, "remote", r.RemoteAddr)
	out.begin(st.id)
	why := s.stream(r, hub, st, &out, who)
	s.Log.Info("scheduler is gone", "framework", ev.Info.ID, "by", ev.By, "why", why)
	return nil
}

// registration checks a subscription. The error is text for the event ERROR.
func (s *Server) registration(call *pb.Call, p access.Principal) (leader.Register, error) {
	sub := call.GetSubscribe()
	info, err := describe(sub.GetFrameworkInfo(), sub.GetOfferConstraints(), p)
	if err != nil {
		return leader.Register{}, err
	}
	suppressed, err := rolesAmong(sub.GetSuppressedRoles(), info.Roles)
	if err != nil {
		return leader.Register{}, invalid("suppressed_roles: %v", err)
	}
	if info.ID, err = s.identify(call, p); err != nil {
		return leader.Register{}, err
	}
	return leader.Register{Info: info, Suppressed: suppressed, By: p.String()}, nil
}

// identify gives a new framework its id. One that comes with an id keeps it,
// known here or not: it may have it from another master.
func (s *Server) identify(call *pb.Call, p access.Principal) (fleet.FrameworkID, error) {
	if call.FrameworkId == nil {
		return fleet.FrameworkID(newUUID()), nil
	}
	id := fleet.FrameworkID(call.GetFrameworkId().GetValue())
	var known *state.Framework
	s.State(func(st *state.State) { known = st.Frameworks[id] })
	switch {
	case known == nil && len(id) < minGivenID:
		return "", invalid("the framework id %q is not known here, and too short to be from a master; subscribe without an id", string(id))
	case known == nil:
		return id, fleet.CheckID("framework", string(id))
	case !known.Ended.IsZero():
		return "", invalid("Framework has been removed")
	case known.Info.Principal != p.String():
		return "", invalid("%s", notYours)
	}
	return id, nil
}

// isPrincipal reports whether a name in a message means a principal: Mesos's
// have no kind before them.
func isPrincipal(name, principal string) bool {
	return name == principal || strings.HasSuffix(principal, "/"+name)
}

// stream writes until something ends it, and says what.
func (s *Server) stream(r *http.Request, hub *Hub, st *stream, out *writer, who asker) string {
	beat, look := time.NewTicker(heartbeat), time.NewTicker(lookAgain)
	defer beat.Stop()
	defer look.Stop()
	subscribed := false
	for {
		items, ended, slow := st.take()
		for _, it := range items {
			if reg, ok := it.act.(leader.Registered); ok && reg.Refused == "" {
				subscribed = true
				beat.Reset(heartbeat)
			}
			s.write(r, hub, st, out, it)
		}
		switch {
		case slow:
			out.hurry() // nobody reads: the end must not wait, either
			return "it does not read its events"
		case out.err != nil:
			return "it cannot be written to"
		case ended:
			return "it was dismissed"
		}
		select {
		case <-st.wake:
		case <-r.Context().Done():
			return "its connection has ended"
		case <-hub.done:
			return "the leader's term has ended"
		case <-beat.C:
			if subscribed {
				out.write(&pb.Event{Type: pb.Event_HEARTBEAT.Enum()})
			}
		case <-look.C:
			if _, err := who(r); err != nil {
				out.write(errorEvent(err.Error()))
				return err.Error()
			}
		}
	}
}

// write writes one item. What the framework does not want to hear of is
// acknowledged in its place, so that the next update can come.
func (s *Server) write(r *http.Request, hub *Hub, st *stream, out *writer, it item) {
	info := st.description()
	ev := it.event
	if reg, ok := it.act.(leader.Registered); ok {
		ev = errorEvent(reg.Refused)
		if reg.Refused == "" {
			ev = &pb.Event{Type: pb.Event_SUBSCRIBED.Enum(), Subscribed: &pb.Event_Subscribed{
				FrameworkId:              &pb.FrameworkID{Value: new(string(info.ID))},
				HeartbeatIntervalSeconds: new(heartbeat.Seconds()), MasterInfo: s.master(),
			}}
		}
	} else if it.act != nil {
		ev = view{&info, s.agent, s.Remote}.event(it.act)
	}
	if ev != nil {
		out.write(ev)
		return
	}
	if u, ok := it.act.(leader.Update); ok && u.ID != "" {
		_ = hub.step(r.Context(), leader.Acknowledge{Framework: info.ID, Task: u.Status.Task, Update: u.ID}) // it comes again
	}
}

// writer writes events as records. The first error is final.
type writer struct {
	w       http.ResponseWriter
	enc     Encoding
	records *RecordWriter
	ctl     *http.ResponseController
	buf     []byte
	err     error
}

func (o *writer) begin(stream string) {
	h := o.w.Header()
	h.Set("Content-Type", o.enc.ContentType())
	h.Set(headerStream, stream)
	h.Set("Cache-Control", "no-store")
	_ = o.ctl.SetWriteDeadline(time.Now().Add(writeTime))
	o.w.WriteHeader(http.StatusOK)
	o.err = o.ctl.Flush()
}

func (o *writer) write(ev *pb.Event) {
	if o.err != nil {
		return
	}
	_ = o.ctl.SetWriteDeadline(time.Now().Add(writeTime))
	if o.buf, o.err = o.enc.Append(o.buf[:0], ev); o.err == nil {
		o.err = o.records.WriteRecord(o.buf)
	}
}

func (o *writer) hurry() { _ = o.ctl.SetWriteDeadline(time.Now().Add(time.Second)) }
