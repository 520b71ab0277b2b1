package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

// agentSim is one agent: its core, its disk, its containers, its session.
type agentSim struct {
	w        *world
	id       fleet.AgentID
	capacity fleet.Capacity

	core     *lifecycle.Agent // nil while the process is down
	life     int              // counts processes
	boots    int              // counts lives of the machine
	cut      time.Time        // until then there is no link
	met      time.Time        // when it last had a leader's word
	left     time.Time        // when it last lost its session
	began    time.Time        // the life of its process
	clock    clock
	session  uint64 // 0 while disconnected
	sessions uint64
	lossy    uint64 // sessions up to this one have lost messages

	// The disk: what Save, SaveHead and Forget made durable.
	records map[fleet.TaskID]lifecycle.Record
	head    lifecycle.Head

	// The machine: containers outlive the agent's process, but not a reboot.
	containers map[fleet.TaskID]*container
}

type container struct {
	resources fleet.Resources
	limit     time.Duration // how long it may run, 0 for ever
	boot      string
	running   bool
	waited    int               // the life of the process that waits
	exited    *lifecycle.Exited // nil: no exit status is known
}

func (a *agentSim) boot() {
	a.life++
	a.began = a.w.now
	var records []lifecycle.Record
	for _, id := range slices.Sorted(maps.Keys(a.records)) {
		records = append(records, a.records[id])
	}
	a.core = lifecycle.New(records, a.head, a.bootID())
	a.w.logf("%s boots with %d records, %d containers", a.id, len(records), len(a.containers))
	a.step(lifecycle.Recovered{Held: slices.Sorted(maps.Keys(a.containers))})
	a.tickLater(a.life)
	a.dialLater()
}

func (a *agentSim) tickLater(life int) {
	a.w.after(time.Second, func() {
		if a.core != nil && a.life == life {
			a.step(lifecycle.Tick{})
			a.w.check.overdue(a)
			a.w.check.history.exact(a)
			a.tickLater(life)
		}
	})
}

// crash ends the process; reboot takes the running containers with it.
func (a *agentSim) crash(reboot bool) {
	if a.core == nil {
		return
	}
	a.w.logf("%s crashes, reboot %v", a.id, reboot)
	a.core = nil
	if a.session != 0 {
		a.left = a.w.now
		s := a.session
		a.session = 0
		a.w.after(a.w.between(time.Millisecond, 2*time.Second), func() { a.w.trio.step(leader.AgentDown{Agent: a.id, Session: s}) })
	}
	if a.w.check.set && a.w.chance(100) {
		a.clock.jump(a.w, a.id)
	}
	if reboot {
		a.boots++
		for _, c := range a.containers {
			c.running = false // the container stays, its process and status are gone
		}
	}
	a.w.after(a.w.between(100*time.Millisecond, 40*time.Second), a.boot)
}

func (a *agentSim) dialLater() {
	life := a.life
	a.w.after(a.w.between(50*time.Millisecond, 4*time.Second), func() {
		if a.core == nil || a.life != life || a.session != 0 {
			return
		}
		if a.w.trio.leader == nil || a.w.chance(200) || !a.w.calm && a.w.now.Before(a.cut) {
			a.dialLater()
			return
		}
		a.sessions++
		a.session = a.sessions
		a.w.trio.step(leader.AgentUp{Agent: a.id, Session: a.session, Hostname: string(a.id), Capacity: a.capacity})
		a.step(lifecycle.Connected{Term: a.w.trio.leader.Term()})
	})
}

// lost ends a session on the agent's side; the leader hears of it later.
func (a *agentSim) lost(session uint64) {
	if session == 0 || a.session != session {
		return
	}
	a.session, a.left = 0, a.w.now
	a.w.after(a.w.between(time.Millisecond, 2*time.Second), func() { a.w.trio.step(leader.AgentDown{Agent: a.id, Session: session}) })
	if a.core != nil {
		a.step(lifecycle.Disconnected{})
		a.dialLater()
	}
}

func (a *agentSim) desired(d fleet.Desired) {
	if d.Echo != 0 || len(d.Assignments) > 0 {
		a.met = a.w.now
	}
	a.step(lifecycle.Desired{Desired: d})
}

func (a *agentSim) acked(t fleet.TaskID, u fleet.UpdateID, gen uint64) {
	a.step(lifecycle.Acked{Task: t, Update: u, Generation: gen})
	a.w.check.told(a, t)
}

