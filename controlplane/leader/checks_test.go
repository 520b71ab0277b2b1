package leader_test

import (
	"testing"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestALimitBelowWhatIsUsedIsAnError(t *testing.T) {
	b := newBench(t)
	b.up("a2", a2, 1, 0)
	b.step(leader.Subscribe{Framework: "f", Standing: []fleet.Role{"*"}})
	b.log = nil
	low, none := launch("t1", 1), launch("t2", 1)
	low.Spec.Limits.CPUs = 999
	none.Spec.Limits.CPUs = fleet.Unlimited
	b.step(leader.Accept{
		Framework: "f", Offers: []fleet.OfferID{"o7-1"}, Create: true,
		Operations: []leader.Operation{{Launch: []fleet.Launch{low, none}}},
	})
	b.expect("update f t1 TASK_ERROR TASK_INVALID", "propose launch t2 on a2", "offer f o7-2 a2 cpus:1;mem:1024")
}

// A framework hears of another health once, after the commit.
func TestAnotherHealthIsTold(t *testing.T) {
	b := running(t)
	for i, tc := range []struct {
		health fleet.TaskHealth
		want   []string
	}{
		{fleet.TaskHealthy, []string{"ack a2 t u", "update f t TASK_RUNNING TASK_HEALTH_CHECK_STATUS_UPDATED"}},
		{fleet.TaskHealthy, []string{"ack a2 t u"}}, // said before
		{fleet.TaskUnhealthy, []string{"ack a2 t u", "update f t TASK_RUNNING TASK_HEALTH_CHECK_STATUS_UPDATED"}},
	} {
		b.step(leader.Report{Agent: "a2", Session: 1, Updates: []fleet.StatusUpdate{{ID: "u", Seq: uint64(i + 2), Status: fleet.Status{
			Task: "t", State: fleet.TaskRunning, Health: tc.health, Reason: fleet.ReasonHealthUpdated,
		}}}})
		b.log = nil // what is proposed
		b.commit()
		b.expect(tc.want...)
	}
}
