package cluster_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// launch puts tasks on one offer and waits until they run, acknowledged.
func launch(t *testing.T, s *cluster.Scheduler, ids ...string) *pb.Offer {
	t.Helper()
	o := s.Offer()
	var tasks []*pb.TaskInfo
	for _, id := range ids {
		tasks = append(tasks, cluster.TaskInfo(o, id, "wait"))
	}
	s.Accept([]*pb.Offer{o}, cluster.LaunchOp(tasks...))
	for n := 0; n < len(ids); {
		st := s.Update()
		s.Acknowledge(st)
		if st.GetState() == pb.TaskState_TASK_RUNNING {
			n++
		}
	}
	return o
}

// A scheduler's second instance takes the framework over: the tasks go on, the
// first one hears why it is out, and its stream id is worth nothing.
func TestSchedulerFailsOver(t *testing.T) {
	scheduled(t, 1, func(t *testing.T, f *cluster.Fleet, w *cluster.Web, s *cluster.Scheduler) {
		f.Agent("edge-1")
		s.Subscribe(cluster.Framework("batch"))
		s.Subscribed()
		launch(t, s, "t")

		second := cluster.NewScheduler(t, s.HTTP, "https://"+f.Leader().Addr, s.Token)
		second.ID = s.ID
		second.Subscribe(cluster.Framework("batch"))
		if second.Subscribed(); second.ID != s.ID || second.Stream == s.Stream {
			t.Errorf("it is %s on stream %s, and was %s on stream %s", second.ID, second.Stream, s.ID, s.Stream)
		}
		if text := s.Next(pb.Event_ERROR).GetError().GetMessage(); text != "Framework failed over" {
			t.Errorf("the first was told %q", text)
		}
		s.Ended()
		if status, text := s.Try(&pb.Call{Type: pb.Call_REVIVE.Enum()}); status != http.StatusBadRequest || !strings.Contains(text, "didn't match") {
			t.Errorf("a call of the first: %d: %s", status, text)
		}
		if o := second.Offer(); amount(o, "cpus") != 3 {
			t.Errorf("the second is offered %v", o)
		}
		second.Call(&pb.Call{Type: pb.Call_RECONCILE.Enum(), Reconcile: &pb.Call_Reconcile{}})
		if st := second.Update(); st.GetTaskId().GetValue() != "t" || st.GetState() != pb.TaskState_TASK_RUNNING || st.GetReason() != pb.TaskStatus_REASON_RECONCILIATION || st.Uuid != nil {
			t.Errorf("the second was told %v", st)
		}
	})
}

// Another leader knows the framework, its tasks and what it has not
// acknowledged, and tells it of that again and again.
func TestSchedulerOutlivesTheLeader(t *testing.T) {
	scheduled(t, 3, func(t *testing.T, f *cluster.Fleet, _ *cluster.Web, s *cluster.Scheduler) {
		a := f.Agent("edge-1")
		s.Subscribe(cluster.Framework("batch"))
		s.Subscribed()
		o := s.Offer()
		s.Accept([]*pb.Offer{o}, cluster.LaunchOp(cluster.TaskInfo(o, "t", "sleep", "1h")))
		starting := s.Update() // not acknowledged
		f.Await("it runs", time.Minute, func() bool { return f.State(onlyTask(t, f)) == fleet.TaskRunning })

		old := f.Leader()
		stop(f, old)
		s.Ended()
		f.Await("its agent is connected", time.Minute, a.Connected)
		// Whichever replica it asks, it ends up at the leader.
		for _, r := range f.Others(old) {
			s.URL = "https://" + r.Addr + "/api/v1/scheduler"
			s.Subscribe(cluster.Framework("batch"))
			if id := s.ID; s.Subscribed() == nil || s.ID != id {
				t.Errorf("it was %s and is %s", id, s.ID)
			}
			if !strings.HasPrefix(s.URL, "https://"+f.Leader().Addr+"/") {
				t.Errorf("it subscribed at %s, the leader is at %s", s.URL, f.Leader().Addr)
			}
		}
		began := time.Now()
		for i, after := range []time.Duration{0, 10 * time.Second, 30 * time.Second, 70 * time.Second} {
			st := s.Update()
			if st.GetState() != starting.GetState() || string(st.GetUuid()) != string(starting.GetUuid()) {
				t.Errorf("time %d: it was told %v", i+1, st)
			}
			within(t, "the next try", time.Since(began), after, after+4*time.Second)
		}
		s.Acknowledge(starting)
		st := s.Update()
		if st.GetState() != pb.TaskState_TASK_RUNNING || len(st.GetUuid()) != 16 {
			t.Errorf("then it was told %v", st)
		}
		s.Acknowledge(st)
		if n := len(a.Exec.Started()); n != 1 {
			t.Errorf("%d tasks were started", n)
		}
	})
}

