package cluster_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// amount is how much of a scalar an offer has.
func amount(o *pb.Offer, name string) (sum float64) {
	for _, r := range o.GetResources() {
		if r.GetName() == name {
			sum += r.GetScalar().GetValue()
		}
	}
	return sum
}

// accepting runs a scenario with a subscribed scheduler, one replica and agents.
func accepting(t *testing.T, agents int, info *pb.FrameworkInfo, run func(*testing.T, *cluster.Fleet, *cluster.Scheduler, []*pb.Offer), devices ...gpu.Device) {
	t.Helper()
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		w := f.Web("")
		f.Up(1)
		for i := range agents {
			f.Agent([]string{"edge-1", "edge-2"}[i], devices...)
		}
		s := cluster.NewScheduler(t, w.Client(f), "https://"+f.Leader().Addr, f.Principal("batch", "batch"))
		s.Encoding = mesosv1.Protobuf
		s.Subscribe(info)
		s.Subscribed()
		var offers []*pb.Offer
		for range agents {
			offers = append(offers, s.Offer())
		}
		run(t, f, s, offers)
	})
}

const aware = pb.FrameworkInfo_Capability_PARTITION_AWARE

// Tasks on offers that are not to be had are dropped, and what was offered is
// offered again.
func TestOffersThatAreNotToBeHad(t *testing.T) {
	for name, tt := range map[string]struct {
		caps []pb.FrameworkInfo_Capability_Type
		want pb.TaskState
	}{
		"to a framework that knows of partitions": {[]pb.FrameworkInfo_Capability_Type{aware}, pb.TaskState_TASK_DROPPED},
		"to one that does not know of partitions": {nil, pb.TaskState_TASK_LOST},
	} {
		t.Run(name, func(t *testing.T) {
			accepting(t, 2, cluster.Framework("batch", tt.caps...), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
				dropped := func(what string, offers ...*pb.Offer) {
					t.Helper()
					s.Accept(offers, cluster.LaunchOp(cluster.TaskInfo(offers[0], what, "wait")))
					st := s.Update()
					if st.GetState() != tt.want || st.GetReason() != pb.TaskStatus_REASON_INVALID_OFFERS || st.GetTaskId().GetValue() != what ||
						st.GetSource() != pb.TaskStatus_SOURCE_MASTER || st.Uuid != nil {
						t.Errorf("%s: %v", what, st)
					}
				}
				again := func(n int) (offers []*pb.Offer) {
					t.Helper()
					for range n {
						offers = append(offers, s.Offer())
						if o := offers[len(offers)-1]; amount(o, "cpus") != 4 || amount(o, "mem") != 4096 {
							t.Errorf("then it is offered %v", o)
						}
					}
					return offers
				}
				dropped("offers of two agents", offers...)
				dropped("an offer that was used", offers[0])
				offers = again(2)
				dropped("an offer twice", offers[0], offers[0])
				last := again(1)[0]
				dropped("an offer that never was", &pb.Offer{Id: &pb.OfferID{Value: new("o9-9")}, AgentId: last.GetAgentId()})
				s.Call(&pb.Call{Type: pb.Call_DECLINE.Enum(), Decline: &pb.Call_Decline{
					OfferIds: []*pb.OfferID{last.GetId()}, Filters: &pb.Filters{RefuseSeconds: new(0.0)},
				}})
				dropped("a declined one", last)
				if n := len(f.Tasks()); n > 0 {
					t.Errorf("there are %d tasks", n)
				}
			})
		})
	}
}

