package mesosv1

import (
	"errors"
	"fmt"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

// acceptance translates the operations of one ACCEPT, in their order.
type acceptance struct {
	info  *fleet.FrameworkInfo
	image string // of tasks that name none
	// agent and left are of the offers; when one of them is not known, stale is
	// set, and the leader will drop whatever is launched.
	agent fleet.AgentID
	left  fleet.Resources
	stale bool
	// failed are operations with an id that come to nothing.
	failed []*pb.OperationStatus
}

// use is told of the offers, nil where one is not known.
func (a *acceptance) use(offers []*fleet.Offer) {
	for _, o := range offers {
		if o == nil {
			a.stale = true
			continue
		}
		if a.agent == "" {
			a.agent = o.Agent
		}
		a.left = a.left.Add(o.Resources)
	}
}

func (a *acceptance) operations(in []*pb.Offer_Operation) []leader.Operation {
	var out []leader.Operation
	for _, op := range in {
		o, err := a.operation(op)
		if err != nil {
			a.fail(op, err)
			continue
		}
		out = append(out, o)
	}
	return out
}

// fail tells of an operation that is not done. Mesos has no word for one
// without an id, either.
func (a *acceptance) fail(op *pb.Offer_Operation, err error) {
	if op.Id == nil {
		return
	}
	st := &pb.OperationStatus{OperationId: op.GetId(), State: pb.OperationState_OPERATION_ERROR.Enum(), Message: new(err.Error())}
	if a.agent != "" {
		st.AgentId = &pb.AgentID{Value: new(string(a.agent))}
	}
	a.failed = append(a.failed, st)
}

func (a *acceptance) operation(op *pb.Offer_Operation) (leader.Operation, error) {
	switch op.GetType() {
	case pb.Offer_Operation_LAUNCH:
		var o leader.Operation
		for _, t := range op.GetLaunch().GetTaskInfos() {
			o.Launch = append(o.Launch, a.launch(t, nil))
		}
		return o, nil
	case pb.Offer_Operation_LAUNCH_GROUP:
		return a.group(op.GetLaunchGroup())
	case pb.Offer_Operation_RESERVE, pb.Offer_Operation_UNRESERVE:
		if op.Id != nil {
			return leader.Operation{}, errors.New("feedback about operations is not supported; send it without an id")
		}
		if op.GetType() == pb.Offer_Operation_RESERVE {
			return a.convert(op.GetReserve().GetSource(), op.GetReserve().GetResources(), true)
		}
		return a.convert(nil, op.GetUnreserve().GetResources(), false)
	default:
		return leader.Operation{}, fmt.Errorf("operations of type %s are not supported", op.GetType())
	}
}

// launch reads one task. What is wrong with it is in Launch.Invalid: the task
// becomes TASK_ERROR. more is added to its resources.
func (a *acceptance) launch(in *pb.TaskInfo, more []*pb.Resource) fleet.Launch {
	l := fleet.Launch{Task: taskID(a.info.ID, in.GetTaskId().GetValue()), Foreign: in.GetTaskId().GetValue()}
	res, err := a.take(append(in.GetResources()[:len(in.GetResources()):len(in.GetResources())], more...))
	if err == nil {
		l.Spec, err = specification(a.info, in, a.image)
	}
	switch id := in.GetTaskId().GetValue(); {
	case err != nil:
	case id == "" || len(id) > maxText:
		err = fmt.Errorf("TaskID has %d bytes; use 1 to %d", len(id), maxText)
	case !a.stale && in.GetAgentId().GetValue() != string(a.agent):
		err = fmt.Errorf("Task uses invalid agent %.64s while agent %s is expected", in.GetAgentId().GetValue(), a.agent) //nolint:staticcheck // Mesos's text
	}
	if err != nil {
		l.Invalid = err.Error()
		l.Foreign = l.Foreign[:min(len(l.Foreign), 4<<10)]
		return l
	}
	l.Resources = res
	a.left = a.left.Sub(res)
	return l
}

// take reads resources and decides on GPUs. Whether the amounts are there is
// for the leader to say.
func (a *acceptance) take(list []*pb.Resource) (fleet.Resources, error) {
	c, err := readClaim(list)
	if err != nil || a.stale {
		return c.named, err
	}
	return c.on(a.left)
}

// group reads a task group. Its tasks are containers of their own on one agent:
// there is no executor process. What the framework set aside for one goes to
// the first task, so that the sums on both sides agree.
func (a *acceptance) group(in *pb.Offer_Operation_LaunchGroup) (leader.Operation, error) {
	ex, tasks := in.GetExecutor(), in.GetTaskGroup().GetTasks()
	if len(tasks) == 0 {
		return leader.Operation{}, errors.New("a task group without tasks")
	}
	id := ex.GetExecutorId().GetValue()
	var o leader.Operation
	for i, t := range tasks {
		var more []*pb.Resource
		if i == 0 {
			more = ex.GetResources()
		}
		l := a.launch(t, more)
		if l.Invalid == "" && ex.GetType() != pb.ExecutorInfo_DEFAULT {
			l.Invalid = "the group has an executor of type " + ex.GetType().String() + ": custom executors are not supported; use DEFAULT"
		}
		if l.Invalid == "" && ex.Container != nil {
			l.Invalid = "the field executor.container is not supported: the tasks of a group have containers of their own"
		}
		o.Launch = append(o.Launch, l)
	}
	o.Group = groupPrefix(a.info.ID, id) + string(o.Launch[0].Task)
	return o, nil
}

// groupPrefix begins the names of the groups that a framework launches on an
// executor, which may have several.
func groupPrefix(f fleet.FrameworkID, executor string) string {
	return string(taskID(f, executor)) + "/"
}

// convert reads RESERVE and UNRESERVE: what is reserved is the same resources
// with one reservation more.
func (a *acceptance) convert(source, reserved []*pb.Resource, reserve bool) (leader.Operation, error) {
	to, err := readClaim(reserved)
	if err != nil {
		return leader.Operation{}, err
	}
	from, err := to.unreserved(a.info.Principal)
	if err != nil {
		return leader.Operation{}, err
	}
	if len(source) > 0 {
		if from, err = readClaim(source); err != nil {
			return leader.Operation{}, err
		}
	}
	if !reserve {
		from, to = to, from
	}
	if a.stale {
		return leader.Operation{}, errors.New("the offers are no longer valid")
	}
	before, err := from.on(a.left)
	if err != nil {
		return leader.Operation{}, err
	}
	if !a.left.Contains(before) {
		return leader.Operation{}, fmt.Errorf("the operation uses more than was offered: %s of %s", before, a.left)
	}
	// The same devices: those that were chosen, class by class.
	after, err := to.on(restack(before, to))
	if err != nil {
		return leader.Operation{}, err
	}
	if !before.Total().Equal(after.Total()) {
		return leader.Operation{}, fmt.Errorf("the operation makes %s of %s: only reservations may differ", after, before)
	}
	a.left = a.left.Sub(before).Add(after)
	return leader.Operation{Convert: &leader.Conversion{From: before, To: after}}, nil
}

// unreserved is the claim without the last reservation of each class, which
// must be a dynamic one and, where it names its maker, the framework's own.
func (c claim) unreserved(principal string) (claim, error) {
	pop := func(class fleet.Class) (fleet.Class, error) {
		n := len(class.Reserved)
		if n == 0 || !class.Reserved[n-1].Dynamic {
			return class, errors.New("the resources have no dynamic reservation")
		}
		if p := class.Reserved[n-1].Principal; p != "" && !isPrincipal(p, principal) {
			return class, fmt.Errorf("the reservation's principal %.64s is not the framework's", p)
		}
		class.Reserved = class.Reserved[:n-1]
		return class, nil
	}
	var out claim
	if flat := c.named.Flat(); !flat.IsZero() {
		return out, errors.New("the resources have no reservation")
	}
	for _, p := range c.named.Parts {
		class, err := pop(p.Class)
		if err != nil {
			return out, err
		}
		out.named = out.named.Add(p.Resources.In(class))
	}
	for _, g := range c.gpus {
		class, err := pop(g.class)
		if err != nil {
			return out, err
		}
		out.gpus = append(out.gpus, count{class, g.n})
	}
	return out, nil
}

// restack gives the devices of before the classes in which to asks for GPUs.
func restack(before fleet.Resources, to claim) fleet.Resources {
	gpus := before.Total().GPUs
	var out fleet.Resources
	for _, g := range to.gpus {
		n := min(g.n, len(gpus))
		out = out.Add(fleet.Resources{GPUs: gpus[:n]}.In(g.class))
		gpus = gpus[n:]
	}
	return out
}
