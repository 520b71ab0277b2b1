package mesosv1

import (
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// heartbeat is Mesos's interval of the event HEARTBEAT.
const heartbeat = 15 * time.Second

// view writes what the leader tells one framework in Mesos's words, as much of
// it as the framework says that it understands.
type view struct {
	info *fleet.FrameworkInfo
	// agent is the record of an agent, or nil; remote is where its session comes
	// from, empty when it has none.
	agent  func(fleet.AgentID) *fleet.Agent
	remote func(fleet.AgentID) string
}

// event is what an action is to the framework; nil when it is not told of it.
func (v view) event(act leader.Action) *pb.Event {
	switch act := act.(type) {
	case leader.Offer:
		out := &pb.Event_Offers{}
		for i := range act.Offers {
			out.Offers = append(out.Offers, v.offer(&act.Offers[i]))
		}
		return &pb.Event{Type: pb.Event_OFFERS.Enum(), Offers: out}
	case leader.Rescind:
		return &pb.Event{Type: pb.Event_RESCIND.Enum(), Rescind: &pb.Event_Rescind{OfferId: offerID(act.Offer)}}
	case leader.InverseOffer:
		return &pb.Event{Type: pb.Event_INVERSE_OFFERS.Enum(), InverseOffers: &pb.Event_InverseOffers{
			InverseOffers: []*pb.InverseOffer{v.inverse(act)},
		}}
	case leader.RescindInverse:
		return &pb.Event{Type: pb.Event_RESCIND_INVERSE_OFFER.Enum(), RescindInverseOffer: &pb.Event_RescindInverseOffer{InverseOfferId: offerID(act.Offer)}}
	case leader.Update:
		if !v.hears(act.Status.State) {
			return nil
		}
		return &pb.Event{Type: pb.Event_UPDATE.Enum(), Update: &pb.Event_Update{Status: v.status(act)}}
	case leader.Failure:
		return &pb.Event{Type: pb.Event_FAILURE.Enum(), Failure: &pb.Event_Failure{AgentId: agentID(act.Agent)}}
	case leader.Dismiss:
		return errorEvent(act.Text)
	default:
		return nil
	}
}

func errorEvent(text string) *pb.Event {
	return &pb.Event{Type: pb.Event_ERROR.Enum(), Error: &pb.Event_Error{Message: &text}}
}

func operationEvent(st *pb.OperationStatus) *pb.Event {
	return &pb.Event{Type: pb.Event_UPDATE_OPERATION_STATUS.Enum(), UpdateOperationStatus: &pb.Event_UpdateOperationStatus{Status: st}}
}

func offerID(id fleet.OfferID) *pb.OfferID { return &pb.OfferID{Value: new(string(id))} }
func agentID(id fleet.AgentID) *pb.AgentID { return &pb.AgentID{Value: new(string(id))} }

func (v view) offer(o *fleet.Offer) *pb.Offer {
	f := format{role: o.Role, refined: v.info.Can(fleet.CapRefinement)}
	out := &pb.Offer{
		Id: offerID(o.ID), FrameworkId: &pb.FrameworkID{Value: new(string(o.Framework))}, AgentId: agentID(o.Agent),
		Hostname: &o.Hostname, Resources: f.resources(o.Resources), Attributes: attributes(o),
		AllocationInfo: &pb.Resource_AllocationInfo{Role: new(string(o.Role))}, Url: v.url(o),
	}
	if rec := v.agent(o.Agent); rec != nil && rec.Window != nil {
		out.Unavailability = unavailability(*rec.Window)
	}
	return out
}

// url tells from which address the agent's session comes, or its host name.
// Nothing listens there, hence port 0; schedulers want it for what their tasks
// listen on.
func (v view) url(o *fleet.Offer) *pb.URL {
	host, _, err := net.SplitHostPort(v.remote(o.Agent))
	if err != nil {
		host = o.Hostname
	}
	return &pb.URL{Scheme: new("http"), Address: &pb.Address{Hostname: &o.Hostname, Ip: &host, Port: new(int32(0))}}
}

// attributes are the agent's labels and its site as texts, and what is known of
// the GPUs on offer, the first one as gpu.0: gpu.0.uuid, gpu.0.model and
// gpu.0.compute (texts) and gpu.0.memory (MiB). A task that takes n GPUs of an
// offer gets the first n that no task before it in the same ACCEPT has.
func attributes(o *fleet.Offer) []*pb.Attribute {
	var out []*pb.Attribute
	seen := map[string]bool{}
	text := func(name, value string) {
		if value != "" && !seen[name] {
			seen[name] = true
			out = append(out, &pb.Attribute{Name: &name, Type: pb.Value_TEXT.Enum(), Text: &pb.Value_Text{Value: &value}})
		}
	}
	for i, d := range o.Devices {
		name := "gpu." + strconv.Itoa(i)
		text(name+".uuid", string(d.UUID))
		text(name+".model", d.Model)
		if d.ComputeMajor > 0 {
			text(name+".compute", fmt.Sprintf("%d.%d", d.ComputeMajor, d.ComputeMinor))
		}
		seen[name+".memory"] = true
		out = append(out, &pb.Attribute{Name: new(name + ".memory"), Type: pb.Value_SCALAR.Enum(), Scalar: amountOf(fleet.Whole(d.MemoryMB))})
	}
	for _, k := range state.SortedKeys(o.Labels) {
		text(k, o.Labels[k])
	}
	text("site", string(o.Site))
	return out
}

// inverse asks for everything: that is what an inverse offer without resources
// does.
func (v view) inverse(act leader.InverseOffer) *pb.InverseOffer {
	return &pb.InverseOffer{
		Id: offerID(act.Offer), FrameworkId: &pb.FrameworkID{Value: new(string(act.Framework))},
		AgentId: agentID(act.Request.Agent), Unavailability: unavailability(act.Request.Window),
	}
}

func unavailability(w fleet.Unavailability) *pb.Unavailability {
	out := &pb.Unavailability{Start: &pb.TimeInfo{Nanoseconds: new(w.Start.UnixNano())}}
	if w.Duration > 0 {
		out.Duration = &pb.DurationInfo{Nanoseconds: new(int64(w.Duration))}
	}
	return out
}

// hears reports whether the framework is told of a state at all.
func (v view) hears(s fleet.TaskState) bool {
	return s != fleet.TaskStaging && (s != fleet.TaskKilling || v.info.Can(fleet.CapKillingState))
}

// stateOf: frameworks that are not aware of partitions know only LOST.
func (v view) stateOf(s fleet.TaskState) pb.TaskState {
	switch s {
	case fleet.TaskDropped, fleet.TaskUnreachable, fleet.TaskGone, fleet.TaskGoneByOperator, fleet.TaskUnknown:
		if !v.info.Can(fleet.CapPartitionAware) {
			return pb.TaskState_TASK_LOST
		}
	default:
	}
	return pb.TaskState(pb.TaskState_value[s.String()])
}

// status: each task is its own executor, as with Mesos's command executor.
func (v view) status(u leader.Update) *pb.TaskStatus {
	name := u.Foreign
	if name == "" {
		name = string(u.Status.Task)
	}
	out := &pb.TaskStatus{
		TaskId: &pb.TaskID{Value: &name}, ExecutorId: &pb.ExecutorID{Value: &name}, State: v.stateOf(u.Status.State).Enum(),
		Timestamp: new(float64(u.Status.Time.UnixMicro()) / 1e6), Source: source(u).Enum(),
	}
	if u.Agent != "" {
		out.AgentId = agentID(u.Agent)
	}
	if u.Status.Message != "" {
		out.Message = new(strings.ToValidUTF8(u.Status.Message, "?"))
	}
	if n, ok := pb.TaskStatus_Reason_value["REASON_"+string(u.Status.Reason)]; ok {
		out.Reason = pb.TaskStatus_Reason(n).Enum()
	}
	if uuid, err := hex.DecodeString(string(u.ID)); err == nil && len(uuid) > 0 {
		out.Uuid = uuid
	}
	if !u.Unreachable.IsZero() {
		out.UnreachableTime = &pb.TimeInfo{Nanoseconds: new(u.Unreachable.UnixNano())}
	}
	out.Healthy, out.CheckStatus = healthy(u.Status), checkStatus(u.Status.Check)
	if u.ID != "" {
		out.ContainerStatus = &pb.ContainerStatus{ContainerId: &pb.ContainerID{Value: new(string(u.Status.Task))}}
	}
	return out
}

// source: what has to be acknowledged comes from the agent. Where it gives a
// reason, the agent itself has something to say, and not the task.
func source(u leader.Update) pb.TaskStatus_Source {
	switch {
	case u.ID == "":
		return pb.TaskStatus_SOURCE_MASTER
	case u.Status.Reason != "" && u.Status.Reason != fleet.ReasonCommandFailed:
		return pb.TaskStatus_SOURCE_AGENT
	default:
		return pb.TaskStatus_SOURCE_EXECUTOR
	}
}