// What is wrong with a task is its own error; what is offered beside it is used.
func TestTasksThatAreInvalid(t *testing.T) {
	accepting(t, 1, cluster.Framework("batch"), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		o := offers[0]
		with := func(id string, change func(*pb.TaskInfo)) *pb.TaskInfo {
			task := cluster.TaskInfo(o, id, "sleep", "1h")
			change(task)
			return task
		}
		cpus := func(v float64) func(*pb.TaskInfo) {
			return func(t *pb.TaskInfo) { t.Resources[0] = cluster.Amount("cpus", v) }
		}
		says := map[string]string{
			"negative": "Task uses invalid resources: Invalid 'cpus' resource: -1 is less than zero",
			"NaN":      "Task uses invalid resources: Invalid 'cpus' resource: NaN is not a number of zero or more",
			"fraction": "Task uses invalid resources: Invalid 'gpus' resource: The 'gpus' resource must be an unsigned integer",
			"more":     "the task uses more than was offered",
			"nothing":  "the task uses more than was offered: nothing",
			"agent":    "Task uses invalid agent elsewhere while agent edge-1 is expected",
			"executor": "custom executors are not supported",
			"files":    "command.uris is not supported",
			"twice":    "the task id twice is in use",
		}
		s.Accept(offers, cluster.LaunchOp(
			with("negative", cpus(-1)), with("NaN", cpus(math.NaN())), with("more", cpus(64)),
			with("fraction", func(t *pb.TaskInfo) { t.Resources = append(t.Resources, cluster.Amount("gpus", 0.1)) }),
			with("nothing", func(t *pb.TaskInfo) { t.Resources = nil }),
			with("agent", func(t *pb.TaskInfo) { t.AgentId = &pb.AgentID{Value: new("elsewhere")} }),
			with("executor", func(t *pb.TaskInfo) { t.Executor = &pb.ExecutorInfo{ExecutorId: &pb.ExecutorID{Value: new("e")}} }),
			with("files", func(t *pb.TaskInfo) {
				t.Command.Uris = []*pb.CommandInfo_URI{{Value: new("http://example.org/x")}}
			}),
			with("twice", cpus(1)), with("twice", cpus(1)),
		))
		running := false
		for len(says) > 0 || !running {
			st := s.Update()
			id := st.GetTaskId().GetValue()
			if st.GetState() != pb.TaskState_TASK_ERROR {
				if id != "twice" {
					t.Errorf("it was told %v", st)
				}
				running = running || st.GetState() == pb.TaskState_TASK_RUNNING
				s.Acknowledge(st)
				continue
			}
			if st.GetReason() != pb.TaskStatus_REASON_TASK_INVALID || st.GetSource() != pb.TaskStatus_SOURCE_MASTER || says[id] == "" || !strings.Contains(st.GetMessage(), says[id]) {
				t.Errorf("it was told %v", st)
			}
			delete(says, id)
		}
		if o := s.Offer(); amount(o, "cpus") != 3 || amount(o, "mem") != 4096-64 {
			t.Errorf("what is left is %v", o)
		}
	})
}

// A declined offer comes again when its filter says.
func TestDeclinedOffers(t *testing.T) {
	accepting(t, 1, cluster.Framework("batch"), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		decline := func(filters *pb.Filters) {
			t.Helper()
			s.Call(&pb.Call{Type: pb.Call_DECLINE.Enum(), Decline: &pb.Call_Decline{OfferIds: []*pb.OfferID{offers[0].GetId()}, Filters: filters}})
		}
		for name, tt := range map[string]struct {
			filters *pb.Filters
			lo, hi  time.Duration
		}{
			"none":                 {nil, 500 * time.Millisecond, 3 * time.Second},
			"the default":          {&pb.Filters{}, 4 * time.Second, 7 * time.Second},
			"not for a moment":     {&pb.Filters{RefuseSeconds: new(0.0)}, 0, 2 * time.Second},
			"for a while":          {&pb.Filters{RefuseSeconds: new(20.0)}, 19 * time.Second, 22 * time.Second},
			"for less than it can": {&pb.Filters{RefuseSeconds: new(-3.0)}, 4 * time.Second, 7 * time.Second},
		} {
			decline(tt.filters)
			began := time.Now()
			offers[0] = s.Offer()
			within(t, name, time.Since(began), tt.lo, tt.hi)
		}
		decline(&pb.Filters{RefuseSeconds: new(1e6)})
		if got := s.Quiet(time.Minute); len(got) > 0 {
			t.Errorf("it was told %v", got)
		}
		s.Call(&pb.Call{Type: pb.Call_REVIVE.Enum()})
		began := time.Now()
		offers[0] = s.Offer()
		within(t, "an offer after REVIVE", time.Since(began), 0, 2*time.Second)
		s.Call(&pb.Call{Type: pb.Call_SUPPRESS.Enum(), Suppress: &pb.Call_Suppress{Roles: []string{"batch"}}})
		decline(&pb.Filters{RefuseSeconds: new(0.0)})
		if got := s.Quiet(time.Minute); len(got) > 0 {
			t.Errorf("suppressed, it was told %v", got)
		}
	})
}

