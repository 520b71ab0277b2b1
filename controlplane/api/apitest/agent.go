package apitest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/sessions"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// agent acts out what it is told. Its session has the number of its
// connection, 0 while it has none.
type agent struct {
	id       fleet.AgentID
	session  uint64
	sessions uint64
	gen      uint64
	soft     api.AgentSoft
	tasks    map[fleet.TaskID]*work
}

type work struct {
	spec fleet.TaskSpec
	seq  uint64
	over bool
}

// output is what a task has printed.
type output struct {
	chunks []chunk
	done   bool
}

type chunk struct {
	stderr bool
	data   []byte
}

// AddAgent admits and connects an agent; of rec the site, labels, end of the
// certificate, its healing and its copy are used.
func (f *Fleet) AddAgent(id fleet.AgentID, c fleet.Capacity, rec fleet.Agent) {
	f.do(func() {
		hash := "token-of-" + string(id)
		f.commit(state.Command{Time: f.now, PutToken: &state.Token{
			Hash: hash, Kind: state.KindAgent, Site: rec.Site, Labels: labels(rec.Labels), Uses: 1, Expires: f.now.Add(time.Hour),
		}}, state.Command{Time: f.now, Admit: &state.Admit{
			Hash: hash, Kind: state.KindAgent, Name: string(id), Hostname: string(id) + ".example", KeyHash: "key-of-" + string(id),
		}}, state.Command{Time: f.now, DropToken: &state.DropToken{Hash: hash}})
		if !rec.CertNotAfter.IsZero() {
			f.commit(state.Command{Time: f.now, Certified: &state.Certified{Kind: state.KindAgent, ID: string(id), NotAfter: rec.CertNotAfter}})
		}
		if !rec.Healed.IsZero() {
			f.commit(state.Command{Time: rec.Healed, By: "agent/" + string(id), Rekey: &state.Rekey{Agent: id, Key: "key-of-" + string(id), Next: "next", Addr: "192.0.2.7:40404", Heal: true}})
		}
		if c := rec.Cloned; c != nil {
			f.commit(state.Command{Time: c.At, By: "replica/r1", Cloned: &state.Cloned{Agent: id, Addr: c.Addr, Text: c.Text}})
		}
		a := &agent{id: id, tasks: map[fleet.TaskID]*work{}}
		f.agents[id] = a
		a.connect(f, c)
	})
}

func (a *agent) connect(f *Fleet, c fleet.Capacity) {
	a.sessions++
	a.session = a.sessions
	a.soft = api.AgentSoft{
		Connected: true, Since: f.now, LastSeen: f.now, Link: "quic", Remote: "192.0.2.7:40404", Version: "v1.2.3",
		Readings: fleet.Readings{Time: f.now, CPUPercent: 12, FreeMemMB: 1000, FreeDiskMB: 50_000, Bundle: f.st.BundleVersion},
	}
	f.step(leader.AgentUp{Agent: a.id, Session: a.session, Hostname: string(a.id) + ".example", Capacity: c})
	f.step(leader.Pull{Agent: a.id, Session: a.session, Generation: a.gen, Full: true})
}

// Clock has an agent say that its machine's clock is off.
func (f *Fleet) Clock(id fleet.AgentID, off time.Duration) {
	f.do(func() { f.agents[id].soft.Readings.ClockOff = off })
}

// LinkUse has an agent say what its link has carried.
func (f *Fleet) LinkUse(id fleet.AgentID, use fleet.LinkUse) {
	f.do(func() { f.agents[id].soft.Readings.Link = use })
}

// Connect brings an agent back.
func (f *Fleet) Connect(id fleet.AgentID) {
	f.do(func() { f.agents[id].connect(f, f.st.Agents[id].Capacity) })
}

// Disconnect ends an agent's session. Its tasks go on.
func (f *Fleet) Disconnect(id fleet.AgentID) {
	f.do(func() {
		a := f.agents[id]
		f.step(leader.AgentDown{Agent: id, Session: a.session})
		a.session, a.soft.Connected = 0, false
	})
}

// Print adds to the output of a running task.
func (f *Fleet) Print(id fleet.TaskID, stderr bool, text string) {
	f.do(func() { f.print(id, stderr, text) })
}

func (f *Fleet) print(id fleet.TaskID, stderr bool, text string) {
	o := f.output[id]
	if o == nil {
		o = &output{}
		f.output[id] = o
	}
	if text != "" {
		o.chunks = append(o.chunks, chunk{stderr, []byte(text)})
	}
}

// Finish ends a running task with an exit code.
func (f *Fleet) Finish(id fleet.TaskID, code int) {
	f.do(func() {
		t := f.st.Tasks[id]
		f.agents[t.Agent].exit(f, id, code)
	})
}

// assign acts out a desired set.
func (f *Fleet) assign(act leader.Assign) {
	a := f.agents[act.Agent]
	if a == nil || act.Session != a.session {
		return
	}
	a.gen = act.Desired.Generation
	for _, as := range act.Desired.Assignments {
		switch w := a.tasks[as.Task]; {
		case w == nil:
			a.tasks[as.Task] = &work{spec: as.Spec}
			a.begin(f, as.Task)
		case as.Kill && !w.over && !slices.Contains(w.spec.Command, "hold"):
			a.report(f, as.Task, fleet.Status{State: fleet.TaskKilling, ExitCode: -1})
			a.end(f, as.Task, fleet.Status{State: fleet.TaskKilled, ExitCode: -1, Signal: 15, Message: "stopped on request; ended by signal 15"})
		}
	}
	f.step(leader.Pull{Agent: a.id, Session: a.session, Generation: a.gen})
}