// step performs the durable actions first. A crash may come between any two.
func (a *agentSim) step(ev lifecycle.Event) {
	acts := a.core.Step(a.clock.now(a.w), ev)
	if a.w.opt.Trace != nil {
		a.w.logf("%s %T%+v", a.id, ev, ev)
		for _, act := range acts {
			a.w.logf("%s   -> %T%+v", a.id, act, act)
		}
	}
	for _, act := range acts {
		switch act := act.(type) {
		case lifecycle.Save:
			r := written(act.Record)
			a.w.check.waits(a, act.Record)
			a.w.check.history.spared(a, r)
			a.records[r.Assignment.Task] = r
			a.w.check.durable(r)
			a.w.check.sentenced(a, r)
		case lifecycle.SaveHead:
			a.head = act.Head
		case lifecycle.Forget:
			delete(a.records, act.Task)
		}
	}
	if a.w.chance(2) {
		a.crash(false)
		return
	}
	for _, act := range acts {
		a.perform(act)
		if a.core == nil {
			return
		}
	}
}

func (a *agentSim) perform(act lifecycle.Action) {
	life, session, w := a.life, a.session, a.w
	alive := func(do func()) func() {
		return func() {
			if a.core != nil && a.life == life {
				do()
			}
		}
	}
	switch act := act.(type) {
	case lifecycle.Start:
		w.after(w.between(5*time.Millisecond, 400*time.Millisecond), alive(func() { a.start(act.Assignment) }))
	case lifecycle.Wait:
		a.wait(act.Task)
	case lifecycle.Stop:
		c := a.containers[act.Task]
		w.after(w.between(time.Millisecond, act.Grace+10*time.Millisecond), alive(func() { a.exit(act.Task, c, 143, 15) }))
	case lifecycle.Probe:
		a.probe(act)
	case lifecycle.Remove:
		w.after(w.between(time.Millisecond, 50*time.Millisecond), alive(func() {
			if a.w.chance(30) {
				a.step(lifecycle.Removed{Task: act.Task, Failed: true})
				return
			}
			delete(a.containers, act.Task)
			a.step(lifecycle.Removed{Task: act.Task})
		}))
	case lifecycle.Pull:
		w.send(func() {
			w.trio.step(leader.Pull{Agent: a.id, Session: session, Generation: act.Generation, Full: act.Full, Stamp: act.Stamp, CaughtUp: act.CaughtUp})
		})
	case lifecycle.Report:
		updates := sent(act.Updates)
		w.send(func() { w.trio.step(leader.Report{Agent: a.id, Session: session, Updates: updates}) })
	case lifecycle.Save, lifecycle.SaveHead, lifecycle.Forget:
	}
}

// start is the executor: idempotent on the id, at most one run per id.
func (a *agentSim) start(as fleet.Assignment) {
	if a.w.chance(30) {
		f := []lifecycle.Failure{lifecycle.Unavailable, lifecycle.NoImage, lifecycle.Failed}[a.w.rng.IntN(3)]
		a.step(lifecycle.Started{Task: as.Task, Err: f, Text: "simulated"})
		return
	}
	c := a.containers[as.Task]
	if c != nil && c.boot != a.bootID() {
		// Whether it ran is not known: it is not run a second time.
		a.step(lifecycle.Started{Task: as.Task, Err: lifecycle.Invalid, Text: "from before a restart of the machine"})
		return
	}
	if c == nil {
		a.w.check.started(a, as)
		c = &container{resources: as.Resources, running: true, limit: as.Spec.MaxCompletion, boot: a.bootID()}
		a.containers[as.Task] = c
		most := 30 * time.Second
		if a.w.rng.IntN(4) == 0 {
			most = 3 * time.Minute
		}
		a.w.after(a.w.between(10*time.Millisecond, most), func() {
			code := 0
			if a.w.rng.IntN(4) == 0 {
				code = 7
			}
			a.exit(as.Task, c, code, 0)
		})
	}
	if a.w.chance(10) {
		a.crash(false) // between the start and the word of it
		return
	}
	a.step(lifecycle.Started{Task: as.Task})
}

// exit ends one container, and no other that came after it.
func (a *agentSim) exit(id fleet.TaskID, c *container, code, signal int) {
	if c == nil || !c.running || a.containers[id] != c {
		return
	}
	c.running = false
	c.exited = &lifecycle.Exited{Task: id, Time: a.clock.now(a.w).Round(0), ExitCode: code, Signal: signal}
	if c.waited == a.life {
		a.wait(id)
	}
}

// wait tells of an exit once there is one.
func (a *agentSim) wait(id fleet.TaskID) {
	c := a.containers[id]
	life := a.life
	if c != nil {
		c.waited = life
		if c.running {
			return
		}
	}
	ev := lifecycle.Exited{Task: id, Time: a.clock.now(a.w).Round(0), Lost: true}
	if c != nil && c.exited != nil {
		ev = *c.exited
	}
	a.w.after(time.Millisecond, func() {
		if a.core != nil && a.life == life {
			a.step(ev)
		}
	})
}

// bootID tells the lives of the machine apart.
func (a *agentSim) bootID() string { return fmt.Sprintf("%s/%d", a.id, a.boots) }
