package framework_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var t0 = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// bench drives the framework over a state that it commits to itself.
type bench struct {
	t   *testing.T
	st  *state.State
	run *framework.Run
	now time.Time
}

func newBench(t *testing.T, submitted ...state.Command) *bench {
	b := &bench{t: t, st: state.New(), now: t0}
	for _, c := range append([]state.Command{
		{Bootstrap: &state.Bootstrap{TrustDomain: "test"}},
		{PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: 1, Expires: t0.Add(time.Hour)}},
		{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a"}},
	}, submitted...) {
		b.apply(c)
	}
	b.run = framework.NewRun(b.st, func(id fleet.TaskID) *state.Task { return b.st.Tasks[id] })
	return b
}

func (b *bench) apply(c state.Command) {
	b.now = b.now.Add(time.Second)
	c.Time = b.now
	if err := b.st.Apply(1, c).Err(); err != nil {
		b.t.Fatal(err)
	}
}

// commit applies commands and lets the framework hear of them.
func (b *bench) commit(cmds ...state.Command) string {
	for _, c := range cmds {
		b.apply(c)
	}
	return show(b.run.Step(framework.Committed{Commands: cmds}))
}

func show(calls []leader.Event) string {
	var out []string
	for _, c := range calls {
		switch c := c.(type) {
		case leader.Subscribe:
			out = append(out, "subscribe")
		case leader.Demands:
			var counts []string
			for _, d := range c.Demands {
				counts = append(counts, fmt.Sprint(d.Count))
			}
			out = append(out, fmt.Sprintf("demand %s [%s]", c.Role, strings.Join(counts, " ")))
		case leader.Accept:
			s := "accept " + string(c.Offers[0])
			for _, l := range c.Operations[0].Launch {
				s += fmt.Sprintf(" %s(%v)", l.Task, l.Resources)
			}
			out = append(out, s)
		case leader.Decline:
			out = append(out, "decline "+string(c.Offers[0]))
		}
	}
	return strings.Join(out, "; ")
}

func submit(id fleet.TaskID, role fleet.Role, cpus int64) state.Command {
	return state.Command{Submit: &state.Submit{
		ID: id, Framework: framework.RunID, Role: role,
		Spec: fleet.TaskSpec{Name: string(id), Image: "i"}, Need: fleet.Need{CPUs: fleet.Whole(cpus)},
	}}
}

func launch(id fleet.TaskID) state.Command {
	return state.Command{Launch: &state.Launch{ID: id, Framework: framework.RunID, Role: "*", Agent: "a"}}
}

func offer(id fleet.OfferID, cpus int64) framework.Offers {
	return framework.Offers{Offers: []fleet.Offer{{
		ID: id, Framework: framework.RunID, Role: "*", Agent: "a", Resources: fleet.Resources{CPUs: fleet.Whole(cpus)},
	}}}
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func TestANewLeaderAsksForWhatWaits(t *testing.T) {
	b := newBench(t, submit("t1", "*", 1), submit("t2", "r", 1), submit("t3", "*", 1))
	want(t, show(b.run.Start()), "subscribe; demand * [2]; demand r [1]")
}

func TestOldestFirstAndDemandShrinksBeforeTheAccept(t *testing.T) {
	b := newBench(t, submit("t2", "*", 1), submit("t1", "*", 1), submit("t3", "*", 1))
	b.run.Start()
	want(t, show(b.run.Step(offer("o", 2))), "demand * [1]; accept o t2(cpus:1) t1(cpus:1)")
}

func TestAnOfferThatFitsNothingIsGivenBack(t *testing.T) {
	b := newBench(t, submit("t1", "*", 4))
	b.run.Start()
	want(t, show(b.run.Step(offer("o", 2))), "decline o")
}

func TestATaskStoppedWhileItWaitsIsNoDemand(t *testing.T) {
	b := newBench(t, submit("t1", "*", 1))
	b.run.Start()
	want(t, b.commit(state.Command{Kill: &state.Kill{ID: "t1"}}), "demand * []")
	want(t, show(b.run.Step(offer("o", 2))), "decline o")
}

func TestALaunchThatWasDroppedIsPlacedAgain(t *testing.T) {
	b := newBench(t, submit("t1", "*", 1))
	b.run.Start()
	b.run.Step(offer("o", 1))
	dropped := framework.Updated{Status: fleet.Status{Task: "t1", State: fleet.TaskDropped}}
	want(t, show(b.run.Step(dropped)), "demand * [1]")
	want(t, show(b.run.Step(dropped)), "") // once
	want(t, show(b.run.Step(offer("o2", 1))), "demand * []; accept o2 t1(cpus:1)")
}

func TestALaunchedTaskIsDone(t *testing.T) {
	b := newBench(t, submit("t1", "*", 1))
	b.run.Start()
	b.run.Step(offer("o", 1))
	want(t, b.commit(launch("t1")), "")
	want(t, show(b.run.Step(framework.Updated{Status: fleet.Status{Task: "t1", State: fleet.TaskDropped}})), "")
}

func TestOtherFrameworksTasksAreNotOurs(t *testing.T) {
	b := newBench(t)
	c := submit("t1", "*", 1)
	c.Submit.Framework = "other"
	want(t, b.commit(c), "")
}

func TestGPUsAreTakenFromTheOfferByRequest(t *testing.T) {
	c := submit("t1", "*", 1)
	c.Submit.Need.GPU = fleet.GPURequest{Count: 1, MinMemoryMB: 40000}
	b := newBench(t, c)
	b.run.Start()
	o := offer("o", 4)
	o.Offers[0].Devices = []gpu.Device{{UUID: "GPU-1", MemoryMB: 24000}, {UUID: "GPU-2", MemoryMB: 48000}}
	o.Offers[0].Resources.GPUs = []gpu.UUID{"GPU-1", "GPU-2"}
	got := show(b.run.Step(o))
	want(t, got, "demand * []; accept o t1(cpus:1;gpus:[GPU-2])")
}

func TestConstraintsHold(t *testing.T) {
	for name, change := range map[string]func(*fleet.Need){
		"site":  func(n *fleet.Need) { n.Site = "elsewhere" },
		"agent": func(n *fleet.Need) { n.Agent = "other" },
		"label": func(n *fleet.Need) { n.Labels = map[string]string{"rack": "2"} },
	} {
		c := submit("t1", "*", 1)
		change(&c.Submit.Need)
		b := newBench(t, c)
		b.run.Start()
		if got := show(b.run.Step(offer("o", 4))); got != "decline o" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestEqualNeedsAreOneDemand(t *testing.T) {
	var cmds []state.Command
	for i := range 50 {
		cmds = append(cmds, submit(fleet.TaskID(fmt.Sprintf("t%02d", i)), "*", int64(1+i%2)))
	}
	b := newBench(t, cmds...)
	calls := b.run.Start()
	d, ok := calls[1].(leader.Demands)
	if !ok || len(d.Demands) != 2 || d.Demands[0].Count != 25 || !slices.IsSortedFunc(d.Demands, func(x, y fleet.Demand) int {
		return strings.Compare(x.Name, y.Name)
	}) {
		t.Fatalf("%+v", calls)
	}
}