func (a *agent) begin(f *Fleet, id fleet.TaskID) {
	command := a.tasks[id].spec.Command
	word, rest := "", ""
	if len(command) > 0 {
		word, rest = command[0], strings.Join(command[1:], " ")
	}
	a.report(f, id, fleet.Status{State: fleet.TaskStarting, ExitCode: -1})
	f.print(id, false, "")
	switch word {
	case "hold":
		return
	case "nostart":
		a.end(f, id, fleet.Status{State: fleet.TaskFailed, ExitCode: -1, Reason: fleet.ReasonLaunchFailed, Message: "the image cannot be pulled: not found"})
		return
	}
	a.report(f, id, fleet.Status{State: fleet.TaskRunning, ExitCode: -1})
	if a.tasks[id].spec.Health != nil {
		a.check(f, id, word == "sick")
	}
	n, _ := strconv.Atoi(rest)
	switch word {
	case "echo", "warn":
		f.print(id, word == "warn", rest+"\n")
		a.exit(f, id, 0)
	case "exit":
		a.exit(f, id, n)
	case "signal":
		a.end(f, id, fleet.Status{State: fleet.TaskFailed, ExitCode: -1, Signal: n, Reason: fleet.ReasonCommandFailed, Message: fmt.Sprintf("ended by signal %d", n)})
	case "oom":
		a.end(f, id, fleet.Status{State: fleet.TaskFailed, ExitCode: -1, OOM: true, Reason: fleet.ReasonMemoryLimit, Message: "out of memory: the limit is 512 MiB"})
	}
}

// check is the task's health check: that of a "sick" one fails.
func (a *agent) check(f *Fleet, id fleet.TaskID, sick bool) {
	st := fleet.Status{State: fleet.TaskRunning, ExitCode: -1, Health: fleet.TaskHealthy, Reason: fleet.ReasonHealthUpdated, Message: "healthy"}
	if !sick {
		a.report(f, id, st)
		return
	}
	const cause = "its health check failed 3 times in a row, at last: no answer within 20s"
	st.Health, st.Message = fleet.TaskUnhealthy, "unhealthy: no answer within 20s"
	a.report(f, id, st)
	st.State, st.Message = fleet.TaskKilling, cause
	a.report(f, id, st)
	st.State, st.Signal, st.Message = fleet.TaskKilled, 15, cause+"; ended by signal 15"
	a.end(f, id, st)
}

func (a *agent) exit(f *Fleet, id fleet.TaskID, code int) {
	st := fleet.Status{State: fleet.TaskFinished, ExitCode: code, Message: fmt.Sprintf("exited with code %d", code)}
	if code != 0 {
		st.State, st.Reason = fleet.TaskFailed, fleet.ReasonCommandFailed
	}
	a.end(f, id, st)
}

func (a *agent) end(f *Fleet, id fleet.TaskID, st fleet.Status) {
	a.tasks[id].over = true
	f.output[id].done = true
	a.report(f, id, st)
}

func (a *agent) report(f *Fleet, id fleet.TaskID, st fleet.Status) {
	w := a.tasks[id]
	w.seq++
	st.Task, st.Time = id, f.now
	u := fleet.StatusUpdate{ID: fleet.UpdateID(fmt.Sprintf("%s-%d", id, w.seq)), Seq: w.seq, Status: st}
	// Later, for the leader is in the middle of a step.
	f.todo = append(f.todo, func() {
		f.step(leader.Report{Agent: a.id, Session: a.session, Updates: []fleet.StatusUpdate{u}})
	})
}

// Logs replays what a task printed, and what it prints.
func (f *Fleet) Logs(ctx context.Context, id fleet.TaskID, o wire.LogsRequest, emit func(stderr bool, data []byte) error) error {
	if err := f.check(ctx); err != nil {
		return err
	}
	for next := 0; ; {
		changed := f.Changed()
		chunks, done, err := f.printed(id)
		if err != nil {
			return err
		}
		if next == 0 && o.Tail >= 0 {
			next = max(0, len(chunks)-o.Tail) // a chunk is a line here
		}
		for ; next < len(chunks); next++ {
			if c := chunks[next]; c.stderr && o.Stderr || !c.stderr && o.Stdout {
				if err := emit(c.stderr, c.data); err != nil {
					return err
				}
			}
		}
		if done || !o.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *Fleet) printed(id fleet.TaskID) ([]chunk, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.st.Tasks[id]
	if t == nil || f.agents[t.Agent] == nil || !f.agents[t.Agent].soft.Connected {
		return nil, false, sessions.ErrNotConnected
	}
	out := f.output[id]
	if out == nil {
		return nil, false, &sessions.RefusedError{Refusal: wire.Refusal{Code: wire.RefusedNotFound, Text: "no such task"}}
	}
	return slices.Clone(out.chunks), out.done, nil
}