// Named devices: an offer lists them, and a task gets the first of them.
func TestSchedulerTakesGPUs(t *testing.T) {
	device := func(n string) gpu.Device {
		return gpu.Device{UUID: gpu.UUID("GPU-" + n), Model: "NVIDIA L4", MemoryMB: 23034, Health: gpu.Healthy}
	}
	info := cluster.Framework("batch", pb.FrameworkInfo_Capability_GPU_RESOURCES)
	accepting(t, 1, info, func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		o := offers[0]
		text := map[string]string{}
		for _, a := range o.GetAttributes() {
			text[a.GetName()] = a.GetText().GetValue()
		}
		if amount(o, "gpus") != 3 || text["gpu.0.uuid"] != "GPU-a" || text["gpu.2.uuid"] != "GPU-c" || text["gpu.1.model"] != "NVIDIA L4" {
			t.Errorf("it is offered %v", o)
		}
		task := func(id string, n float64) *pb.TaskInfo {
			task := cluster.TaskInfo(o, id, "wait")
			task.Resources = append(task.Resources, cluster.Amount("gpus", n))
			return task
		}
		s.Accept(offers, cluster.LaunchOp(task("one", 1), task("two", 2), task("none", 1)))
		for n := 0; n < 2; {
			switch st := s.Update(); {
			case st.GetState() == pb.TaskState_TASK_ERROR:
				if st.GetTaskId().GetValue() != "none" || st.GetMessage() != "the task uses more than was offered: gpus:1 of 0" {
					t.Errorf("it was told %v", st)
				}
			case st.GetState() == pb.TaskState_TASK_RUNNING:
				n++
				fallthrough
			default:
				s.Acknowledge(st)
			}
		}
		held := map[string][]gpu.UUID{}
		for _, id := range f.Tasks() {
			held[f.Task(id).Foreign] = f.Task(id).Resources.GPUs
		}
		if !slices.Equal(held["one"], []gpu.UUID{"GPU-a"}) || !slices.Equal(held["two"], []gpu.UUID{"GPU-b", "GPU-c"}) {
			t.Errorf("the tasks hold %v", held)
		}
	}, device("c"), device("a"), device("b"))
}