// Reconciliation answers as Mesos does.
func TestSchedulerReconciles(t *testing.T) {
	accepting(t, 2, cluster.Framework("batch", aware), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		for _, o := range offers {
			s.Call(&pb.Call{Type: pb.Call_DECLINE.Enum(), Decline: &pb.Call_Decline{OfferIds: []*pb.OfferID{o.GetId()}, Filters: &pb.Filters{RefuseSeconds: new(0.0)}}})
		}
		launch(t, s, "running")
		reconcile := func(tasks map[string]string) map[string]pb.TaskState {
			t.Helper()
			call := &pb.Call_Reconcile{}
			for id, agent := range tasks {
				k := &pb.Call_Reconcile_Task{TaskId: &pb.TaskID{Value: &id}}
				if agent != "" {
					k.AgentId = &pb.AgentID{Value: &agent}
				}
				call.Tasks = append(call.Tasks, k)
			}
			s.Call(&pb.Call{Type: pb.Call_RECONCILE.Enum(), Reconcile: call})
			got := map[string]pb.TaskState{}
			for _, ev := range s.Quiet(time.Second) {
				if st := ev.GetUpdate().GetStatus(); st != nil {
					got[st.GetTaskId().GetValue()] = st.GetState()
					if st.GetReason() != pb.TaskStatus_REASON_RECONCILIATION || st.Uuid != nil || st.GetSource() != pb.TaskStatus_SOURCE_MASTER {
						t.Errorf("it was told %v", st)
					}
				}
			}
			return got
		}
		want := func(what string, got, want map[string]pb.TaskState) {
			t.Helper()
			if len(got) != len(want) {
				t.Errorf("%s: it was told %v, want %v", what, got, want)
				return
			}
			for id := range want {
				if got[id] != want[id] {
					t.Errorf("%s: of %s it was told %v, want %v", what, id, got[id], want[id])
				}
			}
		}
		type answers = map[string]pb.TaskState
		want("of all", reconcile(nil), answers{"running": pb.TaskState_TASK_RUNNING})
		want("of each", reconcile(map[string]string{"running": "edge-1", "odd/1": "edge-1", "odd/2": "edge-9", "odd/3": ""}), answers{
			"running": pb.TaskState_TASK_RUNNING, "odd/1": pb.TaskState_TASK_GONE, "odd/2": pb.TaskState_TASK_UNKNOWN, "odd/3": pb.TaskState_TASK_UNKNOWN,
		})
	})
}

// An agent that is away for long: those that know of partitions hear so.
func TestSchedulerHearsOfPartitions(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		w := f.Web("")
		f.Up(1)
		a := f.Agent("edge-1")
		s := cluster.NewScheduler(t, w.Client(f), "https://"+f.Leader().Addr, f.Principal("batch", "batch"))
		s.Wait = 5 * time.Minute
		s.Subscribe(cluster.Framework("batch", aware))
		s.Subscribed()
		launch(t, s, "t")
		a.Stop()
		st := s.Update()
		if st.GetState() != pb.TaskState_TASK_UNREACHABLE || st.UnreachableTime == nil || st.Uuid != nil {
			t.Errorf("it was told %v", st)
		}
		if id := s.Next(pb.Event_FAILURE).GetFailure().GetAgentId().GetValue(); id != string(a.ID) {
			t.Errorf("it was told that %s was lost", id)
		}
		a.Start()
		if st := s.Update(); st.GetState() != pb.TaskState_TASK_RUNNING || st.GetTaskId().GetValue() != "t" {
			t.Errorf("then it was told %v", st)
		}
	})
}

// The states between that a framework does not know do not hold up the others.
func TestSchedulerThatKnowsNoKilling(t *testing.T) {
	accepting(t, 1, cluster.Framework("batch"), func(t *testing.T, f *cluster.Fleet, s *cluster.Scheduler, offers []*pb.Offer) {
		o := offers[0]
		s.Accept(offers, cluster.LaunchOp(cluster.TaskInfo(o, "t", "polite")))
		var states []pb.TaskState
		for len(states) < 3 {
			st := s.Update()
			s.Acknowledge(st)
			if states = append(states, st.GetState()); st.GetState() == pb.TaskState_TASK_RUNNING {
				s.Call(&pb.Call{Type: pb.Call_KILL.Enum(), Kill: &pb.Call_Kill{TaskId: st.GetTaskId()}})
			}
		}
		if !slices.Equal(states, []pb.TaskState{pb.TaskState_TASK_STARTING, pb.TaskState_TASK_RUNNING, pb.TaskState_TASK_KILLED}) {
			t.Errorf("it was told %v", states)
		}
		if h := f.Task(onlyTask(t, f)).History; !slices.ContainsFunc(h, func(st fleet.Status) bool { return st.State == fleet.TaskKilling }) {
			t.Errorf("the task was never being killed: %v", h)
		}
	})
}

