package mesosv1

import (
	"encoding/hex"
	"strings"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// caller translates one call of a framework that is subscribed.
type caller struct {
	s    *Server
	st   *stream
	info fleet.FrameworkInfo
	by   string
	who  access.Principal
	// operations are statuses that the framework gets as events.
	operations []*pb.OperationStatus
}

// events are what a call is to the leader. The error is a *Refusal.
func (c *caller) events(call *pb.Call) ([]leader.Event, error) {
	f := c.info.ID
	switch call.GetType() {
	case pb.Call_TEARDOWN:
		return one(leader.Teardown{Framework: f, By: c.by})
	case pb.Call_ACCEPT:
		return one(c.accept(call.GetAccept()))
	case pb.Call_DECLINE:
		c.st.use(call.GetDecline().GetOfferIds())
		return one(leader.Decline{Framework: f, Offers: offerIDs(call.GetDecline().GetOfferIds()), Filters: filtersOf(call.GetDecline().GetFilters())})
	case pb.Call_ACCEPT_INVERSE_OFFERS:
		return one(leader.AnswerInverse{Framework: f, Offers: offerIDs(call.GetAcceptInverseOffers().GetInverseOfferIds()), Accept: true})
	case pb.Call_DECLINE_INVERSE_OFFERS:
		return one(leader.AnswerInverse{Framework: f, Offers: offerIDs(call.GetDeclineInverseOffers().GetInverseOfferIds())})
	case pb.Call_REVIVE:
		roles, err := c.roles(call.GetRevive().GetRoles())
		return []leader.Event{leader.Revive{Framework: f, Roles: roles}}, err
	case pb.Call_SUPPRESS:
		roles, err := c.roles(call.GetSuppress().GetRoles())
		return []leader.Event{leader.Suppress{Framework: f, Roles: roles}}, err
	case pb.Call_KILL:
		return c.kill(call.GetKill())
	case pb.Call_SHUTDOWN:
		return c.shutdown(call.GetShutdown()), nil
	case pb.Call_ACKNOWLEDGE:
		a := call.GetAcknowledge()
		return one(leader.Acknowledge{
			Framework: f, Task: taskID(f, a.GetTaskId().GetValue()), Update: fleet.UpdateID(hex.EncodeToString(a.GetUuid())),
		})
	case pb.Call_RECONCILE:
		return one(c.reconcile(call.GetReconcile()))
	case pb.Call_UPDATE_FRAMEWORK:
		return c.update(call.GetUpdateFramework())
	case pb.Call_RECONCILE_OPERATIONS:
		c.reconcileOperations(call.GetReconcileOperations())
	case pb.Call_MESSAGE:
		c.s.Log.Debug("message to an executor dropped: there are no custom executors", "framework", f)
	default: // REQUEST and ACKNOWLEDGE_OPERATION_STATUS have no effect
	}
	return nil, nil
}

func one(ev leader.Event) ([]leader.Event, error) { return []leader.Event{ev}, nil }

func offerIDs(in []*pb.OfferID) []fleet.OfferID {
	out := make([]fleet.OfferID, len(in))
	for i, id := range in {
		out[i] = fleet.OfferID(id.GetValue())
	}
	return out
}

func (c *caller) roles(names []string) ([]fleet.Role, error) {
	roles, err := rolesAmong(names, c.info.Roles)
	if err != nil {
		return nil, invalid("roles: %v", err)
	}
	return roles, nil
}

func (c *caller) accept(in *pb.Call_Accept) leader.Accept {
	a := acceptance{info: &c.info, image: c.s.Image}
	a.use(c.st.use(in.GetOfferIds()))
	ev := leader.Accept{
		Framework: c.info.ID, Offers: offerIDs(in.GetOfferIds()), Operations: a.operations(in.GetOperations()),
		Filters: filtersOf(in.GetFilters()), Create: true, By: c.by,
	}
	c.operations = a.failed
	return ev
}

func (c *caller) kill(in *pb.Call_Kill) ([]leader.Event, error) {
	name := in.GetTaskId().GetValue()
	ev := leader.Kill{Framework: c.info.ID, Task: taskID(c.info.ID, name), Foreign: name, Agent: fleet.AgentID(in.GetAgentId().GetValue()), By: c.by}
	if g := in.GetKillPolicy().GetGracePeriod(); g != nil {
		grace, err := duration("kill_policy.grace_period", g)
		if err != nil {
			return nil, invalid("%v", err)
		}
		ev.Grace = &grace
	}
	return one(ev)
}

// shutdown ends an executor: the tasks of the groups that were launched on it,
// or the one task that is its own.
func (c *caller) shutdown(in *pb.Call_Shutdown) []leader.Event {
	f, name := c.info.ID, in.GetExecutorId().GetValue()
	prefix := groupPrefix(f, name)
	var out []leader.Event
	c.s.State(func(st *state.State) {
		own := taskID(f, name)
		for _, id := range state.SortedKeys(st.Tasks) {
			t := st.Tasks[id]
			if t.Framework == f && !t.State.Terminal() && (id == own || strings.HasPrefix(t.Group, prefix)) {
				out = append(out, leader.Kill{Framework: f, Task: id, Foreign: t.Foreign, Agent: t.Agent, By: c.by})
			}
		}
	})
	return out
}

func (c *caller) reconcile(in *pb.Call_Reconcile) leader.Reconcile {
	ev := leader.Reconcile{Framework: c.info.ID}
	for _, t := range in.GetTasks() {
		name := t.GetTaskId().GetValue()
		ev.Tasks = append(ev.Tasks, leader.Known{Task: taskID(c.info.ID, name), Foreign: name, Agent: fleet.AgentID(t.GetAgentId().GetValue())})
	}
	return ev
}

// reconcileOperations: operations are done at once or not at all, so that there
// is none to know of.
func (c *caller) reconcileOperations(in *pb.Call_ReconcileOperations) {
	for _, o := range in.GetOperations() {
		c.operations = append(c.operations, &pb.OperationStatus{
			OperationId: o.GetOperationId(), AgentId: o.GetAgentId(), ResourceProviderId: o.GetResourceProviderId(),
			State: pb.OperationState_OPERATION_UNKNOWN.Enum(), Message: new("no operation of this id is under way"),
		})
	}
}

func (c *caller) update(in *pb.Call_UpdateFramework) ([]leader.Event, error) {
	info, err := describe(in.GetFrameworkInfo(), in.GetOfferConstraints(), c.who)
	if err != nil {
		return nil, invalid("%v", err)
	}
	suppressed, err := rolesAmong(in.GetSuppressedRoles(), info.Roles)
	if err != nil {
		return nil, invalid("suppressed_roles: %v", err)
	}
	info.ID = c.info.ID
	// The leader would refuse what cannot be compiled, and nobody would hear it.
	if err := allocator.CheckFramework(info); err != nil {
		return nil, invalid("offer_constraints: %v", err)
	}
	c.st.redescribe(info)
	return one(leader.UpdateFramework{Info: info, Suppressed: suppressed, By: c.by})
}
