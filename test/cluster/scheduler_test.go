package cluster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// scheduled runs a scenario with a scheduler in role "batch", in both encodings.
func scheduled(t *testing.T, replicas int, run func(*testing.T, *cluster.Fleet, *cluster.Web, *cluster.Scheduler)) {
	t.Helper()
	for name, enc := range map[string]mesosv1.Encoding{"JSON": mesosv1.JSON, "protobuf": mesosv1.Protobuf} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
				w := f.Web("")
				f.Up(replicas)
				s := cluster.NewScheduler(t, w.Client(f), "https://"+f.Leader().Addr, f.Principal("batch", "batch"))
				s.Encoding = enc
				run(t, f, w, s)
			})
		})
	}
}

func TestSchedulerRunsATask(t *testing.T) {
	scheduled(t, 1, func(t *testing.T, f *cluster.Fleet, _ *cluster.Web, s *cluster.Scheduler) {
		a := f.Agent("edge-1")
		s.Subscribe(cluster.Framework("batch"))
		sub := s.Subscribed()
		if sub.GetHeartbeatIntervalSeconds() != 15 || sub.GetMasterInfo().GetId() != "r1" || sub.GetMasterInfo().GetHostname()+":7443" != f.Leader().Addr || s.Stream == "" {
			t.Errorf("it got %v on stream %q", sub, s.Stream)
		}
		o := s.Offer()
		if o.GetAgentId().GetValue() != string(a.ID) || o.GetHostname() == "" || o.GetAllocationInfo().GetRole() != "batch" || o.GetUrl().GetAddress().GetIp() == "" {
			t.Errorf("it was offered %v", o)
		}
		s.Accept([]*pb.Offer{o}, cluster.LaunchOp(cluster.TaskInfo(o, "Task/1", "sleep", "5m")))
		for _, want := range []pb.TaskState{pb.TaskState_TASK_STARTING, pb.TaskState_TASK_RUNNING, pb.TaskState_TASK_FINISHED} {
			if want == pb.TaskState_TASK_FINISHED {
				time.Sleep(5 * time.Minute)
			}
			st := s.Update()
			if st.GetState() != want || st.GetTaskId().GetValue() != "Task/1" || len(st.GetUuid()) != 16 || st.GetAgentId().GetValue() != string(a.ID) ||
				st.GetSource() != pb.TaskStatus_SOURCE_EXECUTOR || st.GetExecutorId().GetValue() != "Task/1" || st.GetTimestamp() == 0 {
				t.Errorf("update %v, want %v", st, want)
			}
			s.Acknowledge(st)
		}
		f.Await("nothing waits for an acknowledgement", time.Minute, func() bool {
			return len(f.Task(onlyTask(t, f)).Pending) == 0
		})
	})
}

// onlyTask is the id of the one task that there is.
func onlyTask(t *testing.T, f *cluster.Fleet) fleet.TaskID {
	t.Helper()
	ids := f.Tasks()
	if len(ids) != 1 {
		t.Fatalf("there are the tasks %v", ids)
	}
	return ids[0]
}

func TestSchedulerKillsAndTearsDown(t *testing.T) {
	scheduled(t, 1, func(t *testing.T, f *cluster.Fleet, _ *cluster.Web, s *cluster.Scheduler) {
		f.Agent("edge-1")
		s.Subscribe(cluster.Framework("batch", pb.FrameworkInfo_Capability_TASK_KILLING_STATE))
		s.Subscribed()
		o := s.Offer()
		s.Accept([]*pb.Offer{o}, cluster.LaunchOp(cluster.TaskInfo(o, "a", "wait"), cluster.TaskInfo(o, "b", "wait")))
		running := 0
		for running < 2 {
			st := s.Update()
			s.Acknowledge(st)
			if st.GetState() == pb.TaskState_TASK_RUNNING {
				running++
			}
		}
		s.Call(&pb.Call{Type: pb.Call_KILL.Enum(), Kill: &pb.Call_Kill{TaskId: &pb.TaskID{Value: new("a")}}})
		var states []pb.TaskState
		for len(states) < 2 {
			st := s.Update()
			if st.GetTaskId().GetValue() != "a" {
				t.Errorf("update of %v", st)
			}
			s.Acknowledge(st)
			states = append(states, st.GetState())
		}
		if !slices.Equal(states, []pb.TaskState{pb.TaskState_TASK_KILLING, pb.TaskState_TASK_KILLED}) {
			t.Errorf("the killed task went through %v", states)
		}
		s.Call(&pb.Call{Type: pb.Call_TEARDOWN.Enum()})
		if text := s.Next(pb.Event_ERROR).GetError().GetMessage(); text != "Framework has been removed" {
			t.Errorf("it was told %q", text)
		}
		s.Ended()
		f.Await("its last task has ended", time.Minute, func() bool {
			return !slices.ContainsFunc(f.Tasks(), func(id fleet.TaskID) bool { return !f.State(id).Terminal() })
		})
		s.Subscribe(cluster.Framework("batch"))
		if text := s.Next(pb.Event_ERROR).GetError().GetMessage(); text != "Framework has been removed" {
			t.Errorf("subscribing again it was told %q", text)
		}
	})
}
