package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// A machine loses its power and its uplink. When the power is back, its agent
// has nobody to ask, and its container runtime is late.
func TestColdStartWithoutAnUplink(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		a := f.Agent("edge-1")
		cam := cluster.Submission("cam", "polite")
		cam.Submit.Spec.Restart = fleet.Restart{Attempts: 2, Delay: 5 * time.Second, Mode: fleet.RestartDelay}
		lonely := cluster.Submission("lonely", "polite")
		lonely.Submit.Spec.Restart = cam.Submit.Spec.Restart
		lonely.Submit.Spec.Disconnect = fleet.Disconnect{StopAfter: 2 * time.Hour}
		f.Propose(cam, lonely)
		f.Submit("once", "polite")
		for _, id := range []fleet.TaskID{"cam", "lonely", "once"} {
			f.Reach(id, fleet.TaskRunning, time.Minute)
		}
		time.Sleep(time.Minute)
		a.Stop()
		for _, r := range f.Replicas {
			r.Stop()
		}
		time.Sleep(time.Hour)

		a.Exec, a.Boot = executor.NewMemory(nil), "another life"
		a.Exec.SetUnavailable(true)
		a.Start()
		time.Sleep(20 * time.Second)
		a.Exec.SetUnavailable(false)
		took := f.Await("the tasks with a policy run", time.Minute, func() bool { return len(a.Exec.Started()) == 2 })
		within(t, "from the runtime's first answer to running tasks", took, 0, 2*time.Second)
		time.Sleep(10 * time.Minute)
		crash := func(code int) time.Duration {
			n := len(a.Exec.Started())
			a.Exec.Finish("cam", executor.Exit{Code: code})
			return f.Await("it runs again", time.Hour, func() bool { return len(a.Exec.Started()) > n })
		}
		within(t, "the first restart", crash(3), 5*time.Second, 7*time.Second)
		within(t, "the second restart", crash(4), 5*time.Second, 7*time.Second)
		within(t, "a restart in the next interval", crash(5), 29*time.Minute, 31*time.Minute)
		time.Sleep(3 * time.Hour)
		if ids, _ := a.Exec.List(t.Context()); len(ids) != 1 || ids[0] != "cam" {
			t.Errorf("after hours alone there are %v", ids)
		}

		for _, r := range f.Replicas {
			r.Start()
		}
		f.Leader()
		f.Await("the agent is back", 2*time.Minute, a.Connected)
		f.Reach("once", fleet.TaskLost, time.Minute)
		f.Reach("lonely", fleet.TaskKilled, time.Minute)
		f.Await("all of it is told", time.Minute, func() bool { return f.Task("cam").Status.Restarts == 4 && f.State("cam") == fleet.TaskRunning })
		var got []string
		var last time.Time
		for _, st := range f.Task("cam").History {
			if st.Restarts > 0 {
				got = append(got, fmt.Sprintf("%d %s", st.Restarts, st.Message))
				if !st.Time.After(last) {
					t.Errorf("%q is not after what came before it", st.Message)
				}
				last = st.Time
			}
		}
		want := []string{
			"1 the machine restarted; started again",
			"2 exited with code 3; started again in 5s (restart 1 of 2 in 30m0s)",
			"3 exited with code 4; started again in 5s (restart 2 of 2 in 30m0s)",
		}
		if len(got) != 4 || strings.Join(got[:3], "\n") != strings.Join(want, "\n") || !strings.HasPrefix(got[3], "4 exited with code 5; started again in 29m") {
			t.Errorf("the history says\n%s", strings.Join(got, "\n"))
		}
		if since := time.Since(last); since < 3*time.Hour {
			t.Errorf("the last update came with a time of %v ago, not its own", since)
		}
		if st := f.Task("lonely").Status; st.Reason != fleet.ReasonCutOff {
			t.Errorf("the task that minds being alone ended %+v", st)
		}
		if st := f.Task("once").Status; st.Message != "the machine restarted, and the task has no restart policy" {
			t.Errorf("the task without a policy: %q", st.Message)
		}
		agree(t, f)
	})
}