// The tasks of a group start together, and one that fails ends the others.
func TestSchedulerLaunchesAGroup(t *testing.T) {
	accepting(t, 1, cluster.Framework("batch"), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		group := func(o *pb.Offer, executor string, tasks ...*pb.TaskInfo) {
			t.Helper()
			s.Accept([]*pb.Offer{o}, &pb.Offer_Operation{Type: pb.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: &pb.Offer_Operation_LaunchGroup{
				Executor: &pb.ExecutorInfo{
					Type: pb.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &pb.ExecutorID{Value: &executor},
					Resources: []*pb.Resource{cluster.Amount("cpus", 0.1), cluster.Amount("mem", 32)},
				},
				TaskGroup: &pb.TaskGroupInfo{Tasks: tasks},
			}})
		}
		ends := func(want map[string]pb.TaskState) {
			t.Helper()
			for len(want) > 0 {
				st := s.Update()
				if st.Uuid != nil {
					s.Acknowledge(st)
				}
				switch id := st.GetTaskId().GetValue(); {
				case st.GetState() == pb.TaskState_TASK_STARTING || st.GetState() == pb.TaskState_TASK_RUNNING:
				case want[id] == st.GetState():
					delete(want, id)
				default:
					t.Errorf("it was told %v, want %v", st, want[id])
					delete(want, id)
				}
			}
		}
		o := offers[0]
		group(o, "ex", cluster.TaskInfo(o, "a", "wait"), cluster.TaskInfo(o, "b", "sleep", "10s"), cluster.TaskInfo(o, "c", "wait"))
		if o = s.Offer(); amount(o, "cpus") != 0.9 || amount(o, "mem") != 4096-3*64-32 {
			t.Errorf("what is left is %v", o)
		}
		f.Await("the group runs", time.Minute, func() bool {
			return !slices.ContainsFunc(f.Tasks(), func(id fleet.TaskID) bool { return f.State(id) != fleet.TaskRunning }) && len(f.Tasks()) == 3
		})
		s.Call(&pb.Call{Type: pb.Call_SHUTDOWN.Enum(), Shutdown: &pb.Call_Shutdown{ExecutorId: &pb.ExecutorID{Value: new("ex")}, AgentId: o.GetAgentId()}})
		ends(map[string]pb.TaskState{"a": pb.TaskState_TASK_KILLED, "b": pb.TaskState_TASK_KILLED, "c": pb.TaskState_TASK_KILLED})

		s.Call(&pb.Call{Type: pb.Call_DECLINE.Enum(), Decline: &pb.Call_Decline{OfferIds: []*pb.OfferID{o.GetId()}, Filters: &pb.Filters{RefuseSeconds: new(0.0)}}})
		for o = s.Offer(); amount(o, "cpus") < 2.1; o = s.Offer() {
			time.Sleep(time.Second)
			s.Call(&pb.Call{Type: pb.Call_DECLINE.Enum(), Decline: &pb.Call_Decline{OfferIds: []*pb.OfferID{o.GetId()}, Filters: &pb.Filters{RefuseSeconds: new(0.0)}}})
		}
		group(o, "ex", cluster.TaskInfo(o, "d", "wait"), cluster.TaskInfo(o, "e", "exit", "3"))
		ends(map[string]pb.TaskState{"d": pb.TaskState_TASK_KILLED, "e": pb.TaskState_TASK_FAILED})
		if n := len(f.Tasks()); n != 5 {
			t.Errorf("there are %d tasks", n)
		}
	})
}

// A reservation is made in one ACCEPT and used in it.
func TestSchedulerReserves(t *testing.T) {
	accepting(t, 1, cluster.Framework("batch", pb.FrameworkInfo_Capability_RESERVATION_REFINEMENT), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		reserved := func(name string, v float64) *pb.Resource {
			r := cluster.Amount(name, v)
			r.Reservations = []*pb.Resource_ReservationInfo{{Role: new("batch"), Type: pb.Resource_ReservationInfo_DYNAMIC.Enum(), Principal: new("batch")}}
			return r
		}
		o := offers[0]
		task := cluster.TaskInfo(o, "t", "wait")
		task.Resources = []*pb.Resource{reserved("cpus", 1), reserved("mem", 64)}
		reserve := &pb.Offer_Operation{Type: pb.Offer_Operation_RESERVE.Enum(), Reserve: &pb.Offer_Operation_Reserve{Resources: []*pb.Resource{reserved("cpus", 2), reserved("mem", 128)}}}
		create := &pb.Offer_Operation{Type: pb.Offer_Operation_CREATE.Enum(), Id: &pb.OperationID{Value: new("op")}, Create: &pb.Offer_Operation_Create{}}
		s.Accept(offers, reserve, create, cluster.LaunchOp(task))
		if st := s.Next(pb.Event_UPDATE_OPERATION_STATUS).GetUpdateOperationStatus().GetStatus(); st.GetState() != pb.OperationState_OPERATION_ERROR || st.GetOperationId().GetValue() != "op" {
			t.Errorf("it was told %v", st)
		}
		for {
			st := s.Update()
			s.Acknowledge(st)
			if st.GetState() == pb.TaskState_TASK_RUNNING {
				break
			}
			if st.GetState() != pb.TaskState_TASK_STARTING {
				t.Fatalf("it was told %v", st)
			}
		}
		left := map[string]float64{}
		for _, r := range s.Offer().GetResources() {
			for range r.GetReservations() {
				left["reserved "+r.GetName()] += r.GetScalar().GetValue()
			}
			left[r.GetName()] += r.GetScalar().GetValue()
		}
		if left["cpus"] != 3 || left["reserved cpus"] != 1 || left["mem"] != 4096-64 || left["reserved mem"] != 64 {
			t.Errorf("what is left is %v", left)
		}
	})
}

