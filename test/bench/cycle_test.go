package bench_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
)

// BenchmarkCycle is the offer cycle without I/O: one task for each agent is
// submitted in one entry, offered, accepted and launched. So the cost of one
// task tells how the cores grow with the fleet.
func BenchmarkCycle(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("agents=%d", n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				c := newCycle(b, n)
				submit := make([]state.Command, n)
				for i := range submit {
					submit[i] = cluster.Submission(fleet.TaskID(fmt.Sprintf("t%05d", i)), "exit", "0")
				}
				b.StartTimer()
				c.commit(submit)
				launches := c.proposed
				if len(launches) != n {
					b.Fatalf("%d launches of %d tasks", len(launches), n)
				}
				c.proposed = nil
				c.commit(launches)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/task")
		})
	}
}

// cycle is a leader and its framework, as the shell runs them.
type cycle struct {
	now      time.Time
	core     *leader.Leader
	run      *framework.Run
	proposed []state.Command
}

func newCycle(b *testing.B, agents int) *cycle {
	b.Helper()
	now := time.Now()
	st := state.New()
	apply := func(c state.Command) {
		c.Time = now
		if err := st.Apply(1, c).Err(); err != nil {
			b.Fatal(err)
		}
	}
	apply(state.Command{PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: agents, Expires: now.Add(time.Hour)}})
	total := fleet.Capacity{Total: fleet.Resources{CPUs: fleet.Whole(1), Mem: fleet.Whole(1024), Disk: fleet.Whole(1024)}}
	for i := range agents {
		id := fmt.Sprintf("a%05d", i)
		apply(state.Command{Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: id}})
		apply(state.Command{SetCapacity: &state.SetCapacity{Agent: fleet.AgentID(id), Capacity: total}})
	}
	c := &cycle{now: now, core: leader.New(leader.Config{}, st, 1, now)}
	c.run = framework.NewRun(st, func(id fleet.TaskID) *state.Task { return c.core.State().Tasks[id] })
	for i := range agents {
		c.core.Step(now, leader.AgentUp{Agent: fleet.AgentID(fmt.Sprintf("a%05d", i)), Session: 1, Capacity: total})
	}
	c.feed(c.run.Start())
	return c
}

func (c *cycle) commit(cmds []state.Command) {
	c.step(leader.Committed{Commands: cmds})
	c.feed(c.run.Step(framework.Committed{Commands: cmds}))
}

func (c *cycle) feed(calls []leader.Event) {
	for _, ev := range calls {
		c.step(ev)
	}
}

func (c *cycle) step(ev leader.Event) {
	for _, act := range c.core.Step(c.now, ev) {
		switch act := act.(type) {
		case leader.Propose:
			c.proposed = append(c.proposed, act.Command)
		case leader.Offer:
			c.feed(c.run.Step(framework.Offers{Offers: act.Offers}))
		case leader.Update:
			c.feed(c.run.Step(framework.Updated{Status: act.Status}))
		}
	}
}
