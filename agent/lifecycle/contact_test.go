package lifecycle_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/fleet"
)

// lonely is a task that its agent stops after five minutes without contact.
func lonely(exclusive bool) fleet.Assignment {
	as := again(3)
	as.Spec.Exclusive = exclusive
	as.Spec.Disconnect = fleet.Disconnect{StopAfter: 5 * time.Minute, Replace: true, LostAfter: 10 * time.Minute}
	return as
}

// talk lets seconds pass in which a leader answers every stamp.
func (b *bench) talk(seconds int) {
	for range seconds {
		b.now = b.now.Add(time.Second)
		for _, act := range b.step(lifecycle.Tick{}) {
			if p, ok := act.(lifecycle.Pull); ok && p.Stamp != 0 {
				b.echo(p.Stamp)
			}
		}
	}
	b.log = nil
}

func (b *bench) echo(stamp uint64) {
	b.step(lifecycle.Desired{Desired: fleet.Desired{Term: 1, Generation: 1, Base: 1, Echo: stamp}})
}

const stopped = "report t#3 TASK_KILLING no contact with the control plane for 5m0s: stopped, as the task's disconnect policy says"

func TestATaskIsStoppedWhenItsAgentHasBeenAloneForTooLong(t *testing.T) {
	b := newBench(t)
	b.runs(lonely(false))
	b.talk(3600)
	b.step(lifecycle.Disconnected{})
	b.pass(270) // and up to 30 s since the last stamp
	b.expect()
	b.pass(30)
	b.only("stop")
	if len(b.log) == 0 || b.log[0] != "stop t 5s" {
		t.Fatalf("did %q", b.log)
	}
	b.crash(143)
	if st := b.last(); st.State != fleet.TaskKilled || st.Reason != fleet.ReasonCutOff {
		t.Errorf("%+v", st)
	}
}

// A session is no contact as long as no leader answers: the replica behind it
// may be alone itself.
func TestASessionWithoutALeaderIsNoContact(t *testing.T) {
	b := newBench(t)
	b.runs(lonely(false))
	b.pass(301)
	b.only("stop", "report t#3 TASK_KILLING")
	b.expect("stop t 5s", stopped)
}

// What counts is when the question was asked, not when the answer came: the
// leader heard nothing later.
func TestContactIsWhenTheStampWasMade(t *testing.T) {
	b := newBench(t)
	b.runs(lonely(true))
	var stamp uint64
	for range 60 {
		b.now = b.now.Add(time.Second)
		for _, act := range b.step(lifecycle.Tick{}) {
			if p, ok := act.(lifecycle.Pull); ok && stamp == 0 {
				stamp = p.Stamp
			}
		}
	}
	b.pass(200)
	b.echo(stamp) // of second 50
	b.step(lifecycle.Disconnected{})
	b.log = nil
	b.pass(80)
	b.only("stop")
	b.expect()
	b.pass(10)
	b.only("stop")
	b.expect("stop t 5s")
	b.echo(12345) // nobody asked that
}

func TestAnOlderControlPlaneAnswersNoStamps(t *testing.T) {
	b := newBench(t)
	b.step(lifecycle.Disconnected{})
	b.step(lifecycle.Connected{Term: 1, Plain: true})
	b.runs(lonely(true))
	b.pass(3600)
	b.only("stop")
	b.expect()
	b.step(lifecycle.Disconnected{})
	b.pass(301)
	b.only("stop")
	if len(b.log) == 0 {
		t.Error("it goes on")
	}
}

