package leader_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

// seated is a bench whose agent a2 has session 1 of a boot and an epoch.
func seated(t *testing.T) *bench {
	b := running(t)
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	b.up2(1, "boot-1", 10)
	b.log = nil
	return b
}

func (b *bench) up2(session uint64, boot string, epoch uint64) {
	b.step(leader.AgentUp{Agent: "a2", Session: session, Capacity: a2, Boot: boot, Epoch: epoch})
}

func TestSessionsAreOrderedByTheAgent(t *testing.T) {
	b := seated(t)
	b.up2(2, "boot-1", 9)
	b.expect("disconnect a2 2 replaced") // an older one that is announced late
	b.up2(3, "boot-1", 11)
	b.expect("disconnect a2 1 replaced")
	b.up2(4, "boot-1", 0) // of an agent that does not count: the later one
	b.expect("disconnect a2 3 replaced")
	b.up2(4, "boot-1", 0) // announced twice
	b.expect()
}

func TestRestartedMachineTakesItsPlace(t *testing.T) {
	b := seated(t)
	b.up2(2, "boot-2", 11)
	b.expect("ask a2 1")
	b.report("a2", 2, 2, "t", fleet.TaskFinished)
	b.expect() // it has no say yet
	b.now = b.now.Add(4 * time.Second)
	b.step(leader.Tick{})
	b.expect()
	b.now = b.now.Add(time.Second)
	b.step(leader.Tick{})
	b.expect("disconnect a2 1 replaced", "resync a2 2")
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	b.report("a2", 2, 2, "t", fleet.TaskFinished)
	b.expect("propose observe t#2 TASK_FINISHED")
}

func TestOldSessionEndsDuringTheContest(t *testing.T) {
	b := seated(t)
	b.up2(2, "boot-2", 11)
	b.log = nil
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	b.expect("resync a2 2")
	b.report("a2", 2, 2, "t", fleet.TaskFinished)
	b.expect("propose observe t#2 TASK_FINISHED")
}

func TestClonedMachineIsRefused(t *testing.T) {
	b := seated(t)
	b.up2(2, "boot-2", 11)
	b.step(leader.Answered{Agent: "a2", Session: 1})
	b.expect("ask a2 1", "propose cloned a2", "disconnect a2 2 cloned")
	b.step(leader.AgentDown{Agent: "a2", Session: 2})
	b.report("a2", 1, 2, "t", fleet.TaskFinished)
	b.expect("propose observe t#2 TASK_FINISHED")
	b.step(leader.Answered{Agent: "a2", Session: 1}) // nothing is contested
	b.expect()
}

func TestContenderGoesAway(t *testing.T) {
	b := seated(t)
	b.up2(2, "boot-2", 11)
	b.up2(3, "boot-3", 12)
	b.expect("ask a2 1", "disconnect a2 2 replaced", "ask a2 1")
	b.step(leader.AgentDown{Agent: "a2", Session: 3})
	b.now = b.now.Add(time.Minute)
	b.step(leader.Tick{})
	if got := b.l.Session("a2"); got != 1 {
		t.Errorf("the session is %d, want 1", got)
	}
}