// A heartbeat every 15 s, until whoever subscribed is revoked.
func TestSchedulerStreamBeatsAndEnds(t *testing.T) {
	scheduled(t, 1, func(t *testing.T, f *cluster.Fleet, _ *cluster.Web, s *cluster.Scheduler) {
		s.Subscribe(cluster.Framework("batch"))
		s.Subscribed()
		began := time.Now()
		for i := range 4 {
			s.Next(pb.Event_HEARTBEAT)
			if took, want := time.Since(began), time.Duration(i+1)*15*time.Second; took < want || took > want+10*time.Millisecond {
				t.Errorf("heartbeat %d came after %v", i+1, took)
			}
		}
		f.Propose(state.Command{Revoke: &state.Revoke{URI: "spiffe://" + cluster.TrustDomain + "/framework/batch", Kind: state.KindFramework, ID: "batch"}})
		if text := s.Next(pb.Event_ERROR).GetError().GetMessage(); !strings.Contains(text, "framework/batch was revoked") {
			t.Errorf("it was told %q", text)
		}
		s.Ended()
	})
}

// On the plain port of any replica a scheduler needs no TLS, no redirection and,
// where its name is trusted, no token.
func TestSchedulerOnThePlainPort(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		w := f.Web("batch")
		f.Trio()
		f.Principal("batch", "batch")
		a := f.Agent("edge-1")
		old := f.Leader()
		follower := f.Others(old)[0]
		plain := func(r *cluster.Replica) *cluster.Scheduler {
			dial := &http.Transport{DialContext: w.To(r.Addr + cluster.PlainPort)}
			t.Cleanup(dial.CloseIdleConnections)
			return cluster.NewScheduler(t, &http.Client{Transport: dial}, "http://127.0.0.1:5050", "")
		}
		s := plain(follower)
		s.Subscribe(cluster.Framework("batch"))
		s.Subscribed()
		launch(t, s, "t")

		stranger := plain(follower)
		stranger.URL = "http://rebound.example:5050/api/v1/scheduler"
		for name, tt := range map[string]struct {
			header http.Header
			want   int
		}{
			"no token, another host": {nil, http.StatusForbidden},
			"a wrong token":          {http.Header{"Authorization": {"Bearer x.y"}}, http.StatusUnauthorized},
		} {
			resp := stranger.Post([]byte("{}"), tt.header)
			if err := resp.Body.Close(); err != nil || resp.StatusCode != tt.want {
				t.Errorf("%s: %s (%v), want %d", name, resp.Status, err, tt.want)
			}
		}

		stop(f, old)
		s.Ended() // in order: such clients subscribe again where they were
		id := s.ID
		s.Subscribe(cluster.Framework("batch"))
		if s.Subscribed(); s.ID != id {
			t.Errorf("it was %s and is %s", id, s.ID)
		}
		f.Await("its agent is connected", time.Minute, a.Connected)
		s.Call(&pb.Call{Type: pb.Call_TEARDOWN.Enum()})
		if text := s.Next(pb.Event_ERROR).GetError().GetMessage(); text != "Framework has been removed" {
			t.Errorf("it was told %q", text)
		}
	})
}

// A task can be killed, and asked for, as soon as it was launched: before the
// trio knows of it, too.
func TestSchedulerKillsAtOnce(t *testing.T) {
	scheduled(t, 3, func(t *testing.T, f *cluster.Fleet, _ *cluster.Web, s *cluster.Scheduler) {
		f.Agent("edge-1")
		s.Subscribe(cluster.Framework("batch", aware))
		s.Subscribed()
		o := s.Offer()
		task := cluster.TaskInfo(o, "t", "wait")
		s.Accept([]*pb.Offer{o}, cluster.LaunchOp(task))
		s.Call(&pb.Call{Type: pb.Call_RECONCILE.Enum(), Reconcile: &pb.Call_Reconcile{Tasks: []*pb.Call_Reconcile_Task{{TaskId: task.GetTaskId(), AgentId: task.GetAgentId()}}}})
		s.Call(&pb.Call{Type: pb.Call_KILL.Enum(), Kill: &pb.Call_Kill{TaskId: task.GetTaskId(), AgentId: task.GetAgentId()}})
		for {
			st := s.Update()
			switch st.GetState() {
			case pb.TaskState_TASK_STARTING, pb.TaskState_TASK_RUNNING:
			case pb.TaskState_TASK_KILLED:
				return
			default:
				t.Fatalf("it was told %v", st)
			}
			if st.Uuid != nil {
				s.Acknowledge(st)
			}
		}
	})
}