func TestTimeWithoutAProcessCounts(t *testing.T) {
	for name, tc := range map[string]struct {
		exclusive bool
		down      time.Duration // on the machine's clock
		reboot    bool
		pass      int
		stops     bool
	}{
		"a quick restart":                           {false, 2 * time.Second, false, 30, false},
		"down for too long":                         {false, 6 * time.Minute, false, 1, true},
		"and the rest alone":                        {false, 2 * time.Minute, false, 240, true},
		"the clock went back: counted from now":     {false, -time.Hour, false, 200, false},
		"the clock went back: counted in the end":   {false, -time.Hour, false, 330, true},
		"the clock went back under an exclusive":    {true, -time.Hour, false, 1, true},
		"a reboot with the clock as it was":         {false, time.Second, true, 30, false},
		"a reboot and a clock of a long time after": {false, time.Hour, true, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.boot = "first"
			b.core = lifecycle.New(nil, lifecycle.Head{}, b.boot)
			b.step(lifecycle.Recovered{})
			b.step(lifecycle.Connected{Term: 1})
			b.runs(lonely(tc.exclusive))
			b.talk(600)
			b.now = b.now.Add(tc.down)
			if tc.reboot {
				b.boot = "second"
			}
			b.restart("t")
			b.step(lifecycle.Removed{Task: "t"})
			b.step(lifecycle.Started{Task: "t"})
			b.pass(tc.pass)
			if got := b.records["t"].Verdict.Reason == fleet.ReasonCutOff; got != tc.stops {
				t.Errorf("stopped: %v, want %v", got, tc.stops)
			}
		})
	}
}

// How long a machine was down, a clock without a battery does not know. An
// exclusive task that may have been replaced waits for word.
func TestAnExclusiveTaskWaitsAfterARebootForTheFirstContact(t *testing.T) {
	b := newBench(t)
	b.boot = "first"
	b.core = lifecycle.New(nil, lifecycle.Head{}, b.boot)
	b.step(lifecycle.Recovered{})
	b.step(lifecycle.Connected{Term: 1})
	b.runs(lonely(true))
	b.talk(60)
	b.boot = "second"
	b.restart("t")
	b.step(lifecycle.Removed{Task: "t"})
	b.pass(100)
	b.expect("remove t")
	acts := b.step(lifecycle.Connected{Term: 1})
	b.log = nil
	for _, act := range acts {
		if p, ok := act.(lifecycle.Pull); ok {
			b.echo(p.Stamp)
		}
	}
	b.pass(1)
	b.only("start")
	b.expect("start t")
}

func TestCatchingUpIsToldOnce(t *testing.T) {
	b := newBench(t)
	b.runs(task("t"))
	b.ack("t", 1)
	b.step(lifecycle.Disconnected{})
	b.crash(0)
	caught := func(acts []lifecycle.Action) (n int) {
		for _, act := range acts {
			if p, ok := act.(lifecycle.Pull); ok && p.CaughtUp {
				n++
			}
		}
		return n
	}
	if caught(b.step(lifecycle.Connected{Term: 1})) != 0 {
		t.Error("it says so before its updates are acknowledged")
	}
	p := b.records["t"].Reports.Pending
	if caught(b.step(lifecycle.Acked{Task: "t", Update: p[len(p)-1].ID, Generation: 2})) != 1 {
		t.Error("it does not say so when they are")
	}
	b.step(lifecycle.Disconnected{})
	if caught(b.step(lifecycle.Connected{Term: 1})) != 1 {
		t.Error("with nothing to tell it has caught up at once")
	}
}

// A process that crashes again and again, and has contact in between, does not
// count from before that.
func TestContactBetweenCrashesCounts(t *testing.T) {
	b := newBench(t)
	as := lonely(false)
	as.Spec.Disconnect.StopAfter = 30 * time.Second
	b.runs(as)
	b.talk(60)
	for range 6 {
		b.now = b.now.Add(10 * time.Second)
		b.restart("t")
		b.step(lifecycle.Tick{})
		b.now = b.now.Add(time.Second)
		for _, act := range b.step(lifecycle.Connected{Term: 1}) {
			if p, ok := act.(lifecycle.Pull); ok {
				b.echo(p.Stamp)
			}
		}
	}
	b.only("stop")
	b.expect()
}