// Calls that have no effect here are accepted all the same.
func TestCallsWithoutEffect(t *testing.T) {
	accepting(t, 1, cluster.Framework("batch"), func(t *testing.T, _ *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		agent := offers[0].GetAgentId()
		for _, call := range []*pb.Call{
			{Type: pb.Call_MESSAGE.Enum(), Message: &pb.Call_Message{AgentId: agent, ExecutorId: &pb.ExecutorID{Value: new("e")}, Data: []byte("x")}},
			{Type: pb.Call_REQUEST.Enum(), Request: &pb.Call_Request{}},
			{Type: pb.Call_ACKNOWLEDGE_OPERATION_STATUS.Enum(), AcknowledgeOperationStatus: &pb.Call_AcknowledgeOperationStatus{OperationId: &pb.OperationID{Value: new("o")}, Uuid: make([]byte, 16)}},
			{Type: pb.Call_ACKNOWLEDGE.Enum(), Acknowledge: &pb.Call_Acknowledge{AgentId: agent, TaskId: &pb.TaskID{Value: new("t")}, Uuid: make([]byte, 16)}},
			{Type: pb.Call_DECLINE_INVERSE_OFFERS.Enum(), DeclineInverseOffers: &pb.Call_DeclineInverseOffers{InverseOfferIds: []*pb.OfferID{{Value: new("i1-1")}}}},
			{Type: pb.Call_SHUTDOWN.Enum(), Shutdown: &pb.Call_Shutdown{AgentId: agent, ExecutorId: &pb.ExecutorID{Value: new("e")}}},
			{Type: pb.Call_UPDATE_FRAMEWORK.Enum(), UpdateFramework: &pb.Call_UpdateFramework{FrameworkInfo: cluster.Framework("batch", aware)}},
			{Type: pb.Call_RECONCILE_OPERATIONS.Enum(), ReconcileOperations: &pb.Call_ReconcileOperations{Operations: []*pb.Call_ReconcileOperations_Operation{{OperationId: &pb.OperationID{Value: new("o")}}}}},
		} {
			s.Call(call)
		}
		got := s.Quiet(time.Second)
		if len(got) != 1 || got[0].GetUpdateOperationStatus().GetStatus().GetState() != pb.OperationState_OPERATION_UNKNOWN {
			t.Errorf("it was told %v", got)
		}
		// From now on it is told what it did not understand before.
		s.Call(&pb.Call{Type: pb.Call_KILL.Enum(), Kill: &pb.Call_Kill{TaskId: &pb.TaskID{Value: new("t/1")}, AgentId: agent}})
		if st := s.Update(); st.GetState() != pb.TaskState_TASK_GONE || st.GetTaskId().GetValue() != "t/1" || st.GetReason() != pb.TaskStatus_REASON_RECONCILIATION {
			t.Errorf("it was told %v", st)
		}
	})
}
